"""Nets side by side against the library's rules net by net, and what the experiment compares."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch import Tensor, nn

from baselines import prospective, prospective_stack
from baselines.prospective import RULES, Setting, draw, error_curves
from baselines.prospective_figure import draw as draw_figure
from baselines.report_format import finite
from learning import RULES as LEARNING_RULES
from neurons.errors import DivergedError, UsageError
from tasks import TASKS

SIZES = (6, 4, 4, 4, 3)
DIGITS = TASKS.build("digits").load()
SMALL = Setting(data="digits", seeds=4, rates=(0.002, 0.0005), images=30, batch=40, iterations=9, steps=8, hidden=8)


def nets(seeds: int = 2, rates: int = 2) -> list[Tensor]:
    """Weights (S, R, out, in) in float64, every net its own."""
    drawn = [
        [prospective_stack.xavier_normal(SIZES, seed=10 * s + r, gain=2.0, dtype=torch.float64) for r in range(rates)]
        for s in range(seeds)
    ]
    return [torch.stack([torch.stack([one[layer] for one in row]) for row in drawn]) for layer in range(4)]


def batch(seeds: int = 2, rows: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(seeds, rows, SIZES[0], generator=random, dtype=torch.float64)
    labels = torch.randint(0, SIZES[-1], (seeds, rows), generator=random)
    return x, nn.functional.one_hot(labels, SIZES[-1]).double()


def single(weights: list[Tensor], s: int, r: int) -> nn.Sequential:
    """One net as the library's rules take it: a state of the chain is a drive."""
    layers = []
    for weight in weights:
        linear = nn.Linear(weight.shape[3], weight.shape[2], bias=False, dtype=torch.float64)
        linear.weight.data = weight[s, r].clone()
        layers.append(linear)
    return nn.Sequential(layers[0], *(nn.Sequential(nn.Sigmoid(), linear) for linear in layers[1:]))


def half_squares(answer: Tensor, y: Tensor) -> tuple[Tensor, int]:
    return 0.5 * (answer - y).square().sum(), len(y)


def library(rule: str, steps: int) -> Any:
    if rule == "backprop":
        return LEARNING_RULES.build("backprop")
    return LEARNING_RULES.build("predictive-coding", variant="spc", steps=steps, inference_rate=0.1)


def ours(rule: str, steps: int) -> prospective_stack.Gradients:
    return prospective_stack.backprop if rule == "backprop" else prospective_stack.predictive_coding(steps, 0.1)


@pytest.mark.parametrize(("rule", "steps"), [("backprop", 0), *(("predictive-coding", t) for t in (1, 2, 3, 64))])
def test_every_net_gets_what_the_librarys_rule_gives_it(rule: str, steps: int) -> None:
    weights, (x, y) = nets(), batch()
    found = ours(rule, steps)(weights, x, y)
    for s, r in np.ndindex(2, 2):
        net = single(weights, s, r)
        library(rule, steps).step(net, (x[s], y[s]), loss=half_squares)
        for layer, parameter in zip(found, net.parameters(), strict=True):
            wanted = parameter.grad * x.shape[1]  # the rule's gradient is the mean over the batch
            torch.testing.assert_close(layer[s, r], wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_training_is_as_alone(rule: str) -> None:
    """Several steps, each net at its own rate, by torch's SGD and the library's rule."""
    weights, rates = nets(), torch.tensor([0.3, 0.05], dtype=torch.float64)
    alone = {(s, r): single(weights, s, r) for s, r in np.ndindex(2, 2)}
    for step in range(5):
        x, y = batch(seed=step)
        prospective_stack.train(weights, ours(rule, 16), x, y, rates)
        for (s, r), net in alone.items():
            optimiser = torch.optim.SGD(net.parameters(), lr=float(rates[r]) * x.shape[1])
            library(rule, 16).step(net, (x[s], y[s]), loss=half_squares)
            optimiser.step()
    for (s, r), net in alone.items():
        for layer, parameter in zip(weights, net.parameters(), strict=True):
            torch.testing.assert_close(layer[s, r], parameter.detach(), rtol=1e-9, atol=1e-12)


def test_settling_is_not_backpropagation() -> None:
    weights, (x, y) = nets(), batch()
    settled, backward = (
        function(weights, x, y)[1] for function in (ours("predictive-coding", 64), ours("backprop", 0))
    )
    assert torch.nn.functional.cosine_similarity(settled.flatten(), backward.flatten(), dim=0) < 0.999


def test_errors_are_counted_by_task() -> None:
    weights, (x, _) = nets(), batch(seeds=1, rows=40)
    random = np.random.default_rng(0)
    labels, task = (torch.from_numpy(random.integers(0, top, (2, 40))) for top in (3, 2))
    found = prospective_stack.errors(weights, x[0], labels, task)
    for s, r in np.ndindex(2, 2):
        wrong = single(weights, s, r)(x[0]).argmax(1) != labels[s]
        for number in (0, 1):
            assert found[s, r, number].item() == pytest.approx(wrong[task[s] == number].double().mean().item())


def test_first_weights_are_xaviers() -> None:
    first, *_, last = prospective_stack.xavier_normal((784, 32, 32, 32, 5), seed=0, gain=2.0)
    assert first.std().item() == pytest.approx(2 * (2 / (784 + 32)) ** 0.5, rel=0.02)
    assert last.std().item() == pytest.approx(2 * (2 / 37) ** 0.5, rel=0.15)
    assert not torch.equal(first, prospective_stack.xavier_normal((784, 32), seed=1, gain=2.0)[0])


def test_two_tasks_share_their_outputs() -> None:
    for seed in range(3):
        one = draw(SMALL, DIGITS, seed)
        assert sorted(zip(one.task.tolist(), one.output.tolist(), strict=True)) == [
            (t, o) for t in (0, 1) for o in range(5)
        ]
        for number, rows in enumerate(one.rows):
            counts = np.bincount(DIGITS.train.labels[rows], minlength=10)
            np.testing.assert_array_equal(counts, np.where(one.task == number, SMALL.images, 0))
            assert len(set(rows.tolist())) == len(rows)
    assert len({tuple(draw(SMALL, DIGITS, seed).task) for seed in range(5)}) > 1
    everything = draw(replace(SMALL, images=10**6), DIGITS, 0)  # no more than every class has
    assert len(everything.rows[0]) == 5 * np.bincount(DIGITS.train.labels).min()


def test_a_block_trains_one_task_and_then_the_other() -> None:
    """After a block on one task its error is below, and it rises while the other is trained."""
    setting = replace(SMALL, seeds=3, rates=(0.01,), gain=2.0, images=100, iterations=40, block=20)
    curve = error_curves(setting, DIGITS, "backprop", (0, 1, 2), "test").mean((0, 1))
    assert curve[19, 0] < curve[0, 0] - 0.1
    assert curve[39, 1] < curve[19, 1] - 0.1
    assert curve[39, 0] > curve[19, 0]


def test_seeds_do_not_hang_on_their_company() -> None:
    together = error_curves(SMALL, DIGITS, RULES[0], (0, 1, 2), "test")
    np.testing.assert_allclose(together[1:2], error_curves(SMALL, DIGITS, RULES[0], (1,), "test"), atol=0.02)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return prospective.prospective(SMALL)


def test_rates_are_chosen_on_held_out_and_levels_told_on_test(document: dict[str, Any]) -> None:
    seeds = tuple(range(4))
    for grid, row in zip(document["grid"], document["rows"], strict=True):
        assert grid["rule"] == row["rule"]
        held_out, test = (
            np.concatenate([error_curves(SMALL, DIGITS, row["rule"], group, split) for group in (seeds[:3], seeds[3:])])
            for split in ("held_out", "test")
        )
        assert grid["held_out_error"] == pytest.approx(held_out.mean((0, 2, 3)).tolist())
        best = int(held_out.mean((0, 2, 3)).argmin())
        assert row["rate"] == SMALL.rates[best]
        assert row["values"] == pytest.approx(test[:, best].mean((1, 2)).tolist(), abs=0.01)
        assert np.mean(row["curve"]) == pytest.approx(row["error"]["mean"])
        assert row["published"] is None  # of other pictures
    first, second = (row["values"] for row in document["rows"])
    assert document["difference"]["mean"] == pytest.approx(np.mean(first) - np.mean(second))
    assert document["difference"]["p"] == pytest.approx(ttest_rel(first, second).pvalue)


def test_the_figure_is_an_svg_that_repeats(document: dict[str, Any], tmp_path: Path) -> None:
    places = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for place in places:
        draw_figure(document, place)
    assert places[0].read_bytes() == places[1].read_bytes()
    ElementTree.parse(places[0])
    text = places[0].read_text()
    assert all(told in text for told in (*RULES, "mean of 4 seeds", "held-out error"))


def test_a_rate_at_which_nets_run_away_is_out() -> None:
    found = prospective.prospective(replace(SMALL, seeds=1, rates=(1e30, 0.001), iterations=2))
    for grid, row in zip(found["grid"], found["rows"], strict=True):
        assert finite(grid["held_out_error"][0]) is None
        assert row["rate"] == 0.001
    with pytest.raises(DivergedError, match="at every rate"):
        prospective.prospective(replace(SMALL, seeds=1, rates=(1e30,), iterations=2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rates": ()}, "--rates"),
        ({"rates": (0.1, 0.1)}, "each once"),
        ({"gain": 0.0}, "--gain"),
        ({"data": "mqar"}, "two tasks"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        prospective.prospective(replace(SMALL, **change))
    assert "\n" not in str(caught.value)


def test_the_committed_result_is_the_papers_setting() -> None:
    place = Path(prospective.__file__).parents[1] / "results" / "continual" / "prospective-configuration.json"
    if not place.is_file():
        pytest.skip("no committed result")
    found = json.loads(place.read_text())
    assert found["setting"] == json.loads(json.dumps(asdict(Setting())))
    for grid, row in zip(found["grid"], found["rows"], strict=True):
        errors = [np.inf if error is None else error for error in grid["held_out_error"]]
        assert row["rate"] == grid["rates"][int(np.argmin(errors))]
        assert (len(row["values"]), np.shape(row["curve"])) == (21, (84, 2))
    first, second = (row["values"] for row in found["rows"])
    assert found["difference"]["p"] == pytest.approx(ttest_rel(first, second).pvalue)
    assert place.with_suffix(".svg").is_file()
