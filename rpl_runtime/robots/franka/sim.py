"""A simulated FR3 with a hand that speaks Franka's own network protocol, in its own process.

FrankaRobot drives it like a real one. Nothing stands around it; mirror.py adds a simulated kitchen.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rpl_runtime.errors import AddressInUse, InvalidInput, require
from rpl_runtime.process import own_process
from rpl_runtime.robots.franka.frames import to_franka
from rpl_runtime.robots.franka.franka import HOME
from rpl_runtime.robots.franka.hand import MAX_WIDTH
from rpl_runtime.tasks.mujoco import load_mujoco

_PORT = 1337  # of Franka's control interface

# A joint of the simulator trails its command by damping / stiffness; by the simulator's default that is 0.1 s.
_STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # [Nm/rad] the simulator's default
_TRAILS_S = 0.02  # [s]
_TICK_S = 0.001  # [s] of a robot's own control loop
_CATCH_UP_S = 0.05  # [s] of delay that the simulation makes up for; it skips any longer one


class Faults(NamedTuple):
    """What is wrong with a simulated robot, for those who must find it."""

    late_s: float = 0.0  # [s] by which its arm trails its commands longer
    hand_s: float | None = None  # [s] in which its hand closes; None: as fast as it is asked to
    turned: int | None = None  # a joint, from 0, whose angle it reports with the other sign, about where it stands


_SOUND = Faults()


@contextmanager
def simulated_robot(host: str = "127.0.0.1", faults: Faults = _SOUND) -> Iterator[str]:
    """A simulated robot for the length of the block; the value is its host.

    Raises:
        MissingExtra: the `franka-sim` extra is not installed.
        AddressInUse: a robot already runs at the host.
        InvalidInput: the host is not an address of this machine.
        ServerUnavailable: the robot did not start.
    """
    require("franky_sim", "franka-sim")
    try:
        socket.create_server((host, _PORT)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"a robot runs at {host} already; choose another address, such as 127.0.0.2") from error
        raise InvalidInput(f"no robot can be simulated at {host}; must be an address of this machine") from error
    with own_process(serve, host, faults) as address:
        yield address


def serve(on_ready: Callable[[str], None], host: str, faults: Faults = _SOUND) -> None:
    """Simulate a robot until Ctrl-C or the end of the process; `on_ready` gets the host once it can be driven."""
    load_mujoco()  # before the simulator imports it, which would start processes to find GLFW
    server_module, base = require("franky_sim", "franka-sim"), require("franky_sim.base_simulator", "franka-sim")
    simulator = require("franky_sim.mujoco_simulator", "franka-sim").MujocoSimulator()
    damping = tuple((_TRAILS_S + faults.late_s) * stiffness for stiffness in _STIFFNESS)
    with suppress(KeyboardInterrupt), simulator:
        robot = simulator.add_robot(initial_q=to_franka(HOME), initial_hand_width=0.08, kp=_STIFFNESS, kv=damping)
        # Report the commanded speed and acceleration, with which a motion that takes over from another starts, as a
        # real robot does. The simulator smooths the speed over 20 ms, and reports the measured acceleration.
        reported = robot._tracked_state_components
        for name in ("q_d", "dq_d"):
            reported[name].observers["fd"] = base.FiniteDifferenceTracker(alpha=0.0)
        reported["ddq_d"] = base.TrackedStateComponent(
            lambda time, state: reported["dq_d"].observers["fd"].last_derivative, depends_on=(reported["dq_d"],)
        )
        _plant(robot, faults)
        # Without a floor: the kitchen's counter is lower than the plane on which the arm stands.
        for ground in simulator.worldbody.findall("geom[@name='ground']"):
            simulator.worldbody.remove(ground)
        with server_module.SimulationServer(simulator, [host]) as server:
            on_ready(host)
            due = time.monotonic()
            while True:  # at the pace of the clock; the simulator's own loop runs a tenth too slow
                server.run_once(realtime=False)
                due = max(due + _TICK_S, time.monotonic() - _CATCH_UP_S)
                time.sleep(max(0.0, due - time.monotonic()))


def _plant(robot: Any, faults: Faults) -> None:
    """Give a robot of the simulator its faults."""
    if faults.hand_s is not None:
        asked, slow = robot.set_hand_goal, MAX_WIDTH / 2 / faults.hand_s  # [m/s] of each finger
        robot.set_hand_goal = lambda width, speed, force: asked(width, min(speed, slow), force)
    if faults.turned is not None:
        joint, home, kind = faults.turned, to_franka(HOME), type(robot)

        def reported(self: object) -> object:
            state = kind.state.fget(self)
            angles, speeds = np.array(state.q), np.array(state.dq)
            angles[joint], speeds[joint] = 2 * home[joint] - angles[joint], -speeds[joint]
            return replace(state, q=tuple(angles), dq=tuple(speeds))

        robot.__class__ = type(kind.__name__, (kind,), {"state": property(reported)})
