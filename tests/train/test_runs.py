"""What a run keeps on disk, and what happens when it is not what was asked for."""

import pytest
import torch

from demonstrations import drawer_spec
from rpl_runtime.errors import TrainingError
from rpl_runtime.policy.manifest import Provenance, Statistics
from rpl_train.networks import NetworkConfig, TargetStatistics
from rpl_train.runs import (
    RUN,
    RunRecord,
    build_level,
    load_progress,
    load_run,
    load_weights,
    open_run,
    read_run,
    save_progress,
    save_weights,
)


def record(hidden: int = 8) -> RunRecord:
    return RunRecord(
        spec=drawer_spec(),
        networks=NetworkConfig((hidden,), (hidden,)),
        statistics=Statistics(mean=(0, 0, 0), std=(1, 1, 1), low=(0, 0, 0), high=(1, 1, 1)),
        targets=TargetStatistics((0.0,), (1.0,)),
        provenance=Provenance(command="test", commit="none"),
    )


def test_a_run_record_survives_the_round_trip(tmp_path):
    open_run(tmp_path / "run", record())
    assert read_run(tmp_path / "run") == record()
    open_run(tmp_path / "run", record())  # the same run goes on


def test_a_run_from_before_states_could_be_scored_goes_on(tmp_path):
    open_run(tmp_path / "run", record())
    statistics = record().statistics.model_copy(update={"whitening": ((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0))})
    open_run(tmp_path / "run", record().model_copy(update={"statistics": statistics}))
    assert read_run(tmp_path / "run") == record()
    other = record().model_copy(update={"statistics": statistics.model_copy(update={"mean": (0.5, 0.0, 0.0)})})
    with pytest.raises(TrainingError, match="statistics"):
        open_run(tmp_path / "run", other)


def test_weights_and_optimiser_survive_the_round_trip(tmp_path):
    module = build_level("low", record())
    optimiser = torch.optim.Adam(module.parameters())
    module.body(torch.ones(2, 6)).sum().backward()
    optimiser.step()
    save_progress(tmp_path / "p", module, optimiser, 7)
    other = build_level("low", record())
    restored = torch.optim.Adam(other.parameters())
    assert load_progress(tmp_path / "p", other, restored) == 7
    assert all(a.equal(b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    for index, state in optimiser.state_dict()["state"].items():
        assert all(value.equal(restored.state_dict()["state"][index][key]) for key, value in state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["p"]  # no temporary file is left


def test_nothing_saved_yet_means_step_zero(tmp_path):
    module = build_level("high", record())
    assert load_progress(tmp_path / "none", module, torch.optim.Adam(module.parameters())) == 0


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_weights(tmp_path / "w", build_level("high", record(8)))
    with pytest.raises(TrainingError, match="another architecture"):
        load_weights(tmp_path / "w", build_level("high", record(9)))


def test_a_damaged_file_is_one_sentence(tmp_path):
    save_weights(tmp_path / "w", build_level("high", record()))
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-9])
    with pytest.raises(TrainingError, match="damaged"):
        load_weights(tmp_path / "w", build_level("high", record()))
    (tmp_path / RUN).write_text("{}")
    with pytest.raises(TrainingError, match="damaged"):
        read_run(tmp_path)


def test_an_unfinished_run_cannot_be_loaded(tmp_path):
    with pytest.raises(TrainingError, match=r"holds no run\.json"):
        load_run(tmp_path)
    open_run(tmp_path, record())
    with pytest.raises(TrainingError, match="has not finished this level"):
        load_run(tmp_path)
