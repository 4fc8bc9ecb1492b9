"""How the network is held: adapters, precision, activations computed again; none of it may change what is learnt."""

from __future__ import annotations

import copy
import functools
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agentkit.errors import CheckpointError, ConfigError
from agentkit.memory.records import Episode
from agentkit.policies.local import LocalPolicy
from agentkit.training import network as network_module
from agentkit.training.config import TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.forward import TokenStats, forward, measure
from agentkit.training.network import Lora, Network, learning_parameters, without_adapters
from agentkit.training.rows import build_rows
from agentkit.training.trainer import Trainer


@pytest.fixture
def rows(parts):
    turns = [parts.make_turn(range(5, 15), range(20, 40)), parts.make_turn(range(3), range(8, 16))]
    return build_rows([parts.make_episode([turn]) for turn in turns])[0]


def logps(model, rows):
    return measure(model, rows, 10_000).logp_N


def gradients(model, rows, network):
    model.zero_grad(set_to_none=True)
    with network.learning(model):
        stats = forward(model, rows)
    (stats.logp_N.sum() + 0.3 * stats.entropy_N.sum()).backward()
    assert not model.training
    return {name: value.grad.clone() for name, value in learning_parameters(model).items() if value.grad is not None}


def test_adapters_that_have_not_learnt_change_nothing_and_alone_learn(parts, rows):
    model = parts.make_taught_policy().model
    before, whole = logps(model, rows), sum(value.numel() for value in model.parameters())
    Network(lora=Lora(rank=2)).prepare(model)
    assert torch.equal(logps(model, rows), before)
    learns = learning_parameters(model)
    assert all("lora_" in name for name in learns)
    # Seven linear layers of one block: rank × (in + out) each; the output layer is not among them.
    linear = [m for name, m in model.named_modules() if name.endswith("base_layer")]
    assert len(linear) == 7
    assert sum(value.numel() for value in learns.values()) == sum(2 * sum(m.weight.shape) for m in linear) < whole / 5
    Network(lora=Lora(rank=2)).prepare(model)
    assert learning_parameters(model).keys() == learns.keys()


def test_the_reference_is_what_lies_beneath_the_adapters(parts, rows):
    model = parts.make_taught_policy().model
    before = logps(model, rows)
    Network(lora=Lora(rank=2, targets=("q_proj", "up_proj"))).prepare(model)
    with torch.no_grad():
        for value in learning_parameters(model).values():
            value.add_(0.05)
    after = logps(model, rows)
    assert float((after - before).abs().max()) > 0.01
    with without_adapters(model):
        assert torch.equal(logps(model, rows), before)
    assert torch.equal(logps(model, rows), after)
    assert all("lora_" in name for name in learning_parameters(model))


def test_a_saved_policy_has_its_adapters_in_its_weights(parts, rows, tmp_path):
    policy = parts.make_taught_policy()
    Network(lora=Lora(rank=3)).prepare(policy.model)
    with torch.no_grad():
        for value in learning_parameters(policy.model).values():
            value.add_(0.02)
    policy.save(tmp_path)
    loaded = LocalPolicy.load(tmp_path, device="cpu").model
    assert loaded.state_dict().keys() == parts.make_policy().model.state_dict().keys()
    assert logps(loaded, rows).numpy() == pytest.approx(logps(policy.model, rows).numpy(), abs=1e-4)


def test_training_with_adapters_leaves_the_weights_beneath_alone_and_resumes_exactly(parts, make_trainer, tmp_path):
    network = Network(lora=Lora(rank=4))
    trainer = make_trainer(tmp_path / "a", iterations=3, network=network)
    frozen = {name: value.clone() for name, value in trainer.policy.model.named_parameters() if "lora_" not in name}
    trainer.train()
    learnt = {name: value.detach().clone() for name, value in learning_parameters(trainer.policy.model).items()}
    for name, value in trainer.policy.model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(value, frozen[name])
    assert any(float(value.abs().max()) > 0 for name, value in learnt.items() if "lora_B" in name)
    newest = sorted((tmp_path / "a" / "checkpoints").glob("[0-9]*"))[-1]
    assert load_file(newest / "model.safetensors").keys() == learnt.keys()
    trainer.close()

    first = make_trainer(tmp_path / "b", iterations=2, network=network)
    first.train()
    first.close()
    second = make_trainer(tmp_path / "b", iterations=3, network=network)
    second.restore()
    second.train()
    for name, value in learning_parameters(second.policy.model).items():
        assert torch.equal(value, learnt[name])
    second.close()


def test_activations_computed_again_give_the_same_gradient_from_fewer_kept_numbers(parts, rows):
    plain, thrifty = parts.make_taught_policy().model, parts.make_taught_policy().model
    Network(checkpointing=True).prepare(thrifty)

    def kept(model, network):
        sizes = []

        def note(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found = gradients(model, rows, network)
        return found, sum(sizes)

    expected, many = kept(plain, Network())
    found, few = kept(thrifty, Network(checkpointing=True))
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= 1e-6 * max(1.0, float(value.abs().max()))
    assert few < many / 2


def test_in_bfloat16_weights_and_gradients_stay_in_float32(parts, rows):
    model = parts.make_taught_policy().model
    exact, network = gradients(copy.deepcopy(model), rows, Network()), Network(precision="bfloat16")
    found = gradients(model, rows, network)
    assert all(value.dtype == torch.float32 for value in [*found.values(), *model.parameters()])
    a, b = (torch.cat([value.flatten() for _, value in sorted(each.items())]) for each in (found, exact))
    assert 1e-4 < float((a - b).norm() / b.norm()) < 0.1, "it must be near, and not simply float32"
    with network.computing(model):
        stats: TokenStats = measure(model, rows, 10_000)
    assert stats.logp_N.dtype == torch.float32
    assert stats.logp_N.numpy() == pytest.approx(logps(model, rows).numpy(), abs=0.3)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_a_compiled_network_has_the_same_gradient_under_the_same_names(parts, rows, precision, tolerance):
    model, network = parts.make_taught_policy().model, Network(compile=True, precision=precision)
    expected, names = gradients(model, rows, Network(precision=precision)), list(model.state_dict())
    network.prepare(model)
    calls = torch._dynamo.utils.counters["frames"]["ok"]
    found = gradients(model, rows, network)
    assert torch._dynamo.utils.counters["frames"]["ok"] > calls, "it was compiled"
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= tolerance * max(1.0, float(value.norm()))
    assert list(model.state_dict()) == names
    assert "forward" not in vars(model.base_model), "what samples is not compiled"


def test_learning_is_compiled_after_all_other_kinds_of_passes(parts, rows, monkeypatch):
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    compiled = functools.cache(network_module._compiled_forward.__wrapped__)
    monkeypatch.setattr(network_module, "_compiled_forward", compiled)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    policy = parts.make_policy().model
    reference = copy.deepcopy(policy).requires_grad_(False)
    network = Network(compile=True)

    def each_kind(model, learns):
        for number, packs in ((1, None), (3, None), (2, [2]), (4, [2, 2])):
            chosen = [rows[i % 2] for i in range(number)]
            with network.learning(model) if learns else network.computing(model), torch.set_grad_enabled(learns):
                forward(model, chosen, packs=packs)

    for model, learns, kinds in ((policy, False, 4), (reference, False, 8), (policy, True, 12)):
        each_kind(model, learns)
        assert len(made) == kinds
    each_kind(policy, learns=True)
    assert len(made) == 12, "each is compiled once"
    torch._dynamo.reset()


def test_a_network_cannot_be_compiled_without_a_compiler(parts, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compile = true needs a C\+\+ compiler, and there is no no-such-compiler"):
        Network(compile=True).prepare(parts.make_policy().model)


def test_a_layer_that_is_not_there_is_refused_naming_those_that_are(parts):
    with pytest.raises(ConfigError, match="no linear layer 'query'; choose among down_proj, gate_proj, k_proj"):
        Network(lora=Lora(targets=("query",))).prepare(parts.make_policy().model)


def test_dropout_and_checkpointing_do_not_go_together(parts):
    model = parts.make_policy().model
    model.config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match=r"needs a model without dropout.*attention_dropout"):
        Network(checkpointing=True).prepare(model)


def test_a_policy_with_adapters_acts(parts):
    from agentkit.policies.policy import Sampling
    from agentkit.rollout import collect
    from agentkit.task import make_tasks

    policy = parts.make_taught_policy()
    tasks = make_tasks(parts.LAKE, num=2, params=parts.PARAMS)
    plain: list[Episode] = collect(policy, tasks, sampling=Sampling(max_new_tokens=16))
    Network(lora=Lora()).prepare(policy.model)
    assert [e.id for e in collect(policy, tasks, sampling=Sampling(max_new_tokens=16))] == [e.id for e in plain]


def test_adapters_are_not_put_onto_other_weights_where_nothing_asks_a_reference(parts, make_trainer, tmp_path):
    changes: dict[str, Any] = {"network": Network(lora=Lora(rank=2)), "credit": Uniform(), "bottleneck_every": 0}
    make_trainer(tmp_path, iterations=1, **changes).train()
    other = parts.make_policy(seed=5)
    config = TrainConfig(iterations=2, tasks_per_iteration=2, group_size=2, **changes)
    resumed = Trainer(other, parts.LAKE, tmp_path / "other", config, params=parts.PARAMS)
    assert resumed.models.reference is None
    with pytest.raises(CheckpointError, match="beside another frozen base; build the policy from the weights"):
        resumed.restore(sorted((tmp_path / "checkpoints").glob("[0-9]*"))[-1])
    resumed.close()
