"""A simulated FR3 with a hand that speaks Franka's own network protocol, in its own process.

FrankaRobot drives it like a real one. Nothing stands around it; mirror.py adds a simulated kitchen.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rpl_runtime.errors import AddressInUse, InvalidInput, require
from rpl_runtime.process import own_process
from rpl_runtime.robots.franka.frames import to_franka
from rpl_runtime.robots.franka.franka import HOME

_PORT = 1337  # of Franka's control interface

# A joint of the simulator trails its command by damping / stiffness; by the simulator's default that is 0.1 s.
_STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # [Nm/rad] the simulator's default
_TRAILS_S = 0.02  # [s]
_TICK_S = 0.001  # [s] of a robot's own control loop
_CATCH_UP_S = 0.05  # [s] of delay that the simulation makes up for; it skips any longer one


@contextmanager
def simulated_robot(host: str = "127.0.0.1") -> Iterator[str]:
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
    with own_process(serve, host) as address:
        yield address


def serve(on_ready: Callable[[str], None], host: str) -> None:
    """Simulate a robot until Ctrl-C or the end of the process; `on_ready` gets the host once it can be driven."""
    server_module, base = require("franky_sim", "franka-sim"), require("franky_sim.base_simulator", "franka-sim")
    simulator = require("franky_sim.mujoco_simulator", "franka-sim").MujocoSimulator()
    damping = tuple(_TRAILS_S * stiffness for stiffness in _STIFFNESS)
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
