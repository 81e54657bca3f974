"""Temporal embedding and phase codes, against the textbook sinusoid and the codes' own resolution."""

from __future__ import annotations

import math

import pytest
import torch

from neurons import PHASE_CODES
from neurons.errors import UsageError
from neurons.oscillations.embedding import TemporalEmbedding
from neurons.specs import Context, InputSpec

TOKENS = InputSpec("tokens", length=8, size=11, pad=0)
FEATURES = InputSpec("features", length=8, size=5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def position_only(**options: float) -> TemporalEmbedding:
    embedding = TemporalEmbedding(TOKENS, width=6, **options)  # type: ignore[arg-type]
    torch.nn.init.zeros_(embedding.embed.weight)
    return embedding


def test_phases_are_those_of_the_oscillators() -> None:
    embedding = position_only(position=0.5, low=1.0, high=100.0, dt=0.002)
    out = embedding(torch.ones(1, 5000, dtype=torch.long), Context())
    for channel, hertz in ((0, 100.0), (2, 10.0), (4, 1.0)):
        for step in (0, 1, 3, 4999):
            angle = math.fmod(hertz * 0.002 * step, 1.0) * 2 * math.pi
            expected = [0.5 * math.sqrt(2) * f(angle) for f in (math.cos, math.sin)]
            assert out[0, step, channel : channel + 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_no_two_positions_of_a_long_text_look_alike() -> None:
    embedding = TemporalEmbedding(TOKENS, width=64, position=1.0)
    out = embedding(torch.zeros(1, 2000, dtype=torch.long), Context())[0]
    distance = torch.cdist(out, out).fill_diagonal_(math.inf)
    assert distance.min() > 0.25 * out.norm(dim=-1).mean()


@pytest.mark.parametrize("width", [6, 7])
def test_same_code_at_any_length_and_zeros_where_masked(width: int) -> None:
    embedding = TemporalEmbedding(TOKENS, width=width)
    x = torch.randint(1, 11, (2, 40))  # five times input.length
    mask = torch.arange(40) < torch.tensor([[40], [6]])
    out = embedding(x, Context(mask=mask))
    assert out.shape == (2, 40, width)
    assert (out[1, 6:] == 0).all()
    torch.testing.assert_close(embedding(x[1:, :6], Context()), out[1:, :6], rtol=0, atol=0)


def test_the_padding_symbol_has_a_fixed_zero_row() -> None:
    embedding = TemporalEmbedding(TOKENS, width=6)
    out = embedding(torch.tensor([[0, 3, 0]]), Context())
    out.square().sum().backward()
    assert (embedding.embed.weight[0] == 0).all()
    assert (embedding.embed.weight.grad[0] == 0).all()  # type: ignore[index]
    assert (embedding.embed.weight.grad[3] != 0).any()  # type: ignore[index]
    assert (embedding.position_gain.grad != 0).all()


def test_both_summands_have_the_promised_scale_at_the_start() -> None:
    features = TemporalEmbedding(InputSpec("features", size=50), width=256, position=0.3)
    tokens = TemporalEmbedding(InputSpec("tokens", size=500), width=256, position=0.3)
    x, symbols = torch.randn(20, 100, 50), torch.randint(1, 500, (20, 100))
    for embedding, data in ((features, x), (tokens, symbols)):
        both = embedding(data, Context())
        torch.nn.init.zeros_(embedding.position_gain)
        content = embedding(data, Context())
        assert content.square().mean().sqrt().item() == pytest.approx(1.0, rel=0.05)
        assert (both - content).square().mean().sqrt().item() == pytest.approx(0.3, rel=0.05)


def test_dropout_acts_in_training_only() -> None:
    embedding, x = TemporalEmbedding(TOKENS, width=64, dropout=0.5), torch.ones(1, 50, dtype=torch.long)
    assert 0.4 < (embedding(x, Context()) == 0).float().mean().item() < 0.6
    assert (embedding.eval()(x, Context()) == 0).float().mean().item() < 0.05


@pytest.mark.parametrize("code", PHASE_CODES.names())
def test_features_enter_as_spike_trains(code: str) -> None:
    embedding = TemporalEmbedding(FEATURES, width=6, code=code, position=0.0)
    spikes = PHASE_CODES.build(code)
    x = torch.rand(2, 3, 5)
    torch.manual_seed(1)
    out = embedding(x, Context())
    torch.manual_seed(1)
    train = spikes.encode(x)
    weight = embedding.embed.weight.view(6, 5, spikes.steps)
    expected = torch.einsum("sbtf,wfs->btw", train, weight) * 6**0.5
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_wrong_options_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="encodes features"):
        TemporalEmbedding(TOKENS, width=6, code="rate")
    with pytest.raises(UsageError, match="Did you mean 'latency'"):
        TemporalEmbedding(FEATURES, width=6, code="latencey")
    with pytest.raises(UsageError, match="low <= high"):
        TemporalEmbedding(FEATURES, width=6, low=200.0)
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        TemporalEmbedding(FEATURES, width=6, code="latency")(torch.full((1, 2, 5), 1.5), Context())


@pytest.mark.parametrize("name", PHASE_CODES.names())
@pytest.mark.parametrize("slots", [2, 8, 33])
def test_round_trip_is_as_good_as_the_slots_allow(name: str, slots: int) -> None:
    code = PHASE_CODES.build(name, slots=slots)
    value = torch.linspace(0, 1, 101)
    spikes = code.encode(value)
    assert spikes.shape == (code.steps, 101)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    # half a slot; for the rate, 4.5 standard errors of a mean of `slots` Bernoulli draws
    bound = 4.5 * torch.sqrt(value * (1 - value) / slots) if name == "rate" else torch.tensor(0.5 / (slots - 1))
    assert ((code.decode(spikes) - value).abs() <= bound + 1e-5).all()


@pytest.mark.parametrize("name", PHASE_CODES.names())
def test_phases_stop_short_of_a_full_cycle(name: str) -> None:
    code = PHASE_CODES.build(name, slots=16)
    phases = code.phases(code.encode(torch.rand(20)))
    assert phases.shape == (code.steps,)
    assert float(phases.min()) == 0.0
    assert float(phases.max()) == pytest.approx(2 * math.pi * 15 / 16, abs=1e-6)


def test_where_the_spikes_fall() -> None:
    value = torch.tensor([0.0, 0.25, 1.0])
    assert PHASE_CODES.build("latency", slots=9).encode(value).argmax(0).tolist() == [8, 6, 0]  # stronger is earlier
    assert PHASE_CODES.build("phase_of_firing", slots=9).encode(value).argmax(0).tolist() == [0, 2, 8]
    precession = PHASE_CODES.build("theta_precession", slots=9, cycles=4).encode(value).view(4, 9, 3)
    assert precession.argmax(1).T.tolist() == [[8, 8, 8, 8], [8, 7, 6, 6], [6, 4, 2, 0]]  # v/4 .. v, round half to even
    assert (precession.sum(1) == 1).all()


@pytest.mark.parametrize("name", PHASE_CODES.names())
@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_values_outside_the_unit_interval_are_refused(name: str, bad: float) -> None:
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        PHASE_CODES.build(name).encode(torch.tensor([0.5, bad]))


def test_a_cycle_needs_slots_and_precession_cycles() -> None:
    with pytest.raises(UsageError, match="two slots"):
        PHASE_CODES.build("latency", slots=1)
    with pytest.raises(UsageError, match="one theta cycle"):
        PHASE_CODES.build("theta_precession", cycles=0)
