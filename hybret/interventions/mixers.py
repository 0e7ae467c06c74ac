"""Interventions on the other half: the recurrent layers of a hybrid, and their short convolutions."""

from __future__ import annotations

from torch import Tensor

from hybret.errors import checked
from hybret.interventions import During, Means, Mix, shown


@checked
class NoRecurrence(Mix):
    """Silence the recurrent mixers: their output is 0 where it would join the residual stream.

    All that such a mixer gives goes, its convolution and its gate too; its state moves on, from what it reads.

    Parameters
    ----------
    layers : indices of the recurrent layers in which it acts; all by default.
    instead : the means that the mixers give in place of 0.
    """

    during: During = "both"
    layers: tuple[int, ...] | None = None
    instead: Means | None = None
    later = ("instead",)
    silences = True
    __repr__ = shown

    def output(self, output: Tensor, layer: int) -> Tensor:
        return output.new_zeros(()) if self.instead is None else self.instead.mixers[layer].to(output)


@checked
class Memoryless(Mix):
    """Reset the state of the recurrences at every token: each starts from a state of 0, and sees this token alone.

    What the token itself writes into the state and reads from it stays as it is, its gates and scales included (in
    RecurrentGemma h = sqrt(1 - a^2) * x in place of a * h + sqrt(1 - a^2) * x). The short convolution before it still
    sees its few tokens. `layers` as of `NoRecurrence`.
    """

    during: During = "both"
    layers: tuple[int, ...] | None = None
    reset = "state"


@checked
class NoConvolution(Mix):
    """Reduce the short convolutions to their tap on the present token; bias and activation stay.

    The weights on the tokens before count as 0. In LFM2 the convolution is all that a layer without attention mixes
    with. `layers` are indices of layers with such a convolution; all by default.
    """

    during: During = "both"
    layers: tuple[int, ...] | None = None
    kinds = ("recurrence", "convolution")
    reset = "convolution"
