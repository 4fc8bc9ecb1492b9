"""Packing: which rows are computed together, and as what, so that neither padding nor a common beginning costs much.

Rows that begin alike (attempts at one task, branches of one attempt) are laid into one sequence in which what they
share stands once: a *pack*, a tree of S tokens. A token sees its ancestors only and stands at its row's position, so
what the network says of it is what it says of the row alone. Packs of about equal length make a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from agentkit.training.rows import Row

PASS_TOKENS, PASS_SHARE = 32, 64
"""A pass of the network costs about as much as so many tokens besides its own, or as this part of the most it may have:
small networks are slowed by Python, large devices by batches that do not fill them."""
MOST_SHARED = 4096
"""Longest pack of several rows: its mask has S² entries."""


class MicroBatch(NamedTuple):
    """Rows that are computed in one pass."""

    indices: list[int]
    """Of the rows, a pack's side by side."""
    packs: list[int]
    """Number of rows of each pack."""


def micro_batches(rows: Sequence[Row], max_tokens: int, pair_cost: float | None = None) -> list[MicroBatch]:
    """All rows, each once, in micro-batches of least cost.

    First the rows, sorted so that those which begin alike are neighbours, are cut into packs; then the packs, sorted by
    length, into batches of at most `max_tokens` with their padding. Both cuts are the cheapest there are, where a token
    costs 1, and a pass a few tokens besides: it has a price of its own. What alone is longer than `max_tokens` is a
    batch of its own.

    Args:
        rows: Any rows.
        max_tokens: Most tokens of a batch, padding included.
        pair_cost: `pair_cost(model)`; None puts each row into a pack of its own.
    """
    packs = [[i] for i in range(len(rows))] if pair_cost is None else _packs(rows, max_tokens, pair_cost)
    sizes = [pack_size([rows[i] for i in pack]) for pack in packs]
    order = sorted(range(len(packs)), key=lambda i: sizes[i])
    length_P = np.array([sizes[i] for i in order], dtype=np.int64)
    pass_tokens = max(PASS_TOKENS, max_tokens // PASS_SHARE)

    def cost(end: int) -> NDArray[np.float64]:
        """Of batches that end before pack `end`, by where they begin, shortest last."""
        longest = int(length_P[end - 1])
        most = max(1, max_tokens // max(longest, 1))
        return longest * np.arange(min(most, end), 0, -1.0) + pass_tokens

    batches = [[packs[order[i]] for i in range(*span)] for span in _cheapest_cut(len(packs), cost)]
    return [MicroBatch([i for pack in batch for i in pack], [len(pack) for pack in batch]) for batch in batches]


def _packs(rows: Sequence[Row], max_tokens: int, pair_cost: float) -> list[list[int]]:
    """The rows in packs: cutting where sharing saves less than the pairs of tokens that do not see each other cost."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids.tobytes())
    length_R = np.array([len(rows[i]) for i in order], dtype=np.int64)
    new_R = length_R.copy()  # tokens that a row adds to the pack of its neighbour
    for number in range(1, len(order)):
        new_R[number] -= shared_length(rows[order[number - 1]].ids, rows[order[number]].ids)
    before_R = np.concatenate([[0], np.cumsum(new_R)])
    most = min(max_tokens, MOST_SHARED)

    def cost(end: int) -> NDArray[np.float64]:
        low = int(np.searchsorted(before_R, before_R[end] - most))
        first = np.arange(min(low, end - 1), end)
        size = length_R[first] + before_R[end] - before_R[first + 1]
        size = size[int(fits.argmax()) :] if (fits := size <= most).any() else size[-1:]
        return size + pair_cost * size.astype(np.float64) ** 2

    return [[order[i] for i in range(*span)] for span in _cheapest_cut(len(order), cost)]


def _cheapest_cut(num: int, cost: Any) -> list[tuple[int, int]]:
    """Spans of `range(num)`, in order, whose costs add up to the least.

    Args:
        num: Of what is cut.
        cost: end -> costs of the spans that may end there, that of the shortest, which begins at `end − 1`, last.
    """
    least, first = np.zeros(num + 1), np.zeros(num + 1, np.int64)
    for end in range(1, num + 1):
        costs = cost(end)
        totals = least[end - len(costs) : end] + costs
        best = int(totals.argmin())
        least[end], first[end] = totals[best], end - len(costs) + best
    spans, end = [], num
    while end:
        spans.append((int(first[end]), end))
        end = int(first[end])
    return spans[::-1]


def shared_length(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens two rows begin alike with."""
    num = min(len(one), len(other))
    differs = one[:num] != other[:num]
    return int(differs.argmax()) if differs.any() else num


def pack_size(rows: Sequence[Row]) -> int:
    """S, tokens of a pack of these rows in this order."""
    return sum(map(len, rows)) - sum(shared_length(one.ids, other.ids) for one, other in pairwise(rows))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of a micro-batch of P packs stand, S tokens the longest."""

    ids_PS: torch.Tensor
    position_PS: torch.Tensor | None
    """Of each token in its row; None where that is its place, for no pack has two rows."""
    mask_P1SS: torch.Tensor | None
    """Whether a token (third axis) sees another (fourth); None for all before it."""
    pack_N: torch.Tensor
    """The pack of each sampled token."""
    place_N: torch.Tensor
    """Where the token before it stands, which predicts it."""
    target_N: torch.Tensor
    """Its id."""

    @classmethod
    def of(cls, rows: Sequence[Row], packs: Sequence[int] | None = None) -> Layout:
        """Lay rows out.

        Args:
            rows: A pack's side by side, those that begin alike neighbours.
            packs: Number of rows of each pack; None for one.
        """
        packs = [1] * len(rows) if packs is None else packs
        starts = np.cumsum([0, *packs])
        trees = [_tree(rows[start:end]) for start, end in pairwise(starts)]
        longest = max(tree.size for tree in trees)
        ids_PS = torch.zeros(len(trees), longest, dtype=torch.long)
        position_PS = mask_P1SS = None
        if max(packs) > 1:  # padding sees itself, for softmax needs something to see
            position_PS = torch.zeros(len(trees), longest, dtype=torch.long)
            mask_P1SS = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1, 1)
        pack_N, place_N, target_N = [], [], []
        for number, (tree, start) in enumerate(zip(trees, starts, strict=False)):
            for row, path in zip(rows[start:], tree.paths, strict=False):
                ids_PS[number, path] = torch.from_numpy(row.ids)
                sampled = np.flatnonzero(row.sampled)
                pack_N.append(np.full(len(sampled), number))
                place_N.append(path[sampled - 1])
                target_N.append(row.ids[sampled])
                if position_PS is not None and mask_P1SS is not None:
                    position_PS[number, path] = torch.arange(len(row))
            if mask_P1SS is not None:
                tree.see(mask_P1SS[number, 0])
        joined = (torch.from_numpy(np.concatenate(parts)) for parts in (pack_N, place_N, target_N))
        return cls(ids_PS, position_PS, mask_P1SS, *joined)


class _Tree(NamedTuple):
    """A pack of rows."""

    size: int
    paths: list[NDArray[np.int64]]
    """Where each row's tokens stand."""
    shared: list[int]
    """How many tokens each row begins alike with the one before it."""

    def see(self, mask_SS: torch.Tensor) -> None:
        """Let each token see itself and those before it in its row."""
        for path, shared in zip(self.paths, self.shared, strict=True):
            if shared == len(path):
                continue
            first, end = int(path[shared]), int(path[-1]) + 1  # what is new stands side by side
            mask_SS[first:end, torch.from_numpy(path[:shared])] = True
            mask_SS[first:end, first:end] = torch.ones(end - first, end - first, dtype=torch.bool).tril()


def _tree(rows: Sequence[Row]) -> _Tree:
    tree, before = _Tree(0, [], []), None
    for row in rows:
        shared = 0 if before is None else shared_length(before.ids, row.ids)
        new = np.arange(tree.size, tree.size + len(row) - shared)
        path = new if before is None else np.concatenate([tree.paths[-1][:shared], new])
        tree.paths.append(path)
        tree.shared.append(shared)
        tree, before = tree._replace(size=tree.size + len(new)), row
    return tree


_COSTS: WeakKeyDictionary[Any, float | None] = WeakKeyDictionary()


def pair_cost(model: Any) -> float | None:
    """What attention from one token to another costs, in tokens; None if the model cannot compute packs of rows.

    By counting multiplications: 2d of a pair in a layer, d numbers in all its heads, against one of a token and weight.
    A model can compute packs if all its layers look at everything before a token and it heeds a mask of its own for
    every token; the latter is tried out.

    Args:
        model: A transformers causal language model.
    """
    if model not in _COSTS:
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        embeddings = model.get_input_embeddings().weight.numel()
        weights = sum(parameter.numel() for parameter in model.base_model.parameters()) - embeddings
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        cost = 2 * width * config.num_hidden_layers / max(weights, 1)
        full = kinds == {"full_attention"} and not windowed
        _COSTS[model] = cost if full and _heeds_masks(model) else None
    return _COSTS[model]


@torch.no_grad()
def _heeds_masks(model: Any) -> bool:
    """Whether a pack of two rows gives the numbers of the rows: try it, with the mask and without."""
    nothing = np.zeros(4, np.float32), np.zeros(4, np.int32)
    sampled = np.array([False, True, True, True])
    rows = [Row(0, np.array(ids), sampled, np.zeros(4, np.int8), *nothing) for ids in ([0, 1, 2, 3], [0, 1, 3, 2])]
    layout = Layout.of(rows, [2])
    alone = hidden_states(model, Layout.of(rows))
    try:
        packed = hidden_states(model, layout)
    except (RuntimeError, TypeError, ValueError):  # it takes no such mask
        return False
    blind = hidden_states(model, Layout(layout.ids_PS, None, None, layout.pack_N, layout.place_N, layout.target_N))
    return float((packed - alone).abs().max()) < 0.01 * float((blind - alone).abs().max())


def hidden_states(model: Any, layout: Layout) -> torch.Tensor:
    """[N, H] the last hidden state before each sampled token, differentiable if gradients are on."""
    device = model.device
    more = {}
    if layout.mask_P1SS is not None and layout.position_PS is not None:
        mask_P1SS = _additive(layout.mask_P1SS.to(device), model.dtype)
        more = {"attention_mask": mask_P1SS, "position_ids": layout.position_PS.to(device)}
    hidden_PSH = model.base_model(input_ids=layout.ids_PS.to(device), use_cache=False, **more).last_hidden_state
    return hidden_PSH[layout.pack_N.to(device), layout.place_N.to(device)]


def _additive(seen_P1SS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as what is added to attention's scores, 0 or −∞, in the number type that attention computes in.

    Every layer uses it as it is: of a mask of another kind each would make such a one of its own, and keep it for the
    backward pass. The lines begin at multiples of 16 numbers, as the fast kernels of GPUs ask.
    """
    kind = seen_P1SS.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
    *shape, length = seen_P1SS.shape
    lines = torch.zeros(*shape, -(-length // 16) * 16, dtype=dtype, device=seen_P1SS.device)
    return lines[..., :length].masked_fill_(~seen_P1SS, -torch.inf)
