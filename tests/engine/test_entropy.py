"""Entropies of heads, and which heads are kept; `test_reference` has the authors' entropies, to the bit."""

from __future__ import annotations

import math

import pytest
import torch

from hybret import CORRECTED, PAPER
from hybret.engine.entropy import head_entropy, keep_lowest

HEADS = 6
RECIPES = pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)


@RECIPES
@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_entropy_is_in_bits(n, recipe):
    weights = torch.zeros(3, 64)
    weights[:, :n] = 1 / n
    torch.testing.assert_close(head_entropy(weights, recipe), torch.full((3,), math.log2(n)), atol=1e-6, rtol=0)


def test_entropies_of_many_rows_are_those_of_each_row():
    weights = torch.rand(40, 32, 1, 300, generator=torch.Generator().manual_seed(0)).softmax(-1)
    rows = [head_entropy(row[None], CORRECTED) for row in weights]
    assert torch.equal(head_entropy(weights, CORRECTED), torch.cat(rows))


def test_bfloat16_entropies_tie_and_keep_other_heads():
    """More than one token in fifty keeps another head than in float32, and many scores are equal."""
    weights = torch.randn(1, 10, 400, 60, generator=torch.Generator().manual_seed(0)).softmax(-1)
    coarse, fine = head_entropy(weights, PAPER), head_entropy(weights, CORRECTED)
    kept = [keep_lowest(scores, torch.tensor([4]), CORRECTED) for scores in (coarse, fine)]
    assert (kept[0] != kept[1]).any(1).float().mean() > 0.02
    assert len(fine.unique()) > 0.99 * fine.numel() and len(coarse.unique()) < 0.1 * coarse.numel()


@RECIPES
def test_ties_go_to_the_lowest_heads_or_to_whatever_topk_returns(recipe):
    """k heads of each row and token; the two rules differ where scores are equal, and here many are."""
    scores, ks = torch.randint(0, 3, (7, HEADS, 50), generator=torch.Generator().manual_seed(0)).float(), range(7)
    kept, differ = keep_lowest(scores, torch.tensor(ks), recipe), 0
    for row, k in enumerate(ks):
        by_topk = scores[row].topk(k, dim=0, largest=False).indices.T.tolist()
        for token in range(50):
            by_index = sorted(range(HEADS), key=lambda h: (scores[row, h, token].item(), h))[:k]
            expected = by_index if recipe is CORRECTED else by_topk[token]
            assert kept[row, :, token].nonzero()[:, 0].tolist() == sorted(expected)
            differ += set(by_index) != set(by_topk[token])
    assert differ > 0
