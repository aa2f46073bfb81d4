"""How the log of a server is written: lines for people, or JSON for machines.

In: records of Python's logging, with the robot, caller and model they are about as extras. Out: lines. It does not know
who logs, nor what.

Whoever floods a server must not fill its disk: of lines that say the same, so many are written a second, and none is
longer than so many characters.
"""

import logging
import time
from enum import StrEnum
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

_PACKAGE = logging.getLogger("rpl_runtime")
_LINES = 20  # a second, of those that say the same
_LONGEST = 1000  # [characters] of what a line says


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def write_log(format: LogFormat, stream: TextIO) -> logging.Handler:
    """Write what this package logs to a stream from now on; the handler, for who wants to end it."""
    handler = logging.StreamHandler(stream)
    if format is LogFormat.JSON:
        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_Throttle())
    _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(logging.INFO)
    return handler


class _Throttle(logging.Filter):
    """Passes so many records a second with the same words, whatever is put into them."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._passed: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._passed = second, {}
        passed = self._passed[record.msg] = self._passed.get(record.msg, 0) + 1
        if len(said := record.getMessage()) > _LONGEST:
            record.msg, record.args = f"{said[:_LONGEST]} (and so on)", None
        if passed == _LINES:
            record.msg = f"{record.msg} (more such lines are left out for a second)"
        return passed <= _LINES
