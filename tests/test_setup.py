"""Does `make setup` say in one sentence what is wrong with a machine, and is it quick when nothing changed?"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# Stand in for Python: they answer setup.sh's questions as such a machine would.
OLD = """
case $1 in -V) echo Python 3.9.2 ;; *) exit 1 ;; esac
"""
MUSL = """
case $2 in *SOABI*) echo cpython-312-x86_64-linux-musl ;; esac
"""
WITHOUT_VENV = """
case $1 in
    -c) echo cpython-312-x86_64-linux-gnu ;;
    -m) echo "ensurepip is not available" >&2; exit 1 ;;
esac
"""
# Its virtual environments hold a program that answers `-m pip`, `-m uv pip sync` and `-m uv pip install` with the
# statuses named in the environment, and writes down what it was asked.
GOOD = """
[ "$1" = -m ] || exit 0
rm -rf .venv
mkdir -p .venv/bin
cat > .venv/bin/python <<'END'
#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$*" >> asked
case "$2 $3 $4" in
    "uv --version "*) if [ -e uv-is-there ]; then echo "uv $UV_VERSION (fake)"; else exit 1; fi ;;
    "pip install "*) touch uv-is-there; exit "${PIP:-0}" ;;
    "uv pip sync") exit "${SYNC:-0}" ;;
    "uv pip install") exit "${INSTALL:-0}" ;;
esac
END
chmod +x .venv/bin/python
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("Makefile", "setup.sh", "pyproject.toml", "requirements-dev.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def python(tree: Path, script: str) -> str:
    file = tree / "fake-python"
    file.write_text(f"#!/bin/sh{script}")
    file.chmod(0o755)
    return str(file)


def make(tree: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | variables
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """Return what was said before make's own last word."""
    lines = result.stderr.splitlines()
    assert result.returncode != 0
    assert len(lines) == 2, result.stderr
    assert lines[1].startswith("make: ***")
    return lines[0]


def test_a_missing_python_is_named(tree: Path) -> None:
    result = make(tree, "setup", "PYTHON=no-such-python")

    assert sentence(result).startswith("no-such-python is not installed: install Python 3.11 or newer")
    assert not (tree / ".venv").exists()


def test_a_python_that_is_too_old_is_told_its_version(tree: Path) -> None:
    fake = python(tree, OLD)

    result = make(tree, "setup", f"PYTHON={fake}")

    assert sentence(result).startswith(f"Python 3.11 or newer is needed, and {fake} is Python 3.9.2: name another one")
    assert not (tree / ".venv").exists()


def test_a_python_without_venv_or_pip_is_told_what_to_install(tree: Path) -> None:
    fake = python(tree, WITHOUT_VENV)

    result = make(tree, "setup", f"PYTHON={fake}")

    assert sentence(result).startswith(f"{fake} cannot make a virtual environment: install its venv and pip packages")
    assert not (tree / ".venv" / ".complete").exists()


def test_a_musl_system_is_told_what_works_there(tree: Path) -> None:
    result = make(tree, "setup", f"PYTHON={python(tree, MUSL)}")

    assert sentence(result).startswith("The embedded PostgreSQL needs glibc, which Alpine lacks: ")
    assert "python -m backend serve" in result.stderr
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("PIP", "uv could not be installed: is the network there?"),
        ("SYNC", "The dependencies could not be installed: is the network there?"),
        ("INSTALL", "The package itself could not be installed"),
    ],
)
def test_what_cannot_be_installed_is_named_and_tried_again_next_time(tree: Path, failing: str, said: str) -> None:
    fake = python(tree, GOOD)

    result = make(tree, "setup", f"PYTHON={fake}", **{failing: "1"})
    again = make(tree, "setup", f"PYTHON={fake}")

    assert sentence(result).startswith(said)
    assert again.returncode == 0
    assert (tree / ".venv" / ".complete").exists()


def test_a_second_setup_does_nothing_until_the_lock_file_changes(tree: Path) -> None:
    fake = f"PYTHON={python(tree, GOOD)}"
    first = make(tree, "setup", fake)
    (tree / "asked").unlink()

    second, question = make(tree, "setup", fake), make(tree, "-q", "setup", fake)
    done = (tree / "asked").exists()
    stamp = (tree / ".venv" / ".complete").stat().st_mtime
    os.utime(tree / "requirements-dev.txt", (stamp + 1, stamp + 1))
    changed = make(tree, "-q", "setup", fake)

    assert first.returncode == 0
    assert first.stdout.splitlines() == ["Creating .venv …", "Installing the dependencies …"]
    assert (second.returncode, question.returncode, done) == (0, 0, False)
    assert changed.returncode == 1


def test_uv_and_an_environment_that_are_there_are_kept(tree: Path) -> None:
    fake = f"PYTHON={python(tree, GOOD)}"
    make(tree, "setup", fake)
    (tree / "asked").unlink()
    (tree / ".venv" / ".complete").unlink()

    again = make(tree, "setup", fake)

    asked = (tree / "asked").read_text().splitlines()
    assert again.stdout.splitlines() == ["Installing the dependencies …"]
    assert [line for line in asked if "pip install --quiet --disable" in line] == []
    assert any(line.startswith("-m uv pip sync") and "--require-hashes" in line for line in asked)


def test_an_environment_whose_python_is_gone_is_made_again(tree: Path) -> None:
    fake = f"PYTHON={python(tree, GOOD)}"
    make(tree, "setup", fake)
    (tree / ".venv" / "bin" / "python").unlink()
    (tree / ".venv" / "bin" / "python").symlink_to("/no/such/python")
    (tree / ".venv" / ".complete").unlink()

    again = make(tree, "setup", fake)

    assert again.returncode == 0
    assert "Creating .venv …" in again.stdout


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.txt", ["docs"]),
        ("requirements-traces.txt", ["docs", "traces"]),
        ("requirements-dev.txt", ["dev", "traces"]),
    ],
)
def test_the_lock_has_every_dependency_with_its_hash_and_names_no_host(lock: str, extras: list[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    text = (REPOSITORY / lock).read_text()

    wanted = project["dependencies"] + [each for extra in extras for each in project["optional-dependencies"][extra]]
    names = {re.split(r"[\[<>=; ]", each)[0].lower().replace("_", "-") for each in wanted} - {"todo-backend"}

    locked = set(re.findall(r"^([a-z0-9-]+)==\S+ .*\\$", text, re.MULTILINE))
    assert names <= locked
    assert "://" not in text
