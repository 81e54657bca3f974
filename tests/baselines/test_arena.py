"""The arena's table: hand-made comparisons with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from html_page import Page

from baselines import arena
from baselines.config import resolve_grid
from baselines.recipe import read_recipe
from baselines.report_arena import page, write
from neurons.errors import UsageError
from tasks import TASKS

OURS, REFERENCE, THIRD = "neuronsv2 / backprop", "transformer / backprop", "fnet / backprop"


def value(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "values": [mean]}


def comparison(means: dict[str, float], pairs: list[tuple[str, str, float, float]], **more: Any) -> dict[str, Any]:
    return {
        "task": {"name": "t", "protocol": "p", "split_hash": "h", "data_source": "d"},
        "seeds": [0, 1, 2],
        "rows": [{"label": label, "value": value(mean)} for label, mean in means.items()],
        "floors": {"majority": 0.1, "root-operator": 0.4},
        "pairs": [{"a": a, "b": b, "low": low, "high": high} for a, b, low, high in pairs],
        "warnings": [],
    } | more


def documents() -> dict[str, Any]:
    return {
        "listops": comparison({OURS: 0.5, REFERENCE: 0.4}, [(OURS, REFERENCE, 0.05, 0.15)]),
        "text": comparison({OURS: 0.6, REFERENCE: 0.8, THIRD: 0.7}, [(REFERENCE, OURS, 0.1, 0.3)], floors={}),
        "image": comparison({OURS: 0.3, REFERENCE: 0.3}, [(OURS, REFERENCE, -0.1, 0.1)], warnings=["at chance"]),
    }


def test_rows_say_on_how_many_tasks_they_are_ahead_whichever_way_a_pair_was_formed() -> None:
    found = arena.table(documents(), short=False)
    rows = {row["label"]: row for row in found["rows"]}
    assert rows[OURS]["against"] == {"ahead": 1, "level": 1, "behind": 1}
    assert rows[REFERENCE]["against"] is rows[THIRD]["against"] is None
    assert found["verdict"].startswith("Against transformer / backprop, of 3 tasks: neuronsv2 / backprop is ahead on 1")


def test_an_average_needs_every_task() -> None:
    rows = {row["label"]: row for row in arena.table(documents(), short=False)["rows"]}
    assert rows[OURS]["average"] == pytest.approx((0.5 + 0.6 + 0.3) / 3)
    assert rows[THIRD]["average"] is None


def test_the_best_floor_of_each_task_and_its_warnings_are_kept() -> None:
    found = arena.table(documents(), short=False)
    assert found["floors"]["listops"] == {"name": "root-operator", "value": 0.4}
    assert found["floors"]["text"] is None
    assert found["warnings"] == ["image: at chance"]


def test_published_rows_stand_only_beside_the_full_tasks() -> None:
    full, short = (arena.table(documents(), short=short)["published"] for short in (False, True))
    assert short == []
    mega = next(row for row in full if row["label"].startswith("Mega"))
    assert mega["accuracy"] == {"listops": 63.14, "text": 90.43, "image": 90.44}


@pytest.mark.parametrize(
    ("name", "average"),
    [("Transformer (Tay", 54.39), ("S4-v2", 85.86), ("S5", 87.46), ("Mega", 88.21), ("LRU", 86.3)],
)
def test_published_rows_have_the_published_averages(name: str, average: float) -> None:
    """The averages are printed in the same tables; a missing task is left out there too."""
    row = next(row for row in arena.PUBLISHED if row.name.startswith(name))
    known = [one for one in row.accuracy if one is not None]
    assert sum(known) / len(known) == pytest.approx(average, abs=0.051)


def test_one_task_or_all_and_a_wrong_name_is_told_the_nearest() -> None:
    assert list(arena.suite("all", short=False)) == list(arena.COLUMNS)
    assert arena.suite("text", short=True) == {"text": arena.SHORT["text"]}
    with pytest.raises(UsageError, match="Did you mean 'pathfinder'"):
        arena.suite("pathfinders", short=False)
    with pytest.raises(UsageError, match="no short form"):
        arena.suite("pathx", short=True)


def test_every_task_of_the_arena_has_its_recipe_and_no_short_form_goes_by_the_arenas_name() -> None:
    for recipes_of in (arena.FULL, arena.SHORT):
        for task, name in recipes_of.items():
            document, _ = read_recipe(name)
            entry = TASKS.entry(document["task"]["name"])
            assert (entry.name.endswith("-short")) == (recipes_of is arena.SHORT), task
            grid = resolve_grid(recipe=name, seeds=1)
            assert "transformer / backprop" in grid.labels


def test_the_page_is_well_formed_and_holds_every_number(tmp_path: Path) -> None:
    document = arena.table(documents(), short=False) | {
        "left_out": {"pathx": "<missing>"},
        "command": "neurons lra all",
    }
    write(document, tmp_path)
    text = (tmp_path / "lra.html").read_text()
    assert text == page(document)
    Page(text)  # its tags balance
    assert "&lt;missing&gt;" in text
    for told in ("50.0 %", "root-operator", "63.1", "neurons lra all", "image: at chance"):
        assert told in text
