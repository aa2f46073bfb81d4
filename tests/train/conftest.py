"""What the tests of training share."""

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    """torch makes its table of ONNX operators anew for each graph, which takes half a second; here once."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration", reason="needs the train extra")
    with pytest.MonkeyPatch.context() as patch:
        made = staticmethod(cache(registration.ONNXRegistry.from_torchlib))
        patch.setattr(registration.ONNXRegistry, "from_torchlib", made)
        yield
