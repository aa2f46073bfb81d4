"""Judges what an acceptance measured: from readings to checks, without a robot and without a clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rpl_runtime.acceptance.journal import Check
from rpl_runtime.acceptance.trace import STILL, Trace, kinematics_error, standstill, trail_s
from rpl_runtime.estimation.calibration import Calibration
from rpl_runtime.policy.manifest import Statistics
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.robots.franka.franka import ArmReading
from rpl_runtime.safety.kinematics import flange_pose
from rpl_runtime.safety.limits import ARM_JOINTS, Box, Profile


@dataclass(frozen=True)
class Limits:
    """How far a robot's readings may be from a sound one's. docs/robot.md has what each costs a policy."""

    kinematics: float = 0.005  # [m] between the robot's flange and that of its joints
    trail: float = 0.04  # [s] from a command to the measured arm
    age: float = 0.03  # [s] of an arm behind its servo model, beside the age that it states
    objects_age: float = 0.24  # [s] of the objects
    place: float = 0.005  # [m] standard deviation of an object at rest
    angle: float = 0.01  # [rad, 1] likewise
    hand: float = 1.2  # [s] of one command of the hand
    closed: float = 0.02  # [m] between the fingers of a closed hand
    joint: tuple[float, float] = (0.8, 1.2)  # measured motion of a joint as a share of the commanded one
    others: float = 0.01  # [rad] by which the other joints move along
    moving: float = 0.05  # [rad/s] a stop from less shows nothing
    stop: float = 0.7  # [s] from a stop to standstill
    unplugged: float = 1.0  # [s] from the end of its server to standstill
    way: float = 0.1  # [m] of the flange until then
    stays: float = 0.005  # [rad] by which a joint moves afterwards
    late: float = 0.06  # [s] from an observation to its command, 95th percentile
    outside: float = 0.002  # [m] of the flange beyond the workspace
    seen: float = 0.05  # [rad, m, 1] an object beyond where it was in the training data
    lead: float = 0.2  # [rad] from a joint to its target


LIMITS = Limits()
_MOVED = 0.03  # [rad] a joint must be commanded to move, to be told from the others


def judge_connection(reading: ArmReading, model: str, profile: Profile) -> list[Check]:
    """A robot at rest: its name, its joints, its kinematics, its hand."""
    inside = np.minimum(reading.measured - profile.low[:ARM_JOINTS], profile.high[:ARM_JOINTS] - reading.measured)
    same = model.lower().startswith(profile.name)
    return [
        Check(
            name=f"the robot calls itself {model}, with the limits of {profile.name}",
            value=float(same),
            low=1,
            high=1,
            meaning="choose the limits of this robot with --profile",
        ),
        Check(
            name="the joint nearest to an end of its range, from there",
            value=_rounded(inside.min()),
            unit="rad",
            low=0.0,
            meaning=f"joint {int(np.argmin(inside)) + 1} stands outside; move the arm by hand",
        ),
        Check(
            name="the flange by our kinematics, from where the robot says it is",
            value=_rounded(kinematics_error(reading.measured, reading.flange)),
            unit="m",
            high=LIMITS.kinematics,
            meaning="a joint has another sign or zero, or the robot is another one",
        ),
        Check(name="the hand's width", value=_rounded(reading.width), unit="m", low=0.0, high=0.085),
    ]


def judge_workspace(workspace: Box, reach: Box, start: np.ndarray) -> list[Check]:
    """A workspace, the box that the arm can reach at all, and the joints (7,) [rad] at which every run starts."""
    low, high = np.array(workspace.low), np.array(workspace.high)
    beyond = np.concatenate([np.array(reach.low) - low, high - np.array(reach.high)])
    sides = ("low x", "low y", "low z", "high x", "high y", "high z")
    flange = flange_pose(start)[0]
    inside = np.minimum(flange - low, high - flange).min()
    return [
        Check(
            name="the workspace beyond where the arm may reach",
            value=_rounded(max(0.0, beyond.max())),
            unit="m",
            high=0.0,
            meaning=f"it is too large at its {sides[int(np.argmax(beyond))]}: there it protects from nothing",
        ),
        Check(
            name="the start of a run inside the workspace, from its nearest face",
            value=_rounded(inside),
            unit="m",
            low=0.02,
            meaning="the arm could not go to the start; make the workspace larger, or move the robot",
        ),
    ]


def judge_states(
    states: np.ndarray, targets: np.ndarray, spec: PolicySpec, statistics: Statistics | None
) -> list[Check]:
    """States (T, n) of a robot at rest and a policy's targets (T, m) for it."""
    joints = [spec.state.names.index(name) for name in spec.action.names[:ARM_JOINTS]]
    lead = abs(targets[:, :ARM_JOINTS] - states[:, joints])
    checks = [
        Check(
            name="control steps with an action", value=len(states), low=1, meaning="the policy did not answer in time"
        ),
        Check(
            name="the farthest target from its joint",
            value=_rounded(lead.max(initial=0.0)),
            unit="rad",
            high=LIMITS.lead,
            meaning="the policy wants to be elsewhere; a joint may have another zero",
        ),
    ]
    if statistics is not None and len(states):
        objects = [dim for dim, name in enumerate(spec.state.names) if name not in spec.action.names]
        low, high = np.array(statistics.low)[objects], np.array(statistics.high)[objects]
        beyond = np.maximum(low - states[:, objects], states[:, objects] - high).max(axis=0)
        worst = int(np.argmax(beyond))
        checks.append(
            Check(
                name="the objects beyond where they were in the training data",
                value=_rounded(max(0.0, beyond[worst])),
                unit=spec.state.units[objects[worst]],
                high=LIMITS.seen,
                meaning=f"{spec.state.names[objects[worst]]} is seen where it never was; check its frame and its sign",
            )
        )
    return checks


def judge_punctuality(missed: int, late_ns: np.ndarray, answer_ns: np.ndarray) -> list[Check]:
    """The control periods of a run: late by (P,) [ns], and (T,) [ns] from an observation to its command."""
    late = float(np.percentile(answer_ns, 95) / 1e9) if len(answer_ns) else None
    return [
        Check(
            name="control periods missed",
            value=missed,
            high=0,
            meaning="the computer is too slow or has other work; give it a real-time kernel and nothing else to do",
        ),
        Check(
            name="from an observation to its command, 95th percentile",
            value=_rounded(late),
            unit="s",
            high=LIMITS.late,
            meaning="the policy server is too slow or too far",
        ),
    ]


def judge_joints(before: Sequence[np.ndarray], after: Sequence[np.ndarray], trace: Trace) -> list[Check]:
    """One joint after the other was moved.

    Args:
        before, after: for each joint, commanded and measured joints (2, 7) [rad] before and after its motion.
        trace: of all motions.
    """
    checks, still = [], trace.speed <= STILL
    for joint, (first, last) in enumerate(zip(before, after, strict=True)):
        commanded, measured = last - first
        share = measured[joint] / commanded[joint] if abs(commanded[joint]) >= _MOVED else None
        checks.append(
            Check(
                name=f"joint {joint + 1}, measured motion as a share of the commanded one",
                value=_rounded(share),
                low=LIMITS.joint[0],
                high=LIMITS.joint[1],
                meaning="the joint has another sign or another scale" if share is not None else "it did not move",
            )
        )
    apart = [
        abs(np.delete((last - first)[1] - (last - first)[0], joint)).max()
        for joint, (first, last) in enumerate(zip(before, after, strict=True))
    ]
    return [
        *checks,
        Check(
            name="other joints that move along",
            value=_rounded(max(apart)),
            unit="rad",
            high=LIMITS.others,
            meaning="two joints are exchanged, or something pushes the arm",
        ),
        Check(
            name="the flange by our kinematics wherever it stands, from where the robot says it is",
            value=_rounded(kinematics_error(trace.measured[still], trace.flange[still]) if still.any() else None),
            unit="m",
            high=LIMITS.kinematics,
            meaning="a joint has another sign or zero",
        ),
        trail_check(trace),
    ]


def trail_check(trace: Trace) -> Check:
    """How far the measured arm trails its commands."""
    return Check(
        name="the arm is later than its commands by",
        value=_rounded(trail_s(trace)),
        unit="s",
        high=LIMITS.trail,
        meaning="something between command and arm is slow: network, computer, or the robot's own stiffness",
    )


def judge_senses(found: Calibration, stated_s: float | None, widths: np.ndarray, units: Sequence[str]) -> list[Check]:
    """A calibration, the age [s] that the robot states of its arm, and the hand's widths (N,) [m] meanwhile."""
    checks = [
        Check(
            name="the hand, closed",
            value=_rounded(widths.min()),
            unit="m",
            high=LIMITS.closed,
            meaning="the hand does not close; home it in Desk",
        ),
        Check(
            name="one command of the hand",
            value=_rounded(found.hand_s or 0.0),
            unit="s",
            high=LIMITS.hand,
            meaning="the hand is slower than any that the policy was tried with",
        ),
    ]
    if found.arm_age_s is not None:
        checks.append(
            Check(
                name="the arm answers late, beside the age that the robot states",
                value=_rounded(found.arm_age_s - (stated_s or 0.0)),
                unit="s",
                low=-LIMITS.age,
                high=LIMITS.age,
                meaning="the arm is seen or moves later than the robot says, or the computer has other work",
            )
        )
    if found.object_age_s is not None:
        checks.append(
            Check(
                name="the objects are seen late by",
                value=_rounded(found.object_age_s),
                unit="s",
                high=LIMITS.objects_age,
                meaning="perception is too slow",
            )
        )
    for what, unit, high in (("place", "m", LIMITS.place), ("angle", None, LIMITS.angle)):
        dims = [dim for dim, each in enumerate(units) if (each == "m") == (unit == "m")]
        worst = max(dims, key=lambda dim: found.sigma[dim])
        checks.append(
            Check(
                name=f"the {what} of an object at rest trembles by, at most",
                value=_rounded(found.sigma[worst]),
                unit=units[worst],
                high=high,
                meaning=f"perception of {found.names[worst]} is too noisy",
            )
        )
    return checks


def judge_stop(trace: Trace, moment_s: float, within_s: float) -> list[Check]:
    """An arm that must come to rest within a time [s] after a moment [s], and stay there to the end of the trace."""
    found = standstill(trace, moment_s)
    stays = None
    if found.after_s is not None:
        rest = trace.measured[trace.at_s >= moment_s + found.after_s]
        stays = np.ptp(rest, axis=0).max()
    return [
        Check(
            name="the fastest joint before",
            value=_rounded(found.speed),
            unit="rad/s",
            low=LIMITS.moving,
            meaning="the arm hardly moved, so nothing was shown",
        ),
        Check(
            name="standstill after",
            value=_rounded(found.after_s),
            unit="s",
            high=within_s,
            meaning="the arm does not come to rest in time",
        ),
        Check(name="way of the flange until then", value=_rounded(found.way_m), unit="m", high=LIMITS.way),
        Check(
            name="motion after standstill",
            value=_rounded(stays),
            unit="rad",
            high=LIMITS.stays,
            meaning="the arm moves again by itself",
        ),
    ]


def judge_motion(trace: Trace, profile: Profile, speed: float) -> list[Check]:
    """A motion under a share of a profile's limits, in Franka's joint zeros."""
    arm = profile.arm
    assert arm is not None  # checked by the robot's configuration
    share = (abs(trace.velocity) / arm.velocity).max(initial=0.0)
    low, high = np.array(arm.workspace.low), np.array(arm.workspace.high)
    outside = np.maximum(low - trace.flange, trace.flange - high).max(initial=0.0)
    return [
        Check(
            name="the fastest joint, as a share of its limit",
            value=_rounded(share),
            high=round(1.15 * speed, 3),
            meaning="the arm is faster than it was asked to be",
        ),
        Check(
            name="the flange outside of the workspace",
            value=_rounded(max(0.0, float(outside))),
            unit="m",
            high=LIMITS.outside,
            meaning="the arm left its workspace",
        ),
        trail_check(trace),
    ]


def judge_elements(elements: Sequence[str], first_done: Mapping[str, int | None]) -> list[Check]:
    """The elements of a goal, and the control steps after which each was done."""
    return [
        Check(
            name=f"{name} done after",
            value=first_done[name],
            unit="control steps",
            low=1,
            meaning="the element was not done" if first_done[name] is None else "",
        )
        for name in elements
    ]


def _rounded(value: float | None) -> float | None:
    """A value with the digits that mean something; None if it is not finite."""
    return None if value is None or not np.isfinite(value) else round(float(value), 6)
