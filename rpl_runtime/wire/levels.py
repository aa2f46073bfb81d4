"""Plan and Act, one level of the policy over a batch: messages to bytes and back."""

import numpy as np

from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.wire.packed import TWINS, Message, packed, parse, vector


def pack_plan_request(state: np.ndarray, goal: np.ndarray, mask: np.ndarray, noise: np.ndarray) -> bytes:
    """state, goal, mask (B, n) and noise (B, high_noise)."""
    vectors = {"state": packed(state), "goal": packed(goal), "mask": packed(mask), "noise": packed(noise)}
    return TWINS["PlanRequest"](batch=len(state), **vectors).SerializeToString()


def unpack_plan_request(raw: bytes, spec: PolicySpec) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """state, goal, mask (B, n) and noise (B, high_noise).

    Raises:
        InvalidInput: the bytes are not a PlanRequest, or the size of a matrix does not match the policy.
    """
    request, n = parse("PlanRequest", raw, InvalidInput), spec.state.dim
    state, goal, mask = (_matrix(request, name, n) for name in ("state", "goal", "mask"))
    return state, goal, mask, _matrix(request, "noise", spec.high_noise)


def pack_act_request(state: np.ndarray, subgoal: np.ndarray, noise: np.ndarray) -> bytes:
    """state, subgoal (B, n) and noise (B, low_noise)."""
    vectors = {"state": packed(state), "subgoal": packed(subgoal), "noise": packed(noise)}
    return TWINS["ActRequest"](batch=len(state), **vectors).SerializeToString()


def unpack_act_request(raw: bytes, spec: PolicySpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """state, subgoal (B, n) and noise (B, low_noise).

    Raises:
        InvalidInput: the bytes are not an ActRequest, or the size of a matrix does not match the policy.
    """
    request, n = parse("ActRequest", raw, InvalidInput), spec.state.dim
    return _matrix(request, "state", n), _matrix(request, "subgoal", n), _matrix(request, "noise", spec.low_noise)


def pack_subgoals(subgoal: np.ndarray) -> bytes:
    """The reply of Plan: subgoal (B, n)."""
    return TWINS["PlanReply"](subgoal=packed(subgoal)).SerializeToString()


def unpack_subgoals(raw: bytes, batch: int) -> np.ndarray:
    """Subgoal (B, n).

    Raises:
        ProtocolViolation: the bytes are not a PlanReply, or it does not have `batch` rows.
    """
    return _reply_rows(parse("PlanReply", raw, ProtocolViolation).subgoal, batch)


def pack_actions(action: np.ndarray) -> bytes:
    """The reply of Act: action (B, m)."""
    return TWINS["ActReply"](action=packed(action)).SerializeToString()


def unpack_actions(raw: bytes, batch: int) -> np.ndarray:
    """Action (B, m).

    Raises:
        ProtocolViolation: the bytes are not an ActReply, or it does not have `batch` rows.
    """
    return _reply_rows(parse("ActReply", raw, ProtocolViolation).action, batch)


def _matrix(request: Message, name: str, width: int) -> np.ndarray:
    values, batch = vector(getattr(request, name)), request.batch
    if batch < 1 or len(values) != batch * width:
        got = f"the {name} has {len(values)} numbers for a batch of {batch}"
        raise InvalidInput(f"{got}; must be {width} for each row, and at least one row")
    return values.reshape(batch, width)


def _reply_rows(raw: bytes, batch: int) -> np.ndarray:
    values = vector(raw)
    if not len(values) or len(values) % batch:
        raise ProtocolViolation(f"the server answered a batch of {batch} with {len(values)} numbers")
    return values.reshape(batch, -1)
