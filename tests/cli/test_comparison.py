"""What a comparison looks like in the terminal."""

from __future__ import annotations

import pytest
from documents import comparison, row, taken_apart

from cli.comparison import best_labels, comparison_text


def line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("* ").startswith(start))


def test_the_verdict_comes_first_and_floors_stand_beneath_the_rows():
    text = comparison_text(comparison(), None)
    lines = text.splitlines()
    assert lines[0] == "transformer / backprop is ahead by 9.0 points."
    order = [
        lines.index(line(text, start))
        for start in ("transformer / b", "mlp / odd", "---", "floor majority", "floor nb-svm")
    ]
    assert order[1:] == sorted(order[1:])
    assert lines.index(line(text, "model / rule")) < order[1]
    assert "82.0 %" in line(text, "floor nb-svm")


def test_a_row_holds_value_interval_cost_and_cosine():
    told = line(comparison_text(comparison(), None), "neuronsv2 / predictive-coding ")
    for part in ("81.0 ± 2.0 %", "80.0 %", "10.0 k", "77", "61 s", "500", "9", "0.987", "yes"):
        assert part in told


@pytest.mark.parametrize(
    ("higher", "best"), [(True, "transformer / backprop"), (False, "neuronsv2 / predictive-coding")]
)
def test_the_best_mean_is_marked_and_controls_do_not_compete(higher, best):
    document = comparison(primary={"name": "accuracy", "higher_is_better": higher})
    assert best_labels(document) == {best}
    marked = [one for one in comparison_text(document, None).splitlines() if one.startswith("*")]
    assert "* best mean" in marked
    assert [text[1:].strip().split("  ")[0] for text in marked if text != "* best mean"] == [best]


def test_ties_are_all_marked():
    rows = [row("a / backprop", 0.5), row("b / backprop", 0.5), row("c / backprop", 0.4)]
    assert best_labels(comparison(rows=rows)) == {"a / backprop", "b / backprop"}


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_table_fits_and_names_what_it_left_out(width):
    document = comparison()
    text = comparison_text(document, width)
    table = text[text.index("model / rule") : text.index("too wide")] if "too wide" in text else text
    assert max(len(one) for one in table.splitlines()) <= width
    assert "81.0 ± 2.0 %" in text
    assert ("samples/s" in text.split("too wide")[0]) == (width == 140)


def test_what_could_not_run_is_told_with_its_reason():
    text = comparison_text(comparison(), None)
    assert "n/a" in line(text, "mlp / odd")
    assert "warning: mlp / odd: cannot train a plain mlp" in text


def test_requirements_and_warnings_are_told():
    unmet = {"expression": "a > b", "met": False, "difference": -0.05, "low": -0.08, "high": -0.02}
    text = comparison_text(comparison(requirements=[unmet]), None)
    assert "require a > b: NOT met, difference −5.0 [−8.0, −2.0]" in text
    assert "warning: neuronsv2 is below a floor" in text


def test_components_are_told_with_difference_interval_and_outcome():
    text = comparison_text(taken_apart(), None)
    table = text[text.index("component") :].splitlines()
    assert [one.split("  ")[0] for one in table[1:4]] == ["line", "knot", "heart"]
    for part in ("75.0 ± 2.0 %", "+5.0", "[+2.0, +8.0]", "3", "0.0123", "9 k", "42 s", "earns its place"):
        assert part in table[1]
    assert table[2].endswith("interval around 0")
    assert table[3].strip() == "heart"
    assert "rule" not in table[0]
    assert "Off in the full model already: wings." in table
    assert text.count("line (+5.0 points) earns its place") == 1
    assert "component" not in comparison_text(comparison(), None)


def test_components_of_several_rules_are_told_apart_and_the_verdict_is_not_lost():
    document = taken_apart(verdict="m / r is ahead.")
    extra = document["ablations"]["components"][0] | {"rule": "q", "full": "m / q", "without": "m - line / q"}
    document["ablations"]["components"].append(extra)
    document["rows"].append(row("m - line / q", 0.7))
    text = comparison_text(document, None)
    assert text.splitlines()[0] == "m / r is ahead."
    table = text[text.index("component") :].splitlines()
    assert table[0].split()[:2] == ["component", "rule"]
    assert table[4].split()[:3] == ["line", "q", "70.0"]
    assert "line (+5.0 points) earns its place; knot has an" in text


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_of_components_fits(width):
    text = comparison_text(taken_apart(warnings=[]), width)
    assert max(map(len, text[text.index("component") :].splitlines())) <= width
    assert "[+2.0, +8.0]" in text


def test_one_seed_shows_no_interval():
    only = row("a / backprop", 0.5, n=1, value={"mean": 0.5, "low": None, "high": None, "values": [0.5]})
    text = comparison_text(comparison(rows=[only], seeds=[0]), None)
    assert "±" not in text
    assert "50.0 %" in line(text, "a / backprop")
    assert "1 seed ·" in text
