"""Specialists in one file: what comes back is what was kept, in a fraction of the space."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import drawers
from rpl_runtime.errors import InvalidGoal, InvalidInput, TrainingError
from rpl_train.networks import RelayPolicy
from rpl_train.runs import TrainedRun, round_to_half, weights_digest
from rpl_train.specialists import load_specialists, save_specialists, unpack


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return drawers.imitated(tmp_path_factory.mktemp("base"), steps=1)


def tuned(base: TrainedRun, seed: int, half: bool = True) -> TrainedRun:
    """The base with another low level."""
    policy = RelayPolicy(base.policy.high, copy.deepcopy(base.policy.low))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.low.parameters():
            parameter += 1e-2 * torch.randn(parameter.shape, generator=generator)
    if half:
        round_to_half(policy.low)
    provenance = base.record.provenance.model_copy(update={"command": f"rpl finetune {seed}", "seeds": (seed,)})
    return TrainedRun(policy, base.record.model_copy(update={"provenance": provenance}))


@pytest.mark.parametrize("half", [True, False])
def test_what_comes_back_is_equal_to_the_bit(base, tmp_path, half):
    specialists = {"mk": tuned(base, 1, half), "kb": tuned(base, 2, half)}
    save_specialists(base, specialists, tmp_path / "kept.safetensors")
    family = load_specialists(tmp_path / "kept.safetensors")
    assert family.base.record == base.record
    assert weights_digest(family.base.policy) == weights_digest(base.policy)
    assert list(family.specialists) == ["mk", "kb"]
    for goal, trained in family.specialists.items():
        assert trained.record == specialists[goal].record
        assert weights_digest(trained.policy) == weights_digest(specialists[goal].policy)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]


def test_a_specialist_costs_what_it_learned_in_half_precision(base, tmp_path):
    save_specialists(base, {"mk": tuned(base, 1)}, tmp_path / "kept.safetensors")
    tensors = load_file(tmp_path / "kept.safetensors")
    own = {name: values for name, values in tensors.items() if name.startswith("mk/")}
    learned = dict(base.policy.low.named_parameters())
    assert {name.removeprefix("mk/low/") for name in own} == set(learned)
    assert {values.dtype for values in own.values()} == {torch.float16}


def test_a_specialist_of_another_architecture_is_refused_and_nothing_is_written(base, tmp_path):
    networks = replace(base.record.networks, low_hidden=(3,))
    other = TrainedRun(base.policy, base.record.model_copy(update={"networks": networks}))
    with pytest.raises(TrainingError, match="specialist of mk has another architecture"):
        save_specialists(base, {"mk": other}, tmp_path / "kept.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_keeps_no_specialists_is_one_sentence(base, tmp_path):
    path = tmp_path / "kept.safetensors"
    with pytest.raises(InvalidInput, match="does not exist or is not a file"):
        load_specialists(path)
    path.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="is damaged"):
        load_specialists(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(TrainingError, match="holds no specialists"):
        load_specialists(path)
    metadata = {"base": base.record.model_dump_json(), "specialists": json.dumps({})}
    whole = whole_base(base, tmp_path)
    save_file(whole | {"base/low/elbow": torch.zeros(1)}, path, metadata)
    with pytest.raises(TrainingError, match="another architecture: base/low/elbow"):
        load_specialists(path)
    del whole["base/low/log_std"]
    save_file(whole, path, metadata)
    with pytest.raises(TrainingError, match=r"kept\.safetensors lacks low/log_std of its base"):
        load_specialists(path)


def whole_base(base: TrainedRun, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a base as a file keeps them."""
    save_specialists(base, {}, folder / "base.safetensors")
    return load_file(folder / "base.safetensors")


@pytest.mark.parametrize("goal", ["base", "../../mk", "/mk", "", "."])
def test_a_specialist_is_called_by_letters_alone(base, tmp_path, goal):
    path = tmp_path / "kept.safetensors"
    with pytest.raises(InvalidGoal, match="must be"):
        save_specialists(base, {goal: tuned(base, 1)}, path)
    assert not path.exists()
    provenances = {goal: base.record.provenance.model_dump(mode="json")}
    metadata = {"base": base.record.model_dump_json(), "specialists": json.dumps(provenances)}
    save_file(whole_base(base, tmp_path), path, metadata)
    with pytest.raises(TrainingError, match=r"kept\.safetensors holds a specialist whose name is not a goal"):
        unpack(path, tmp_path / "runs" / "here")
    assert not (tmp_path / "runs").exists()
