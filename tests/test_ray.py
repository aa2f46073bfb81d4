"""Independent jobs on a Ray cluster of two nodes; what they promise in local processes is in runtime/test_jobs.py.

The stages of training and evaluation come to the same there as here, also when a worker is killed in the middle.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import drawers
import mortal
import policies
from demonstrations import STEPS, drawer_demonstrations
from extras import needs
from job_calls import killed, killed_once, sound, square, threads, together
from leftovers import standing
from processes import started
from rpl_runtime.client import Access
from rpl_runtime.errors import JobsFailed, MissingExtra
from rpl_runtime.evaluation.evaluate import Apart, EvaluateConfig, evaluate
from rpl_runtime.jobs import Job, run_jobs
from rpl_runtime.server.subprocess import serve_in_process
from rpl_train.data.trajectory import digest, load_folder, save_folder
from rpl_train.distill import DistillConfig, distill
from rpl_train.play import PlayConfig, play
from rpl_train.rl.finetune import FinetuneConfig, finetune
from rpl_train.specialists import specialise

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
pytestmark = needs("ray extra", "ray")
ON_RAY = "import sys; from rpl_runtime.jobs import Job, run_jobs; from job_calls import square; "


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Ray keeps workers and its connections to them from test to test; `cluster` looks at what is left at the end."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for Ray, whose sockets may have names of 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield Path(short)


@pytest.fixture(scope="module")
def cluster(folder) -> Iterator[None]:
    """A cluster of two nodes with a processor each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    before = standing().processes
    nodes = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        nodes.add_node(**NODE)
        ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert standing().processes.keys() <= before.keys()


def test_both_nodes_of_a_cluster_work(cluster, tmp_path):
    assert len(set(run_jobs([Job("one", together, (tmp_path, n, 2)) for n in range(2)], "ray"))) == 2


@pytest.mark.long
def test_ray_is_started_where_it_does_not_run(folder):
    program = f"{ON_RAY} print(run_jobs([Job('square', square, (3,))], 'ray', workers=1)[0][0])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with started([sys.executable, "-c", program], env=environment) as process:
        assert process.communicate(timeout=60)[0] == "9\n"
        assert process.returncode == 0


def test_a_worker_that_is_killed_and_one_that_fails_leave_the_other_jobs_alone(cluster, tmp_path):
    tries = tmp_path / "tries"
    heard = []
    jobs = [Job("threads", threads), Job("killed once", killed_once, (tmp_path / "once", 4))]
    assert run_jobs(jobs, "ray", progress=lambda job, result: heard.append(job.name)) == [(1, "1"), 16]
    assert sorted(heard) == ["killed once", "threads"]
    with pytest.raises(JobsFailed) as raised:
        run_jobs([Job("bad", killed, (tries,)), Job("good", square, (2,)), Job("unsound", sound, (2,))], "ray")
    assert str(raised.value).startswith("2 of 3 jobs failed: ")
    assert "bad: WorkerCrashedError: " in str(raised.value)
    assert "unsound: the loss is nan at step 7" in str(raised.value)
    assert tries.read_text() == "xxx"


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"needs ray, which is not installed: .* install 'ray"):
        run_jobs([Job("square", square, (2,))], "ray", workers=1)


def weights(run: Path) -> dict:
    return {path.name: load_file(path) for path in run.glob("*.safetensors")}


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(
        values.equal(theirs[name][key]) for name, each in ours.items() for key, values in each.items()
    )


@pytest.fixture
def death(cluster, tmp_path, monkeypatch) -> Path:
    """A file; a worker that plays in a mortal world is killed when it is there, and it is gone then."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / mortal.DEATH


def test_play_on_a_cluster_that_loses_a_worker_is_that_of_one_process(death, tmp_path):
    config = PlayConfig(sequences=4)
    play(mortal.TASK, config, tmp_path / "here")
    death.touch()
    play(mortal.TASK, replace(config, executor="ray"), tmp_path / "there")
    assert not death.exists()
    assert digest(load_folder(tmp_path / "here")) == digest(load_folder(tmp_path / "there"))


def test_specialists_and_their_student_are_those_of_one_process(death, tmp_path):
    """A worker is killed in the middle of the second iteration, and another while it plays for the student."""
    base = drawers.imitated(tmp_path / "base", steps=30)
    demonstrations = drawer_demonstrations(4)
    save_folder(demonstrations.trajectories, tmp_path / "demos")
    tuning = FinetuneConfig(
        goal=drawers.GOAL, objective="npg", env_steps=2 * 4 * STEPS, episodes=4, worlds=2, pool=drawers.POOL
    )
    goals = {"mk": tuning, "kettle": replace(tuning, goal=("kettle",))}
    learning = DistillConfig(rounds=1, episodes=4, steps=5, batch=16, worlds=2, pool=drawers.POOL)
    for goal, config in goals.items():
        finetune(mortal.TASK, base, demonstrations, tmp_path / "here" / goal, config)
    death.touch()
    arguments = (mortal.TASK, tmp_path / "base", [tmp_path / "demos"], tmp_path / "there", goals, 2, "ray")
    taught = specialise(*arguments)
    assert not death.exists()
    distill(mortal.TASK, base, demonstrations, taught, tmp_path / "here" / "one", learning)
    death.touch()
    distill(mortal.TASK, base, demonstrations, taught, tmp_path / "there" / "one", replace(learning, executor="ray"))
    assert not death.exists()
    for run in (*goals, "one"):
        assert same(tmp_path / "here" / run, tmp_path / "there" / run)


def test_an_evaluation_on_a_cluster_is_that_of_one_process(death, tmp_path):
    bundle, config = policies.tiny_bundle(tmp_path / "bundle", drawers.spec()).path, EvaluateConfig(episodes=3)
    with serve_in_process(bundle) as address:
        here = evaluate(address, mortal.TASK, config, access=Access())
        death.touch()
        journal = tmp_path / "episodes.jsonl"
        there = evaluate(address, mortal.TASK, config, journal, access=Access(), apart=Apart(bundle, "ray"))
    assert not death.exists()
    assert there.episodes == here.episodes
    assert len(journal.read_text().splitlines()) == 1 + len(here.episodes)
