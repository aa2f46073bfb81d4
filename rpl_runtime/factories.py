"""Call a function of somebody's own module by name, `module:factory`.

The module is imported as Python would from the current directory. A factory takes no arguments.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rpl_runtime.errors import InvalidInput, RelayError


def call_factory(reference: str, example: str) -> Any:
    """What the factory that `module:factory` names returns; `example` is a name for the message.

    Raises:
        InvalidInput: there is no such module or factory, or the factory fails.
        MissingExtra: the module needs an extra that is not installed.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InvalidInput(f"{reference!r} is not a factory; must be module:factory, as in {example}")
    with _current_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"{module_name} cannot be imported from {Path.cwd()}: there is no module {error.name!r}"
            ) from error
        except RelayError:
            raise
        except Exception as error:  # a user's module may raise anything
            raise InvalidInput(f"{module_name} fails on import: {type(error).__name__}: {error}") from error
        factory = getattr(module, name, None)
        if not callable(factory):
            offered = sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
            raise InvalidInput(f"{module_name} has no factory {name!r}; it has {', '.join(offered) or 'none'}")
        try:
            return factory()
        except RelayError:
            raise
        except Exception as error:  # and so may its factory
            raise InvalidInput(f"{reference} fails: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
