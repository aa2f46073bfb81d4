"""The client library: connections, control of robots, operator calls."""

from rpl_runtime.auth.client import Access
from rpl_runtime.client.admin import Admin
from rpl_runtime.client.budget import TimeBudget
from rpl_runtime.client.client import Client
from rpl_runtime.client.control import Control
from rpl_runtime.client.on_robot import on_robot_control
from rpl_runtime.client.reconnect import ReconnectConfig, lasting_control
from rpl_runtime.relay.messages import Action, Started
from rpl_runtime.relay.run_state import Resume

__all__ = [
    "Access",
    "Action",
    "Admin",
    "Client",
    "Control",
    "ReconnectConfig",
    "Resume",
    "Started",
    "TimeBudget",
    "lasting_control",
    "on_robot_control",
]
