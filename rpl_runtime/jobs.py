"""Independent jobs side by side: in processes of this machine, or as Ray tasks.

A job whose worker is killed is run again from its beginning; the result is the same if it depends on its arguments
only, as in every stage of training. The other jobs go on when one fails. Jobs run in the folder of the caller, with its
search path for modules: on a cluster, every machine must have the same of both.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from rpl_runtime.errors import InvalidInput, JobsFailed, RelayError, ServerUnavailable, require
from rpl_runtime.factories import own_code_told
from rpl_runtime.process import CONTEXT, end_with_parent, end_workers

Executor = Literal["local", "ray"]
_ATTEMPTS = 3  # of a job whose worker is killed
_ANSWER_S = 5.0  # [s] for a cluster to answer
_NAMED = 5  # jobs that failed for one reason, and reasons, that a message names
_T = TypeVar("_T")  # the result of a job


class Job(NamedTuple, Generic[_T]):
    """A call to make in another process."""

    name: str  # in messages
    call: Callable[..., _T]  # a function of a module, or a partial of one
    arguments: tuple[Any, ...] = ()


def run_jobs(
    jobs: Sequence[Job[_T]],
    executor: Executor = "local",
    workers: int | None = None,
    progress: Callable[[Job[_T], _T], None] = lambda job, result: None,
) -> list[_T]:
    """Run all jobs and return their results. A worker computes with one thread.

    Args:
        executor: `ray` uses the cluster that RAY_ADDRESS names, or else starts Ray on this machine.
        workers: jobs at a time, by default one for each core of this process; a cluster uses its own number.
        progress: called with each finished job and its result.

    Raises:
        JobsFailed: jobs failed, or their workers were killed repeatedly; the others were run to their end.
        MissingExtra: the executor is Ray, which is not installed.
        ServerUnavailable: no Ray cluster answers at RAY_ADDRESS.
        InvalidInput: the executor or the number of workers is invalid.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if executor not in _EXECUTORS or workers < 1:
        raise InvalidInput(f"got executor {executor!r} with {workers} workers; must be local or ray, with 1 or more")
    results: dict[int, _T] = {}
    failures: dict[str, BaseException] = {}
    with _EXECUTORS[executor](min(workers, len(jobs) or 1)) as submit:
        running = {submit(job): at for at, job in enumerate(jobs)}
        for future in as_completed(running):
            at = running[future]
            if error := future.exception():
                failures[jobs[at].name] = error
            else:
                results[at] = future.result()
                progress(jobs[at], results[at])
    if failures:
        reasons: dict[str, list[str]] = {}
        for name, failure in failures.items():
            cause = getattr(failure, "cause", None) or failure  # Ray wraps what a job raises
            reason = str(cause) if isinstance(cause, RelayError) else f"{type(cause).__name__}: {cause}"
            reasons.setdefault(reason, []).append(name)
        told = _listed([f"{_listed(names)}: {reason}" for reason, names in reasons.items()], "; ")
        raise JobsFailed(f"{len(failures)} of {len(jobs)} jobs failed: {told}") from next(iter(failures.values()))
    return [results[at] for at in range(len(jobs))]


class _Submit(Protocol):
    def __call__(self, job: Job[_T], /) -> Future[_T]: ...


@contextmanager
def _local(workers: int) -> Iterator[_Submit]:
    """Each worker is a pool of one process, since a pool that loses a process fails all of its jobs."""
    idle: SimpleQueue[_Worker] = SimpleQueue()
    stopping, beginning = Event(), Lock()
    for _ in range(workers):
        idle.put(_Worker(stopping, beginning))

    def run(job: Job[_T]) -> _T:
        worker = idle.get()
        try:
            return worker.run(job)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers)
    try:
        yield lambda job: threads.submit(run, job)
    except KeyboardInterrupt:
        with beginning:  # no worker begins any more
            stopping.set()
        end_workers()
        raise
    finally:
        threads.shutdown(cancel_futures=True)
        while not idle.empty():
            idle.get().close()


class _Worker:
    def __init__(self, stopping: Event, beginning: Lock) -> None:
        self._stopping, self._beginning = stopping, beginning
        self._pool = self._start()

    @staticmethod
    def _start() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=CONTEXT, initializer=_prepare)

    def run(self, job: Job[_T]) -> _T:
        for _ in range(_ATTEMPTS):
            try:
                with self._beginning:
                    if self._stopping.is_set():
                        raise BrokenProcessPool("interrupted")
                    called = self._pool.submit(_call, job)
                return called.result()
            except BrokenProcessPool:
                if self._stopping.is_set():  # an interrupt during a worker's imports ends it like a kill
                    raise
                self.close()
                self._pool = self._start()
        raise JobsFailed(f"its worker was killed {_ATTEMPTS} times")

    def close(self) -> None:
        self._pool.shutdown()


@contextmanager
def _ray(workers: int) -> Iterator[_Submit]:
    ray = require("ray", "ray")
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
        cluster = os.environ.get("RAY_ADDRESS") or "local"
        size = {"num_cpus": workers, "include_dashboard": False} if cluster == "local" else {}
        try:
            if ":" in cluster:  # Ray itself would try for minutes
                host, _, port = cluster.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), _ANSWER_S).close()
            ray.init(cluster, log_to_driver=False, logging_level="ERROR", **size)
        except (OSError, ValueError) as error:
            raise ServerUnavailable(f"no Ray cluster answers at {cluster}, which RAY_ADDRESS names: {error}") from error
    found = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
    task = ray.remote(num_cpus=1, max_retries=_ATTEMPTS - 1, runtime_env=found)(_call_in)
    begun = []

    def submit(job: Job[_T]) -> Future[_T]:
        begun.append(task.remote(os.getcwd(), job))
        return begun[-1].future()

    try:
        yield submit
    except BaseException:
        for each in begun:
            ray.cancel(each, force=True)
        raise
    finally:
        if ours:
            ray.shutdown()


_EXECUTORS = {"local": _local, "ray": _ray}


def _prepare() -> None:
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that a job loads; Ray sets it itself


def _call(job: Job[_T]) -> _T:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    with own_code_told():
        return job.call(*job.arguments)


def _call_in(folder: str, job: Job[_T]) -> _T:
    os.chdir(folder)
    return _call(job)


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    more = [f"{len(items) - _NAMED} more"] if len(items) > _NAMED else []
    return separator.join([*items[:_NAMED], *more])
