"""A robot's acceptance for a bundle: its steps in order, asked for, judged, kept, and reported in one page.

It stops where a step fails. The same command in the same folder goes on from there; steps that passed are kept, except
those in which nothing moves, which are cheap and see whether the robot is still the same.
"""

import time
from collections.abc import Callable, Sequence

from rpl_runtime.acceptance.journal import Journal, Record, Setting, now
from rpl_runtime.acceptance.report import write_report
from rpl_runtime.acceptance.steps import STEPS, AcceptanceStep, Site
from rpl_runtime.errors import RelayError
from rpl_runtime.files import JsonDict, alone_in


def accept(
    site: Site,
    setting: Setting,
    ask: Callable[[AcceptanceStep], bool],
    told: Callable[[Record], None] = lambda record: None,
    steps: Sequence[AcceptanceStep] = STEPS,
) -> Journal:
    """Make the steps that are left, and write journal and report to the site's folder after each.

    Args:
        ask: whether the robot may move for a step; False ends the acceptance here, to be resumed.
        told: called with the record of each step that is made or kept.

    Raises:
        InvalidInput: the folder holds the acceptance of something else, or another command works in it.
    """
    with alone_in(site.folder):
        journal = Journal.of(site.folder, setting, tuple(step.name for step in steps))
        for step in steps:
            record = journal.record(step.name)
            if record is None or not record.passed or not step.moves:
                if step.moves and not ask(step):
                    break
                record = _made(step, site)
                journal = journal.with_record(record)
                journal.write(site.folder)
                write_report(journal, site.folder)
            told(record)
            if not record.passed:
                break
    return journal


def _made(step: AcceptanceStep, site: Site) -> Record:
    content: JsonDict = {"step": step.name, "happens": step.happens, "began": now()}
    began_s = time.monotonic()
    try:
        found = step.work(site)
        content |= {"checks": tuple(found.checks), "notes": found.notes, "pictures": tuple(found.pictures)}
    except RelayError as error:
        content["error"] = str(error)
    return Record.model_validate(content | {"took_s": round(time.monotonic() - began_s, 1)})
