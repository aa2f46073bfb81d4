"""The provenance of a figure: the command, the commit of the code and the versions it ran with."""

import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def command() -> str:
    """The command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def commit() -> str:
    """The commit of this code, with "-dirty" appended if tracked files have changed; "unknown" outside its checkout."""
    here = Path(__file__)
    try:
        # An installation may lie in another project's checkout: only if this file is tracked is the commit its own.
        _git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        changed = _git("status", "--porcelain", "--untracked-files=no", cwd=here.parent)
        return _git("rev-parse", "HEAD", cwd=here.parent) + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of each package; "not installed" for a package that is not there."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(*arguments: str, cwd: Path) -> str:
    command = ["git", *arguments]  # the one that the user's PATH names
    found = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)  # nosec B603 # no shell
    return found.stdout.strip()
