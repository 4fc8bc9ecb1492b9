"""Drafts: what is kept of an earlier response, and how what comes out is distributed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from agentkit.memory.records import Message, Part, Role
from agentkit.policies import LocalPolicy
from agentkit.policies.doubles import RandomPolicy
from agentkit.policies.drafts import keep_drafts, num_kept
from agentkit.policies.policy import Draft, Request, Sampling

QUESTION = (Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text="Up Down Left"),)),)


class World:
    admissible_actions = ("Up",)
    state_key = ""

    async def expert_action(self) -> str:
        return "Up"


def request(seed, draft=None, tokens=12, temperature=1.0):
    return Request(QUESTION, Sampling(max_new_tokens=tokens, temperature=temperature), seed, World(), draft)


def answers(policy, requests):
    async def ask():
        return await asyncio.gather(*(policy.complete(one) for one in requests))

    return asyncio.run(ask())


@torch.inference_mode()
def law(model, ids):
    """[V] the model's probabilities of the next id, in float64."""
    return model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()


def test_ids_are_kept_up_to_the_first_rejection_and_a_greater_lenience_keeps_more():
    new, old = np.log([0.5, 0.2, 0.9]), np.log([0.4, 0.4, 0.9])
    draws = np.array([0.99, 0.6, 0.1])
    assert num_kept(new, old, draws, 1.0) == 1, "0.6 > 0.2 / 0.4"
    assert num_kept(new, old, draws, 1.2) == 3, "0.6 = 1.2 · 0.5 is not above it"
    assert num_kept(new, old, np.zeros(3), 1e-9) == 3, "no draw is below zero"
    assert num_kept(new[:0], old[:0], draws[:0], 1.0) == 0


def test_a_draft_of_the_same_policy_is_kept_whole_and_costs_no_sampling(policy: LocalPolicy) -> None:
    plain = answers(policy, [request(seed) for seed in range(6)])
    drafts = [Draft(one.response_ids, one.logprobs, lenience=1.001) for one in plain]
    kept = answers(policy, [request(seed + 50, draft) for seed, draft in enumerate(drafts)])
    for before, now in zip(plain, kept, strict=True):
        assert now.response_ids == before.response_ids
        assert now.drafted == len(before.response_ids)
        assert now.finish == before.finish
        assert now.text == before.text
        assert now.logprobs == pytest.approx(before.logprobs, abs=1e-4)


def test_requests_with_and_without_drafts_share_a_batch_and_do_not_touch_each_other(policy: LocalPolicy) -> None:
    alone = answers(policy, [request(seed) for seed in range(4)])
    draft = Draft(alone[0].response_ids[:3], alone[0].logprobs[:3], lenience=1.001)
    mixed = answers(policy, [request(9, draft), *(request(seed) for seed in range(4))])
    assert [one.response_ids for one in mixed[1:]] == [one.response_ids for one in alone]
    assert mixed[0].response_ids[:3] == alone[0].response_ids[:3]
    assert mixed[0].drafted == 3
    assert len(mixed[0].response_ids) > 3 or mixed[0].finish == "stop"


def test_a_draft_that_the_policy_never_gives_leaves_the_response_as_without_one(policy: LocalPolicy) -> None:
    plain = answers(policy, [request(seed) for seed in range(5)])
    impossible = [Draft(one.response_ids, (50.0,) * len(one.response_ids)) for one in plain]
    drafted = answers(policy, [request(seed, draft) for seed, draft in enumerate(impossible)])
    assert [one.drafted for one in drafted] == [0] * 5
    assert [one.response_ids for one in drafted] == [one.response_ids for one in plain]
    assert [one.logprobs for one in drafted] == [one.logprobs for one in plain], "to the bit"


def test_limits_are_kept_and_a_greedy_request_takes_no_draft(policy: LocalPolicy) -> None:
    plain = answers(policy, [request(0, tokens=12)])[0]
    size = len(plain.response_ids)
    assert size > 4
    draft = Draft(plain.response_ids, plain.logprobs, 1.001)
    short = answers(policy, [request(1, draft, tokens=4)])[0]
    assert short.response_ids == plain.response_ids[:4]
    assert short.finish == "length"
    greedy = answers(policy, [request(1, draft, temperature=0.0), request(1, temperature=0.0)])
    assert greedy[0] == greedy[1]
    assert greedy[0].drafted == 0


def test_what_is_kept_does_not_depend_on_the_chunks_it_is_scored_in(policy, monkeypatch) -> None:
    plain = answers(policy, [request(seed) for seed in range(8)])
    requests = [request(s, Draft(p.response_ids, tuple(x + 0.3 for x in p.logprobs))) for s, p in enumerate(plain)]
    prompts = [(*plain[0].prompt_ids, *([7] * place)) for place in range(8)]
    whole = keep_drafts(policy.model, prompts, requests, policy.end_ids)
    monkeypatch.setattr("agentkit.policies.drafts.CHUNK_LOGITS", 1)
    single = keep_drafts(policy.model, prompts, requests, policy.end_ids)
    assert [one.ids for one in whole] == [one.ids for one in single]
    assert {len(one.ids) for one in whole} != {0}
    for one, other in zip(whole, single, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("lenience", [0.5, 1.0, 1.5])
def test_the_first_id_has_the_law_that_is_stated_and_after_a_rejection_the_policys(policy, lenience: float) -> None:
    prompt = policy.renderer.render(QUESTION)[0]
    now = law(policy.model, prompt)
    # another policy: the same ids, shifted so that the two overlap in part
    before = 0.5 * now + 0.5 * np.roll(now, 1)
    rng = np.random.default_rng(0)
    num = 4000
    ids = rng.choice(len(now), size=num, p=before / before.sum())
    drafts = [Draft((int(i),), (float(np.log(before[i])),), lenience) for i in ids]
    policy.max_batch = num
    found = answers(policy, [request(1000 + s, draft, tokens=1) for s, draft in enumerate(drafts)])
    sampled = np.bincount([one.response_ids[0] for one in found], minlength=len(now)) / num
    kept = np.minimum(before, lenience * now)
    stated = kept + (1 - kept.sum()) * now
    assert np.abs(sampled - stated).max() < 5 * np.sqrt(0.25 / num)
    likely = stated > 0.02
    error = np.sqrt(stated[likely] * (1 - stated[likely]) / num)
    assert (np.abs(sampled - stated)[likely] < 4 * error).all()
    bias = np.abs(stated - now).sum() / 2
    if lenience == 1.0:
        d = np.maximum(now - before, 0).sum()
        assert 0.05 < bias <= d * (1 - d) + 1e-9, "not the policy's own law, but within what is stated"
    again = [one.response_ids[0] for one in found if not one.drafted]
    fresh = np.bincount(again, minlength=len(now)) / len(again)
    assert len(again) > 200
    error = np.sqrt(now[likely] * (1 - now[likely]) / len(again))
    assert (np.abs(fresh - now)[likely] < 4 * error).all(), "given a rejection, the policy's own law"
    share = np.mean([one.drafted for one in found])
    assert share == pytest.approx(kept.sum(), abs=4 * np.sqrt(0.25 / num))


def test_a_policy_that_knows_no_drafts_ignores_them() -> None:
    plain = Request(QUESTION, Sampling(), 3, World())
    drafted = Request(QUESTION, Sampling(), 3, World(), Draft((1,), (0.0,)))
    assert answers(RandomPolicy(), [plain]) == answers(RandomPolicy(), [drafted])
