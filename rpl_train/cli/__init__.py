"""The training commands of `rpl`."""

from rpl_train.cli.app import register

__all__ = ["register"]
