"""The command `rpl`."""

import atexit
import contextlib
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from rpl_runtime.process import INTERRUPTED_EXIT, Interrupts, end_workers

_GO_ON = "; what was finished is kept: run the same command again to go on"
# What an interrupted command has kept; the others had nothing to keep.
_KEPT = {
    "run": "; a robot is at rest, and a log of --log is kept up to here",
    "replay": "; the log is unchanged",
    "bench": "; nothing is kept: run it again from the beginning",
} | dict.fromkeys(("accept", "imitate", "improve", "train", "finetune", "distill", "paper", "demos play"), _GO_ON)
_OF_EPISODES = {"evaluate", "demos hard"}  # which keep them if they are told where
_VALUED = {"--ca", "--cert", "--key", "--token-file"}  # a value follows; these may come before the command


def main() -> None:
    """Run the command line; Ctrl-C or SIGTERM ends any command with one sentence and exit code 130."""
    interrupts = None
    try:
        interrupts = Interrupts()
        try:
            from rpl_runtime.cli.app import main as run  # signals are heard meanwhile

            run()
        finally:
            interrupts.ignore()  # what is left is the end of the process
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as ended:
        if ended.code == INTERRUPTED_EXIT:
            _interrupted()
        raise
    except Exception:
        if interrupts is not None and interrupts.heard:  # a library made something else of the interrupt
            _interrupted()
        raise


def kept(words: Sequence[str]) -> str:
    """What an interrupted command of these words has kept, as the end of a sentence."""
    names = [word for before, word in pairwise(("", *words)) if word[:1] != "-" and before not in _VALUED]
    asked = {" ".join(names[:length]) for length in (1, 2)}
    if not _OF_EPISODES & asked:
        return next((_KEPT[name] for name in asked if name in _KEPT), "")
    if any(word.partition("=")[0] == "--output" for word in words):
        return _GO_ON
    return "; nothing is kept: with --output FOLDER it would go on from there"


def _interrupted() -> NoReturn:
    """Say what is kept, and end here and now: what the interrupt broke off in a library may hang at a tidy end."""
    end_workers()
    with contextlib.suppress(OSError):  # nobody may be listening
        print(f"interrupted{kept(sys.argv[1:])}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    atexit._run_exitfuncs()  # semaphores of workers, logs
    os._exit(INTERRUPTED_EXIT)
