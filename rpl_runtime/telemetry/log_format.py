"""The format of a server's log: text for people, or JSON for machines.

The warnings of other packages, such as an exporter of traces that finds no collector, are lines of the same log. So
that no client can fill the disk, a message template is logged at most 20 times a second, in at most 1000 characters.
"""

import logging
import time
from enum import StrEnum
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

from rpl_runtime.errors import printable

_PACKAGE = logging.getLogger("rpl_runtime")
_LINES = 20  # [1/s] of one message template
_LONGEST = 1000  # [characters] of a message


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def write_log(format: LogFormat, stream: TextIO) -> logging.Handler:
    """Write the log of this process to a stream. Returns the handler; remove it from the root logger to stop."""
    handler = logging.StreamHandler(stream)
    if format is LogFormat.JSON:
        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"))
    else:
        handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_Throttle())
    logging.getLogger().addHandler(handler)
    _PACKAGE.setLevel(logging.INFO)
    return handler


class _Lines(logging.Formatter):
    """A line for each message, whatever a stranger put into it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class _Throttle(logging.Filter):
    """Passes a limited number of records a second of each message template."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._passed: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._passed = second, {}
        template = str(record.msg)
        passed = self._passed[template] = self._passed.get(template, 0) + 1
        if len(message := record.getMessage()) > _LONGEST:
            record.msg, record.args = f"{message[:_LONGEST]} (and so on)", None
        if passed == _LINES:
            record.msg = f"{record.msg} (more such lines are left out for a second)"
        return passed <= _LINES
