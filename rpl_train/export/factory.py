"""Find a user's policy by name, `module:factory`.

A factory returns (high, low, spec); export checks that the modules keep the contract.
"""

from typing import NamedTuple

from torch import nn

from rpl_runtime.errors import InvalidInput
from rpl_runtime.factories import call_factory
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
    made = call_factory(reference, "examples.my_policy:make")
    match made:
        case (nn.Module() as high, nn.Module() as low, PolicySpec() as spec):
            origin = {"factory": reference}
            provenance = Provenance(command=command(), commit=commit(), settings=origin, packages=versions(_PACKAGES))
            return CustomPolicy(RelayPolicy(high, low), spec, provenance)
    got = f"({', '.join(type(value).__name__ for value in made)})" if isinstance(made, tuple) else type(made).__name__
    raise InvalidInput(f"{reference} returned {got}; must be (high: nn.Module, low: nn.Module, spec: PolicySpec)")
