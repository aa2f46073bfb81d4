"""Every error of the project, in one tree, with the gRPC status that carries it.

    RelayError                       INTERNAL
    ├── InvalidInput                 INVALID_ARGUMENT     a NaN, a wrong size, a value out of range
    │   ├── InvalidGoal              INVALID_ARGUMENT     an unknown element, an empty goal
    │   └── WorldFault               INVALID_ARGUMENT     a task's world disagrees with the task
    ├── ProtocolViolation            FAILED_PRECONDITION  a message at the wrong moment
    │   └── StepOutOfOrder           OUT_OF_RANGE         a gap or a repeat in a robot's steps
    ├── RobotLeased                  ALREADY_EXISTS       the robot already runs on a stream
    ├── BundleError                  FAILED_PRECONDITION  a bundle that cannot be used
    │   ├── BundleNotFound           NOT_FOUND            no bundle there
    │   ├── BundleCorrupt            DATA_LOSS            a digest that does not match
    │   ├── UnsupportedSchema        UNIMPLEMENTED        a manifest of another schema version
    │   └── MismatchedPair           FAILED_PRECONDITION  a high level with another low level
    ├── ModelNotFound                NOT_FOUND            no model with that name or digest
    ├── RobotNotFound                NOT_FOUND            no robot with that id runs
    ├── LimitReached                 RESOURCE_EXHAUSTED   too many messages, streams, robots or models
    ├── Unauthenticated              UNAUTHENTICATED      an unknown caller
    ├── PermissionDenied             PERMISSION_DENIED    a known caller that lacks the right
    ├── ServerUnavailable            UNAVAILABLE          no server answers at the address
    │   └── ServerStopping           UNAVAILABLE          a server that is about to stop takes no new runs
    ├── RobotUnavailable             UNAVAILABLE          no robot answers, or it refuses to be driven
    ├── RobotStopped                 ABORTED              the robot stopped by itself, or must not move
    ├── ObjectsLost                  UNAVAILABLE          the objects are no longer seen
    ├── PlannerLost                  UNAVAILABLE          no usable plan came in time
    ├── AddressInUse                 UNAVAILABLE          the port is taken
    ├── MissingExtra                 FAILED_PRECONDITION  an optional dependency is not installed
    ├── RecordingError               (never on the wire)  an episode that cannot be recorded
    ├── JobsFailed                   (never on the wire)  independent jobs of which some failed
    ├── DemonstrationError           (never on the wire)  recordings that cannot be learned from
    ├── TrainingError                (never on the wire)  a training run that cannot continue
    │   └── RunNotFound              (never on the wire)  no training run there
    └── ParityError                  (never on the wire)  exported graphs that differ from their modules

A message is one sentence: what was wrong, what was got, what it must be. Foreign exceptions are translated once, where
they enter. Statuses are strings so that this module does not import gRPC.
"""

import importlib
import re
import shlex
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import requires
from types import ModuleType
from typing import Self

_LONGEST = 2000  # [characters] of a text from elsewhere
_NO_MEMORY = re.compile(r"bad_alloc|(can't|cannot|could not) allocate memory", re.IGNORECASE)


class RelayError(Exception):
    """Root of the tree."""

    status = "INTERNAL"
    # 2 bad input, 3 an unusable bundle, 4 no server, robot or free port, 5 no permission, 6 a robot stopped, 1 other
    exit_code = 1

    def as_reply(self) -> Self:
        """The same error without the frames it came through.

        They hold whoever keeps the error, a circle that only the garbage collector opens; it stops every robot's step
        meanwhile.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class InvalidInput(RelayError):
    status = "INVALID_ARGUMENT"
    exit_code = 2


class InvalidGoal(InvalidInput):
    pass


class WorldFault(InvalidInput):
    pass


class ProtocolViolation(RelayError):
    status = "FAILED_PRECONDITION"


class StepOutOfOrder(ProtocolViolation):
    status = "OUT_OF_RANGE"


class RobotLeased(RelayError):
    status = "ALREADY_EXISTS"


class BundleError(RelayError):
    status = "FAILED_PRECONDITION"
    exit_code = 3


class BundleNotFound(BundleError):
    status = "NOT_FOUND"


class BundleCorrupt(BundleError):
    status = "DATA_LOSS"


class UnsupportedSchema(BundleError):
    status = "UNIMPLEMENTED"


class MismatchedPair(BundleError):
    pass


class ModelNotFound(RelayError):
    status = "NOT_FOUND"
    exit_code = 2


class RobotNotFound(RelayError):
    status = "NOT_FOUND"
    exit_code = 2


class LimitReached(RelayError):
    status = "RESOURCE_EXHAUSTED"


class Unauthenticated(RelayError):
    status = "UNAUTHENTICATED"
    exit_code = 5


class PermissionDenied(RelayError):
    status = "PERMISSION_DENIED"
    exit_code = 5


class ServerUnavailable(RelayError):
    status = "UNAVAILABLE"
    exit_code = 4


class ServerStopping(ServerUnavailable):
    pass


class RobotUnavailable(RelayError):
    status = "UNAVAILABLE"
    exit_code = 4


class RobotStopped(RelayError):
    status = "ABORTED"
    exit_code = 6


class ObjectsLost(RelayError):
    status = "UNAVAILABLE"
    exit_code = 6


class PlannerLost(RelayError):
    status = "UNAVAILABLE"
    exit_code = 6


class AddressInUse(RelayError):
    status = "UNAVAILABLE"
    exit_code = 4


class MissingExtra(RelayError):
    status = "FAILED_PRECONDITION"


class RecordingError(RelayError):
    pass


class JobsFailed(RelayError):
    pass


class DemonstrationError(RelayError):
    exit_code = 2


class TrainingError(RelayError):
    pass


class RunNotFound(TrainingError):
    exit_code = 2


class ParityError(RelayError):
    pass


def error_named(name: str) -> type[RelayError]:
    """The class with this name; the root for an unknown name."""
    tree: list[type[RelayError]] = [RelayError]
    for error in tree:
        tree += error.__subclasses__()
    return next((error for error in tree if error.__name__ == name), RelayError)


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that there was not enough memory: libraries in C++ have no class of their own for it."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def printable(text: str, most: int = _LONGEST) -> str:
    """Text from elsewhere as one line that does nothing to a terminal or a log: of at most so many characters, and what
    cannot be printed written as in Python.
    """
    shown = text if len(text) <= most else f"{text[:most]}..."
    if shown.isprintable():
        return shown
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in shown)


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional extra.

    Raises:
        MissingExtra: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"this needs {error.name}, which is not installed: {installation(extra)}") from error


def installation(extra: str) -> str:
    """The command that installs an extra into this environment, by its packages: no registry has the project itself."""
    return shlex.join([sys.executable, "-m", "pip", "install", *_requirements(extra)])


def packages_of(extra: str) -> list[str]:
    """The names of the packages that an extra asks for; those of the project itself for ""."""
    return [re.split(r"[^\w.-]", requirement)[0] for requirement in _requirements(extra)]


def _requirements(extra: str) -> list[str]:
    asked = (text.partition(";") for text in requires("relay-policy") or ())
    return [
        requirement.strip()
        for requirement, _, condition in asked
        if condition.replace("'", '"').strip() == (f'extra == "{extra}"' if extra else "")
    ]


def hint(got: str, known: Iterable[str]) -> str:
    """What to put after an unknown name in a message: the nearest known one, if one is near."""
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(got.casefold(), folded, 1, 0.7)
    return f" (did you mean {folded[near[0]]}?)" if near else ""
