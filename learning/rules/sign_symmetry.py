"""Sign-symmetry: errors travel down through the signs of the weights."""

from __future__ import annotations

from torch import Tensor, nn

from learning import RULES
from learning.rules.asymmetric import AsymmetricRule, weight_of


@RULES.register("sign-symmetry")
class SignSymmetry(AsymmetricRule):
    """Sign-symmetry: ``delta_h = V^T delta_a`` with ``V = mean |W| sign(W)`` in place of W, weight by weight.

    The feedback synapse knows of the forward synapse only whether it excites or inhibits; the common factor keeps the
    error's size. Equal to backpropagation where all ``|W|`` of a layer are equal. Nothing is random and nothing is
    kept: V follows W at every step.

    Local as predictive coding is: a stage learns from what it reads and from the error that the stage above hands
    down, shaped by the signs of that stage's own weights. Liao, Leibo & Poggio 2016; on ImageNet: Xiao et al. 2019.
    """

    def feedback(self, name: str, layer: nn.Module) -> Tensor:
        weight = weight_of(layer).detach()
        return weight.sign() * weight.abs().mean()
