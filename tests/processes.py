"""Commands that tests run, in this process and in others."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rpl_runtime.cli.app import main

RPL = [sys.executable, "-c", "from rpl_runtime.cli import main; main()"]  # as a person types `rpl`


def rpl(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `rpl` in this process, which saves the start of another, with what it says on its output and its errors."""
    argv = ["rpl", *map(str, arguments)]
    with (
        patch.dict(os.environ, {"COLUMNS": "160"} | environment),
        patch.object(sys, "argv", argv),
        redirect_stdout(StringIO()) as output,
        redirect_stderr(StringIO()) as errors,
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(argv, int(ended.value.code or 0), output.getvalue(), errors.getvalue())


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that lives no longer than the block, however the block ends; what it prints comes as text."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()
