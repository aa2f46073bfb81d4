"""A simulated kitchen around a robot without one: its arm repeats the robot's motion, and its objects react.

With it a whole compound goal runs on a real or simulated robot with nothing around it. It cannot give the robot
resistance: the robot's arm feels no door, and its hand closes on nothing. The policy was trained with a soft arm at the
handles, so the mirrored arm has the kitchen's own servos, led ahead of the robot's motion, and the policy sees its
joints.
"""

import numpy as np

from rpl_runtime.robots.franka.objects import Seen
from rpl_runtime.tasks.kitchen.elements import OBJECT_DIMS, PERIOD, ROBOT_DIM
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, setpoint
from rpl_runtime.tasks.kitchen.simulator import Kitchen
from rpl_runtime.tasks.mujoco import load_mujoco


class KitchenMirror:
    """The simulated kitchen as a source of object states (the `ObjectSource` protocol).

    Raises:
        MissingExtra: the `sim` extra is not installed.
    """

    def __init__(self) -> None:
        self.simulator = Kitchen()  # public for rendering
        self._mujoco = load_mujoco()
        self._substeps = round(PERIOD / self.simulator.model.opt.timestep)
        self._robot = np.zeros(ROBOT_DIM)  # (9,) [rad, m] the arm's last target

    def reset(self, seed: int, robot: np.ndarray) -> None:
        """Put the objects at the start of an episode, and the arm at the robot's joints (9,) [rad, m]."""
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
