"""The tiny model: any text survives its tokenizer, and a seed names its weights."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from agentkit.policies.local import LocalPolicy
from agentkit.training.tiny import TAGS, build_model, build_tokenizer


@given(st.text(max_size=40))
def test_any_text_survives_encoding_and_decoding(parts, text):
    tokenizer = parts.tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_tags_are_single_tokens_that_show_in_decoded_text(parts):
    tokenizer = parts.tokenizer()
    for tag in TAGS:
        ids = tokenizer.encode(tag, add_special_tokens=False)
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == tag


def test_a_seed_names_the_weights_and_leaves_the_global_generator_alone(parts):
    tokenizer = build_tokenizer(["some words"])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build_model(tokenizer, hidden=16, layers=1, heads=1, seed=s) for s in (1, 1, 2))
    assert parts.digest(one) == parts.digest(same) != parts.digest(other)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_saved_and_loaded_like_any_other_model(parts, tmp_path):
    policy = parts.make_policy()
    policy.save(tmp_path)
    loaded = LocalPolicy.load(tmp_path, device="cpu")
    assert parts.digest(loaded.model) == parts.digest(policy.model)
    assert loaded.end_ids == policy.end_ids
    assert loaded.tokenizer.encode("<think>go") == policy.tokenizer.encode("<think>go")
