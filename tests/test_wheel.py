"""The built wheel, with base dependencies alone, in an empty environment: it serves a bundle and answers Control."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from processes import started
from rpl_runtime.client.client import Client
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.server.server import serve_in_thread

ROOT = Path(__file__).parents[1]
NOT_IN_BASE = ("torch", "mujoco", "gymnasium", "gymnasium_robotics", "onnx", "h5py", "matplotlib", "minari")
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"  # a build writes beside what it builds
    for package in ("rpl_runtime", "rpl_train"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "rpl_command.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("docs", "examples", "models", "proto"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    interpreter = folder / "venv" / "bin" / "python"
    install = ["install", "--no-compile", "--constraint", ROOT / "constraints.txt"]  # what is used compiles itself
    subprocess.run([*pip, "--python", interpreter, *install, wheel], check=True)
    return interpreter.parent


def run(base: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([base / command[0], *command[1:]], cwd=base, env=CLEAN, capture_output=True, text=True)


def test_the_base_installation_is_light(base):
    found = run(
        base, "python", "-c", f"import importlib.util as u; print([m for m in {NOT_IN_BASE} if u.find_spec(m)])"
    )
    assert found.stdout.strip() == "[]"


def test_it_serves_a_bundle(base, tiny_bundle: Bundle):
    command = [base / "rpl", "serve", tiny_bundle.path, "--address", "127.0.0.1:0"]
    with started(command, cwd=base, env=CLEAN) as server:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"127\.0\.0\.1:\d+", line)))
        with Client(address) as client, client.control() as control:
            assert client.describe().digest == tiny_bundle.digest
            state = np.zeros(5, dtype=np.float32)
            control.start("cart", ["door"], state, seed=1)
            for step in range(10):
                action = control.step("cart", step, state)
                assert action.target.shape == (2,)
                assert action.replanned == (step % 4 == 0)
            control.finish("cart")
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("command", "package"),
    [(("run", "--goal", "microwave", "--bundle"), "mujoco"), (("evaluate", "--episodes", "1"), "mujoco")],
)
def test_a_missing_extra_is_one_sentence(base, kitchen_bundle: Bundle, command, package):
    found = run(base, "rpl", *command, str(kitchen_bundle.path))
    assert found.returncode == 1
    # By the packages' own names: no registry has this project's, and whoever takes it must not be installed.
    assert f"{base / 'python'} -m pip install '{package}" in found.stderr
    assert "relay-policy" not in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", [("imitate", "run", "--demos", "none"), ("demos", "play", "new")])
def test_training_commands_say_what_they_need(base, command):
    found = run(base, "rpl", *command)
    assert found.returncode == 1
    assert "pip install 'torch" in found.stderr
    assert run(base, "rpl", "--help").returncode == 0


def test_what_commands_show_and_copy_came_with_it(base, tmp_path):
    """The bundle, the pages, the examples and the protocol, in an empty folder."""

    def rpl(*words: str) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run([base / "rpl", *words], cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
        assert "Traceback" not in ran.stderr
        return ran

    assert "certificate" in rpl("docs", "serving").stdout
    found = json.loads(rpl("doctor", "--json").stdout)
    verdicts = {finding["what"]: finding["verdict"] for finding in found["findings"]}
    assert found["works"]
    assert [verdicts[what] for what in ("base packages", "policy", "extra sim")] == ["ok", "ok", "absent"]
    pulled = rpl("models", "pull", "kitchen")
    assert (pulled.returncode, "every digest matches" in pulled.stdout) == (0, True)
    assert load_bundle(tmp_path / "models" / "kitchen").digest == load_bundle(ROOT / "models" / "kitchen").digest
    assert rpl("new", "robot", "arm").returncode == 0
    with serve_in_thread(load_bundle(tmp_path / "models" / "kitchen")) as address:
        command = [base / "python", "arm.py", "--address", address, "--goal", "microwave", "--steps", "3"]
        ran = subprocess.run(command, cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
        assert "3 control steps" in ran.stdout, ran.stderr
        copied = rpl("models", "pull", address, "copy")
        assert (copied.returncode, (tmp_path / "copy" / "manifest.json").exists()) == (0, True)
    refused = rpl("demo")
    assert (refused.returncode, "pip install 'mujoco" in refused.stderr) == (1, True)


@pytest.mark.long  # it installs the simulator
def test_the_demo_shows_a_robot_at_work(base, tmp_path):
    from rpl_runtime.errors import installation

    pip, *words = shlex.split(installation("sim"))
    subprocess.run([pip, words[0], words[1], "--quiet", "--python", base / "python", *words[2:]], check=True)
    ran = subprocess.run([base / "rpl", "demo"], cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert "success: 2 of 2 elements done" in ran.stdout, ran.stderr
    assert (tmp_path / "demo.mp4").stat().st_size > 50_000
