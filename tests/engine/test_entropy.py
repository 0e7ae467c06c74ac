"""Entropies of heads, and which heads are kept; `test_reference` has the authors' entropies, to the bit."""

import pytest
import torch

from hybret import CORRECTED, PAPER
from hybret.engine.entropy import head_entropy, keep_lowest

HEADS = 6
RECIPES = pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)


def test_entropies_of_many_rows_are_those_of_each_row():
    weights = torch.rand(40, 32, 1, 300, generator=torch.Generator().manual_seed(0)).softmax(-1)
    rows = [head_entropy(row[None], CORRECTED) for row in weights]
    assert torch.equal(head_entropy(weights, CORRECTED), torch.cat(rows))


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
