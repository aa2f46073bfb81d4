"""Somebody's own code: a function of a module called by name, `module:factory`, and what to say when such code fails.

The module is imported as Python would from the current directory. A factory takes no arguments.
"""

import contextlib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rpl_runtime.errors import InvalidInput, RelayError, hint

# Files of Python and of this project; those of packages lie in folders called site-packages or dist-packages.
_NOT_OWN = (sysconfig.get_path("stdlib"), str(Path(__file__).parent), str(Path(__file__).parents[1] / "rpl_"), "<")
_NAMED = 8  # of what a module has, at most, in a message; its own first


def call_factory(reference: str, example: str) -> Any:
    """What the factory that `module:factory` names returns; `example` is a name for the message.

    Raises:
        InvalidInput: there is no such module or factory, or the factory fails.
        MissingExtra: the module needs an extra that is not installed.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InvalidInput(f"{reference!r} is not a factory; must be module:factory, as in {example}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"{module_name} cannot be imported from {Path.cwd()}: there is no module {error.name!r}"
            ) from error
        except RelayError:
            raise
        except Exception as error:  # a user's module may raise anything
            raise failed(f"{module_name} fails on import", error) from error
        factory = getattr(module, name, None)
        if not callable(factory):
            having = {key: value for key, value in vars(module).items() if callable(value) and key[0] != "_"}
            offered = sorted(having, key=lambda key: (getattr(having[key], "__module__", "") != module_name, key))
            named = offered[:_NAMED] + ([f"{len(offered) - _NAMED} more"] if len(offered) > _NAMED else [])
            near = hint(name, offered)
            raise InvalidInput(f"{module_name} has no factory {name!r}{near}; it has {', '.join(named) or 'none'}")
        try:
            return factory()
        except RelayError:
            raise
        except Exception as error:  # and so may its factory
            raise failed(f"{reference} fails", error) from error
    finally:
        sys.path.remove(here)


def failed(what: str, error: Exception) -> InvalidInput:
    """What failed, the error, and the line of somebody's own code where it came from, as one sentence."""
    own = _own(error)
    line = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return InvalidInput(f"{what}: {type(error).__name__}: {error}{line}")


@contextlib.contextmanager
def own_code_told() -> Iterator[None]:
    """A block whose errors that come out of somebody's own code become one sentence.

    Raises:
        InvalidInput: such an error; every other goes through unchanged.
    """
    try:
        yield
    except RelayError:
        raise
    except Exception as error:
        if own := _own(error):
            raise failed(f"your own code fails in {own[-1].name}", error) from error
        raise


def _own(error: Exception) -> list[traceback.FrameSummary]:
    """The frames of an error in somebody's own code, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not (frame.filename.startswith(_NOT_OWN) or "-packages/" in frame.filename)]
