"""Forward-forward: every stage learns to answer real data loudly and false data softly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning import RULES
from learning.chain import Chain, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.local_readout import LocalReadout
from learning.rules.settle import generators, set_generators, still_statistics
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch


@RULES.register("forward-forward")
class ForwardForward(Rule):
    """Forward-forward: two forward passes, one with positive and one with negative data, and no error between stages.

    Goodness of a hidden stage is the mean square of its state, ``g = mean s^2``. With k = ``sharpness`` it minimises

        pair:        softplus(k (g_neg - g_pos))
        threshold:   softplus(k (theta - g_pos)) + softplus(k (g_neg - theta))        theta = ``threshold``

    on its own parameters, its input detached. Before a state goes on to the next stage its length is set to the one
    that is usual there, the root mean square of the plain pass: a stage must not read off the goodness of the one
    below, and what it learns must fit what it will be given.

    ``negatives``:

    - ``labels``: x + c(label) against x + c(wrong label). c is a fixed random pattern of +-``label_strength`` times the
      root mean square of x, drawn by (``seed``, class); the wrong labels are those of other samples of the batch, so
      that no label is likelier in one of the two. Hinton writes the label over the border of the image, which feature
      rows do not have. Needs float inputs and one label per sample.
    - ``hybrid``: x against a mixture of x and another sample through a blurred random mask: what hangs together
      locally but not as a whole. Needs no labels, and takes tokens too.

    Read-out: the model's readout is trained on the top hidden state of the plain input (no label added) by its own
    loss, which for a softmax is the delta rule; nothing of it reaches the hidden stages. It is what ``model(batch)``
    evaluates and what the report's loss speaks of. Compare it with a readout on stages that do not learn.

    Scalars: ``separation_1`` ..: share of the pairs in which the stage finds the positive sample better. Local.
    Hinton 2022; ``pair``: Lee & Song 2023. UsageError for unknown names or a sharpness that is not above 0.
    """

    local = True

    def __init__(
        self,
        *,
        negatives: Literal["labels", "hybrid"] = "labels",
        objective: Literal["pair", "threshold"] = "pair",
        sharpness: float = 4.0,
        threshold: float = 1.0,
        label_strength: float = 1.0,
        seed: int = 0,
    ) -> None:
        if negatives not in ("labels", "hybrid"):
            raise UsageError(f"forward-forward: negatives is 'labels' or 'hybrid', not {negatives!r}")
        if objective not in ("pair", "threshold"):
            raise UsageError(f"forward-forward: objective is 'pair' or 'threshold', not {objective!r}")
        if not sharpness > 0:
            raise UsageError(f"forward-forward needs sharpness > 0, not {sharpness}. Try: sharpness=4")
        self.negatives, self.objective, self.sharpness = negatives, objective, sharpness
        self.threshold, self.label_strength, self.seed = threshold, label_strength, seed

    def supports(self, model: nn.Module) -> str | None:
        reason = unsupported(model)
        if reason is None and self.negatives == "labels" and isinstance(model, Model):
            if model.input.kind == "tokens":
                return "it reads tokens, to which no label can be added. Try: rule.negatives=hybrid"
            if model.output.kind == "token":
                return "it answers every token, and a sample has no label of its own. Try: rule.negatives=hybrid"
        return reason

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        chain = Chain(model, batch, loss)
        plain = LocalReadout(chain)
        mask = batch.mask if isinstance(batch, Batch) else None
        positive, negative, differ = self._data(chain.input, batch, mask)
        gradients, scalars = dict(plain.gradients), {}
        with still_statistics(chain.stages):
            for index, usual in enumerate(plain.states):
                found, separation, positive, negative = self.learn(
                    chain, index, positive, negative, differ, mean_square(usual, mask).mean().sqrt(), mask
                )
                for key, gradient in found.items():
                    gradients[key] = gradients[key] + gradient if key in gradients else gradient
                scalars[f"separation_{index + 1}"] = separation
        chain.fill([gradients.get(id(parameter)) for parameter in chain.parameters])
        return StepReport(plain.loss, len(chain) + 1 + 4 * len(plain.states), scalars)

    def learn(
        self,
        chain: Chain,
        index: int,
        positive: Tensor,
        negative: Tensor,
        differ: Tensor,
        usual: Tensor,
        mask: Tensor | None,
    ) -> tuple[dict[int, Tensor], float, Tensor, Tensor]:
        """One stage by itself, from its two inputs: gradients by id of the parameter, the separation, its two answers
        at the ``usual`` root mean square. ``differ`` (B,) says which pairs count."""
        with torch.enable_grad():
            before = generators(positive.device)
            answers = [chain.stage(index, positive)]
            set_generators(positive.device, before)  # the same dropout for both: they shall differ in the data alone
            answers.append(chain.stage(index, negative))
            good, bad = (mean_square(answer, mask) for answer in answers)
            if self.objective == "pair":
                losses = F.softplus(self.sharpness * (bad - good))
            else:
                losses = F.softplus(self.sharpness * (self.threshold - good))
                losses = losses + F.softplus(self.sharpness * (bad - self.threshold))
            total = (losses * differ).sum() / differ.sum().clamp_min(1)
        parameters = [p for p in chain.stages[index].parameters() if p.requires_grad]
        gradients: dict[int, Tensor] = {}
        if parameters and total.requires_grad:
            found = torch.autograd.grad(total, parameters, allow_unused=True)
            pairs = zip(parameters, found, strict=True)
            gradients = {id(p): gradient for p, gradient in pairs if gradient is not None}
        with torch.no_grad():
            separation = float((((good > bad) & differ).sum() / differ.sum().clamp_min(1)).detach())
            states = [
                answer.detach() * (usual / size.clamp_min(1e-12).sqrt()).view(-1, *[1] * (answer.dim() - 1))
                for answer, size in zip(answers, (good, bad), strict=True)
            ]
        return gradients, separation, states[0], states[1]

    @torch.no_grad()
    def _data(self, x: Tensor, batch: Any, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Positive and negative samples, and which pairs differ (B,)."""
        if self.negatives == "hybrid":
            partner = x.roll(1, 0)
            own = blurred_mask(x)
            if mask is not None:
                both = mask & mask.roll(1, 0)
                own = own | ~both.view(*both.shape, *[1] * (x.dim() - 2))
            mixed = torch.where(own, x, partner)
            return x, mixed, (mixed != x).flatten(1).any(1)
        y = batch.y if isinstance(batch, Batch) else batch[1]
        if not x.is_floating_point() or not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point():
            raise UsageError(
                "forward-forward adds a label to each sample: it needs float inputs and one whole number per sample. "
                "Try: rule.negatives=hybrid"
            )
        wrong = y[torch.randperm(len(y), device=y.device)]
        size = self.label_strength * x.square().mean().sqrt()
        patterns = {int(c): self._pattern(int(c), x) for c in y.unique()}
        pair = [x + size * torch.stack([patterns[int(c)] for c in labels]) for labels in (y, wrong)]
        if mask is not None:
            pair = [one * mask.view(*mask.shape, *[1] * (x.dim() - 2)) for one in pair]
        return pair[0], pair[1], wrong != y

    def _pattern(self, label: int, x: Tensor) -> Tensor:
        """c(label) without its strength; the rows of a shorter sample are the first of a longer one's."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + label)
        return (torch.randint(0, 2, x.shape[1:], generator=generator) * 2 - 1).to(x)


def mean_square(state: Tensor, mask: Tensor | None) -> Tensor:
    """Goodness: mean over features and real tokens, (B, ...) -> (B,)."""
    total = state.square().flatten(1)
    if mask is None or state.dim() < 3:
        return total.mean(1)
    return total.sum(1) / (mask.sum(1).clamp_min(1) * state[0, 0].numel())


def blurred_mask(x: Tensor) -> Tensor:
    """Random patches, each about half of the sample: bool, along the tokens (B, T), tokens and features (B, T, F), or
    the image (B, 1, H, W) of channels."""
    shape = (x.shape[0], 1, *x.shape[2:]) if x.dim() > 3 else x.shape
    noise = torch.randn(shape, device=x.device)
    for _ in range(3):
        for axis in range(max(1, noise.dim() - 2), noise.dim()):
            noise = noise + 0.5 * (noise.roll(1, axis) + noise.roll(-1, axis))
    return noise > 0
