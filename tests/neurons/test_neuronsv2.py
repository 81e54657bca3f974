"""The assembled model: what each part does to it."""

import pytest
import torch

from neurons import MODELS
from neurons.errors import UsageError
from neurons.specs import Batch, InputSpec, OutputSpec

INPUT, OUTPUT = InputSpec("tokens", 16, 30), OutputSpec("label", 3)


def build(**options):
    torch.manual_seed(0)
    model = MODELS.build("neuronsv2", input=INPUT, output=OUTPUT, **{"width": 16, "heads": 2, **options}).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.1)
    return model


def batch(length=9):
    torch.manual_seed(1)
    return Batch(torch.randint(1, 30, (4, length)), torch.randint(3, (4,)), torch.ones(4, length, dtype=torch.bool))


def test_attention_holds_no_parameter_and_a_circuit_half_of_a_transformer_block():
    counts = build().parameter_counts()
    assert counts["attention"] == 0
    width, layers = 128, 2
    big = MODELS.build("neuronsv2", input=INPUT, output=OUTPUT, width=width, layers=layers).parameter_counts()
    assert big["non_embedding"] / (layers * 12 * width * width) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "change",
    [{"kappa": 1.0}, {"content_heads": 0}, {"apical_mode": "add"}, {"fast_rule": "delta"}, {"fast_rule": "off"},
     {"tau_fast": 0.01}, {"dt": 0.01}, {"heads": 4}, {"attention": "softmax"}, {"branches": 2}, {"somas": 8}],
)  # fmt: skip
def test_every_choice_changes_the_logits(change):
    import baselines  # noqa: F401  (registers softmax attention)

    assert not torch.allclose(build()(batch()), build(**change)(batch()), atol=1e-6)


def test_the_attention_reaches_the_logits_through_the_apical_branches():
    model = build(fast_rule="off")
    sample = batch()
    before = model(sample)
    for circuit in list(model.stages)[1:-1]:
        circuit.attention.forward = lambda x, context: torch.zeros_like(x)
    assert not torch.allclose(before, model(sample), atol=1e-6)


def test_order_parameters_are_observable_per_circuit_and_head():
    model, sample = build(), batch()
    context = model.context(sample)
    context.observables = {}
    model(sample, context)
    assert set(context.observables) == {"circuit0.gamma.R", "circuit1.gamma.R"}
    for value in context.observables.values():
        assert value.shape == (4, 2)
        assert bool(((value >= 0) & (value <= 1)).all())


def test_an_option_that_the_attention_does_not_take_is_refused():
    import baselines  # noqa: F401

    with pytest.raises(UsageError, match="has no option 'kappa'"):
        build(attention="softmax", kappa=2.0)
    with pytest.raises(UsageError, match="at least one layer"):
        build(layers=0)
