"""Protobuf's wire format: the fields of a message, one by one, before anything parses the whole."""

from collections.abc import Iterator

CONTENT, GROUP = 2, (3, 4)  # kinds of fields, in the last three bits of a tag
_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}  # [bytes] after the tag of other kinds; what a group holds are fields like others


def fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The tag and the content of each field of a message; a varint has no content here.

    Raises:
        ValueError: the bytes from here on are no field.
    """
    at, whole = 0, memoryview(message)
    while at < len(whole):
        tag, at = _number(whole, at)
        kind, size = tag & 7, 0
        if kind == 0:
            _, at = _number(whole, at)
        elif kind == CONTENT:
            size, at = _number(whole, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"a field has the kind {kind}; must be 0 to 5")
        if at + size > len(whole):
            raise ValueError("the message ends within a field")
        yield tag, whole[at : at + size]
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The varint at a place, and the place after it."""
    value = 0
    for index, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number has no end")
