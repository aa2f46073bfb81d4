"""The project's own source, as tests of its layout read it."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("rpl_runtime", "rpl_train")
RUNTIME = ROOT / "rpl_runtime"
MODULES = sorted(path for path in RUNTIME.rglob("*.py") if "_pb" not in path.parts)


@cache
def imports(path: Path, top_level_only: bool = False) -> list[str]:
    """The full names of what a module imports."""
    tree, names = ast.parse(path.read_text()), list[str]()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def packages(path: Path, top_level_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(path, top_level_only)}


def named(path: Path) -> str:
    return str(path.relative_to(RUNTIME))
