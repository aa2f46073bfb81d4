"""The client library: connection, control of robots, operator calls."""

from rpl_runtime.client.client import Client

__all__ = ["Client"]
