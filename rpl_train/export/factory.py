"""Find a user's policy by name, `module:factory`.

The module is imported as Python would from the current directory. A factory takes no arguments and returns
(high, low, spec); export checks that the modules keep the contract.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from rpl_runtime.errors import InvalidInput
from rpl_runtime.policy.manifest import Provenance
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.provenance import command, commit, versions
from rpl_train.networks import RelayPolicy

_PACKAGES = ("relay-policy", "torch")


class CustomPolicy(NamedTuple):
    policy: RelayPolicy
    spec: PolicySpec
    provenance: Provenance  # partial: the training history is unknown


def load_factory(reference: str) -> CustomPolicy:
    """Call the factory that `module:factory` names.

    Raises:
        InvalidInput: there is no such module or factory, the factory fails, or it returns anything else.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InvalidInput(f"{reference!r} is not a factory; must be module:factory, as in examples.my_policy:make")
    with _current_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"{module_name} cannot be imported from {Path.cwd()}: there is no module {error.name!r}"
            ) from error
        except Exception as error:  # a user's module may raise anything
            raise InvalidInput(f"{module_name} fails on import: {type(error).__name__}: {error}") from error
        factory = getattr(module, name, None)
        if not callable(factory):
            offered = sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
            raise InvalidInput(f"{module_name} has no factory {name!r}; it has {', '.join(offered) or 'none'}")
        try:
            made = factory()
        except Exception as error:  # and so may its factory
            raise InvalidInput(f"{reference} fails: {type(error).__name__}: {error}") from error
    match made:
        case (nn.Module() as high, nn.Module() as low, PolicySpec() as spec):
            origin = {"factory": reference}
            provenance = Provenance(command=command(), commit=commit(), settings=origin, packages=versions(_PACKAGES))
            return CustomPolicy(RelayPolicy(high, low), spec, provenance)
    got = f"({', '.join(type(value).__name__ for value in made)})" if isinstance(made, tuple) else type(made).__name__
    raise InvalidInput(f"{reference} returned {got}; must be (high: nn.Module, low: nn.Module, spec: PolicySpec)")


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
