"""A bundle's graphs are tried in a process of their own before this one opens them.

The graphs of a stranger are programs. The trial loads them, checks them against the manifest, and runs them with each
number of rows that they are given while they serve, 1, 2, 4, up to as many as a request holds, within limits of memory
and processor time. A slow high level is tried with fewer rows. `operators.py` holds the graphs to operators whose cost
depends on nothing else, so a graph that passes costs no more while it serves.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from time import process_time

from rpl_runtime.errors import BundleError, RelayError, error_named
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import HIGH, LOW, Bundle
from rpl_runtime.policy.graphs import CPU, OnnxPolicy
from rpl_runtime.policy.manifest import Manifest
from rpl_runtime.policy.operators import check_operators

REQUEST_BYTES = 1 << 20  # of the numbers in the largest request
_MEMORY_BYTES = 512 << 20  # beside four times the graphs, which ONNX Runtime copies while it loads them
_CPU_S = 10  # [s] of processor time in all
_WALL_S = 60.0  # [s] on a machine that does something else
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_passed: set[str] = set()  # digests of the bundles that this process or its parent has tried


def passed() -> list[str]:
    """The digests of the bundles that have passed here, for a child process that serves one of them."""
    return sorted(_passed)


def tried_by_parent(digests: Iterable[str]) -> None:
    """Take the word of the parent process that bundles have passed, so that they are not tried again here."""
    _passed.update(digests)


def open_policy(bundle: Bundle, providers: str = CPU) -> OnnxPolicy:
    """The policy of a bundle that has passed its trial, warm. Each bundle is tried once in a process, on the CPU.

    Raises:
        InvalidInput: an execution provider is not installed, or does not start.
        MismatchedPair: the two graphs do not belong to each other or to the manifest.
        BundleError: a graph uses other operators than a bundle's, does not match the manifest, fails, is too slow for
            the policy's period or horizon, or needs too much memory or time.
    """
    if bundle.digest not in _passed:
        for name in bundle.graphs:
            check_operators(bundle.files[name], str(bundle.path / name))
        _try(bundle)
        _passed.add(bundle.digest)
    policy = OnnxPolicy(bundle, providers)
    policy.warm_up()
    policy.find_joint()
    return policy


def _try(bundle: Bundle) -> None:
    """Run `_main` on the checked bytes of a bundle."""
    graphs = [bundle.files.get(HIGH, b""), bundle.files[LOW]]
    head = {"path": str(bundle.path), "high_bytes": len(graphs[0]), "cpu_s": _CPU_S, "parent": os.getpid()}
    head["manifest"] = bundle.manifest.model_dump(mode="json")
    try:
        ended = subprocess.run(  # nosec B603 # this interpreter and this module
            [sys.executable, "-P", "-m", __name__],  # -P: the working folder may be a stranger's
            input=b"\n".join([json.dumps(head).encode(), b"".join(graphs)]),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # each of numpy's threads reserves memory
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"{bundle.path} has not answered a trial for {_WALL_S:g} s") from None
    if ended.returncode == -signal.SIGXCPU:
        raise BundleError(f"{bundle.path} needs more than {_CPU_S} s of processor time to load and to answer once")
    try:
        verdict = json.loads(ended.stdout)
    except ValueError:
        raise BundleError(f"{bundle.path} ends the process that runs it, with exit code {ended.returncode}") from None
    if verdict is not None:
        raise error_named(verdict[0])(verdict[1])


def _main() -> None:
    """Try the bundle on stdin, and print null or the error."""
    head, _, graphs = sys.stdin.buffer.read().partition(b"\n")
    about: JsonDict = json.loads(head)
    _limit(about["parent"], about["cpu_s"], len(graphs))
    files = {HIGH: graphs[: about["high_bytes"]], LOW: graphs[about["high_bytes"] :]}
    bundle = Bundle(Path(about["path"]), Manifest.model_validate(about["manifest"]), "", None, files)
    try:
        policy = OnnxPolicy(bundle)
        policy.warm_up()
        _check_pace(policy)
        policy.warm_up(REQUEST_BYTES)
    except RelayError as error:
        print(json.dumps([type(error).__name__, str(error)]))
    except MemoryError:
        print(json.dumps([BundleError.__name__, f"{bundle.path} needs more memory than a bundle may"]))
    else:
        print("null")


def _limit(parent: int, cpu_s: int, graph_bytes: int) -> None:
    """Limit this process from here on, and end it with its parent: Python does not run while a graph loads."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        sys.exit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY_BYTES + 4 * graph_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _check_pace(policy: OnnxPolicy) -> None:
    """Check that an action takes less than a period, and a plan less than its subgoal is followed."""
    spec = policy.spec
    horizon_s = spec.horizon * spec.period_s
    for what, spent_s, most_s, of in (
        ("a control step", policy.act_time_s(process_time), spec.period_s, "its period"),
        ("a plan", policy.plan_time_s(process_time), horizon_s, "its horizon"),
    ):
        if spent_s > most_s:
            raise BundleError(
                f"{what} of {spec.name} takes {spent_s:.3g} s of processor time; must be at most {of}, {most_s:g} s"
            )


if __name__ == "__main__":
    _main()
