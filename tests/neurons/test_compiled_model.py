"""A whole NEURONSv2 is one graph: ``torch.compile(fullgraph=True)`` gives what the model gives, gradients too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurons import MODELS
from neurons.specs import Batch, InputSpec, OutputSpec

STEPS, SYMBOLS = 70, 12  # two chunks of the fast weights


@pytest.mark.parametrize(
    ("rule", "kind"), [("off", "label"), ("off", "token"), ("hebb", "token"), ("delta", "label"), ("rls", "token")]
)
def test_compiles_in_one_graph(rule: str, kind: str) -> None:
    options: dict[str, Any] = {"dropout": 0.0, "embedding_dropout": 0.0, "fast_rule": rule}
    if rule != "off":
        options |= {"fast_lag": 1, "fast_keys": 8, "consolidate": True}
    torch._dynamo.reset()
    torch.manual_seed(0)
    output = OutputSpec("label", 3) if kind == "label" else OutputSpec("token", SYMBOLS)
    model = MODELS.build(
        "neuronsv2", input=InputSpec("tokens", STEPS, SYMBOLS), output=output, width=16, layers=1, **options
    )
    # least squares divide by the moments of few tokens: rounding grows a thousandfold in them. Hebb's weights are kept
    # in float64, and float32 activations would write them no closer than 1e-7
    if rule in ("hebb", "rls"):
        model.double()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.1)
    x = torch.randint(1, SYMBOLS, (2, STEPS))
    batch = Batch(x, x, torch.arange(STEPS) < torch.tensor([[STEPS], [STEPS - 20]]))
    parameters = list(model.parameters())

    exact = model(batch)
    episode = [buffer.clone() for buffer in model.buffers()]
    for buffer in model.buffers():
        buffer.zero_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)(batch)

    torch.testing.assert_close(compiled, exact, rtol=0, atol=1e-6)
    wanted, found = (torch.autograd.grad(y.square().sum(), parameters) for y in (exact, compiled))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # what training remembers is written all the same
    torch.testing.assert_close(list(model.buffers()), episode)
