"""Every variant on whole models: gamma attention, dendrites, delay lines and fast weights; labels and next tokens."""

from __future__ import annotations

import pytest
import torch
from pc_networks import backprop_grads, grads, relative

from learning.rules.pc.variants import VARIANTS
from learning.rules.predictive_coding import PredictiveCoding
from neurons import MODELS
from neurons.specs import IGNORE, Batch, InputSpec, OutputSpec

pytestmark = pytest.mark.filterwarnings("ignore:fixedpred")
OPTIONS = {"width": 16, "layers": 2, "heads": 2, "content_heads": 1, "branches": 2}


def neuronsv2(kind: str):
    """A float64 model with its gates open, three sequences, and the same with three more columns of padding."""
    torch.manual_seed(0)
    output = OutputSpec("label", 3) if kind == "label" else OutputSpec("token", 12)
    model = MODELS.build(
        "neuronsv2",
        input=InputSpec("tokens", 16, 12),
        output=output,
        dropout=0.0,
        embedding_dropout=0.0,
        fast_rule="delta",
        fast_keys=8,
        **OPTIONS,
    ).double()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.1)
    x = torch.randint(1, 12, (3, 11))
    real = torch.arange(11).expand(3, 11) < torch.tensor([8, 5, 7])[:, None]
    y = torch.randint(0, 3, (3,)) if kind == "label" else torch.randint(0, 12, (3, 11)).masked_fill(~real, IGNORE)
    short = Batch(x[:, :8], y if kind == "label" else y[:, :8], real[:, :8])
    return model, short, Batch(x, y, real)


@pytest.mark.parametrize("kind", ["label", "token"])
def test_exact_variants_are_backprop(kind):
    model, batch, _ = neuronsv2(kind)
    seen = model.loss(batch)
    wanted = backprop_grads(model, seen.objective / seen.count)
    for options in ({"variant": "zil"}, {"variant": "fixedpred", "inference_rate": 1.0, "steps": 3}):
        report = PredictiveCoding(**options).step(model, batch)
        assert relative(grads(model), wanted) < 5e-15
        assert report.loss.count == (3 if kind == "label" else 20)
    PredictiveCoding(variant="epc", steps=1, inference_rate=0.1).step(model, batch)
    first = len(list(model.stages[0].parameters()))
    assert relative(grads(model)[:first], [0.1 * w for w in wanted[:first]]) < 5e-15


@pytest.mark.parametrize("kind", ["label", "token"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fills_every_parameter_whatever_the_padding(variant, kind):
    model, short, padded = neuronsv2(kind)
    found = []
    for batch in (short, padded):
        rule = PredictiveCoding(variant=variant, steps=5)
        rule.step(model, batch, update=lambda report: None)
        found.append(grads(model))
    assert len(found[0]) == len(list(model.parameters()))
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in found[0])
    assert relative(found[1], found[0]) < 1e-11
