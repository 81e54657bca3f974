"""NeuroManifold GPT against the plain GPT, and every option of it against the laws of the house."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_model_contract import assert_chunks_go_on_or_are_refused, noise, open_gates

import baselines  # noqa: F401 - registers softmax attention and gpt
from learning import RULES
from neurons import MODELS
from neurons.errors import UsageError
from neurons.manifold.metric import MetricAttention
from neurons.model import Model
from neurons.specs import Batch, Context, InputSpec, OutputSpec

SYMBOLS, LENGTH = 11, 24
PLAIN: dict[str, Any] = {"attention": "softmax", "folding": False, "manifold": "none"}
# What each option adds to the plain model, and what it streams by (None: it refuses a second chunk).
OPTIONS: dict[str, dict[str, Any]] = {
    "fhn": {"attention": "fhn"},
    "fhn-substeps": {"attention": "fhn", "substeps": 4},
    "knot": {"attention": "softmax,knot", "candidates": 4},
    "kaufmann": {"attention": "kaufmann,softmax", "candidates": 4},
    "metric": {"attention": "metric", "rank": 2},
    "latent": {"attention": "latent", "latent": 6},
    "latent-rope": {"attention": "latent", "position": "rope"},
    "random-walk": {"attention": "random_walk"},
    "gamma": {"attention": "softmax,gamma"},
    "rope": {"position": "rope"},
    "alibi": {"position": "alibi"},
    "ramanujan": {"position": "ramanujan"},
    "no-position": {"position": "none"},
    "fhn-alibi": {"attention": "fhn", "position": "alibi"},
    "wavekan": {"feed_forward": "mlp,wavekan"},
    "wavekan-dog": {"feed_forward": "wavekan", "kan_wavelet": "dog", "kan_centres": 3},
    "fasterkan": {"feed_forward": "fasterkan"},
    "chebykan": {"feed_forward": "chebykan"},
    "hc": {"hyper_connections": "hc"},
    "mhc": {"hyper_connections": "mhc", "streams": 3},
    "mhc-lite": {"hyper_connections": "mhc-lite", "stream_layers": 1},
    "propagation": {"propagation": "all"},
    "manifold": {"manifold": "0,-1"},
    "engram": {"engram": -1, "sdr_size": 64, "sdr_active": 6},
    "folding": {"folding": True, "sdr_size": 64},
    "aggregation": {"aggregation": True},
    "aggregated-streams": {"aggregation": True, "hyper_connections": "mhc-lite", "stream_layers": 1, "layers": 3},
    "multi-token": {"n_predict": 3, "predict_weight": 0.5},
    "untied": {"tied": False},
    "embedding-scale": {"embedding_scale": 1.0},
}
PRESETS = MODELS.entry("neuromanifold_gpt").presets
CASES = OPTIONS | {f"preset-{name}": preset for name, preset in PRESETS.items()}
every_case = pytest.mark.parametrize("case", CASES)
SILENT = {"multi-token"}  # speaks in the objective only


def build(name: str = "neuromanifold_gpt", *, gates: bool = True, output: str = "token", **options: Any) -> Model:
    torch.manual_seed(0)
    kept = {"width": 16, "layers": 2, "heads": 2, "dropout": 0.0} | options
    model = MODELS.build(name, input=InputSpec("tokens", LENGTH, SYMBOLS), output=OutputSpec(output, SYMBOLS), **kept)  # type: ignore[arg-type]
    if gates:
        open_gates(model)
    return model.eval()


def built(case: str, **more: Any) -> Model:
    if case.startswith("preset-"):
        preset = CASES[case]
        return build(**preset | {"width": 8 * preset["heads"], "dropout": 0.0} | more)
    return build(**PLAIN | CASES[case] | more)


def stirred(model: Model) -> Model:
    """As after training: no weight is at a special value (a tap at 0, a gate at 0.1) that a fault could hide behind."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return model


def sample(steps: int = LENGTH) -> Batch:
    random = torch.Generator().manual_seed(1)
    text = torch.randint(0, SYMBOLS, (3, steps + 1), generator=random)
    return Batch(text[:, :-1], text[:, 1:])


def plain_weights(model: Model) -> dict[str, torch.Tensor]:
    """The weights of a gpt under the names that they have in a NeuroManifold GPT."""
    renamed = (
        ("mlp_norm", "feed_forward_norm"),
        ("expand", "feed_forward.expand"),
        ("contract", "feed_forward.contract"),
    )
    found = {}
    for key, value in model.state_dict().items():
        for old, new in renamed:
            key = key.replace(f".{old}.", f".{new}.")
        found[key] = value
    return found


@pytest.mark.parametrize(
    "options", [{}, {"position": "rope"}, {"position": "alibi", "tied": False}, {"embedding_scale": 0.5}]
)
def test_the_plain_model_is_gpt(options: dict[str, Any]) -> None:
    gpt, ours = build("gpt", **options), build(**PLAIN | options)
    ours.load_state_dict(plain_weights(gpt))
    torch.testing.assert_close(ours(sample()), gpt(sample()), rtol=1e-5, atol=1e-6)
    assert ours.parameter_counts() == gpt.parameter_counts()


@pytest.mark.parametrize(
    "case",
    [
        "propagation",
        "manifold",
        "engram",
        "folding",
        "aggregation",
        "mhc",
        "mhc-lite",
        "aggregated-streams",
        "multi-token",
    ],
)
def test_with_closed_gates_every_module_leaves_gpt_alone(case: str) -> None:
    layers = {"layers": OPTIONS[case].get("layers", 2)}
    gpt, ours = build("gpt", **layers), build(**PLAIN | OPTIONS[case], gates=False)
    missing = ours.load_state_dict(plain_weights(gpt), strict=False)
    assert missing.missing_keys != []
    assert missing.unexpected_keys == []
    torch.testing.assert_close(ours(sample()), gpt(sample()), rtol=1e-5, atol=2e-6)
    open_gates(ours)
    changed = (ours(sample()) - gpt(sample())).abs().max()
    assert bool(changed > 1e-5) is (case not in SILENT)


@every_case
def test_no_suffix_reaches_its_past(case: str) -> None:
    model, batch = stirred(built(case)), sample()
    logits, other = model(batch), noise(batch.x)
    for start in range(1, LENGTH):
        x = torch.cat([batch.x[:, :start], other[:, start:]], 1)
        perturbed = model(Batch(x, batch.y))
        torch.testing.assert_close(perturbed[:, :start], logits[:, :start], rtol=0, atol=1e-6)
        assert (perturbed[:, start] - logits[:, start]).abs().max() > 1e-6


@every_case
def test_every_parameter_has_a_gradient_of_the_loss(case: str) -> None:
    model, batch = built(case).train(), sample()
    model.loss(batch).objective.backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@every_case
def test_a_second_chunk_goes_on_exactly_or_is_refused(case: str) -> None:
    assert_chunks_go_on_or_are_refused(stirred(built(case)), sample(), 9)


def test_presets_decode_token_by_token() -> None:
    for case in ("preset-nano", "preset-shakespeare_char", "preset-small"):
        model, batch, state, parts = stirred(built(case)), sample(12), {}, []
        for t in range(12):
            context = Context(state=state)
            parts.append(model(Batch(batch.x[:, t : t + 1], batch.y[:, t : t + 1]), context))
            state = context.next_state
        torch.testing.assert_close(torch.cat(parts, 1), model(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["preset-nano", "preset-small", "knot", "mhc", "wavekan", "metric", "aggregated-streams"]
)
def test_predictive_coding_trains_it(case: str) -> None:
    model, batch = built(case, embedding_scale=1.0), sample()
    backprop = RULES.build("backprop")
    backprop.step(model, batch)
    wanted = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert wanted.keys() == dict(model.named_parameters()).keys()
    exact = RULES.build("predictive-coding", variant="zil")
    exact.prepare(model)
    exact.step(model, batch)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wanted[key], rtol=1e-3, atol=1e-5)
    difference = sum(float((p.grad - wanted[key]).square().sum()) for key, p in model.named_parameters())  # type: ignore[operator]
    assert difference**0.5 <= 1e-5 * sum(float(g.square().sum()) for g in wanted.values()) ** 0.5
    settling = RULES.build("predictive-coding", steps=2 * len(model.stages))
    settling.prepare(model)
    report = settling.step(model, batch)
    assert report.loss.count == batch.y.numel()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_layers_share_one_metric() -> None:
    model = build(**PLAIN | {"attention": "metric,softmax", "layers": 3})
    metrics = [module.metric for module in model.modules() if isinstance(module, MetricAttention)]
    assert len(metrics) == 2
    assert metrics[0] is metrics[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "fnh"}, "Did you mean 'fhn'"),
        ({"attention": "fhn*3"}, "names 3 layers, and there are 2"),
        ({"attention": "fhn*x"}, r"Try: fhn\*2"),
        ({"feed_forward": "kan"}, "unknown feed_forward 'kan'"),
        ({"engram": 5}, "there is no layer 5 among 2"),
        ({"engram": "last"}, "takes none, all or numbers"),
        ({"attention": "softmax", "substeps": 3}, "nothing here reads substeps"),
        ({"streams": 3}, "nothing here reads streams"),
        ({"predict_weight": 0.1}, "nothing here reads predict_weight"),
        ({"feed_forward": "mlp", "kan_centres": 3}, "nothing here reads kan_centres"),
        ({"hyper_connections": "mhc", "stream_layers": 3}, "stream_layers is 1 to 2"),
        ({"attention": "gamma", "position": "rope"}, "'gamma' knows no position 'rope'"),
        ({"attention": "latent", "position": "alibi"}, "not by alibi"),
        ({"position": "rop"}, "Did you mean 'rope'"),
        ({"layers": 0}, "at least one layer"),
        ({"layers": 1, "aggregation": True}, "2 layers or more"),
        ({"output": "label", "n_predict": 2}, "the output is a label"),
        ({"embedding_scale": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        build(**options)
    assert "\n" not in str(error.value)


def test_two_vocabularies_are_not_tied() -> None:
    with pytest.raises(UsageError, match="Try: tied=false"):
        MODELS.build("gpt", input=InputSpec("tokens", 8, 5), output=OutputSpec("token", 6))


@pytest.mark.parametrize("name", ["gpt", "neuromanifold_gpt"])
def test_presets_have_nanogpts_sizes(name: str) -> None:
    sizes = {"nano": 4, "shakespeare_char": 6, "small": 12, "medium": 24}
    entry = MODELS.entry(name)
    assert list(entry.presets) == list(sizes)
    for preset, layers in sizes.items():
        options = entry.validate("model", entry.preset(preset))
        with torch.device("meta"):
            model = MODELS.build(name, input=InputSpec("tokens", 256, 65), output=OutputSpec("token", 65), **options)
        width = options["width"]
        plain = layers * (12 * width**2 + 13 * width) + 2 * width
        extra = model.parameter_counts()["non_embedding"] - plain
        assert extra == 0 if name == "gpt" else 0 < extra < 0.3 * plain
