"""A Franka arm with its hand: a Panda or an FR3, real or simulated."""

from rpl_runtime.robots.franka.franka import FrankaConfig, FrankaRobot
from rpl_runtime.robots.franka.hand import HandConfig

__all__ = ["FrankaConfig", "FrankaRobot", "HandConfig"]
