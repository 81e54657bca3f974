"""Sampling against brute force: sorting by hand, the whole text at every step, counts of draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from baselines.sampling import Choice, Reader, distinct, sample, summary
from neurons import MODELS
from neurons.errors import UsageError
from neurons.specs import Batch, InputSpec, OutputSpec
from tasks.codec import Bytes, Characters

TEXT = "abcdefghij klmnop\n"
CODEC = Characters(TEXT)
MODELS_TRIED = ("neuronsv2", "gpt", "transformer", "neuromanifold_gpt")


def build(name, *, length=24, size=CODEC.size, **options):
    torch.manual_seed(0)
    model = MODELS.build(
        name, input=InputSpec("tokens", length=length, size=size), output=OutputSpec("token", size),
        width=16, layers=1, **options,
    )  # fmt: skip
    with torch.no_grad():  # far from uniform, so that a wrong symbol would show
        model.stages[-1](
            torch.zeros(1, 1, 16), model.context(Batch(torch.zeros(1, 1).long(), torch.zeros(1, 1).long()))
        )
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model.eval()


def whole(model, ids):
    """Logits behind ``ids``, read at once."""
    x = torch.tensor([list(ids)])
    with torch.no_grad():
        return model(Batch(x, torch.zeros_like(x)))[0, -1]


def by_hand(logits, temperature, top_k, top_p):
    """The distribution by sorting: (probability, symbol) pairs."""
    p = np.exp(logits.astype(np.float64) / temperature)
    ranked = sorted(enumerate(p / p.sum()), key=lambda pair: (-pair[1], pair[0]))
    ranked = ranked[:top_k]
    ranked = [(i, share / sum(s for _, s in ranked)) for i, share in ranked]
    kept, held = [], 0.0
    for i, share in ranked:
        if top_p is not None and held >= top_p:
            break
        kept.append((i, share))
        held += share
    found = np.zeros(len(p))
    for i, share in kept:
        found[i] = share / sum(s for _, s in kept)
    return found


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 99])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.5, 0.9, 1.0])
def test_temperature_top_k_and_top_p_are_their_definitions(temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=12).astype(np.float32)
    found = Choice(temperature, top_k, top_p).probabilities(torch.tensor(logits)).numpy()
    np.testing.assert_allclose(found, by_hand(logits, temperature, top_k, top_p), atol=1e-12)


def test_draws_are_as_frequent_as_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    choice, generator = Choice(1.0, top_k=2), torch.Generator().manual_seed(0)
    drawn = np.bincount([choice.draw(logits, generator) for _ in range(2000)], minlength=4)
    assert drawn[0] == drawn[2] == 0
    assert drawn[3] / 2000 == pytest.approx(math.e / (1 + math.e), abs=0.03)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
    ],
)
def test_choices_out_of_range_are_told(name, value):
    with pytest.raises(UsageError, match=name.replace("_", "-")):
        Choice(**{name: value})


def test_the_smallest_temperature_is_greedy_though_the_division_overflows():
    logits = torch.tensor([3.0, -torch.inf, 5.0, 5.0 - 1e-6])
    assert Choice(1e-310).probabilities(logits).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("name", MODELS_TRIED)
def test_symbol_by_symbol_gives_the_logits_of_the_whole_text(name):
    model, ids = build(name), CODEC.prompt("abc kli\nfg bad face")
    reader = Reader(model)
    found = [reader.feed(ids[:4].tolist()), *(reader.feed([int(i)]) for i in ids[4:])]
    assert reader.streams
    for end, logits in enumerate(found, 4):
        torch.testing.assert_close(logits, whole(model, ids[:end]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS_TRIED)
def test_greedy_text_is_the_argmax_of_what_was_read(name):
    model, ids = build(name), CODEC.prompt("abc").tolist()
    found = sample(model, CODEC, ids, length=12, choice=Choice(0.0), seed=0)
    wanted, nats = list(ids), 0.0
    for _ in range(12):
        logits = whole(model, wanted)
        logp = logits.log_softmax(-1)
        logits[:2] = -torch.inf  # padding and the unknown symbol are no text
        wanted.append(int(logits.argmax()))
        nats -= float(logp[wanted[-1]])
    assert found.text == CODEC.decode(wanted[3:])
    assert found.nats == pytest.approx(nats, rel=1e-3)
    assert (found.symbols, found.ended, found.streamed) == (12, "length", True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_text_is_never_drawn_however_likely(temperature):
    model = build("neuronsv2")
    with torch.no_grad():
        model.stages[-1].linear.bias[:2] += 50  # padding and the unknown symbol
    found = sample(model, CODEC, [2], length=10, choice=Choice(temperature), seed=0)
    assert len(found.text) == 10
    assert found.nats > 10 * 40


def test_where_the_positions_end_the_last_symbols_are_read_anew():
    model, ids = build("transformer", length=8), CODEC.prompt("abcde").tolist()
    found = sample(model, CODEC, ids, length=20, choice=Choice(0.0), seed=0)
    wanted = list(ids)
    for _ in range(20):
        logits = whole(model, wanted[-8:])
        logits[:2] = -torch.inf
        wanted.append(int(logits.argmax()))
    assert found.text == CODEC.decode(wanted[5:])
    assert not found.streamed


def test_a_start_longer_than_the_context_is_read_by_a_model_that_streams_and_told_by_another():
    ids = CODEC.prompt("abcdefghijkl").tolist()
    streaming = build("neuronsv2", length=8)
    logits = Reader(streaming).feed(ids)
    torch.testing.assert_close(logits, whole(streaming, ids), rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="the start has 12 symbols, and model 'transformer' reads 8"):
        Reader(build("transformer", length=8)).feed(ids)


def test_the_same_seed_gives_the_same_text_another_seed_or_number_another_one():
    model, ids = build("neuronsv2"), CODEC.prompt("ab").tolist()

    def text(seed, number=0):
        return sample(model, CODEC, ids, length=30, choice=Choice(1.5), seed=seed, number=number).text

    assert text(3) == text(3)
    assert len({text(3), text(4), text(3, 1)}) == 3


def test_text_comes_as_it_is_drawn_and_ends_before_the_stop():
    model, ids = build("neuronsv2"), CODEC.prompt("ab").tolist()
    free = sample(model, CODEC, ids, length=60, choice=Choice(1.5), seed=1).text
    for stop in (free[20:23], free[0], free[-4:], free[5:7] + "never"):
        heard: list[str] = []
        found = sample(model, CODEC, ids, length=60, choice=Choice(1.5), seed=1, stops=[stop], out=heard.append)
        assert found.text == "".join(heard) == free.partition(stop)[0]
        assert found.ended == ("stop" if stop in free else "length")
    for stops in (free[30:33], free[20:23]), (free[20:23], free[30:33], "never"):
        found = sample(model, CODEC, ids, length=60, choice=Choice(1.5), seed=1, stops=stops)
        assert found.text == min((free.partition(stop)[0] for stop in stops), key=len)
    heard = []
    sample(model, CODEC, ids, length=10, choice=Choice(1.5), seed=1, out=heard.append)
    assert sum(map(bool, heard)) == 10


def test_a_character_of_several_bytes_comes_whole():
    codec, text = Bytes(), "né 好"
    ids = iter(codec.encode(text).tolist())
    assert [piece for piece in codec.stream(ids) if piece] == list(text)


def test_distinct_counts_runs_of_words():
    texts = ["a b a b", "a b c"]
    assert distinct(texts, 1) == pytest.approx(3 / 7)
    assert distinct(texts, 2) == pytest.approx(3 / 5)  # ab ba ab, ab bc
    assert distinct(texts, 3) == pytest.approx(3 / 3)  # aba bab, abc
    assert distinct(["a", ""], 2) is None
    model = build("neuronsv2")
    found = [sample(model, CODEC, [2], length=9, choice=Choice(), seed=0, number=n) for n in range(2)]
    assert summary(found)["perplexity"] == pytest.approx(math.exp((found[0].nats + found[1].nats) / 18))
