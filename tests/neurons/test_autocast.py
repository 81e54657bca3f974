"""bfloat16 autocast against float32: outputs, gradients of inputs and parameters, and states that stay wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurons import ATTENTIONS, MODELS, PHASE_CODES
from neurons.dendrites.active import ActiveDendrites
from neurons.dendrites.delay_line import DelayLine
from neurons.ops.coherence import Trace
from neurons.plasticity.fast_slow import FastSlowLinear
from neurons.specs import Batch, Context, InputSpec, OutputSpec
from neurons.spiking.soma import SpikingSoma

WIDTH, STEPS = 16, 150
EPS = 2.0**-8  # of bfloat16: half a unit in the last place


def fast(rule: str, **options: Any) -> nn.Module:
    layer = FastSlowLinear(in_features=WIDTH, out_features=WIDTH, rule=rule, **options)
    nn.init.constant_(layer.gate, 0.5)
    if layer.memory is not None:
        nn.init.normal_(layer.memory.medium, std=0.3)
    return layer


def delay() -> nn.Module:
    line = DelayLine(width=WIDTH, taps=4, causal=True)
    nn.init.normal_(line.weight, std=0.5)
    return line


class Active(nn.Module):
    """Segments see the same tokens as the units."""

    def __init__(self, units_won: int | None) -> None:
        super().__init__()
        self.layer = ActiveDendrites(inputs=WIDTH, units=WIDTH, context=WIDTH, segments=3, units_won=units_won)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.layer(x.flatten(0, 1), x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Coded(nn.Module):
    """Features in (0, 1) that bfloat16 holds exactly, encoded and decoded. Spikes carry no gradient."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.code = PHASE_CODES.build(name)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        torch.manual_seed(0)
        spikes = self.code.encode(torch.sigmoid(x.detach().float()).bfloat16().to(x.dtype))
        return torch.cat([spikes, self.code.decode(spikes).unsqueeze(0)]).movedim(0, -1)


# Relative errors (Frobenius) stay below one EPS, as if only what enters or leaves had been rounded: sums over a
# sequence, phases and decisions (thresholds, winners) are made in float32.
PARTS: dict[str, Callable[[], nn.Module]] = {
    **{f"fast {rule}": lambda rule=rule: fast(rule) for rule in ("hebb", "delta", "rls")},
    **{f"fast {rule} lag": lambda rule=rule: fast(rule, lag=1, keys=8) for rule in ("hebb", "delta", "rls")},
    **{f"consolidating {rule}": lambda rule=rule: fast(rule, consolidate=True) for rule in ("delta", "rls")},
    **{
        f"{name} {kind}": lambda name=name, kind=kind: ATTENTIONS.build(name, width=WIDTH, causal=kind == "causal")
        for name in ("kuramoto", "theta_gamma")
        for kind in ("causal", "full")
    },
    "active dendrites": lambda: Active(None),
    "active dendrites, winners": lambda: Active(4),
    "delay line": delay,
    "spiking soma": lambda: SpikingSoma(WIDTH),
    **{f"code {name}": lambda name=name: Coded(name) for name in PHASE_CODES.names()},
}


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Trace):
        yield state.field
    elif state is not None:
        for value in state.values() if isinstance(state, dict) else state:
            yield from tensors(value)


def hidden() -> Tensor:
    """Numbers that bfloat16 holds exactly."""
    return torch.randn(2, STEPS, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16().float()


def passed(
    part: nn.Module, weights: Tensor | None, *, autocast: bool, low_input: bool = False
) -> tuple[Tensor, list[Tensor], Context]:
    """Output, gradients of its product with ``weights`` (None: itself), and the context."""
    x, mask = hidden().requires_grad_(), torch.arange(STEPS) < torch.tensor([[STEPS], [STEPS - 40]])
    context = Context(mask=mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = part(x.bfloat16() if low_input else x, context).float()
    found = out.detach()
    gradients: list[Tensor] = []
    if out.requires_grad:
        total = (out * (found if weights is None else weights)).sum()
        gradients = list(torch.autograd.grad(total, [x, *part.parameters()]))
    return found, gradients, context


def apart(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm().clamp_min(1e-6))


@pytest.mark.parametrize("low_input", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_under_autocast_stays_near_float32(name: str, low_input: bool) -> None:
    torch.manual_seed(0)
    part = PARTS[name]()
    exact, wanted, _ = passed(part, None, autocast=False)
    found, got, context = passed(part, exact, autocast=True, low_input=low_input)
    assert apart(found, exact) < EPS
    assert [apart(*pair) < EPS for pair in zip(got, wanted, strict=True)] == [True] * len(wanted)
    for state in [*tensors(context.next_state), *part.buffers()]:
        assert state.dtype in (torch.float32, torch.float64, torch.int64)


@pytest.mark.parametrize("kind", ["label", "token"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("neuronsv2", {}),
        *[("neuronsv2", {"fast_rule": rule, "fast_lag": 1, "fast_keys": 8}) for rule in ("hebb", "delta", "rls")],
        ("neuronsv2", {"attention": "kuramoto"}),
        ("neuronsv2", {"attention": "theta_gamma"}),
    ],
)
def test_a_model_under_autocast_stays_near_float32(name: str, options: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    output = OutputSpec("label", 3) if kind == "label" else OutputSpec("token", 20)
    model = MODELS.build(name, input=InputSpec("tokens", STEPS, 20), output=output, width=WIDTH, **options).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("gate"):
            nn.init.constant_(parameter, 0.1)
    x = torch.randint(1, 20, (4, STEPS))
    batch = Batch(x, x[:, 0] % 3 if kind == "label" else x.roll(-1, 1))
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model.loss(batch)
        loss = loss.objective / loss.count
        found.append((loss.detach(), torch.autograd.grad(loss, list(model.parameters()))))
    (exact, wanted), (low, got) = found
    assert low.dtype == torch.float32
    assert float((low - exact).abs()) < EPS
    assert apart(torch.cat([g.flatten() for g in got]), torch.cat([w.flatten() for w in wanted])) < 3 * EPS
