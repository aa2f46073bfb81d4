"""Fixtures shared by the tests: small policies, and bundles made of them."""
