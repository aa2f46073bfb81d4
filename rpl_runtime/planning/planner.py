"""What a planner is, in this process: an object that answers one question after the other, or several at once."""

from typing import Protocol

from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.plans import Plan, Question


class Planner(Protocol):
    """Plans for the robots of one policy."""

    def plan(self, question: Question, deadline_s: float) -> Plan:
        """A subgoal for a robot; many threads may ask at once.

        Args:
            question: the robot, its state (n,), its goal and the subgoal that it follows.
            deadline_s: [s] after which nobody needs the answer.

        Raises:
            RelayError: there is no subgoal; the message says why.
        """
        ...


class HighLevel:
    """A bundle's own high level as a planner."""

    def __init__(self, policy: OnnxPolicy) -> None:
        self._policy = policy

    def plan(self, question: Question, deadline_s: float) -> Plan:
        goal = question.goal
        rows = (question.state, goal.state, goal.mask, question.noise)
        return Plan(self._policy.plan(*(row[None] for row in rows))[0])
