"""Every error of the project, in one tree; each names the gRPC status that carries it.

    RelayError                       INTERNAL
    ├── InvalidInput                 INVALID_ARGUMENT     a NaN, a wrong size, a value out of range
    │   └── InvalidGoal              INVALID_ARGUMENT     an unknown element, an empty goal
    ├── ProtocolViolation            FAILED_PRECONDITION  a message at the wrong moment
    │   └── StepOutOfOrder           OUT_OF_RANGE         a gap or a repeat in a robot's steps
    ├── RobotLeased                  ALREADY_EXISTS       the robot already runs on a stream
    ├── BundleError                  FAILED_PRECONDITION  a bundle that cannot be used
    │   ├── BundleNotFound           NOT_FOUND            no bundle there
    │   ├── BundleCorrupt            DATA_LOSS            a digest that does not match
    │   ├── UnsupportedSchema        UNIMPLEMENTED        a manifest of another schema version
    │   └── MismatchedPair           FAILED_PRECONDITION  a high level with another low level
    ├── DemonstrationError           INVALID_ARGUMENT     recordings that cannot be learned from
    ├── RecordingError               FAILED_PRECONDITION  an episode that cannot be kept
    ├── TrainingError                FAILED_PRECONDITION  a run that cannot go on
    ├── ParityError                  FAILED_PRECONDITION  exported graphs that differ from their modules
    ├── ModelNotFound                NOT_FOUND            no model of that name or digest is served
    ├── RobotNotFound                NOT_FOUND            no robot of that id runs
    ├── LimitReached                 RESOURCE_EXHAUSTED   more messages, streams, robots or models than are allowed
    ├── Unauthenticated              UNAUTHENTICATED      the server does not know who calls
    ├── PermissionDenied             PERMISSION_DENIED    the server knows who calls, and it is not theirs to ask
    ├── ServerUnavailable            UNAVAILABLE          nobody answers at the address
    │   └── ServerStopping           UNAVAILABLE          a server that is about to stop takes no new runs
    ├── RobotUnavailable             UNAVAILABLE          no robot answers, or it does not let itself be driven
    ├── RobotStopped                 ABORTED              the robot stopped by itself, or may not go on
    ├── ObjectsLost                  UNAVAILABLE          nobody says where the objects are
    ├── AddressInUse                 UNAVAILABLE          the port is taken
    └── MissingExtra                 FAILED_PRECONDITION  an optional dependency is not installed

A message is one sentence: what was wrong, what was got, what is allowed. Foreign exceptions are translated
once, where they enter. Status names are strings so that this module needs no gRPC.
"""

import importlib
from types import ModuleType


class RelayError(Exception):
    """Root of the tree."""

    status = "INTERNAL"
    # 2 bad input, 3 an unusable bundle, 4 nobody answers or no port, 5 not allowed, 6 a robot stopped, 1 anything else
    exit_code = 1


class InvalidInput(RelayError):
    status = "INVALID_ARGUMENT"
    exit_code = 2


class InvalidGoal(InvalidInput):
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


class DemonstrationError(RelayError):
    status = "INVALID_ARGUMENT"
    exit_code = 2


class RecordingError(RelayError):
    status = "FAILED_PRECONDITION"


class TrainingError(RelayError):
    status = "FAILED_PRECONDITION"


class ParityError(RelayError):
    status = "FAILED_PRECONDITION"


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


class AddressInUse(RelayError):
    status = "UNAVAILABLE"
    exit_code = 4


class MissingExtra(RelayError):
    status = "FAILED_PRECONDITION"


def error_named(name: str) -> type[RelayError]:
    """The class of the tree with this name; the root for a name that is not in it."""
    tree: list[type[RelayError]] = [RelayError]
    for error in tree:
        tree += error.__subclasses__()
    return next((error for error in tree if error.__name__ == name), RelayError)


def require(module: str, extra: str) -> ModuleType:
    """Import a module that an optional extra installs.

    Raises:
        MissingExtra: the module is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"this needs {error.name}, which is not installed: pip install 'relay-policy[{extra}]'"
        ) from error
