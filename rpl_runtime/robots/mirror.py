"""A simulated kitchen around a robot that stands in none: its arm does what the robot does, its objects react.

In: the robot's joints. Out: where the objects of that kitchen are, and where they hold its arm and fingers. It does
not know whose joints they are.

With it a whole compound goal runs on a real or simulated robot with nothing around it. What it cannot give the robot
is resistance: the robot's arm feels no door, and its hand closes on nothing. A policy has learned what a soft arm does
at a handle, so this arm has the kitchen's own servos, led ahead of the robot's motion, and its joints are what is seen.
"""

import numpy as np

from rpl_runtime.errors import require
from rpl_runtime.robots.objects import Seen
from rpl_runtime.tasks.kitchen.elements import OBJECT_DIMS, PERIOD, ROBOT_DIM
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, setpoint
from rpl_runtime.tasks.kitchen.simulator import Kitchen


class KitchenMirror:
    """The simulated kitchen as a source of object states (the `ObjectSource` protocol).

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    def __init__(self) -> None:
        self.simulator = Kitchen()  # for whoever renders or inspects it
        self._mujoco = require("mujoco", "sim")
        self._substeps = round(PERIOD / self.simulator.model.opt.timestep)
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
        velocity = (self._robot - before)[:ARM_DIM] / PERIOD
        for substep in range(1, self._substeps + 1):
            way = before + substep / self._substeps * (self._robot - before)
            data.ctrl[:ARM_DIM] = setpoint(way[:ARM_DIM], velocity, data.qfrc_bias[:ARM_DIM])
            data.ctrl[ARM_DIM:] = way[ARM_DIM:]
            self._mujoco.mj_step(self.simulator.model, data)
        qpos = self.simulator.qpos
        return Seen(qpos[list(OBJECT_DIMS)], qpos[:ROBOT_DIM])

    def close(self) -> None:
        """Release the simulator."""
        self.simulator.close()
