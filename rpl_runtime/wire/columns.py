"""A step of each of many robots in one message of Control, as columns: messages to bytes and back."""

from rpl_runtime.errors import InvalidInput, ProtocolViolation
from rpl_runtime.relay.messages import Actions, Observations, Reply, StageTimes
from rpl_runtime.wire.control import MAX_ROWS, unpack_reply_row
from rpl_runtime.wire.packed import COUNTS, TWINS, Message, packed, parse, vector


def pack_columns(seen: Observations) -> bytes:
    """One message of a Control stream: a step of each of B robots."""
    message = TWINS["ControlRequest"]()
    columns = message.columns
    columns.handles, columns.steps = packed(seen.handles, COUNTS), packed(seen.steps, COUNTS)
    columns.states, columns.observed_ns = packed(seen.states), seen.observed_ns
    return message.SerializeToString()


def unpack_columns(columns: Message, width: int) -> Observations:
    """The steps (B,) with states (B, width) of a message, parsed: views of it.

    Raises:
        InvalidInput: the columns differ in length, or are too long.
    """
    handles, steps = vector(columns.handles, COUNTS), vector(columns.steps, COUNTS)
    states, count = vector(columns.states), len(handles)
    if not 1 <= count <= MAX_ROWS or len(steps) != count or len(states) != count * width:
        got = f"{count} handles, {len(steps)} steps and {len(states)} numbers of states"
        raise InvalidInput(f"the columns have {got}; must be 1 to {MAX_ROWS}, as many, and {width} for each")
    return Observations(handles, steps, states.reshape(count, width), columns.observed_ns)


def fill_columns(message: Message, actions: Actions) -> None:
    """Write actions into a reply."""
    columns = message.columns
    columns.targets, columns.ages = packed(actions.targets), packed(actions.ages, COUNTS)
    columns.subgoals, columns.apart = packed(actions.subgoals), packed(actions.apart, COUNTS)
    if len(actions.help):
        columns.help = packed(actions.help, COUNTS)
    if actions.novelty is not None:
        columns.novelty = packed(actions.novelty)
    columns.valid_until_ns = actions.valid_until_ns


def unpack_columns_reply(raw: bytes, width: int) -> tuple[Actions, list[Reply], StageTimes]:
    """Actions with subgoals (K, width), the replies of the robots apart, and the server's times.

    Raises:
        ProtocolViolation: the bytes are not such a reply.
    """
    message = parse("ControlReply", raw, ProtocolViolation)
    columns, times = message.columns, message.times
    stages = StageTimes(times.decode_us, times.plan_us, times.act_us, times.total_us)
    try:
        ages = vector(columns.ages, COUNTS)
        actions = Actions(
            vector(columns.targets)
            .reshape(len(ages), -1 if len(ages) else 0)
            .copy(),  # the robots' loop may change them
            ages,
            vector(columns.subgoals).reshape(-1, width),
            vector(columns.novelty) if columns.novelty else None,
            columns.valid_until_ns,
            vector(columns.apart, COUNTS),
            vector(columns.help, COUNTS),
        )
    except (InvalidInput, ValueError):
        raise ProtocolViolation(f"the server answered with columns of {len(raw)} bytes that do not match") from None
    return actions, [unpack_reply_row(row, stages) for row in message.rows], stages
