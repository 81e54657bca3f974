"""Benchmarks: clock and budget by a clock of our own, contenders against each other, bars and fits by known numbers."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.bench import bars, contenders, language, memory, network, parts, peers, resonance, scaling, speed, suite
from baselines.bench.job import run_jobs
from baselines.bench.setting import SUITES, Setting
from baselines.models.linear_attention import LinearAttention
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.specs import Batch, OutputSpec

CPU = torch.device("cpu")
SMALL = Setting(lengths=(8, 16), minutes=0.02, repeats=2)
SHORT = {"width": 32, "layers": 2, "dropout": 0.0}


def silent(done: int, total: int, label: str, left: float) -> None:
    pass


def test_speed_rows_have_every_point_and_ratios_against_the_reference() -> None:
    setting = Setting(lengths=(8, 16), mixers=("coherence", "linear"), minutes=5, repeats=2)
    rows = run_jobs(speed.jobs(setting), setting.minutes, silent)
    points = {(row["group"], row["form"], row["phase"], row["length"], row["name"]) for row in rows}
    assert len(points) == len(rows)
    for length in (8, 16):
        for form in ("causal", "full"):
            for phase in ("forward", "train"):
                for name in ("coherence", "linear", "sdpa"):
                    assert ("operation", form, phase, length, name) in points
        assert ("mixer", "causal", "decode", length, "linear") in points
    assert all(row["ratio"] == 1 for row in rows if row["name"] == row["reference"])
    assert all(row["seconds"] >= row["least_seconds"] > 0 for row in rows)


def test_without_a_budget_what_is_known_to_cost_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.bench.job.CHEAP", 0.0)
    setting = Setting(lengths=(8, 16), mixers=("coherence",), phases=("forward",), minutes=1e-9)
    rows = run_jobs(speed.jobs(setting), setting.minutes, silent)
    assert all(row["seconds"] for row in rows if row["length"] == 8)  # nobody knows yet
    assert all("predicted" in row["skipped"] for row in rows if row["length"] == 16)


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        speed.jobs(Setting(mixers=("coherence",), phases=("decode",)))


def test_saved_bytes_by_hand() -> None:
    x, layer = torch.randn(6, 4, requires_grad=True), nn.Linear(4, 3)
    # The product keeps its input, tanh its output; the weight is a parameter.
    assert memory.saved_bytes(lambda: torch.tanh(layer(x)), layer.parameters()) == 4 * (6 * 4 + 6 * 3)
    assert memory.saved_bytes(lambda: torch.tanh(layer(x))) == 4 * (6 * 4 + 6 * 3 + 3 * 4)
    assert memory.saved_bytes(lambda: x.view(2, 12).square() + x.square().view(2, 12)) == 4 * 24  # one storage, twice


def test_the_peak_is_what_a_call_holds_at_once() -> None:
    size = 64 * 2**20

    def call() -> Tensor:
        first = torch.ones(size // 4)
        del first
        return torch.ones(size // 4)

    peak = memory.peak_bytes(call, CPU)
    if peak is not None:
        assert 0.9 * size < peak < 1.5 * size


def test_memory_rows_compare_what_is_kept() -> None:
    setting = Setting(lengths=(64, 256), mixers=("naive", "gamma"), minutes=5)
    rows = run_jobs(memory.jobs(setting), setting.minutes, silent)
    kept = {(row["name"], row["length"]): row for row in rows}
    assert set(kept) == {(name, n) for name in ("sdpa", "naive", "softmax", "gamma") for n in (64, 256)}
    assert kept["naive", 256]["saved_bytes"] > 4 * 256**2  # the matrix
    assert kept["naive", 256]["ratio"] == kept["sdpa", 256]["saved_bytes"] / kept["naive", 256]["saved_bytes"] < 1


def curve(exponent: float, lengths: tuple[int, ...], **where: Any) -> list[dict[str, Any]]:
    base = {"group": "operation", "form": "causal", "phase": "train", "name": "x", "skipped": None, **where}
    return [base | {"length": n, "least_seconds": 1e-9 * n**exponent, "saved_bytes": 8 * n} for n in lengths]


def test_exponents_are_fitted_to_the_five_longest_lengths() -> None:
    lengths = (1024, 2048, 4096, 8192, 16384)
    times = curve(9.0, (64, 128)) + curve(1.5, lengths) + curve(2.0, lengths[:4], name="y", skipped=None)
    times += [{**times[-1], "length": 16384, "least_seconds": None, "skipped": "too dear"}]
    times += curve(3.0, lengths, phase="decode")
    found = {(row["name"], row["cost"]): row for row in scaling.exponents(times, curve(0, lengths))}
    assert set(found) == {("x", "train time"), ("y", "train time"), ("x", "saved memory")}
    fit = found["x", "train time"]
    assert (fit["exponent"], fit["low"], fit["high"]) == pytest.approx((1.5, 1.5, 1.5))
    assert fit["lengths"] == list(lengths)
    assert found["x", "saved memory"]["exponent"] == pytest.approx(1)
    assert found["y", "train time"]["exponent"] is None
    assert found["y", "train time"]["skipped"] == "4 lengths, 5 make an exponent: too dear"


@pytest.mark.parametrize("kind", ["label", "token"])
def test_models_are_matched_in_their_parameters(kind: Any) -> None:
    models = network.matched(64, OutputSpec(kind, 20))
    counts = {name: model.parameter_counts() for name, model in models.items()}
    ours, theirs = (counts[name]["non_embedding"] for name in ("neuronsv2", "transformer"))
    assert theirs == pytest.approx(ours, rel=0.06)
    assert counts["neuronsv2"]["attention"] == 0
    assert models["neuronsv2"].width == network.WIDTH


def test_language_models_remember_the_context_in_the_bytes_they_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "LENGTHS", (8, 40))
    monkeypatch.setattr(language, "TOKENS", 4)
    monkeypatch.setattr(language, "SIZE", SHORT)
    rows = run_jobs(language.jobs(SMALL), SMALL.minutes, silent)
    kept = {(row["name"], row["length"]): row for row in rows}
    assert len(kept) == 2 * 4
    for name in ("neuronsv2", "resonance_net"):
        assert kept[name, 8]["state_bytes"] == kept[name, 40]["state_bytes"] > 0
        assert kept[name, 40]["bytes_per_token"] == 0
    # of two layers a key and a value of width 32, and how many tokens there were
    assert kept["gpt", 8]["state_bytes"] == 2 * 8 * 2 * 4 * 32 + 8
    assert kept["gpt", 40]["bytes_per_token"] == 2 * 2 * 4 * 32
    width = language.built(8)[language.LATENT].width
    for length in (8, 40):
        row = kept[language.LATENT, length]
        assert row["bytes_per_token"] == row["declared_bytes_per_token"] == 2 * 4 * (width // 2)
    sizes = [row["parameters"] for row in rows if row["length"] == 8]
    assert max(sizes) == pytest.approx(min(sizes), rel=0.15)  # a narrow model's widths are far apart
    assert all(row["tokens_per_second"] == pytest.approx(1 / row["seconds"]) for row in rows)


@pytest.mark.parametrize("name", ["gpt", language.LATENT, "neuronsv2", "resonance_net"])
def test_a_decoded_token_is_that_of_the_whole_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "SIZE", SHORT)
    model = language.built(12)[name]
    x = torch.randint(1, language.SYMBOLS, (1, 12), generator=torch.Generator().manual_seed(0))
    state = language._decode(model, x[:, 5:11], language.step(model, x[:, :5], {}))
    context = model.context(Batch(x, x))
    context.state = state
    with torch.no_grad():
        last, whole = model(Batch(x[:, 11:], x[:, 11:]), context)[0, -1], model(Batch(x, x))[0, -1]
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-5)


def test_the_masked_dense_layer_is_the_sparse_one() -> None:
    torch.manual_seed(0)
    layer = DendriticLayer(basal=20, somas=6, branches=3, inputs="sparse", synapses=4).double()
    tree = layer.basal_branches
    with torch.no_grad():
        tree.threshold.normal_()
        layer.threshold.normal_()
    x = torch.randn(5, 20, dtype=torch.float64, requires_grad=True)
    weight, mask, threshold = parts.dense_form(tree)
    assert (mask.sum(1) == 4).all()
    weight = weight + (1 - mask) * torch.randn_like(weight)  # what is masked must not count
    out, expected = parts.masked_dense(x, weight, mask, threshold, layer), layer(x)
    torch.testing.assert_close(out, expected)
    ours, theirs = (torch.autograd.grad(y.square().sum(), x)[0] for y in (out, expected))
    torch.testing.assert_close(ours, theirs)


# Peers


def test_no_peer_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "performer_pytorch", None)
    with pytest.raises(UsageError, match=r"pip install 'neurons\[peers\]'"):
        peers.jobs(Setting())


def test_both_peers_render_the_same_attention(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With exact softmax attention in FAVOR+'s place, nothing but rounding is left."""

    class Exact(nn.Module):
        def __init__(self, dim_heads: int, nb_features: int, causal: bool) -> None:
            super().__init__()
            self.causal = causal
            print("unable to import cuda code")

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)

    fake = types.ModuleType("performer_pytorch")
    fake.FastAttention = Exact  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "performer_pytorch", fake)
    monkeypatch.setattr(peers, "LENGTHS", (8,))
    rows = run_jobs(peers.jobs(SMALL), SMALL.minutes, silent)
    errors = {row["name"]: row["error"] for row in rows if "error" in row}
    assert set(errors) == {"coherence", "favor+"}
    assert max(errors.values()) < 1e-5
    assert len([row for row in rows if row.get("ratio")]) == 2 * 2 * 2
    assert capsys.readouterr().out == ""


# Bars and the document


def test_bars_are_judged_by_their_row() -> None:
    row = {"group": "operation", "name": "coherence", "form": "causal", "phase": "train", "length": 16384}
    fast, slow = ([row | {"ratio": ratio}] for ratio in (45.0, 44.9))
    first = bars.BARS[0]
    assert (first.least, first.measured(fast), first.measured([])) == (45, 45.0, None)
    assert bars.judge({"speed": fast}, Setting())[0]["met"] is True
    assert bars.judge({"speed": slow}, Setting())[0]["met"] is False
    assert bars.judge({"speed": []}, Setting())[0]["met"] is None
    left_out = {**row, "ratio": None, "skipped": "too dear"}
    assert bars.judge({"speed": [left_out]}, Setting())[0]["met"] is None
    assert bars.judge({"speed": [{key: left_out[key] for key in (*row, "skipped")}]}, Setting())[0]["met"] is None
    assert len(bars.judge({"speed": []}, Setting())) == sum(bar.suite == "speed" for bar in bars.BARS)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, {"train", "forward", "decode"}),
        ({"phases": ("train",)}, {"train"}),
        ({"mixers": ("gamma",)}, {"decode"}),
        ({"lengths": (16384,)}, {"train", "forward"}),
        ({"lengths": (512,)}, set()),
        ({"batch": 2}, set()),
        ({"heads": 2}, set()),
        ({"width": 128}, set()),
    ],
)
def test_only_what_was_asked_for_is_judged(changes: dict[str, Any], left: set[str]) -> None:
    texts = {one["text"] for one in bars.judge({"speed": []}, Setting(**changes))}
    assert {bar.where["phase"] for bar in bars.BARS if bar.text in texts} == left
    scaled = [one["text"] for one in bars.judge({"scaling": []}, Setting(phases=("forward",)))]
    assert [text for text in scaled if "backward" in text] == []
    assert len(scaled) == 1


def test_a_bar_may_be_a_quotient() -> None:
    one = bars.Bar("speed", "", {"n": 1}, "seconds", most=2.0, over={"n": 2})
    rows = [{"n": 1, "seconds": 3.0}, {"n": 2, "seconds": 2.0}]
    assert one.measured(rows) == 1.5
    assert one.measured(rows[:1]) is None
    assert one.measured([rows[0], {"n": 2, "seconds": None}]) is None
    other = bars.Bar("decode", "", {"n": 1}, "bytes", over={"n": 1}, over_key="declared")
    assert other.measured([{"n": 1, "bytes": 6, "declared": 4}]) == 1.5


def test_a_small_run_makes_a_whole_document_and_every_bar_finds_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "LENGTHS", (8,))
    monkeypatch.setattr(language, "LENGTHS", (4, 8))
    monkeypatch.setattr(language, "TOKENS", 2)
    monkeypatch.setattr(language, "SIZE", SHORT)
    monkeypatch.setattr(resonance, "BATCHES", {1: (8, 12, 16, 24, 32), 8: (8,)})
    monkeypatch.setattr(resonance, "SIZE", {"width": 32, "layers": 1})
    monkeypatch.setattr(resonance, "HEAD", 8)
    monkeypatch.setattr(resonance, "SIDE", 32)
    for name, value in {"SOMAS": 8, "BRANCHES": 2, "BATCH": 4, "STEPS": 16}.items():
        monkeypatch.setattr(parts, name, value)
    names = [name for name in SUITES if name != "peers"]
    setting = Setting(lengths=(8, 16), minutes=5, repeats=1)
    seen: list[tuple[int, int]] = []
    document = suite.bench(names, setting, lambda done, total, label, left: seen.append((done, total)))
    assert json.loads(json.dumps(document, allow_nan=False))["suites"] == names
    assert list(document["rows"]) == names
    assert all(done < total for done, total in seen)
    assert {"torch", "cpu", "threads"} <= set(document["env"])
    for bar in (bar for bar in bars.BARS if bar.suite in names):  # but for the length, which these runs do not reach
        for where in (bar.where, bar.over or bar.where):
            wanted = {key: value for key, value in where.items() if key != "length"}
            matching = [row for row in document["rows"][bar.suite] if wanted.items() <= row.items()]
            assert matching, bar.text
            assert bar.key in matching[0] or matching[0]["skipped"], bar.text


def test_bytes_are_those_of_inputs_and_outputs() -> None:
    a, b = torch.zeros(8, 4), torch.zeros(4, 16)
    assert resonance.moved_bytes(lambda: a @ b) == 4 * (8 * 4 + 4 * 16 + 8 * 16)
    assert resonance.moved_bytes(lambda: a.t()[0]) == 0  # views move nothing
    found = resonance.rates(lambda: a @ b, 2.0)
    assert (found["macs"], found["flops_per_second"]) == (8 * 4 * 16, 8 * 4 * 16)


def test_exponents_alone_bring_their_own_curves() -> None:
    document = suite.bench(
        ["scaling"], Setting(lengths=(8, 16, 24, 32, 40), mixers=("linear",), minutes=5, repeats=1), silent
    )
    assert list(document["rows"]) == ["scaling"]
    fitted = {(row["name"], row["cost"]) for row in document["rows"]["scaling"] if row["exponent"] is not None}
    assert fitted >= {(name, cost) for name in ("sdpa", "linear") for cost in ("forward time", "saved memory")}
    assert {row["group"] for row in document["rows"]["scaling"]} == {"operation"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mixers": ("gama",)}, "unknown mixer 'gama'. Did you mean 'gamma'?"),
        ({"phases": ("trian",)}, "unknown phase 'trian'. Did you mean 'train'?"),
        ({"lengths": ()}, "lengths are at least 1"),
        ({"lengths": (0,)}, "lengths are at least 1"),
        ({"mixers": ()}, "name one mixer"),
        ({"width": 10, "heads": 3}, "width 10 does not split into 3 heads"),
        ({"width": 2, "heads": 2}, "two channels or more"),
    ],
)
def test_settings_that_cannot_be_measured(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        Setting(**changes)


def test_a_linear_layer_is_among_the_mixers() -> None:
    assert isinstance(contenders.build_mixer("linear", Setting(heads=2), True), LinearAttention)
