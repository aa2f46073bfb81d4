"""Progress of training, in the words of the progress bars."""

from collections.abc import Callable

from rpl_runtime.console import Report


def losses(report: Report, steps: int) -> Callable[[str, int, float | None], None]:
    """Reports the progress of imitation, of so many optimiser steps at each level."""

    def progress(level: str, step: int, loss: float | None) -> None:
        report(f"{level} level", step, steps, "trained before" if loss is None else f"loss {loss:.3f}")

    return progress
