"""What a comparison says of its results, from hand-made ones."""

import pytest
from scipy import stats

from baselines.config import Resolved
from baselines.rows import difference, make_row, pairs, requirement, sides, verdict, warnings
from neurons.errors import UsageError


def result(value, seed, *, held_out=0.5, stationarity=None, steps=10):
    metrics = {"held_out": held_out, "cosine_to_backprop_start": 1.0, "cosine_to_backprop": 0.9, "rule_passes": 5}
    if stationarity is not None:
        metrics["rule_stationarity"] = stationarity
    return {
        "seed": seed,
        "primary": {"name": "accuracy", "value": value},
        "metrics": metrics,
        "rule": {"config": {}, "local": True},
        "model": {"parameters": {"total": 1}},
        "train": {"seconds": 2.0, "steps": steps, "samples_per_second": 3.0, "tokens_per_second": 4.0},
        "inference": {"latency_ms": 1.0, "samples_per_second": 2.0},
        "memory": {"peak_bytes": 10 + seed, "saved_activation_bytes": 5},
        "cost": {"train_macs": 100.0, "inference_macs": 7.0},
        "warnings": [],
    }


def row(label, values, **keywords):
    runs = [(Resolved({}, {}, label), result(value, seed, **keywords)) for seed, value in values.items()]
    return make_row(label, runs)


def document(*rows):
    return {"primary": {"name": "accuracy"}, "task": {"name": "digits"}, "rows": list(rows)}


A = {0: 0.90, 1: 0.92, 2: 0.91}
B = {0: 0.80, 1: 0.83, 2: 0.80}


def test_a_row_is_means_over_seeds():
    found = row("a / r", A)
    assert found["value"]["mean"] == pytest.approx(0.91)
    assert found["value"]["values"] == [0.90, 0.92, 0.91]
    assert found["memory"]["peak_bytes"] == 12
    assert found["stationarity"] is None


def test_failed_seeds_leave_a_reason_and_the_others_count():
    one, two = Resolved({}, {}, "a / r"), Resolved({}, {}, "a / r")
    found = make_row("a / r", [(one, result(0.5, 0)), (two, None)], failed="seed 1 failed: diverged")
    assert (found["n"], found["seeds"], found["unsupported"]) == (1, [0], None)
    assert "seed 1 failed" in warnings([found], {}, [], "steps")[1]
    nothing = make_row("a / r", [(one, None)], failed="diverged")
    assert (nothing["n"], nothing["unsupported"], nothing["failed"]) == (0, "diverged", "diverged")


def test_a_difference_pairs_shared_seeds_as_scipy_does():
    told = difference(row("a / r", A), row("b / r", {2: 0.80, 1: 0.83, 0: 0.80, 7: 0.1}))
    reference = stats.ttest_rel([A[s] for s in (0, 1, 2)], [B[s] for s in (0, 1, 2)])
    assert told["n"] == 3
    assert told["p"] == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    assert (told["low"], told["high"]) == pytest.approx((interval.low, interval.high))


def test_pairs_are_all_pairs_with_a_seed_in_common():
    rows = [row("a / r", A), row("a / q", A), row("b / r", B), row("c / r", {9: 0.5})]
    found = {(pair["a"], pair["b"]) for pair in pairs(rows)}
    assert found == {("a / r", "a / q"), ("a / r", "b / r"), ("a / q", "b / r")}


def test_requirements_need_the_lower_bound():
    rows = [row("a / r", A), row("b / r", B), row("c / r", {0: 0.80, 1: 0.95, 2: 0.80})]
    assert requirement("a > b", rows)["met"]
    assert not requirement("b > a", rows)["met"]
    assert not requirement("c > b", rows)["met"]
    assert sides("a / r > b", ["a / r", "b / r"]) == ("a / r", "b / r")
    with pytest.raises(UsageError, match="takes 'a > b'"):
        sides("a", ["a / r"])
    with pytest.raises(UsageError, match="no row 'nope'"):
        sides("nope > a", ["a / r"])


def test_the_verdict_carries_its_interval_and_selects_on_held_out():
    ahead = verdict(document(row("a / r", A), row("b / r", B)))
    assert "a / r is ahead of b / r by 10.0 points" in ahead
    assert "3 seeds" in ahead
    assert "is behind" in verdict(document(row("b / r", B), row("a / r", A)))
    same = verdict(document(row("a / r", A), row("b / r", {0: 0.80, 1: 0.99, 2: 0.93})))
    assert "cannot be told apart" in same
    chosen = verdict(document(row("a / r", A, held_out=0.1), row("a / q", B, held_out=0.9), row("b / r", B)))
    assert "a / q" in chosen
    assert "a / r" not in chosen
    assert "no interval" in verdict(document(row("a / r", {0: 0.9}), row("b / r", {0: 0.8})))


def test_warnings_name_floors_seeds_and_settling():
    rows = [row("a / r", A, stationarity=0.5), row("b / r", B, steps=20)]
    found = " | ".join(warnings(rows, {"nb-svm": 0.85}, [], "steps"))
    assert "fewer than 3" not in found
    assert "2 seeds: fewer than 3" in " ".join(warnings([row("a / r", {0: 0.9, 1: 0.8})], {}, [], "steps"))
    assert "b / r (0.810) is below a floor: nb-svm 0.850" in found
    assert "a / r (" not in found
    assert "a / r did not settle" in found
    assert "budgets differ: train steps from 10 to 20" in found
    assert "budgets" not in " ".join(warnings(rows, {}, [], "flops"))


def text_document(*rows):
    primary = {"name": "bits_per_byte", "higher_is_better": False}
    return {"primary": primary, "task": {"name": "stdlib"}, "rows": list(rows)}


def test_where_lower_is_better_the_lower_row_is_ahead_selects_and_is_told_in_bits():
    ahead = verdict(text_document(row("b / r", B), row("a / r", A)))
    assert "b / r is ahead of a / r by 0.100 bits per byte (lower is better), 95 % interval -0.1" in ahead
    assert "%" not in ahead.replace("95 %", "")
    assert "a / r is behind b / r" in verdict(text_document(row("a / r", A), row("b / r", B)))
    chosen = verdict(text_document(row("a / r", A, held_out=0.1), row("a / q", B, held_out=0.9), row("b / r", B)))
    assert "a / r" in chosen
    assert "a / q" not in chosen
    alone = verdict(text_document(row("a / r", {0: 1.25})))
    assert alone == "On stdlib, a / r reaches 1.25 bits per byte."
    two = verdict(text_document(row("a / r", {0: 1.25}), row("b / r", {0: 1.5})))
    assert two == "On stdlib, a / r reaches 1.25 and b / r 1.5 bits per byte; one seed shows no interval."


def test_where_lower_is_better_requirements_and_floors_turn_round():
    rows = [row("a / r", A), row("b / r", B)]
    assert requirement("b > a", rows, higher_is_better=False)["met"]
    assert not requirement("a > b", rows, higher_is_better=False)["met"]
    around = [row("a / r", A), row("c / r", {0: 0.80, 1: 0.95, 2: 0.80})]  # an interval around 0
    assert not requirement("c > a", around, higher_is_better=False)["met"]
    found = " | ".join(warnings(rows, {"kneser-ney": 0.85}, [], "steps", higher_is_better=False))
    assert "a / r (0.910) is worse than a floor: kneser-ney 0.850" in found
    assert "b / r" not in found
