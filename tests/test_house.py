"""What may know what: the rules of the layout, read from the source itself."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

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
TRAIN = ROOT / "rpl_train"
TRAIN_MODULES = sorted(TRAIN.rglob("*.py"))
LINES_WITH_ANY = 46  # of the runtime at most, imports aside; a library without types gets named ones, as in fci.py


def wing(package: Path, path: Path) -> str:
    """The folder of a package that a module belongs to; its own modules are its root."""
    parts = path.relative_to(package).parts
    return parts[0] if len(parts) > 1 else "root"


def test_a_wing_imports_only_earlier_wings() -> None:
    floors = {name: floor for floor, names in enumerate(RUNTIME_ORDER) for name in names}
    assert {wing(RUNTIME, path) for path in MODULES} <= floors.keys()
    faults = set[tuple[str, str]]()
    for path in MODULES:
        own = wing(RUNTIME, path)
        folders = {name.split(".")[1] for name in imports(path) if name.startswith("rpl_runtime.")}
        faults |= {(named(path), other) for other in folders - {own} if floors.get(other, 0) >= floors[own] > 0}
    assert faults == set()


def test_a_wing_of_training_imports_only_earlier_wings() -> None:
    floors = {name: floor for floor, names in enumerate(TRAIN_ORDER) for name in names}
    wings = {path: path.relative_to(TRAIN).with_suffix("").parts[0] for path in TRAIN_MODULES}
    assert set(wings.values()) - {"__init__"} <= floors.keys()
    faults = set[tuple[str, str]]()
    for path, own in wings.items():
        others = {name.split(".")[1] for name in imports(path) if name.startswith("rpl_train.")} - {own}
        faults |= {(str(path), other) for other in others if own != "__init__" and floors[other] >= floors[own]}
    assert faults == set()


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


def importing(paths: list[Path], unwanted: set[str], top_level_only: bool = False) -> dict[str, set[str]]:
    """Which of these modules import which of the packages that they must not."""
    found = {str(path.relative_to(ROOT)): packages(path, top_level_only) & unwanted for path in paths}
    return {name: each for name, each in found.items() if each}


def test_the_runtime_knows_nothing_of_training() -> None:
    assert importing(MODULES, {"rpl_train", "torch"}) == {}


def test_the_runtime_imports_no_optional_package_before_it_is_used() -> None:
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
    assert importing(MODULES, optional, top_level_only=True) == {}


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
    *(
        named(path)
        for path in MODULES
        if wing(RUNTIME, path) in {"safety", "relay", "estimation"} and path.stem != "session"
    ),
    *("policy/spec.py", "policy/novelty.py", "loop/watchdog.py", "robots/franka/frames.py", "robots/profiles.py"),
    *("tasks/kitchen/elements.py", "tasks/kitchen/servo.py"),
]


def test_the_core_does_no_io_and_reads_no_clock() -> None:
    paths = [RUNTIME / name for name in PURE]
    assert importing(paths, OUTSIDE) == {}
    called = {
        (named(path), node.func.id)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert [each for each in called if each[1] in {"open", "print", "input", "exec", "eval"}] == []


def test_nothing_is_pickled() -> None:
    assert importing(TRAIN_MODULES + MODULES, {"pickle", "dill", "cloudpickle", "shelve", "marshal"}) == {}


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
