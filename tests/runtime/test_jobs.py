"""Independent jobs in processes of this machine: results in order, killed workers, failures."""

import os
import sys

import pytest

from faults import free_port
from job_calls import endless, killed, killed_once, sound, square, threads
from processes import started
from rpl_runtime.errors import InvalidInput, JobsFailed, ServerUnavailable
from rpl_runtime.jobs import Job, run_jobs


def test_results_come_in_the_order_of_the_jobs_from_other_processes():
    heard = []
    results = run_jobs([Job(f"{n} squared", square, (n,)) for n in range(5)], workers=2, progress=_note(heard))
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert os.getpid() not in {process for _, process in results}
    assert sorted(heard) == [(f"{n} squared", results[n]) for n in range(5)]


def test_a_job_whose_worker_is_killed_is_run_again(tmp_path):
    jobs = [Job(f"job {n}", killed_once, (tmp_path / str(n % 2), n)) for n in (0, 1, 2, 3)]
    heard = []
    assert run_jobs(jobs, workers=2, progress=_note(heard)) == [0, 1, 4, 9]
    assert len(list(tmp_path.iterdir())) == 2
    assert len(heard) == 4


def test_a_job_that_kills_every_worker_is_given_up(tmp_path):
    with pytest.raises(JobsFailed, match=r"1 of 2 jobs failed: bad: .*(killed|crashed|died)"):
        run_jobs([Job("bad", killed, (tmp_path / "tries",)), Job("good", square, (2,))], workers=1)
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


def test_a_failure_is_named_and_stops_no_other_job():
    heard = []
    with pytest.raises(JobsFailed) as raised:
        run_jobs([Job(f"job {n}", sound, (n,)) for n in range(4)], workers=2, progress=_note(heard))
    message = str(raised.value)
    assert message.startswith("2 of 4 jobs failed: ")
    assert "job 1: your own code fails in sound: ValueError: the goal is out of this world (job_calls.py, " in message
    assert "job 2: the loss is nan at step 7" in message
    assert sorted(heard) == [("job 0", 0), ("job 3", 3)]


def test_many_failures_of_one_kind_are_told_once():
    with pytest.raises(JobsFailed) as raised:
        run_jobs([Job(f"job {n}", sound, (1,)) for n in range(8)])
    reason = "ValueError: the goal is out of this world"
    assert str(raised.value).startswith("8 of 8 jobs failed: job ")
    assert f", 3 more: your own code fails in sound: {reason} (job_calls.py, line " in str(raised.value)
    assert str(raised.value).count(reason) == 1


def test_a_worker_computes_with_one_thread():
    assert run_jobs([Job("count", threads)]) == [(1, "1")]


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = """
import sys
from pathlib import Path
from rpl_runtime.jobs import Job, run_jobs
from job_calls import say_and_wait
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


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ServerUnavailable, match=f"no Ray cluster answers at {address}, which RAY_ADDRESS names"):
        run_jobs([Job("square", square, (2,))], "ray")


def test_no_jobs_have_no_results():
    assert run_jobs([]) == []


@pytest.mark.parametrize(("name", "workers"), [("slurm", 1), ("local", 0)])
def test_what_cannot_run_is_refused(name, workers):
    with pytest.raises(InvalidInput, match="must be local or ray, with 1 or more"):
        run_jobs([Job("square", square, (2,))], name, workers)


def _note(heard: list):
    return lambda job, result: heard.append((job.name, result))
