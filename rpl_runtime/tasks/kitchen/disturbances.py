"""Disturbances of the simulated kitchen as forces and impulses in its unmodified physics; no position is ever set.

A jolt is a torque in each joint of the arm, as of somebody who leans on it. A push is a velocity that the kettle is
given. A put-back moves an element back to where it was at the start, as a person would close a door.
"""

import copy
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.tasks.hazards import Hazards
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, PAPER_GOALS, PERIOD, ROBOT_DIM, STATE_NAMES
from rpl_runtime.tasks.kitchen.servo import ARM_DIM, RATE, STIFFNESS
from rpl_runtime.tasks.kitchen.simulator import Kitchen, StartNoise
from rpl_runtime.tasks.mujoco import load_mujoco

_JOLT = 2  # [periods] for which a jolt's torque lasts
_GRAVITY = 9.81  # [m/s^2] and the kettle's coefficient of friction is 1
_TRIES = 20  # draws of a push, and tries of a put-back
_LOOK_AHEAD_S = 1.0  # [s] in which a pushed kettle comes to rest
_UPRIGHT = 0.9  # cosine of the largest tilt of a standing kettle
_FALL = 0.05  # [m] a kettle that is lower than it was by more has left the counter
_BACK_S = 0.4  # [s] time constant of a put-back
_SPEED = 1.5  # [rad/s, m/s] its largest speed
_BACK, _PAUSE = 25, 10  # [periods] of a try at most; between two
_THERE = 0.05  # [rad, m] a place this near to the start is the start
_KETTLE = slice(STATE_NAMES.index("kettle_x"), None)
_DRIVEN = {12: (11, 174.0), 16: (15, 174.0), 18: (17, 14.0)}  # a burner and its knob, the light and its switch
_MOVES = {  # the state dimensions of an element that a hand would take hold of
    name: element.dims[:2] if name == "kettle" else (element.dims[-1] if name == "hinge cabinet" else element.dims[0],)
    for name, element in ELEMENTS.items()
}
_SETTLED = 0.05  # [rad, m, 1] an object that moves by more was not at rest where a goal had it
_SETTLE_S = 1.0  # [s] for which a whole goal is tried out


class Jolt:
    """Torques that lead the arm's joints away by up to a distance.

    Args:
        kitchen: the kitchen.
        size: [rad] largest distance of each joint, drawn uniformly from +- this bound.
        at: the control steps at which a jolt begins.
        rng: draws them.
    """

    name = "jolt"

    def __init__(self, kitchen: Kitchen, size: float, at: Sequence[int], rng: np.random.Generator) -> None:
        self.redrawn = Counter[str]()
        self._kitchen = kitchen
        # (7,) [Nm] each: against its spring, a joint gets only part of the way in this time.
        share = 1 - np.exp(-RATE * PERIOD * _JOLT)
        self._torques = {step: STIFFNESS * rng.uniform(-size, size, ARM_DIM) / share for step in at}

    def act(self, step: int, done: frozenset[str]) -> bool:
        torques = [torque for begin, torque in self._torques.items() if begin <= step < begin + _JOLT]
        for torque in torques:
            self._kitchen.data.qfrc_applied[:ARM_DIM] += torque
        return bool(torques)


class Push:
    """A velocity in a random direction, with which the kettle slides a distance.

    A direction in which the kettle would fall or tip over is drawn again. The arm and the wall may hold it up.

    Args:
        kitchen: the kitchen.
        distance: [m] by which a free kettle slides.
        at: the control steps of the pushes.
        rng: draws the directions.
    """

    name = "push"

    def __init__(self, kitchen: Kitchen, distance: float, at: Sequence[int], rng: np.random.Generator) -> None:
        self.redrawn = Counter[str]()
        self._kitchen, self._distance, self._at, self._rng = kitchen, distance, frozenset(at), rng
        self._mujoco = load_mujoco()
        self._dof = kitchen.model.nv - 6  # the first of the kettle's

    def act(self, step: int, done: frozenset[str]) -> bool:
        if step not in self._at:
            return False
        speed = np.sqrt(2 * _GRAVITY * self._distance)
        for _ in range(_TRIES):
            angle = self._rng.uniform(0, 2 * np.pi)
            velocity = speed * np.array([np.cos(angle), np.sin(angle)])
            refusal = self._refused(velocity)
            if refusal is None:
                self._kitchen.data.qvel[self._dof : self._dof + 2] += velocity
                return True
            self.redrawn[refusal] += 1
        self.redrawn["no direction found"] += 1
        return False

    def _refused(self, velocity: np.ndarray) -> str | None:
        """Why a push with a velocity (2,) [m/s] does not count: tried on a copy of the kitchen."""
        model, data = self._kitchen.model, copy.copy(self._kitchen.data)
        data.qvel[self._dof : self._dof + 2] += velocity
        self._mujoco.mj_step(model, data, nstep=round(_LOOK_AHEAD_S / model.opt.timestep))
        if fallen(data.qpos, self._kitchen.data.qpos):
            return "the kettle slips off the counter"
        return "the kettle tips over" if upright(data.qpos) < _UPRIGHT else None


class PutBack:
    """Puts the first element that is done back toward its start, a while after it was done.

    It is over when the element is there, or after two seconds if it is not done any more: the arm may hold on to it. If
    it still is, physics has refused, and it is tried again a little later.

    Args:
        kitchen: the kitchen, at the start of its episode.
        delay: [control steps] from the step after which it is done.
        elements: those of the goal.
    """

    name = "put-back"

    def __init__(self, kitchen: Kitchen, delay: int, elements: Sequence[str]) -> None:
        self.redrawn = Counter[str]()
        self.element: str | None = None  # what is put back
        self.over = False
        self._kitchen, self._delay, self._elements = kitchen, delay, tuple(elements)
        self._start = kitchen.qpos
        self._begin = 0
        self._tries = 0

    def act(self, step: int, done: frozenset[str]) -> bool:
        if self.over or self._tries >= _TRIES:
            return False
        if self.element is None:
            self.element = next((name for name in self._elements if name in done), None)
            self._begin = step + self._delay
        if self.element is None or step < self._begin:
            return False
        dims = list(_MOVES[self.element])
        away = self._start[dims] - self._kitchen.data.qpos[dims]
        tried = step >= self._begin + _BACK
        if np.linalg.norm(away) < _THERE or (tried and self.element not in done):
            self.over = True
            return False
        if tried:
            self.redrawn["physics refuses the put-back"] += 1
            self._begin, self._tries = step + _PAUSE, self._tries + 1
            return False
        move(self._kitchen, dims, away)
        return True


def move(kitchen: Kitchen, dims: Sequence[int], away: np.ndarray) -> None:
    """Add the forces of a control period that move state dimensions toward a place, `away` [rad, m] from them."""
    model, data, wanted = kitchen.model, kitchen.data, np.clip(away / _BACK_S, -_SPEED, _SPEED)
    for dim, speed in zip(dims, wanted, strict=True):
        friction = model.dof_frictionloss[dim] * np.sign(speed)
        data.qfrc_applied[dim] += model.dof_damping[dim] * speed + friction
    if dims[0] == _KETTLE.start:  # its dofs have the numbers of its coordinates
        mass = float(model.body_subtreemass[model.jnt_bodyid[-1]])
        unit = wanted / max(float(np.linalg.norm(wanted)), 1e-6)
        accelerate = (wanted - data.qvel[list(dims)]) / PERIOD
        data.qfrc_applied[list(dims)] += mass * (_GRAVITY * unit + accelerate)


def with_elements(qpos: np.ndarray, elements: Sequence[str], start: np.ndarray | None = None) -> np.ndarray:
    """A configuration (30,) with elements at their goal, or where they are in another configuration (30,)."""
    changed = np.array(qpos, dtype=np.float64)
    for name in elements:
        dims = list(ELEMENTS[name].dims)
        changed[dims] = ELEMENTS[name].goal if start is None else start[dims]
    for driven, (driver, ratio) in _DRIVEN.items():
        changed[driven] = changed[driver] / ratio
    changed[_KETTLE][3:] /= np.linalg.norm(changed[_KETTLE][3:])
    return changed


def check_reachable(kitchen: Kitchen, goal: np.ndarray) -> np.ndarray:
    """A whole goal state (30,) in which the kitchen's objects rest.

    Raises:
        InvalidGoal: they do not: a joint is outside its range, or the kettle is in the wall or in the air.
    """
    kitchen.restore(goal, seed=0)
    start, data = kitchen.qpos, kitchen.data
    data.ctrl[:] = start[:ROBOT_DIM]
    load_mujoco().mj_step(kitchen.model, data, nstep=round(_SETTLE_S / kitchen.model.opt.timestep))
    away = abs(kitchen.qpos - start)[ROBOT_DIM:]
    if not away.max() <= _SETTLED:
        name = STATE_NAMES[ROBOT_DIM + int(np.argmax(away))]
        raise InvalidGoal(
            f"the kitchen cannot stay at the goal state: {name} moves by {away.max():.2f} in {_SETTLE_S:g} s; must be "
            "a state in which every object rests"
        )
    return goal


def fallen(qpos: np.ndarray, before: np.ndarray) -> bool:
    """Whether the kettle has left the counter on which it stood before, in configurations (30,)."""
    return bool(qpos[_KETTLE][2] < before[_KETTLE][2] - _FALL)


def upright(qpos: np.ndarray) -> float:
    """Cosine of the kettle's tilt in a configuration (30,)."""
    _, x, y, _ = qpos[_KETTLE][3:]
    return float(1 - 2 * (x * x + y * y))


def calm(kitchen: Kitchen) -> None:
    """Remove the forces of the last control period."""
    kitchen.data.qfrc_applied[:] = 0.0


_NOISY = {"profile": "fr3", "position_noise": 0.005, "angle_noise": 0.01}
_SENSES = {
    "noise on every object": _NOISY,
    "everything 80 ms late": {"profile": "fr3", "latency": 1},
    "a hand of 0.3 s a command": {"profile": "fr3", "hand_time": 0.3},
    "a hand of 1 s a command": {"profile": "fr3", "hand_time": 1.0},
    "all of these, 10 % missed, biased": _NOISY
    | {"latency": 1, "object_dropout": 0.1, "hand_time": 1.0, "position_bias": 0.005, "angle_bias": 0.01},
}
_WITH_KETTLE = tuple(goal for goal in PAPER_GOALS if "k" in goal)
HAZARDS = Hazards(
    conditions={
        "start far away": {"start": StartNoise(arm=0.2, kettle=0.08)},
        "two jolts of 0.2 rad": {"jolt": 0.2},
        "kettle pushed 4 cm": {"goals": _WITH_KETTLE, "push": 0.04},
        "kettle pushed 8 cm": {"goals": _WITH_KETTLE, "push": 0.08},
        "first element put back": {"steps": 400, "put_back": 25},
        "goal swapped": {"steps": 400, "swap_at": 100},
        "second goal": {"second": True},
        "undo": {"goals": ("sets1",), "undo": True},
        "unseen whole state": {"goals": ("unseen",), "whole": True},
        "one element": {"goals": ("sets1",)},
        "two elements": {"goals": ("sets2",)},
        **{name: {"steps": 400, "robot": robot} for name, robot in _SENSES.items()},
        "shift of ten goals": {"goals": ("m",), "shift": 10},
    },
    steps_an_element=140,
    start=StartNoise,
    jolt=Jolt,
    push=Push,
    put_back=PutBack,
    calm=calm,
    with_elements=with_elements,
    check_reachable=check_reachable,
    fallen=fallen,
)
