"""Independent jobs: results in order, killed workers, failures."""

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import started
from rpl_runtime.errors import InvalidInput, MissingExtra, TrainingError
from rpl_runtime.jobs import Job, run_jobs

RAY = importlib.util.find_spec("ray") is not None

# What jobs call: a worker imports this module.


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def killed_once(marker: Path, number: int) -> int:
    """The result of the second try; the first is killed half way."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def killed(marker: Path) -> None:
    marker.write_text(marker.read_text() + "x" if marker.exists() else "x")
    os.kill(os.getpid(), signal.SIGKILL)


def endless(tries: Path) -> None:
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    threading.Event().wait()


def sound(number: int) -> int:
    if number == 1:
        raise ValueError("the goal is out of this world")
    if number == 2:
        raise TrainingError("the loss is nan at step 7")
    return number


def threads() -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


needs_ray = pytest.mark.skipif(not RAY, reason="Ray is not installed")


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Ray's workers look for the functions of jobs where their environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=needs_ray)])
def kind(request, importable) -> Iterator[str]:
    """An executor; Ray is started once for all tests of this module."""
    if request.param == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield request.param
    if request.param == "ray":
        ray.shutdown()


@needs_ray
def test_ray_is_started_where_it_does_not_run_and_stopped_again(importable):
    import ray

    assert not ray.is_initialized()
    assert run_jobs([Job("square", square, (3,))], "ray", workers=1)[0][0] == 9
    assert not ray.is_initialized()


def test_results_come_in_the_order_of_the_jobs_from_other_processes(kind):
    heard = []
    results = run_jobs([Job(f"{n} squared", square, (n,)) for n in range(5)], kind, workers=2, progress=_note(heard))
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert os.getpid() not in {process for _, process in results}
    assert sorted(heard) == [(f"{n} squared", results[n]) for n in range(5)]


def test_a_job_whose_worker_is_killed_is_run_again(kind, tmp_path):
    jobs = [Job(f"job {n}", killed_once, (tmp_path / str(n % 2), n)) for n in (0, 1, 2, 3)]
    heard = []
    assert run_jobs(jobs, kind, workers=2, progress=_note(heard)) == [0, 1, 4, 9]
    assert len(list(tmp_path.iterdir())) == 2
    assert len(heard) == 4


def test_a_job_that_kills_every_worker_is_given_up(kind, tmp_path):
    with pytest.raises(TrainingError, match=r"1 of 2 jobs failed: bad: .*(killed|crashed|died)"):
        run_jobs([Job("bad", killed, (tmp_path / "tries",)), Job("good", square, (2,))], kind, workers=1)
    assert (tmp_path / "tries").read_text() == "xxx"


def test_an_interrupt_ends_the_jobs_that_run_and_none_runs_again(tmp_path):
    tries = tmp_path / "tries"

    def interrupt(job, result):
        while not tries.exists():
            pass
        raise KeyboardInterrupt

    jobs = [Job("endless", endless, (tries,)), Job("good", square, (2,)), Job("endless too", endless, (tries,))]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, workers=2, progress=interrupt)
    assert tries.read_text() in ("x", "xx")  # each at most once


def test_a_failure_is_named_and_stops_no_other_job(kind):
    heard = []
    with pytest.raises(TrainingError) as raised:
        run_jobs([Job(f"job {n}", sound, (n,)) for n in range(4)], kind, workers=2, progress=_note(heard))
    message = str(raised.value)
    assert message.startswith("2 of 4 jobs failed: ")
    assert "job 1: ValueError: the goal is out of this world" in message
    assert "job 2: the loss is nan at step 7" in message
    assert sorted(heard) == [("job 0", 0), ("job 3", 3)]


def test_a_worker_computes_with_one_thread(kind):
    assert run_jobs([Job("count", threads)], kind) == [(1, "1")]


def say_and_wait(path):
    path.write_text("begun")
    threading.Event().wait()


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = """
import sys
from pathlib import Path
from rpl_runtime.jobs import Job, run_jobs
from test_jobs import say_and_wait
if __name__ == "__main__":
    run_jobs([Job("one", say_and_wait, (Path(sys.argv[1]),))], workers=1)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "begun")]
    with started(command, env=environment) as parent:
        while not (tmp_path / "begun").exists():
            assert parent.poll() is None
        parent.kill()
        parent.communicate(timeout=60)  # its output ends when the worker, which inherited it, has ended


def test_no_jobs_have_no_results():
    assert run_jobs([]) == []


@pytest.mark.parametrize(("name", "workers"), [("slurm", 1), ("local", 0)])
def test_what_cannot_run_is_refused(name, workers):
    with pytest.raises(InvalidInput, match="must be local or ray, with 1 or more"):
        run_jobs([Job("square", square, (2,))], name, workers)


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"relay-policy\[ray\]"):
        run_jobs([Job("square", square, (2,))], "ray", workers=1)


def _note(heard: list):
    return lambda job, result: heard.append((job.name, result))
