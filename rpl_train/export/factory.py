"""Anyone's policy, found by name: `module:factory` in, two torch modules and a spec out.

The module is looked up as Python would from the current directory. A factory takes nothing and returns
(high, low, spec). It is not known here what the modules compute; export checks that.
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
    provenance: Provenance  # as far as it can be known from outside


def load_factory(reference: str) -> CustomPolicy:
    """Call the factory that `module:factory` names.

    Raises:
        InvalidInput: there is no such module or factory, it fails, or it returns something else.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InvalidInput(f"{reference!r} names no factory; write module:factory, as in examples.my_policy:make")
    with _current_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"{module_name} cannot be imported from {Path.cwd()}: there is no module {error.name!r}"
            ) from error
        except Exception as error:  # someone else's module may raise anything
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
    raise InvalidInput(f"{reference} returned {got}; asked is (high: nn.Module, low: nn.Module, spec: PolicySpec)")


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
