"""A scripted demonstrator: the next position target from the kitchen's state and the work to do.

It has no memory: the target follows from the positions of gripper, fingers and element. So it can take over from any
state, and a policy that sees the same state can learn it.

Inverse kinematics is damped least squares on MuJoCo's Jacobian of the seven arm joints. mink is not used: it solves
over all 29 degrees of freedom of the kitchen, and its joint limits are infeasible while objects rest outside their
ranges.
"""

from dataclasses import dataclass

import numpy as np

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.tasks.kitchen.elements import ELEMENTS, MAX_TARGET_STEP, ROBOT_DIM, TARGET_HIGH, TARGET_LOW
from rpl_runtime.tasks.mujoco import load_mujoco
from rpl_runtime.tasks.scenery import Model
from rpl_train.tasks.kitchen.skills import SKILLS, Skill, Work, progress, skill_for

mujoco = load_mujoco()

_ARM = slice(0, 7)
_FINGERS = slice(7, 9)
_OPEN = 0.04  # [m] a finger's position when the gripper is open
_KETTLE_XY, _KETTLE_Z = slice(23, 25), 25
_CLEAR = (-0.29, 0.25), (-0.15, 0.77)  # [m] lowest and highest x, y of a kettle on the stove, clear of the microwave
_BESIDE, _BEFORE = 0.16, 0.11  # [m] from the gripper to the kettle's handle, within which a finger may be inside of it
_TWISTED = 0.25, 0.45  # [rad] from which on, and at which wholly, a kettle counts as twisted
_PULL = 0.12  # [m] how far ahead of it a twisted kettle is pulled to
_FRONT = 0.12, 0.2  # [m] y up to which no kettle is pulled, and from which on it wholly is
_OFF = 1.63, 1.66  # [m] height from which on, and at which wholly, a kettle is off the stove
_CARRIED = 0.2  # [rad] by which it may be more twisted there
_SLACK = 0.02  # [m] by which a gripper that holds something may be farther from its place: a noisy arm opens no hand
_AHEAD = 2.0  # times as far as is left, a held knob's set-point is ahead of it: with once it stops short of its goal
_STOVE = 1.62  # [m] the kettle's height when it stands
# Share of the way to its set-point that a servo moves an arm joint in one period: 1 - exp(-0.08 s x kp / damping).
_REACHED = np.array([0.50, 0.50, 0.50, 0.50, 0.62, 0.62, 0.62])
_QUICKER = np.array([1.0, 1.0, 1.0, 1.0, 1.4, 1.4, 1.4])  # the wrist follows faster than the arm
_KP = np.array([870.0, 870.0, 870.0, 870.0, 120.0, 120.0, 120.0])  # [N m / rad]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How the demonstrator moves."""

    speed: float = 0.068  # [rad] of the fastest joint in a control step
    gain: float = 0.35  # share of the remaining error that a step corrects
    standoff: float = 0.10  # [m] distance in front of an element before the gripper goes in
    rise: float = 0.0  # [m] how much higher it holds a tall handle


@dataclass(frozen=True)
class _Here:
    """The current pose of the arm."""

    qpos: np.ndarray  # (30,)
    hand: np.ndarray  # (3,) [m]
    rotation: np.ndarray  # (3, 3) of the gripper: its third column points ahead, its second is the fingers' axis
    jacobian: np.ndarray  # (6, 7)
    width: float  # [m] mean position of the fingers


@dataclass(frozen=True)
class _View:
    """The element to work on, relative to the gripper."""

    hold: np.ndarray  # (3,) [m] where the gripper holds it
    rotation: np.ndarray  # (3, 3) of the gripper there
    front: np.ndarray  # (3,) [m] where the gripper goes before going in
    standoff: float  # [m] distance of the front from the hold
    home: np.ndarray  # (7,) [rad] arm joints at the front
    distance: float  # [m] from gripper to hold
    astray: float  # [m] distance of the gripper from the line of approach; a rotation of 1 rad counts as 0.1 m
    outside: float  # [m] the same, plus its distance before the front or behind the hold
    reachable: float  # 0 to 1: whether inverse kinematics found `home`
    slack: float  # [m] how much farther from the hold still counts as holding, as the fingers are around something


@dataclass(frozen=True)
class _Obstacle:
    """Another element between the fingers or right in front of them."""

    weight: float  # 0 to 1
    gap: float  # [m] its distance ahead of the gripper
    out: np.ndarray  # (3,) the horizontal direction in which the gripper points
    aside: np.ndarray  # (3,) [m] horizontally from the line of the gripper to it
    leave: tuple[float, float, float] | None


class Demonstrator:
    """Chooses position targets for one work at a time, an element to be led to its goal or back, from the state alone.

    A joint-space move brings the arm in front of the element, a Cartesian move takes it in, the fingers close on
    arrival, and the gripper leads the element along its path. If another element is between the fingers, the gripper
    first moves straight back. Smooth functions of distances blend between these moves.
    """

    def __init__(self, model: Model, style: Style | None = None) -> None:
        self.style = style or Style()
        self._model = model
        self._data = mujoco.MjData(model)
        self._hand = model.site("end_effector").id
        self._low = np.maximum(model.jnt_range[_ARM, 0], TARGET_LOW[_ARM])  # (7,) [rad]
        self._high = np.minimum(model.jnt_range[_ARM, 1], TARGET_HIGH[_ARM])  # (7,) [rad]

    def act(self, state: np.ndarray, work: Work | None) -> np.ndarray:
        """The target (9,) [rad, m] that furthers a work; with None, the gripper lets go and leaves.

        Raises:
            InvalidGoal: there is no such element.
        """
        if work is not None and work.element not in SKILLS:
            raise InvalidGoal(f"there is no element {work.element!r}; must be one of {', '.join(SKILLS)}")
        here = self._look(np.asarray(state, dtype=np.float64))
        if work is None:
            obstacle = self._obstacle(here, None)
            move = obstacle.weight * self._limited(self._twist(here, self._straight_back(here, obstacle)))
            opening = 1.0
        else:
            view = self._view(here, work)
            move = self._move(here, view, work)
            opening = _smooth(view.distance - view.slack, 0.02, 0.045)
        return self._target(here, move, _OPEN * opening)

    def finished(self, state: np.ndarray, work: Work) -> bool:
        """Whether a work is finished in a state (30,): done with a margin, and set down."""
        skill = SKILLS[work.element]
        lowered = not skill.lift or state[_KETTLE_Z] < _STOVE + 0.02
        if work.back:
            done = np.linalg.norm(state[list(skill.dims)] - skill.rest) < skill.returned
        else:
            done = ELEMENTS[work.element].distance(state) < skill.finished
        return bool(lowered and done)

    def away(self, state: np.ndarray, work: Work) -> float:
        """The distance [m] of the gripper from where it holds a work's element, in a state (30,)."""
        qpos = np.asarray(state, dtype=np.float64)
        place, _ = self._hold(qpos, work)  # leaves the configuration placed
        return float(np.linalg.norm(place - self._pose()[0]))

    def free(self, state: np.ndarray, holds: float, lower: bool) -> np.ndarray | None:
        """The target (9,) [rad, m] that gets the gripper out of the kettle's handle; None: it is out, or holds it well.

        A kettle that hangs on a finger goes wherever the arm goes, and off the stove. So it is first set down, and then
        the gripper turns in line with the handle's opening and moves back through it. The fingers stay as they are:
        one that opens would press on the kettle, and take it along.

        Args:
            holds: [m] distance from the right place within which the gripper holds the kettle well.
            lower: whether it may set the kettle down; what does not sink leans on something.
        """
        here = self._look(np.asarray(state, dtype=np.float64))
        distance = self._view(here, Work("kettle")).distance
        self._place(here.qpos)
        apart = self._data.site(SKILLS["kettle"].site).xpos - here.hand
        pointing = here.rotation[:, 2]
        gap = float(apart @ pointing)
        if distance < holds or abs(gap) > _BEFORE or np.linalg.norm(apart - gap * pointing) > _BESIDE:
            return None
        if lower and here.qpos[_KETTLE_Z] > _STOVE + 0.025:
            aside = np.clip(here.qpos[_KETTLE_XY], *_CLEAR) - here.qpos[_KETTLE_XY]
            twist = np.array([*_capped(0.5 * aside, 0.02), -0.02, 0.0, 0.0, 0.0])
        else:
            yaw = _yaw(here.qpos)
            along, through = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([-np.sin(yaw), np.cos(yaw), 0.0])
            through *= np.sign(through @ pointing)
            turn = (pointing[0] * through[1] - pointing[1] * through[0]) / max(float(np.hypot(*pointing[:2])), 0.1)
            velocity = np.clip(0.3 * float(apart @ along), -0.01, 0.01) * along - 0.025 * through
            twist = np.array([*velocity, 0.0, 0.0, np.clip(0.3 * turn, -0.1, 0.1)])
        move = self._limited(self._solve(here.qpos, here.jacobian, twist, np.zeros(7)))
        return self._target(here, move, here.qpos[_FINGERS])

    def _move(self, here: _Here, view: _View, work: Work) -> np.ndarray:
        """Joint step (7,) [rad]: travel, go in, avoid the furniture, leave other elements; later ones override."""
        away = _smooth(view.outside, 0.06, 0.16)
        reach = self.style.gain * (view.home - here.qpos[_ARM])
        far = away * _smooth(float(np.abs(reach).max()), 0.02, 0.06) * view.reachable
        move = self._limited(self._work(here, view, work))
        move = move + far * (self._limited(reach) - move)

        # Cabinets, hood and knobs are beyond this plane: move along it.
        plane = min(0.47, view.front[1] + 0.02)
        # A kettle at its goal stands so deep that a gripper in line with it is beyond the plane before its front.
        barred = _smooth(view.astray, 0.06, 0.16) if work.back else away
        wall = barred * _smooth(float(here.hand[1]), plane, plane + 0.08)
        if wall > 0:
            freed = _smooth(here.width, 0.022, 0.032)
            move = move + wall * (self._limited(self._twist(here, np.array([0.0, -0.05 * freed, 0.0]))) - move)
            # The two moves oppose each other: keep the direction, restore the speed.
            move = self._limited(move * (1 + 1.5 * far * freed))

        obstacle = self._obstacle(here, work.element)
        weight = obstacle.weight * _smooth(view.astray, 0.03, 0.06)
        if weight > 0:
            move = move + weight * (self._limited(self._clear(here, view, obstacle, wall)) - move)
        return move

    def _work(self, here: _Here, view: _View, work: Work) -> np.ndarray:
        """Joint step (7,) [rad] that goes in if the gripper is in line, and leads the element if it is held."""
        gain = self.style.gain
        near = 1 - _smooth(view.distance - view.slack, 0.035, 0.055)
        held = near * (1 - _smooth(here.width, 0.028, 0.035))
        approach = view.rotation[:, 2]
        depth = float(approach @ (view.hold - here.hand))
        back = view.standoff * _smooth(view.astray, 0.015, 0.06)
        goal = view.hold - back * approach
        # Too deep beside the element: go out first, or a finger would press against its side.
        deep = _smooth(view.astray, 0.02, 0.04) * _smooth(back - depth, 0.01, 0.03)
        goal -= deep * (view.hold - here.hand - depth * approach)
        rotation = view.rotation
        if held > 0:
            ahead, ahead_rotation = self._ahead(here.qpos, work)
            goal = goal + held * (ahead - goal)
            rotation = ahead_rotation if held > 0.5 else rotation
        gain = gain + 0.45 * held  # a held element resists
        twist = np.concatenate(
            [
                _capped(gain * (goal - here.hand), 0.05),
                _capped(gain * _rotation_vector(rotation @ here.rotation.T), 0.15),
            ]
        )
        return self._solve(here.qpos, here.jacobian, twist, _scaled(0.1 * (view.home - here.qpos[_ARM]), 0.02))

    def _clear(self, here: _Here, view: _View, obstacle: _Obstacle, wall: float) -> np.ndarray:
        """Joint step (7,) [rad] out of another element: straight back first, then past it."""
        past = view.front - here.hand
        past = past - (past @ obstacle.out) * obstacle.out
        past[1] = min(past[1], 0.0)
        if obstacle.leave is not None:
            past = np.array(obstacle.leave)
        past = (1 - wall) * _capped(past, 0.06) - wall * np.array([0.0, 0.05, 0.0])
        velocity = self._straight_back(here, obstacle) + _smooth(obstacle.gap, 0.065, 0.085) * past
        pull = _scaled(0.1 * (view.home - here.qpos[_ARM]), 0.02)
        return self._twist(here, velocity, pull, turn=obstacle.gap >= 0.08)

    def _straight_back(self, here: _Here, obstacle: _Obstacle) -> np.ndarray:
        """Velocity (3,) [m/step] back along the fingers, slower while they are closed or not centred."""
        off = float(np.linalg.norm(obstacle.aside))
        freed = _smooth(here.width, 0.022, 0.032) * (1 - 0.5 * _smooth(off, 0.004, 0.015))
        centre = _capped(0.9 * obstacle.aside, 0.03) if off < 0.06 else np.zeros(3)
        return (1 - _smooth(obstacle.gap, 0.06, 0.09)) * (centre - 0.025 * freed * here.rotation[:, 2])

    def _target(self, here: _Here, move: np.ndarray, fingers: np.ndarray | float) -> np.ndarray:
        """The target (9,) [rad, m] of a joint step (7,) [rad] and the fingers' positions (2,) [m]."""
        self._place(here.qpos)
        torque = np.zeros(self._model.nv)
        mujoco.mj_rne(self._model, self._data, 0, torque)  # [N m] that holds the arm still where it is
        target = here.qpos[:ROBOT_DIM].copy()
        target[_ARM] += _scaled(move / _REACHED + torque[_ARM] / _KP, MAX_TARGET_STEP)
        target[_FINGERS] = fingers
        return np.clip(target, TARGET_LOW, TARGET_HIGH)

    def _look(self, qpos: np.ndarray) -> _Here:
        self._place(qpos)
        hand, rotation = self._pose()
        return _Here(qpos, hand, rotation, self._jacobian(), float(np.mean(qpos[_FINGERS])))

    def _view(self, here: _Here, work: Work) -> _View:
        hold, rotation = self._hold(here.qpos, work)
        approach = rotation[:, 2]
        error = hold - here.hand
        depth = float(approach @ error)
        turn = float(np.linalg.norm(_rotation_vector(rotation @ here.rotation.T)))
        astray = float(np.linalg.norm(error - depth * approach)) + 0.1 * turn
        skill = skill_for(work, here.qpos)
        standoff = self.style.standoff + skill.farther
        front = hold - standoff * approach
        home, missed = self._reach(here.qpos, front, rotation, skill)
        return _View(
            hold=hold,
            rotation=rotation,
            front=front,
            standoff=standoff,
            home=home,
            distance=float(np.linalg.norm(error)),
            astray=astray,
            outside=max(-depth - 0.03, depth - standoff, 0.0) + astray,
            reachable=1 - _smooth(missed, 0.02, 0.06),
            slack=_SLACK * (1 - _smooth(here.width, 0.028, 0.035)) * _smooth(here.width, 0.010, 0.015),
        )

    def _hold(self, qpos: np.ndarray, work: Work) -> tuple[np.ndarray, np.ndarray]:
        """Where (3,) [m] and how (3, 3) the gripper holds an element in a configuration."""
        self._place(qpos)
        return self._held_at(qpos, work)

    def _held_at(self, qpos: np.ndarray, work: Work) -> tuple[np.ndarray, np.ndarray]:
        """The same in the configuration that was placed last."""
        skill = skill_for(work, qpos)
        start, end = np.array(skill.approach), np.array(skill.approach_end)
        rotation = _pointing(start + progress(skill, qpos) * (end - start))
        if skill.turns:
            rotation = _turn(np.array([0.0, -qpos[skill.dims[0]], 0.0])) @ rotation
        offset = np.array(skill.offset)
        if skill.tall:
            offset[2] += self.style.rise
        if work.element == "kettle":
            # The kettle's leg is round, so the gripper does not turn with it.
            offset = _turn(np.array([0.0, 0.0, _yaw(qpos)])) @ offset
        return self._data.site(skill.site).xpos + offset, rotation

    def _ahead(self, qpos: np.ndarray, work: Work) -> tuple[np.ndarray, np.ndarray]:
        """Where (3,) [m] and how (3, 3) the gripper holds an element a little nearer to its aim."""
        skill = skill_for(work, qpos)
        dims = list(skill.dims)
        aim, lift = np.array(skill.back if work.back else skill.aim), skill.lift
        if work.element == "kettle":
            # Its leg is left of its centre. A kettle that is twisted clockwise comes round where it is pulled over the
            # stove by it; one twisted the other way, where it is pushed; lifted, neither. What is on the stove rather
            # stays there, and what is in the air is carried on: half of both would be a standstill. On the way back one
            # twisted the other way is carried too, for being pulled would only twist it more.
            yaw = _yaw(qpos)
            twisted = _smooth(abs(yaw) - _CARRIED * _smooth(float(qpos[_KETTLE_Z]), *_OFF), *_TWISTED)
            if yaw < 0:
                twisted *= _smooth(float(qpos[_KETTLE_XY][1]), *_FRONT)
                aim = aim + twisted * (qpos[dims] - (_PULL, 0.0) - aim)
            elif work.back:
                twisted = 0.0
            lift *= 1 - twisted
        left = aim - qpos[dims]
        ahead = qpos.copy()
        # The kettle first moves aside: the microwave is close to its straight path.
        ahead[dims] += _capped(left * (_AHEAD if skill.turns else [1.0, 4.0][: len(dims)]), skill.lead)
        if skill.lift:
            height = _STOVE + lift * _smooth(float(np.linalg.norm(left)), 0.03, 0.12)
            ahead[_KETTLE_Z] += np.clip(height - qpos[_KETTLE_Z], -skill.lead, skill.lead)
        return self._hold(ahead, work)

    def _obstacle(self, here: _Here, element: str | None) -> _Obstacle:
        out = here.rotation[:, 2] * [1.0, 1.0, 0.0]
        out /= max(float(np.linalg.norm(out)), 0.1)
        worst = _Obstacle(weight=0.0, gap=1.0, out=out, aside=np.zeros(3), leave=None)
        self._place(here.qpos)
        for name, skill in SKILLS.items():
            if name == element:
                continue
            apart = self._held_at(here.qpos, Work(name))[0] - here.hand
            gap = float(apart @ out)
            aside = (apart - gap * out) * [1.0, 1.0, 0.0]
            weight = 1 - _smooth(float(np.linalg.norm(aside)), skill.berth - 0.02, skill.berth)
            weight *= 1 - _smooth(abs(float(apart[2])), skill.height - 0.02, skill.height)
            weight *= (1 - _smooth(gap, 0.09, 0.12)) * _smooth(gap, -0.08, -0.05)
            if weight > worst.weight:
                worst = _Obstacle(weight, gap, out, aside, skill.leave)
        return worst

    def _reach(
        self, qpos: np.ndarray, position: np.ndarray, rotation: np.ndarray, skill: Skill
    ) -> tuple[np.ndarray, float]:
        """Arm joints (7,) [rad] that bring the gripper to a pose, near the skill's posture, and the error left."""
        posture = np.array(skill.posture)
        if skill.posture_end is not None:
            posture = posture + progress(skill, qpos) * (np.array(skill.posture_end) - posture)
        found = self._reach_from(qpos, posture, position, rotation)
        if found[1] > 0.02:
            found = min(found, self._reach_from(qpos, qpos[_ARM], position, rotation), key=lambda each: each[1])
        return found

    def _reach_from(
        self, qpos: np.ndarray, arm: np.ndarray, position: np.ndarray, rotation: np.ndarray
    ) -> tuple[np.ndarray, float]:
        trial = qpos.copy()
        trial[_ARM] = arm
        missed = np.inf
        for _ in range(30):
            self._place(trial)
            hand, hand_rotation = self._pose()
            twist = np.concatenate([position - hand, _rotation_vector(rotation @ hand_rotation.T)])
            missed = float(np.abs(twist).max())
            if missed < 0.005:
                break
            step = _scaled(self._solve(trial, self._jacobian(), twist, np.zeros(7)), 0.3)
            trial[_ARM] = np.clip(trial[_ARM] + step, self._low, self._high)
        return trial[_ARM].copy(), missed

    def _twist(
        self, here: _Here, velocity: np.ndarray, pull: np.ndarray | None = None, turn: bool = False
    ) -> np.ndarray:
        """Joint step (7,) [rad] for a velocity (3,) [m/step]; the gripper keeps its rotation unless `turn`."""
        rows = 3 if turn else 6
        twist = np.concatenate([velocity, np.zeros(3)])[:rows]
        return self._solve(here.qpos, here.jacobian[:rows], twist, np.zeros(7) if pull is None else pull)

    def _solve(self, qpos: np.ndarray, jacobian: np.ndarray, twist: np.ndarray, pull: np.ndarray) -> np.ndarray:
        """Joint step (7,) [rad] for a twist (n,) [m, rad] inside the joint limits; a pull (7,) moves the redundancy."""
        free = np.ones(7)
        step = np.zeros(7)
        for _ in range(3):
            active = jacobian * free
            inverse = active.T @ np.linalg.inv(active @ active.T + 1e-3 * np.eye(len(active)))
            step = inverse @ twist + free * (pull * free - inverse @ (active @ pull))
            over = ((qpos[_ARM] + step > self._high) & (step > 0)) | ((qpos[_ARM] + step < self._low) & (step < 0))
            if not over.any():
                break
            free = free * ~over
        return step

    def _limited(self, step: np.ndarray) -> np.ndarray:
        """A joint step scaled as a whole to the style's speed: clipping single joints bends the path."""
        return step * min(1.0, self.style.speed / max(float(np.abs(step / _QUICKER).max()), 1e-9))

    def _place(self, qpos: np.ndarray) -> None:
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _pose(self) -> tuple[np.ndarray, np.ndarray]:
        return self._data.site_xpos[self._hand].copy(), self._data.site_xmat[self._hand].reshape(3, 3).copy()

    def _jacobian(self) -> np.ndarray:
        jacobian = np.zeros((6, self._model.nv))
        mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._hand)
        return jacobian[:, _ARM]


def _smooth(value: float, low: float, high: float) -> float:
    """0 below low, 1 above high, a smooth step between."""
    x = min(max((value - low) / (high - low), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _yaw(qpos: np.ndarray) -> float:
    """How far [rad] the kettle is turned about the vertical in a configuration (30,)."""
    real, vertical = qpos[26], qpos[29]  # of its quaternion, whose sign means nothing
    return float(2 * np.arctan2(np.copysign(1.0, real) * vertical, abs(real)))


def _capped(vector: np.ndarray, length: float) -> np.ndarray:
    """A vector, shortened to `length` if it is longer."""
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


def _scaled(step: np.ndarray, most: float) -> np.ndarray:
    """A step, scaled so that no joint moves more than `most` [rad]."""
    return step * min(1.0, most / max(float(np.abs(step).max()), 1e-9))


def _pointing(approach: np.ndarray) -> np.ndarray:
    """The gripper's rotation (3, 3) along a direction, with a horizontal axis of the fingers."""
    zx, zy, zz = approach / np.linalg.norm(approach)
    yx, yy = np.array([zy, -zx]) / np.hypot(zx, zy)  # written out: np.cross takes a tenth of all play's time
    return np.array([[yy * zz, yx, zx], [-yx * zz, yy, zy], [yx * zy - yy * zx, 0.0, zz]])


def _turn(vector: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) about a rotation vector (3,) [rad]."""
    angle = float(np.linalg.norm(vector))
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, vector / max(angle, 1e-9), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """The rotation vector (3,) [rad] of a rotation (3, 3)."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
