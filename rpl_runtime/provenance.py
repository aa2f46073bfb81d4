"""Where a figure comes from: the command, the commit of the code and the versions it ran with.

In: nothing but the running process. Out: strings. It knows nothing of what is recorded with them.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def command() -> str:
    """The command line that runs."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def commit() -> str:
    """The commit of this code, ending in "-dirty" where files differ from it; "unknown" outside its checkout."""
    here = Path(__file__)
    try:
        # An installation may lie inside another project's checkout: only a tracked file vouches for the commit.
        _git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        changed = _git("status", "--porcelain", "--untracked-files=no", cwd=here.parent)
        return _git("rev-parse", "HEAD", cwd=here.parent) + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package; "not installed" where there is none."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(*arguments: str, cwd: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()
