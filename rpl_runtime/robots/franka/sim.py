"""A simulated FR3 with a hand that speaks Franka's own network protocol, in a process of its own.

In: an address of this machine. Out: a robot that FrankaRobot drives like a real one. Nothing stands around it; where
it is to find a kitchen, mirror.py lays one over it. It does not know who drives it.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from rpl_runtime.errors import AddressInUse, InvalidInput, require
from rpl_runtime.process import own_process
from rpl_runtime.robots.franka.frames import to_franka
from rpl_runtime.robots.franka.franka import HOME

_PORT = 1337  # of Franka's control interface

# A joint of the simulator trails what is commanded by damping / stiffness; by its own default that is 0.1 s.
_STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # [Nm/rad] the simulator's default
_TRAILS_S = 0.02  # [s]
_TICK_S = 0.001  # [s] of a robot's own control loop
_CATCH_UP_S = 0.05  # [s] of delay that is made up for; a robot that was held up for longer has lost that time


@contextmanager
def simulated_robot(host: str = "127.0.0.1") -> Iterator[str]:
    """A simulated robot for the length of the block; the value is its host.

    Raises:
        MissingExtra: the `franka-sim` extra is not installed.
        AddressInUse: a robot runs at the host already.
        InvalidInput: the host is no address of this machine.
        ServerUnavailable: it did not start.
    """
    require("franky_sim", "franka-sim")
    _check_free(host)
    with own_process(serve, host) as address:
        yield address


def serve(on_ready: Callable[[str], None], host: str) -> None:
    """Simulate a robot until Ctrl-C, or until the process ends; `on_ready` gets the host once it may be driven."""
    server_module = require("franky_sim", "franka-sim")
    simulator = require("franky_sim.mujoco_simulator", "franka-sim").MujocoSimulator()
    damping = tuple(_TRAILS_S * stiffness for stiffness in _STIFFNESS)
    with suppress(KeyboardInterrupt), simulator:
        robot = simulator.add_robot(initial_q=to_franka(HOME), initial_hand_width=0.08, kp=_STIFFNESS, kv=damping)
        _report_at_once(robot)
        _without_floor(simulator)
        with server_module.SimulationServer(simulator, [host]) as server:
            on_ready(host)
            _run(server)


def _run(server: Any) -> NoReturn:
    """Simulate at the pace of the clock; the simulator's own loop falls a tenth behind."""
    due = time.monotonic()
    while True:
        server.run_once(realtime=False)
        due = max(due + _TICK_S, time.monotonic() - _CATCH_UP_S)
        time.sleep(max(0.0, due - time.monotonic()))


def _check_free(host: str) -> None:
    try:
        socket.create_server((host, _PORT)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"a robot runs at {host} already; choose another address, such as 127.0.0.2") from error
        raise InvalidInput(f"no robot can be simulated at {host}; must be an address of this machine") from error


def _without_floor(simulator: Any) -> None:
    """Let the arm reach below the plane it stands on, as it does in the kitchen, whose counter is lower."""
    for geom in simulator.worldbody.findall("geom[@name='ground']"):
        simulator.worldbody.remove(geom)


def _report_at_once(robot: Any) -> None:
    """Have the robot report the speed and acceleration that it is commanded, as a real one does.

    A motion that takes over from another starts with them. The simulator smooths the one over 20 ms, and reports the
    measured acceleration for the other.
    """
    simulation, reported = require("franky_sim.base_simulator", "franka-sim"), robot._tracked_state_components
    for name in ("q_d", "dq_d"):
        reported[name].observers["fd"] = simulation.FiniteDifferenceTracker(alpha=0.0)
    reported["ddq_d"] = simulation.TrackedStateComponent(
        lambda time, state: reported["dq_d"].observers["fd"].last_derivative, depends_on=(reported["dq_d"],)
    )
