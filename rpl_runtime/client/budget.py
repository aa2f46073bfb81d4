"""The time budget of a control step, for a robot whose world does not wait. Client and run loop both read it here.

Times are in control periods. A period begins with an observation.

    0.75           `answer_due`: the loop stops waiting for the action. Without one the period is a hold: nothing is
                   sent, and the robot brakes to the resting place proved with its last target. The step goes on.
    1              the action expires (`relay.messages.valid_until_ns`) and is never applied later. Until then the
                   client also sends a lost request again.
    2              `hold_periods`, from the first hold on: without an action by then the robot stops for good. A run
                   loop held up for as long stops it too.
    2 + plan lead  `timeout_s`: the client drops a server that has not answered. A plan may take its lead longer.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TimeBudget:
    answer_due: float = 0.75  # [periods] from the start of a period
    hold_periods: int = 2  # [periods] from the first hold

    def timeout_s(self, period_s: float, plan_lead: int = 0) -> float:
        """[s] until the client drops a silent server, for a period [s] and a plan lead [steps]."""
        return (self.hold_periods + plan_lead) * period_s
