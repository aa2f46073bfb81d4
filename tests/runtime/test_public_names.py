"""The names that users import: where they are found, and what importing them loads."""

import importlib
import subprocess
import sys

import pytest

PUBLIC = {
    "rpl_runtime": (
        "Action Client LiveRobot ReconnectConfig RelayError Robot RunConfig TimeBudget drive lasting_control "
        "on_robot_control run"
    ),
    "rpl_runtime.client": (
        "Access Action Admin Client Control ReconnectConfig Resume Started TimeBudget lasting_control on_robot_control"
    ),
    "rpl_runtime.robots": "LiveRobot Robot",
    "rpl_runtime.robots.franka": "FrankaConfig FrankaRobot HandConfig",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_offers_its_public_names(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == PUBLIC[module].split()
    for name in found.__all__:
        assert getattr(found, name).__module__.startswith("rpl_runtime.")


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rpl_runtime' has no attribute 'Clint'"):
        importlib.import_module("rpl_runtime").Clint  # noqa: B018


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport os, sys\nprint(os.environ['ORT_DISABLE_TELEMETRY'], *sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    telemetry, *modules = found.stdout.split()
    assert telemetry == "1"
    return set(modules)


def test_the_package_itself_loads_nothing_else() -> None:
    loaded = loaded_by("import rpl_runtime")
    assert not {module for module in loaded if module.startswith("rpl_runtime.")}
    assert not loaded & {"numpy", "grpc", "onnxruntime"}


def test_the_names_of_a_robot_loop_load_neither_a_simulator_nor_torch() -> None:
    names = ", ".join(PUBLIC["rpl_runtime"].split())
    loaded = loaded_by(f"from rpl_runtime import {names}\nfrom rpl_runtime.robots.franka import FrankaRobot")
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "mujoco", "gymnasium", "franky", "rpl_train"}
