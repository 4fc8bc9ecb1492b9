"""LocalPolicy and its sampling: what is recorded is what the network would say of it, whatever else is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import PolicyFault
from agentkit.memory import Message, Part, Role
from agentkit.policies import Completion, LocalPolicy, Request, Sampling
from agentkit.policies.decode import Sampled, _pick, decode

PROMPTS = [[10, 20, 30], [40], list(range(50, 77)), [5, 6], [99, 98, 97, 96, 95, 94, 93], [7] * 12]
HOT = Sampling(temperature=1.0, max_new_tokens=12)


class NoWorld:
    admissible_actions = ()
    state_key = ""

    async def expert_action(self) -> str:
        raise NotImplementedError


def request(text: str = "Where?", seed: int = 0, sampling: Sampling = HOT) -> Request:
    message = Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=text),))
    return Request(messages=(message,), sampling=sampling, seed=seed, world=NoWorld())


def ask(policy: LocalPolicy, requests: Sequence[Request]) -> list[Any]:
    """Answers, or the exceptions in their place, of requests made at once."""

    async def main() -> list[Any]:
        return await asyncio.gather(*(policy.complete(one) for one in requests), return_exceptions=True)

    return asyncio.run(main())


@torch.no_grad()
def plain_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float) -> list[float]:
    """By one forward pass without cache, padding or batch."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1].double() / temperature, dim=-1)
    return logp.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_recorded_log_probabilities_are_those_of_a_plain_forward_pass(model: Any, temperature: float) -> None:
    # A quarter of the vocabulary ends a response, so rows leave the batch at different steps.
    results = decode(
        model, PROMPTS, [Sampling(temperature=temperature, max_new_tokens=24)] * 6, range(6), range(0, 300, 12)
    )
    lengths = {len(result.ids) for result in results}
    assert len(lengths) > 3
    for prompt, result in zip(PROMPTS, results, strict=True):
        expected = plain_logprobs(model, prompt, result.ids, temperature)
        assert result.logprobs == pytest.approx(expected, abs=1e-5)
        assert result.ended == (result.ids[-1] % 12 == 0)
        assert all(token % 12 for token in result.ids[:-1])


def test_padding_does_not_shift_the_positions_of_a_model_that_counts_them() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    absolute = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        absolute.transformer.wpe.weight.mul_(20.0)
    for prompt, result in zip(PROMPTS, decode(absolute, PROMPTS, [HOT] * 6, range(6), []), strict=True):
        assert result.logprobs == pytest.approx(plain_logprobs(absolute, prompt, result.ids, 1.0), abs=1e-5)


def test_each_row_has_its_own_temperature_and_limit(model: Any) -> None:
    samplings = [
        Sampling(temperature=t, max_new_tokens=n) for t, n in ((0, 3), (0.3, 9), (2.0, 1), (1.0, 20), (0, 7), (1, 2))
    ]
    results = decode(model, PROMPTS, samplings, range(6), [])
    for prompt, sampling, result in zip(PROMPTS, samplings, results, strict=True):
        assert len(result.ids) == sampling.max_new_tokens
        assert not result.ended
        expected = plain_logprobs(model, prompt, result.ids, sampling.temperature or 1.0)
        assert result.logprobs == pytest.approx(expected, abs=1e-5)


def test_a_row_samples_the_same_alone_as_in_any_batch(model: Any) -> None:
    ends = range(0, 300, 12)
    together = decode(model, PROMPTS, [HOT] * 6, range(6), ends)
    backwards = decode(model, PROMPTS[::-1], [HOT] * 6, range(6)[::-1], ends)[::-1]
    longer = decode(model, [*PROMPTS, [1] * 60], [*[HOT] * 6, Sampling(max_new_tokens=40)], [*range(6), 77], ends)
    for row, prompt in enumerate(PROMPTS):
        (alone,) = decode(model, [prompt], [HOT], [row], ends)
        assert alone.ids == together[row].ids == backwards[row].ids == longer[row].ids


def test_another_seed_samples_something_else(model: Any) -> None:
    first, second = decode(model, [PROMPTS[0]] * 2, [HOT] * 2, [1, 2], [])
    assert first.ids != second.ids


def test_temperature_zero_takes_the_likeliest_token_whatever_the_seed(model: Any) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=6)
    first, second = decode(model, [PROMPTS[0]] * 2, [greedy] * 2, [1, 2], [])
    ids: list[int] = []
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([PROMPTS[0] + ids])).logits[0, -1].argmax()))
    assert first.ids == second.ids == ids
    assert first.logprobs == pytest.approx(plain_logprobs(model, PROMPTS[0], ids, 1.0), abs=1e-5)


def test_ids_are_drawn_as_often_as_their_probability_says() -> None:
    # Evenly spaced draws must hit each id N·p times, give or take the one at either edge of its interval.
    num, weights = 20_000, torch.tensor([0.5, 0.0, 0.25, 0.125, 0.125])
    for temperature in (1.0, 0.5):
        expected = weights ** (1 / temperature) / (weights ** (1 / temperature)).sum()
        uniform = (torch.arange(num, dtype=torch.float64) + 0.5) / num
        ids, logp = _pick(weights.log().expand(num, 5), torch.full((num,), temperature), uniform)
        counts = torch.bincount(ids, minlength=5)
        assert (counts - num * expected).abs().max() <= 1
        assert counts[1] == 0
        assert torch.allclose(logp.exp(), expected[ids], atol=1e-6)


@pytest.mark.parametrize("draw", [0.0, 1e-300, 0.5, 1 - 2**-53])
def test_no_draw_picks_an_impossible_id(draw: float) -> None:
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, 300:700] = 0.0
    ids, logp = _pick(logits, torch.ones(1), torch.tensor([draw], dtype=torch.float64))
    assert 300 <= int(ids[0]) < 700
    assert float(logp[0]) == pytest.approx(-np.log(400), abs=1e-5)


def test_logits_that_are_not_finite_are_a_fault_and_no_garbage(model: Any, tokenizer: Any) -> None:
    import copy

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(torch.nan)
    (answer,) = ask(LocalPolicy(broken, tokenizer), [request()])
    assert isinstance(answer, PolicyFault)
    assert "not finite" in str(answer)


def test_answers_carry_ids_roles_and_offsets_that_fit_the_text(policy: LocalPolicy) -> None:
    for answer in ask(policy, [request(f"Place {n}", seed=n) for n in range(8)]):
        assert isinstance(answer, Completion)
        assert len(answer.prompt_ids) == len(answer.prompt_roles)
        assert len(answer.response_ids) == len(answer.offsets) == len(answer.logprobs)
        assert answer.finish == ("stop" if answer.response_ids[-1] in policy.end_ids else "length")
        assert answer.finish == "stop" or len(answer.response_ids) == 12


def test_requests_made_at_once_are_one_batch(policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(model: Any, prompts: Any, *rest: Any) -> list[Sampled]:
        sizes.append(len(prompts))
        return decode(model, prompts, *rest)

    monkeypatch.setattr("agentkit.policies.local.decode", counted)
    ask(policy, [request(seed=n) for n in range(10)])
    policy.max_batch = 4
    ask(policy, [request(seed=n) for n in range(10)])
    assert sizes == [10, 4, 4, 2]


def test_a_prompt_beyond_the_window_says_what_to_change(policy: LocalPolicy) -> None:
    short, long = ask(policy, [request("Up " * 10), request("Up Down " * 2000)])
    assert isinstance(short, Completion)
    assert isinstance(long, PolicyFault)
    assert "the model has 2048: show less history or lower max_new_tokens" in str(long)


def test_a_model_that_raises_fails_every_request_of_the_batch_and_the_next_batch_works(
    policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return type(policy.model).forward(policy.model, *args, **kwargs)

    async def main() -> tuple[list[Any], list[Any]]:
        requests = [request(seed=n) for n in range(5)]
        with monkeypatch.context() as patch:
            patch.setattr(policy.model, "forward", forward)
            failed = await asyncio.gather(*map(policy.complete, requests), return_exceptions=True)
        return failed, await asyncio.gather(*map(policy.complete, requests), return_exceptions=True)

    failed, fine = asyncio.run(main())
    assert [str(error) for error in failed] == ["the model failed on a batch of 5: RuntimeError: out of memory"] * 5
    assert all(isinstance(error, PolicyFault) for error in failed)
    assert fine == ask(policy, [request(seed=n) for n in range(5)])


def test_a_cancelled_request_leaves_the_others_their_answers(policy: LocalPolicy) -> None:
    async def main() -> list[Any]:
        tasks = [asyncio.create_task(policy.complete(request(seed=n))) for n in range(4)]
        for _ in range(3):
            await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(main())
    assert isinstance(answers[1], asyncio.CancelledError)
    whole = ask(policy, [request(seed=n) for n in range(4)])
    for number in (0, 2, 3):
        assert answers[number].response_ids == whole[number].response_ids


def test_requests_left_by_an_event_loop_that_ended_do_not_trouble_the_next(policy: LocalPolicy) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(policy.complete(request()), timeout=0)
        asyncio.get_running_loop().create_task(policy.complete(request()))
        await asyncio.sleep(0)

    asyncio.run(give_up())
    assert isinstance(ask(policy, [request()])[0], Completion)


@given(ids=st.lists(st.integers(0, 294), max_size=20), ended=st.booleans())
@settings(max_examples=200, deadline=None)
def test_offsets_reassemble_the_text_whatever_is_sampled(
    ids: list[int], ended: bool, model: Any, tokenizer: Any
) -> None:
    policy = LocalPolicy(model, tokenizer)
    body = [i for i in ids if i not in policy.end_ids]
    text, offsets = policy.decode_text(body + [tokenizer.eos_token_id] * ended)
    assert text == tokenizer.backend_tokenizer.decode(body, skip_special_tokens=False)
    assert len(offsets) == len(body) + ended
    spans = list(dict.fromkeys(span for span in offsets if span[0] < span[1]))
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    if ended:
        assert offsets[-1] == (len(text), len(text))


def test_tokens_of_a_split_character_share_its_span(policy: LocalPolicy) -> None:
    ids, offsets = policy.encode_response("a→b")
    assert len(ids) == 6  # a, three bytes, b, the end
    assert list(offsets) == [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3), (3, 3)]


def test_a_character_cut_off_by_the_limit_still_belongs_to_the_text(policy: LocalPolicy) -> None:
    ids, _ = policy.encode_response("a→")
    text, offsets = policy.decode_text(ids[:3])
    assert text == "a\ufffd"
    assert list(offsets) == [(0, 1), (1, 2), (1, 2)]


def test_a_written_response_is_encoded_with_the_end_of_its_turn(policy: LocalPolicy, tokenizer: Any) -> None:
    ids, offsets = policy.encode_response("<think>a</think><answer>Up</answer>")
    assert ids[-1] == tokenizer.eos_token_id == policy.renderer.end_id
    assert policy.decode_text(ids) == ("<think>a</think><answer>Up</answer>", offsets)


def test_ends_of_the_generation_settings_and_of_the_template_count(model: Any, tokenizer: Any) -> None:
    import copy

    other = copy.deepcopy(model)
    other.generation_config.eos_token_id = [1, 3]
    assert LocalPolicy(other, tokenizer).end_ids == {0, 1, 3}


def test_a_saved_policy_loads_and_answers_the_same(policy: LocalPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path / "net")
    loaded = LocalPolicy.load(tmp_path / "net", device="cpu")
    assert (loaded.name, loaded.version) == ("net", 0)
    (before,), (after,) = ask(policy, [request()]), ask(loaded, [request()])
    assert after.response_ids == before.response_ids
    assert after.offsets == before.offsets
    assert after.logprobs == pytest.approx(before.logprobs, abs=1e-5)


def test_a_folder_that_is_no_model_says_what_is_missing(policy: LocalPolicy, tmp_path: Path) -> None:
    with pytest.raises(PolicyFault, match=r"it has no config.json; give a transformers folder"):
        LocalPolicy.load(tmp_path)
    policy.model.save_pretrained(tmp_path)
    with pytest.raises(PolicyFault, match=r"no tokenizer in .*copy tokenizer.json"):
        LocalPolicy.load(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(PolicyFault, match=r"cannot load a model from"):
        LocalPolicy.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(PolicyFault, match=r"cannot load a model from"):
        LocalPolicy.load(tmp_path)


def test_a_slow_tokenizer_is_refused(model: Any) -> None:
    with pytest.raises(PolicyFault, match="no fast tokenizer"):
        LocalPolicy(model, object())
