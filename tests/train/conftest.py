"""What the tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def exports(one_table_of_operators: None) -> None:
    """Every test may export."""
