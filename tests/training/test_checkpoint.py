"""Checkpoints: exact to the bit, damage noticed, whole or absent, no pickle."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkit.errors import CheckpointError
from agentkit.training import checkpoint as checkpoint_module
from agentkit.training.advantages import GAE, GRPO
from agentkit.training.checkpoint import (
    discard_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    weights_digest,
)

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def make(parts, seed=0, steps=2):
    """(model, optimizer) after some steps on a made-up loss."""
    model = parts.make_policy(seed).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(parts, tmp_path):
    """(model, optimizer, path) of one checkpoint of iteration 7."""
    model, optimizer = make(parts)
    state = {"rng": {"state": 2**120 + 1}, "number": 0.1, "nothing": None, "list": [1, 2]}
    return model, optimizer, save_checkpoint(tmp_path, 7, model, optimizer, state, keep=2)


def test_torchs_generators_go_on_where_they_stood():
    state = json.loads(json.dumps(random_state()))
    first = torch.rand(3)
    restore_random_state(state)
    assert torch.equal(torch.rand(3), first)


def test_weights_moments_and_state_come_back_to_the_bit(parts, saved):
    model, optimizer, path = saved
    other, other_optimizer = make(parts, seed=1, steps=1)
    state = load_checkpoint(path, other, other_optimizer)
    assert state == {
        "iteration": 7,
        "rng": {"state": 2**120 + 1},
        "number": 0.1,
        "nothing": None,
        "list": [1, 2],
    }
    assert parts.digest(other) == parts.digest(model)
    before, after = optimizer.state_dict(), other_optimizer.state_dict()
    assert json.dumps(after["param_groups"]) == json.dumps(before["param_groups"])
    assert after["state"].keys() == before["state"].keys()
    for index, entry in before["state"].items():
        for name, value in entry.items():
            assert torch.equal(after["state"][index][name], value)
            assert after["state"][index][name].dtype == value.dtype
    for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        its_optimizer.zero_grad()
        each(torch.tensor([[4, 5]])).logits.square().mean().backward()
        its_optimizer.step()
    assert parts.digest(other) == parts.digest(model), "the next step must be the same as well"


def test_a_fresh_optimizer_can_be_saved_and_restored(parts, tmp_path):
    model, optimizer = make(parts, steps=0)
    path = save_checkpoint(tmp_path, 0, model, optimizer, {}, keep=1)
    other, other_optimizer = make(parts, seed=1, steps=3)
    load_checkpoint(path, other, other_optimizer)
    assert parts.digest(other) == parts.digest(model)
    assert not other_optimizer.state_dict()["state"]


def test_tied_weights_are_saved_once_and_stay_tied(parts, saved):
    from safetensors.torch import load_file

    model, optimizer, path = saved
    assert set(load_file(path / "model.safetensors")) == {name for name, _ in model.named_parameters()}
    load_checkpoint(path, model, optimizer)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_files_are_safetensors_and_json(saved):
    _, _, path = saved
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    for name in FILES:
        content = (path / name).read_bytes()
        if name.endswith(".json"):
            json.loads(content)
        else:
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            assert 8 + length + max(ends) == len(content), "nothing but tensors follows the header"


def test_no_training_code_can_unpickle(parts):
    from pathlib import Path

    folder = Path(checkpoint_module.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text()
        for word in ("import pickle", "torch.load", "torch.save", "joblib", "allow_pickle"):
            assert word not in text, f"{path.name} uses {word}"


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_damaged_byte_in_any_file_is_noticed(parts, saved, name, place, flip):
    model, optimizer, path = saved
    whole = (path / name).read_bytes()
    at = int(place * len(whole))
    (path / name).write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    before = parts.digest(model)
    try:
        with pytest.raises(CheckpointError, match=r"delete the folder and resume from the one before it"):
            load_checkpoint(path, model, optimizer)
        assert parts.digest(model) == before, "a damaged checkpoint must not be half loaded"
    finally:
        (path / name).write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_emptied_file_is_noticed(saved, name):
    model, optimizer, path = saved
    (path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"delete the folder and resume"):
        load_checkpoint(path, model, optimizer)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=r"delete the folder and resume"):
        load_checkpoint(path, model, optimizer)


def test_a_manifest_that_vouches_for_nothing_is_no_manifest(saved):
    model, optimizer, path = saved
    (path / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, model, optimizer)


def test_another_model_is_refused_untouched(parts, saved):
    from agentkit.training.tiny import build_model

    _, _, path = saved
    wider = build_model(parts.tokenizer(), hidden=64, layers=1, heads=2)
    before = parts.digest(wider)
    with pytest.raises(CheckpointError, match=r"is of another model: \d+ parameters differ, e.g. 'model"):
        load_checkpoint(path, wider, torch.optim.AdamW(wider.parameters()))
    assert parts.digest(wider) == before
    deeper = build_model(parts.tokenizer(), hidden=32, layers=2, heads=2)
    with pytest.raises(CheckpointError, match="of another model"):
        load_checkpoint(path, deeper, torch.optim.AdamW(deeper.parameters()))


def test_an_optimizer_of_other_parts_is_refused_untouched(parts, tmp_path):
    """A run with a value head and one without, in both directions."""
    runs = {"grpo": GRPO(), "gae": GAE()}
    for name, advantage in runs.items():
        first = parts.make_trainer(tmp_path / name, iterations=1, advantage=advantage)
        first.train()
        first.close()
    for name, other, sizes in (("grpo", "gae", "13 tensors, this one is of 13 + 2"), ("gae", "grpo", "13 + 2 tensors")):
        second = parts.make_trainer(tmp_path / name, iterations=2, advantage=runs[other])
        before = parts.digest(second.policy.model), json.dumps(second.learner.optimizer.state_dict())
        with pytest.raises(CheckpointError, match=re.escape(sizes) + ".*resume with the run's own `advantage`"):
            second.restore()
        after = parts.digest(second.policy.model), json.dumps(second.learner.optimizer.state_dict())
        assert after == before
        second.close()


def test_a_folder_without_checkpoints_says_what_is_needed(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*; give the folder of a run that saved one"):
        latest_checkpoint(tmp_path)
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_the_newest_are_kept(parts, tmp_path):
    model, optimizer = make(parts, steps=0)
    for iteration in (0, 5, 10, 15):
        path = save_checkpoint(tmp_path, iteration, model, optimizer, {}, keep=2)
        assert latest_checkpoint(tmp_path) == path
    assert [path.name for path in list_checkpoints(tmp_path)] == ["000010", "000015"]
    assert len(list(tmp_path.iterdir())) == 2
    discard_checkpoints(tmp_path, after=10)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["000010"]


def test_the_same_iteration_can_be_saved_again(parts, tmp_path):
    model, optimizer = make(parts, steps=0)
    for number in (1, 2):
        path = save_checkpoint(tmp_path, 3, model, optimizer, {"number": number}, keep=2)
    assert load_checkpoint(path, model, optimizer)["number"] == 2


@pytest.mark.parametrize("moment", ["save_file", "_digest", "_sync", "replace"])
def test_a_death_while_saving_leaves_the_older_checkpoint_the_latest(parts, saved, tmp_path, monkeypatch, moment):
    model, optimizer, path = saved
    before = parts.digest(model)

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os if moment == "replace" else checkpoint_module, moment, die)
        with pytest.raises(Killed):
            save_checkpoint(tmp_path, 8, model, optimizer, {}, keep=1)
    assert latest_checkpoint(tmp_path) == path
    load_checkpoint(path, model, optimizer)
    assert parts.digest(model) == before
    newer = save_checkpoint(tmp_path, 8, model, optimizer, {}, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == [newer.name], "what was left behind is cleared away"


def test_a_checkpoint_whose_deletion_was_cut_short_is_not_listed(saved, tmp_path):
    _, _, path = saved
    (path / "manifest.json").unlink()
    assert list_checkpoints(tmp_path) == []
    shutil.rmtree(path)


def test_the_digest_tells_weights_apart_by_a_single_bit(parts):
    model, same = parts.make_policy(0).model, parts.make_policy(0).model
    assert weights_digest(model) == weights_digest(same)
    with torch.no_grad():
        same.model.norm.weight[0] += 1e-6
    assert weights_digest(model) != weights_digest(same)
    assert weights_digest(model.bfloat16()) != weights_digest(parts.make_policy(0).model)
