"""How numbers are written; every expectation was written by hand."""

from __future__ import annotations

import pytest

from baselines import report_format as fmt

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.0, "1"), (2.899, "2.90"), (0.5, "0.5"), (12.04, "12.0"), (99.96, "100"), (0.00173, "0.00173"),
        (0.0149996, "0.0150"), (9.996, "10.0"), (0.099951, "0.100"),
        (12345.6, "12346"), (1234567, "1.23e+06"), (-3.25, "−3.25"), (1e-9, "1.00e−09"), (None, "n/a"), (NAN, "n/a"),
        (float("inf"), "n/a"), ("3", "n/a"), (True, "n/a"),
    ],
)  # fmt: skip
def test_number(value: object, text: str) -> None:
    assert fmt.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (812, "812"), (999.6, "1.00 k"), (1300, "1.3 k"), (263_170, "263 k"), (4.117e13, "41.2 T")],
)
def test_count(value: float, text: str) -> None:
    assert fmt.count(value) == text


def test_count_with_a_unit() -> None:
    assert [fmt.count(304, "/s"), fmt.count(1337, "/s"), fmt.count(None, "/s")] == ["304 /s", "1.34 k/s", "n/a"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (12 << 20, "12 MiB"), (NAN, "n/a")]
)
def test_size(value: float, text: str) -> None:
    assert fmt.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (4.5e-5, "45 µs"),
        (0.00321, "3.21 ms"),
        (41.2, "41.2 s"),
        (744, "12.4 min"),
        (11160, "3.1 h"),
        (None, "n/a"),
    ],
)
def test_seconds(value: object, text: str) -> None:
    assert fmt.seconds(value) == text


def test_a_primary_value_is_in_per_cent_only_where_it_is_a_fraction() -> None:
    assert [fmt.metric(0.81234, "accuracy"), fmt.metric(0.81234, "balanced_accuracy")] == ["81.2 %"] * 2
    assert [fmt.metric(0.81234, "loss"), fmt.metric(31.4159, "perplexity"), fmt.metric(NAN, "accuracy")] == [
        "0.8123",
        "31.42",
        "n/a",
    ]


def test_differences_carry_their_sign() -> None:
    values = [fmt.difference(value, "accuracy") for value in (0.0123, -0.0123, 0.0, -0.0001, None)]
    assert values == ["+1.2", "−1.2", "0.0", "0.0", "n/a"]
    assert [fmt.difference(0.25, "loss"), fmt.difference(-31.4159, "perplexity")] == ["+0.25", "−31.42"]


def test_intervals() -> None:
    assert fmt.interval(0.799, 0.826, "accuracy") == "[79.9, 82.6]"
    assert fmt.interval(-0.02, 0.001, "accuracy", signed=True) == "[−2.0, +0.1]"
    assert [fmt.interval(None, 0.8, "accuracy"), fmt.interval(0.8, NAN, "accuracy")] == ["", ""]


def test_plus_minus() -> None:
    assert fmt.plus_minus({"mean": 0.812, "low": 0.799, "high": 0.825}, "accuracy") == "81.2 ± 1.3 %"
    assert fmt.plus_minus({"mean": 2.0, "low": 1.5, "high": 2.5}, "loss") == "2 ± 0.5"
    assert fmt.plus_minus({"mean": 0.9, "low": 0.7, "high": 0.95}, "accuracy") == "90.0 % [70.0, 95.0]"
    assert fmt.plus_minus({"mean": 0.812, "low": None, "high": None}, "accuracy") == "81.2 %"
    assert fmt.plus_minus(None, "accuracy") == "n/a"


def test_the_rule_of_a_row_is_what_its_label_says() -> None:
    row = {"label": "mlp / predictive-coding:variant=zil", "model": "mlp", "rule": "predictive-coding"}
    assert fmt.rule_of(row) == "predictive-coding:variant=zil"
    assert fmt.rule_of(row | {"label": "something else"}) == "predictive-coding"
