"""What may know what: the rules of the layout, read from the source itself."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from source import MODULES, PACKAGES, ROOT, RUNTIME, imports, named, packages

# A wing imports only wings of earlier lines; `_pb` is generated.
RUNTIME_ORDER = (
    ("root",),
    ("policy", "safety", "auth", "estimation"),
    ("relay", "tasks"),
    ("wire",),
    ("telemetry", "planning"),
    ("server", "client", "robots"),
    ("loop", "piloting", "recording"),
    ("evaluation", "bench", "acceptance"),
    ("view",),
    ("cli",),
)
# The same for training, where each module of the root is a wing by itself.
TRAIN_ORDER = (
    ("data", "relabel", "statistics", "jobs"),
    ("networks", "tuples", "tasks"),
    ("augment", "runs"),
    ("imitate", "rl", "play"),
    ("specialists", "distill", "export", "shifts"),
    ("recipe", "paper", "improve"),
    ("cli",),
)
MODULES_IN_A_FOLDER = 12  # at most, without __init__
LINES_WITH_ANY = 46  # of the runtime at most, imports aside; a library without types gets named ones, as in fci.py


def wing(package: Path, path: Path) -> str:
    """The folder of a package that a module belongs to; its own modules are its root."""
    parts = path.relative_to(package).parts
    return parts[0] if len(parts) > 1 else "root"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_wing_imports_only_earlier_wings(path: Path) -> None:
    floors = {name: floor for floor, names in enumerate(RUNTIME_ORDER) for name in names}
    own = wing(RUNTIME, path)
    assert own in floors, f"{own} has no place in the order of the wings"
    folders = {name.split(".")[1] for name in imports(path) if name.startswith("rpl_runtime.")}
    assert {other for other in folders - {own} if floors.get(other, 0) >= floors[own] > 0} == set()


TRAIN = ROOT / "rpl_train"


@pytest.mark.parametrize("path", sorted(TRAIN.rglob("*.py")), ids=lambda path: str(path.relative_to(TRAIN)))
def test_a_wing_of_training_imports_only_earlier_wings(path: Path) -> None:
    floors = {name: floor for floor, names in enumerate(TRAIN_ORDER) for name in names}
    own = path.relative_to(TRAIN).with_suffix("").parts[0]
    if own == "__init__":
        return
    assert own in floors, f"{own} has no place in the order of the wings"
    others = {name.split(".")[1] for name in imports(path) if name.startswith("rpl_train.")} - {own}
    assert {other for other in others if floors[other] >= floors[own]} == set()


# What may know the kitchen, one task among others: its own folders, the robots that stand in it, and the paper.
KITCHENS_OWN = (
    *("rpl_runtime/tasks/kitchen/", "rpl_runtime/robots/kitchen/", "rpl_train/tasks/kitchen/", "rpl_train/paper/"),
    *("rpl_runtime/robots/mirror.py", "rpl_runtime/robots/franka/"),
)


def test_only_its_own_folders_know_the_kitchen() -> None:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "_pb" not in path.parts]
    known = {str(path.relative_to(ROOT)) for path in modules if any(".kitchen" in name for name in imports(path))}
    assert {name for name in known if not name.startswith(KITCHENS_OWN)} == set()


def test_no_folder_has_too_many_modules() -> None:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "_pb" not in path.parts]
    sizes = Counter(str(path.parent.relative_to(ROOT)) for path in modules if path.stem != "__init__")
    assert {folder: size for folder, size in sizes.items() if size > MODULES_IN_A_FOLDER} == {}


def test_few_lines_of_the_runtime_use_any() -> None:
    lines = [line for path in MODULES for line in path.read_text().splitlines() if "import" not in line]
    assert sum(bool(re.search(r"\bAny\b", line)) for line in lines) <= LINES_WITH_ANY


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_the_runtime_knows_nothing_of_training(path: Path) -> None:
    assert not packages(path) & {"rpl_train", "torch"}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_the_runtime_imports_no_optional_package_before_it_is_used(path: Path) -> None:
    optional = {"mujoco", "gymnasium", "gymnasium_robotics", "franky", "franky_sim", "pinocchio", "ruckig"}
    optional |= {
        "matplotlib",
        "imageio",
        "onnx",
        "grpc_tools",
        "h5py",
        "mcap",
        "opentelemetry",
        "viser",
        "mjviser",
        "websockets",
    }
    assert not packages(path, top_level_only=True) & optional


def test_only_the_wire_wing_and_the_mcap_log_with_its_drawing_know_protobuf() -> None:
    known = {
        named(path)
        for path in MODULES
        if any(name.startswith(("rpl_runtime._pb", "google.protobuf")) for name in imports(path))
    }
    assert {name for name in known if not name.startswith("wire/")} == {"recording/mcap.py", "recording/drawing.py"}


def test_only_the_bundle_module_touches_the_files_of_a_bundle() -> None:
    names = {"manifest.json", "high.onnx", "low.onnx", "MODEL_CARD.md"}
    found = {
        named(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found == {"policy/bundle.py"}


# What opens a file, a socket or a process, or tells the time or the environment.
OUTSIDE = {"os", "io", "pathlib", "socket", "time", "datetime", "threading", "asyncio", "subprocess", "random", "grpc"}


# Whole wings, and modules of others. The session of a stream measures how long its stages take.
PURE = [
    *sorted(
        named(path)
        for path in MODULES
        if wing(RUNTIME, path) in {"safety", "relay", "estimation"} and path.stem != "session"
    ),
    *("policy/spec.py", "policy/novelty.py", "loop/watchdog.py", "robots/franka/frames.py", "robots/profiles.py"),
    *("tasks/kitchen/elements.py", "tasks/kitchen/servo.py"),
]


@pytest.mark.parametrize("name", PURE)
def test_the_core_does_no_io_and_reads_no_clock(name: str) -> None:
    tree = ast.parse((RUNTIME / name).read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not packages(RUNTIME / name) & OUTSIDE
    assert not called & {"open", "print", "input", "exec", "eval"}


@pytest.mark.parametrize("path", sorted((ROOT / "rpl_train").rglob("*.py")) + MODULES, ids=lambda path: path.name)
def test_nothing_is_pickled(path: Path) -> None:
    assert not packages(path) & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}


def test_the_hashes_that_ci_installs_from_are_of_the_pinned_versions() -> None:
    pins = {line.lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    lines = (ROOT / ".ci" / "hashes.txt").read_text().splitlines()[1:]
    hashed = {
        pin.lower().replace("_", "-"): digest for pin, _, digest in (line.partition(" --hash=") for line in lines)
    }
    assert len(hashed) == len(lines) > 100
    assert set(hashed) <= pins
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in hashed.values())


def test_the_server_runs_without_training_or_simulation() -> None:
    """Importing server and client loads neither torch nor a simulator."""
    program = (
        "import sys, rpl_runtime.server.server, rpl_runtime.client.client, rpl_runtime.loop.lockstep\n"
        "import rpl_runtime.robots.simulated\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "mujoco", "gymnasium", "gymnasium_robotics", "franky", "onnx", "rpl_train"}
