#!/bin/sh
# Makes .venv from requirements-dev.txt, with uv, which is installed there through pip. Called by `make setup`.
set -eu
export UV_PYTHON_DOWNLOADS=never

fail() {
    echo "$1" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null || fail "$PYTHON is not installed: install Python 3.11 or newer, or name it: make PYTHON=python3.12"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, and $PYTHON is $("$PYTHON" -V 2>&1): name another one: make PYTHON=python3.12"
case $("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI") or "")') in
    *musl*) fail "The embedded PostgreSQL needs glibc, which Alpine lacks: install requirements.txt and use 'python -m backend serve' with NEON_DATABASE_URL." ;;
esac

if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
    echo "Creating .venv …"
    "$PYTHON" -m venv --clear .venv >/dev/null 2>&1 ||
        fail "$PYTHON cannot make a virtual environment: install its venv and pip packages (Debian: apt-get install python3-venv), or check that this directory can be written."
fi
if ! .venv/bin/python -m uv --version 2>/dev/null | grep -q "^uv $UV_VERSION "; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" || fail "uv could not be installed: is the network there?"
fi
echo "Installing the dependencies …"
# Compiled now: where PYTHONDONTWRITEBYTECODE is set, each start would do it again, for two seconds.
.venv/bin/python -m uv pip sync --quiet --require-hashes --compile-bytecode requirements-dev.txt || fail "The dependencies could not be installed: is the network there?"
.venv/bin/python -m uv pip install --quiet --no-deps --no-build-isolation --editable . || fail "The package itself could not be installed."
touch .venv/.complete
