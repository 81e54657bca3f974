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
    [{"kappa": 1.0}, {"content_heads": 0}, {"apical_mode": "add"}, {"apical_mode": "branch"},
     {"activation": "leaky_relu"}, {"activation": "linear"}, {"split": True},
     {"leak": 0.5}, {"leak": 0.5, "leak_longest": 0.9}, {"dt": 0.01}, {"heads": 4}, {"attention": "softmax"},
     {"attention": None, "heads": 4}, {"branches": 2}, {"somas": 8}],
)  # fmt: skip
def test_every_choice_changes_the_logits(change):
    import baselines  # noqa: F401  (registers softmax attention)

    assert not torch.allclose(build()(batch()), build(**change)(batch()), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [{"fast_rule": "delta"}, {"fast_rule": "rls"}, {"fast_rule": "off"}, {"tau_fast": 0.01}, {"fast_lag": 1},
     {"fast_keys": 8}],
)  # fmt: skip
def test_every_choice_of_fast_weights_changes_the_logits(change):
    before = build(fast_rule="hebb")(batch())
    assert not torch.allclose(before, build(**{"fast_rule": "hebb", **change})(batch()), atol=1e-6)


def test_a_delay_line_starts_as_the_identity_and_changes_the_logits_once_learned():
    with_line, without = build(), build(delay=0)
    without.load_state_dict({k: v for k, v in with_line.state_dict().items() if "delay" not in k})
    assert torch.allclose(with_line(batch()), without(batch()), atol=1e-6)
    for circuit in list(with_line.stages)[1:-1]:
        torch.nn.init.constant_(circuit.delay.weight, 0.5)
    assert not torch.allclose(with_line(batch()), without(batch()), atol=1e-3)


def test_episodes_end_in_consolidated_weights_and_not_before():
    model, sample = build(fast_rule="delta", consolidate=True, dropout=0.0, embedding_dropout=0.0), batch()
    before = model(sample)
    model.end_episode()
    assert torch.equal(before, model(sample))  # what is lived through in eval mode is no episode
    model.train()
    assert torch.equal(before, model(sample))
    model.end_episode()
    assert not torch.allclose(before, model(sample), atol=1e-6)


@pytest.mark.parametrize("preset", ["tiny", "text", "language", "long", "resonant"])
def test_presets_build_and_have_the_size_they_say(preset):
    options = MODELS.entry("neuronsv2").preset(preset)
    MODELS.entry("neuronsv2").validate("model", options)
    size, output = (8192, OutputSpec("token", 8192)) if preset == "language" else (16384, OutputSpec("label", 2))
    with torch.device("meta"):
        model = MODELS.build("neuronsv2", input=InputSpec("tokens", 512, size), output=output, **options)
    expected = {"text": 8e6, "language": 10e6}.get(preset)
    if expected is not None:
        assert model.parameter_counts()["total"] == pytest.approx(expected, rel=0.1)


def test_a_sentence_fed_in_pieces_gives_the_same_next_tokens():
    model = MODELS.build(
        "neuronsv2",
        input=INPUT,
        output=OutputSpec("token", 30),
        width=16,
        heads=2,
        fast_rule="delta",
        fast_lag=1,
        leak=0.9,
    ).double()
    for name, parameter in model.named_parameters():
        if "gate" in name or "delay" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    sample = batch(40)
    whole, parts, state = model(sample), [], {}
    for x in sample.x.split([1, 1, 7, 31], 1):
        piece = Batch(x, torch.zeros_like(x))
        context = model.context(piece)
        context.state = state
        parts.append(model(piece, context))
        state = context.next_state
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-8)


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


@pytest.mark.parametrize(("attention", "dt"), [("gamma_resonator", 0.001), ("resonator", 0.01), ("spectral", 0.001)])
def test_resonators_remember_as_long_as_the_input_is(attention, dt):
    mixer = build(attention=attention, dt=dt, heads=4).stages[1].attention
    assert getattr(mixer, "resonator", mixer).longest == pytest.approx(INPUT.length * dt)


def test_an_option_that_the_attention_does_not_take_is_refused():
    import baselines  # noqa: F401

    with pytest.raises(UsageError, match="has no option 'kappa'"):
        build(attention="softmax", kappa=2.0)
    with pytest.raises(UsageError, match="kappa is about the attention, and there is none"):
        build(attention=None, kappa=2.0, heads=4)
    with pytest.raises(UsageError, match="at least one layer"):
        build(layers=0)
