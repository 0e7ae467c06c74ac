"""Entropies of heads, and which heads are kept."""

from __future__ import annotations

import math

import pytest
import torch

from hybret import CORRECTED, PAPER
from hybret.engine.entropy import head_entropy, keep_lowest

HEADS = 6


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_entropy_is_in_bits(n, recipe):
    weights = torch.zeros(3, 64)
    weights[:, :n] = 1 / n
    torch.testing.assert_close(head_entropy(weights, recipe), torch.full((3,), math.log2(n)), atol=1e-6, rtol=0)


def test_entropies_of_many_rows_are_those_of_each_row():
    weights = torch.rand(40, 32, 1, 300, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.equal(
        head_entropy(weights, CORRECTED), torch.cat([head_entropy(row[None], CORRECTED) for row in weights])
    )


def test_entropy_precision_and_guard_follow_the_recipe():
    weights = torch.softmax(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)), -1)
    exact = -(weights.double() * weights.double().log2()).sum(-1)
    fine, coarse = head_entropy(weights, CORRECTED), head_entropy(weights, PAPER)
    torch.testing.assert_close(fine.double(), exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(coarse.double(), exact, atol=0.05, rtol=0)
    assert torch.equal(coarse, coarse.bfloat16().float()) and len(coarse.unique()) < len(fine.unique())
    sharp = torch.tensor([[1.0, 0.0, 0.0]])
    assert head_entropy(sharp, CORRECTED).item() == 0
    guarded = head_entropy(sharp, CORRECTED.replace(entropy_eps=1e-3)).item()
    assert guarded == pytest.approx(-2 * 1e-3 * math.log2(1e-3) - 1.001 * math.log2(1.001), abs=1e-6)


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
def test_keep_lowest_keeps_k_per_row_and_token(recipe):
    scores = torch.randint(0, 3, (4, HEADS, 50), generator=torch.Generator().manual_seed(0)).float()
    kept = keep_lowest(scores, torch.tensor([0, 1, 4, HEADS]), recipe)
    assert torch.equal(kept.sum(1), torch.tensor([0, 1, 4, HEADS])[:, None].expand(-1, 50))
    highest_kept = scores.masked_fill(~kept, -1).amax(1)
    lowest_dropped = scores.masked_fill(kept, 9).amin(1)
    assert (highest_kept <= lowest_dropped).all()
    if recipe is CORRECTED:
        order = [sorted(range(HEADS), key=lambda h: (scores[2, h, t].item(), h))[:4] for t in range(50)]
        assert [sorted(heads) for heads in order] == [kept[2, :, t].nonzero()[:, 0].tolist() for t in range(50)]
