"""A simulated kitchen around a robot that stands in none: its arm does what the robot does, its objects react.

In: the robot's measured joints. Out: where the objects of that kitchen are, and where they hold its fingers. It does
not know whose joints they are.

With it a whole compound goal runs on a real or simulated robot with nothing around it. What it cannot give the robot
is resistance: the robot's arm feels no door, and its hand closes on nothing, so the fingers' places come from here.
"""

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.kitchen.elements import OBJECT_DIMS, PERIOD, ROBOT_DIM
from rpl_runtime.kitchen.servo import ARM_DIM
from rpl_runtime.kitchen.simulator import Kitchen
from rpl_runtime.robots.objects import Seen

# A measured motion is followed closely by an arm this much stiffer than the kitchen's own. A much stiffer one, which
# gives way to nothing, loses the handles it pulls.
_STIFFER = 5.0
_FINGERS = slice(ARM_DIM, ROBOT_DIM)


class KitchenMirror:
    """The simulated kitchen as a source of object states (the `ObjectSource` protocol).

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    def __init__(self) -> None:
        self.simulator = Kitchen()  # for whoever renders or inspects it
        self._mujoco = require("mujoco", "sim")
        model = self.simulator.model
        model.actuator_gainprm[:ARM_DIM, 0] *= _STIFFER
        model.actuator_biasprm[:ARM_DIM, 1] *= _STIFFER
        self._substeps = round(PERIOD / model.opt.timestep)
        self._robot = np.zeros(ROBOT_DIM)  # (9,) [rad, m] where the arm was led last

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Put every object where an episode starts, and the arm at the robot's joints (9,) [rad, m]."""
        self.simulator.reset(seed)
        self._robot = np.asarray(robot, dtype=np.float64)
        self.simulator.restore(np.append(self._robot, self.simulator.qpos[ROBOT_DIM:]), seed)

    def read(self, robot: np.ndarray) -> Seen:
        """The kitchen one control period later, its arm led evenly to the robot's joints (9,) [rad, m]."""
        data, before = self.simulator.data, self._robot
        self._robot = np.asarray(robot, dtype=np.float64)
        for substep in range(1, self._substeps + 1):
            data.ctrl[:] = before + substep / self._substeps * (self._robot - before)
            data.qfrc_applied[:ROBOT_DIM] = data.qfrc_bias[:ROBOT_DIM]  # the arm is held up, as a real one is
            self._mujoco.mj_step(self.simulator.model, data)
        qpos = self.simulator.qpos
        return Seen(qpos[list(OBJECT_DIMS)], qpos[_FINGERS])

    def close(self) -> None:
        """Release the simulator."""
        self.simulator.close()
