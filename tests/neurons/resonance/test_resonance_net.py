"""The network as a whole: causal, honest about entropy, the same at other lengths, one graph, fast to decode."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch, InputSpec, OutputSpec

SYMBOLS = 20


def built(kind: str, length: int = 40, seed: int = 0, **options: Any) -> Model:
    torch.manual_seed(seed)
    output = OutputSpec("label", 3) if kind == "label" else OutputSpec("token", SYMBOLS)
    defaults: dict[str, Any] = {"width": 16, "dropout": 0.0, "embedding_dropout": 0.0}
    specs: dict[str, Any] = {"input": InputSpec("tokens", length, SYMBOLS), "output": output}
    model: Model = MODELS.build("resonance_net", **specs, **defaults | options)
    return model


def tokens(steps: int, count: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, SYMBOLS, (count, steps), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("label", {}),
        ("token", {}),
        ("label", {"mixing": "dendrites"}),
        ("token", {"mixing": "dendrites", "gated": False}),
    ],
)
def test_compiles_in_one_graph_forward_and_backward(kind: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model, x = built(kind, 70, layers=1, **options), tokens(70, 2)
    batch = Batch(x, x, torch.arange(70) < torch.tensor([[70], [50]]))
    exact = model(batch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)(batch)
    torch.testing.assert_close(compiled, exact, rtol=0, atol=1e-6)
    parameters = list(model.parameters())
    wanted, found = (torch.autograd.grad(y.square().sum(), parameters) for y in (exact, compiled))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert all(gradient.any() for gradient in found)


def test_the_past_is_the_same_bit_for_bit_whatever_comes() -> None:
    model, x, other = built("token").eval(), tokens(40), tokens(40, seed=2)
    before = model(Batch(x, x))
    for t in range(1, 40):
        changed = torch.cat([x[:, :t], other[:, t:]], 1)
        assert torch.equal(model(Batch(changed, x))[:, :t], before[:, :t])


def test_what_was_trained_at_n_runs_at_4n() -> None:
    """The first n answers of a causal model are those it gives at n; its time constants are seconds, not lengths."""
    model, x = built("token", 40).eval(), tokens(160)
    torch.testing.assert_close(model(Batch(x, x))[:, :40], model(Batch(x[:, :40], x)), rtol=0, atol=2e-6)
    label = built("label", 40).eval()
    assert torch.isfinite(label(Batch(x, x[:, 0]))).all()


def test_decodes_token_by_token() -> None:
    model, x = built("token").eval(), tokens(40)
    state: dict[str, Any] = {}
    pieces = []
    for t in range(40):
        one = Batch(x[:, t : t + 1], x)
        context = model.context(one)
        context.state = state
        pieces.append(model(one, context))
        state = context.next_state
    torch.testing.assert_close(torch.cat(pieces, 1), model(Batch(x, x)), rtol=0, atol=5e-6)


def test_cannot_predict_independent_tokens_better_than_their_entropy() -> None:
    """Trained on fresh uniform tokens: 19 symbols have ln 19 nats; only a model that sees the target gets below."""
    model = built("token", 32, layers=2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(120):
        x = tokens(32, 32, seed=step)
        batch = Batch(x, torch.cat([x[:, 1:], torch.full_like(x[:, :1], -100)], 1))
        loss = model.loss(batch)
        mean = loss.objective / loss.count
        optimiser.zero_grad()
        mean.backward()
        optimiser.step()
        losses.append(mean.item())
    late = sum(losses[-40:]) / 40
    assert math.log(SYMBOLS - 1) - 0.01 < late < math.log(SYMBOLS - 1) + 0.1


def one_of_four(count: int, seed: int) -> torch.Tensor:
    x = tokens(24, count, seed) % 15 + 5
    return torch.cat([x[:, :1] % 4 + 1, x[:, 1:]], 1)


def test_remembers_the_first_token_at_the_last() -> None:
    """The answer is the first token, of four that come only there. Time constants of 3 tokens cannot know it."""
    accuracy = {}
    for longest in (None, 0.003):
        model = built("token", 24, width=32, layers=1, longest=longest)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(100):
            x = one_of_four(64, seed=step)
            y = torch.full_like(x, -100)
            y[:, -1] = x[:, 0]
            optimiser.zero_grad()
            loss = model.loss(Batch(x, y))
            (loss.objective / loss.count).backward()
            optimiser.step()
        x = one_of_four(500, seed=1000)
        accuracy[longest] = (model(Batch(x, x))[:, -1].argmax(-1) == x[:, 0]).float().mean().item()
    assert accuracy[None] > 0.9
    assert accuracy[0.003] < 0.5


def test_the_original_is_as_large_as_it_was_said_to_be() -> None:
    preset = MODELS.entry("resonance_net").preset("original")
    assert (preset["width"], preset["layers"], preset["modes"]) == (768, 6, 64)
    model = built("token", 512, **preset)
    counts = model.parameter_counts()
    per_block = 768 + 768 + 64 * (4 * 768 + 3) + 768 + 768 * 512 + 512 + 256 * 768 + 768
    assert counts["non_embedding"] == 6 * per_block + 768 + 2 * 768 + 768 * SYMBOLS + SYMBOLS
    assert abs(counts["non_embedding"] / 4.76e6 - 1) < 0.02


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": 0}, "layer"),
        ({"mixing": "mlp"}, "mixing"),
        ({"mixer": "fourier"}, "mixer"),
        ({"mixer": "spectral", "cycles": 2.0}, "cycles"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        built("label", **options)
