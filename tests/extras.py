"""Which optional packages are installed, found without importing them: some take a second, in every test process."""

from importlib.util import find_spec

import pytest


def needs(extra: str, *packages: str) -> pytest.MarkDecorator:
    """The mark of tests that other processes need these packages for: skipped where one is not installed."""
    absent = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs the {extra}: {', '.join(absent)} is not installed")
