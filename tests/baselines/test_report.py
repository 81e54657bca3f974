"""The report's page, read back by Python's own HTML parser and held against the document it was made from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report_documents as documents
from html_page import Page

from baselines import report, report_figures, report_svg, report_table
from neurons.errors import RunError

SCALE = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
         "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "%": 0.01, "/s": 1, "k/s": 1e3, "M/s": 1e6}  # fmt: skip


def read(text: str) -> float:
    """The number that a reader sees, in base units; written independently of report_format."""
    match = re.fullmatch(r"([+−]?[\d.]+(?:e[+−]\d+)?) ?([A-Za-zµ%/]*)", text)
    assert match, f"not a number: {text!r}"
    return float(match[1].replace("−", "-")) * SCALE[match[2]]


def at(row: dict[str, Any], key: str) -> Any:
    value: Any = row
    for part in key.split("."):
        value = (value or {}).get(part)
    return value


@pytest.fixture(scope="module")
def html() -> str:
    return report.page(documents.full())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_needs_nothing_else(html: str, page: Page) -> None:
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in page.seen)
    for tag, attributes in page.seen:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                assert str(value).startswith("#"), f"{tag} {name}={value}"
    assert re.findall(r"url\((?!#)|@import|https?:", html) == []


def test_ids_are_unique_and_every_reference_is_there(html: str, page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


def test_verdict_first_then_warnings_then_the_rest(page: Page) -> None:
    text, document = "".join(page.text), documents.full()
    places = [
        text.index(part) for part in (document["verdict"], document["warnings"][0], "Results", "Figures", "Protocol")
    ]
    assert places == sorted(places)
    wanted = [row["label"] for row in document["rows"]] + list(document["floors"]) + list(document["task"].values())
    wanted += [
        document["command"],
        document["env"]["git_revision"],
        document["requirements"][0]["expression"],
        "not met",
    ]
    wanted += ["stages share a tensor, which Z-IL cannot relax", "equal steps: 3000 steps"]
    wanted += ["time ∝ length^1.04 [0.99, 1.09]", "time ∝ length^1.93 [1.88, 1.98]"]
    for part in wanted:
        assert part in text, part


RESULTS = (
    "parameters.non_embedding",
    "parameters.attention",
    "cosine_to_backprop.end",
    "stationarity",
    "held_out.mean",
    "value.mean",
)
COST = ("train.seconds", "train.steps", "passes", "train.samples_per_second", "cost.train_macs", "cost.inference_macs",
        "inference.latency_ms", "inference.samples_per_second", "memory.peak_bytes", "memory.saved_activation_bytes",
        "attention_scaling.exponent")  # fmt: skip


@pytest.mark.parametrize(("table", "keys"), [("results", RESULTS), ("cost", COST)])
def test_every_number_in_the_tables_is_the_documents(page: Page, table: str, keys: tuple[str, ...]) -> None:
    for row in documents.full()["rows"]:
        if row.get("unsupported"):
            assert row["label"] not in page.tables[table]
            continue
        cells = page.tables[table][row["label"]]
        assert {*cells} - {"difference"} == {key.removesuffix(".mean") for key in keys}
        for key in keys:
            shown, exact = cells[key.removesuffix(".mean")], at(row, key)
            if exact is None:
                assert shown == ["n/a"]
                continue
            exact = exact / 1000 if key.endswith("_ms") else exact
            assert read(shown[0]) == pytest.approx(exact, rel=0.005, abs=5.1e-4 if key.endswith("mean") else 0), key
        if table == "results":
            low, high = re.fullmatch(r"\[(.*), (.*)\]", cells["value"][1]).groups()  # type: ignore[union-attr]
            assert [float(low), float(high)] == pytest.approx(
                [100 * row["value"]["low"], 100 * row["value"]["high"]], abs=0.051
            )
            seeds = [float(seed) for seed in cells["value"][2].split(" · ")]
            assert seeds == pytest.approx([100 * value for value in row["value"]["values"]], abs=0.051)
            assert cells["cosine_to_backprop.end"][1] == f"untrained {row['cosine_to_backprop']['start']:.3g}"


def test_floors_are_rows_of_their_own(page: Page) -> None:
    for name, value in documents.full()["floors"].items():
        assert read(page.tables["results"][name]["value"][0]) == pytest.approx(value, abs=5.1e-4)


def test_the_difference_is_to_the_baselines_backprop_and_turned_round_where_need_be(page: Page) -> None:
    document, cells = documents.full(), page.tables["results"]
    means = {row["label"]: row["value"]["mean"] for row in document["rows"] if row["n"]}
    assert cells["transformer / backprop"]["difference"] == ["reference"]
    for label in ("neuronsv2 / backprop", "transformer / predictive-coding"):  # stands first in its pair; stands second
        gap = 100 * (means[label] - means["transformer / backprop"])
        main, ends = cells[label]["difference"]
        assert read(main) == pytest.approx(gap, abs=0.051)
        low, high = (read(end) for end in ends.strip("[]").split(", "))
        assert [low, high] == pytest.approx([gap - 1.13, gap + 1.13], abs=0.051)
    assert cells["neuronsv2 / predictive-coding"]["difference"] == ["n/a"]  # the document has no such pair


def test_every_pair_and_every_run_is_listed(page: Page) -> None:
    document = documents.full()
    body = "".join(page.text)
    assert all(f"{pair['a']} " in body for pair in document["pairs"])
    assert f"Every run ({len(document['results'])})" in body
    assert sum(tag == "tr" for tag, _ in page.seen) == 4 + 2 * 6 + 3 + len(document["pairs"]) + len(document["results"])


def test_control_rows_are_marked(html: str) -> None:
    rows = re.findall(r'<tr class="control">.*?</tr>', html)
    assert len(rows) == 2  # results and cost
    assert all("variant=zil" in row and '<span class="badge control">control</span>' in row for row in rows)


def test_everything_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"&"
    document = documents.full()
    row = document["rows"][0]
    document["curves"][f"{evil} / backprop"] = document["curves"].pop(row["label"])
    row |= {"label": f"{evil} / backprop", "model": evil}
    document["rows"][-1]["unsupported"] = evil
    document |= {"verdict": evil, "warnings": [evil], "command": evil, "floors": {evil: 0.8}, "env": {evil: evil}}
    document["task"] = {"name": evil, "protocol": evil, "split_hash": evil, "data_source": evil}
    document["pairs"] = [{"a": evil, "b": evil, "difference": 0.1, "low": None, "high": None, "n": 2, "p": 0.5}]
    document["requirements"] = [{"expression": evil, "met": True, "difference": 0.1, "low": 0.05, "high": 0.2}]
    document["results"][0] |= {"model": {"name": evil}, "warnings": [evil], "stopped_by": evil}
    page = Page(report.page(document))
    assert "script" not in {tag for tag, _ in page.seen}
    assert "".join(page.text).count(evil) >= 14


def test_the_bytes_depend_on_the_document_alone(html: str, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("xtick.major.size: 21\naxes.linewidth: 9\n")
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import report_documents; from baselines import report;"
        "report.write(report_documents.full(), pathlib.Path(sys.argv[2]))"
    )
    out = tmp_path / "deep" / "report.html"
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(Path(__file__).parent), str(out)], check=True, env=env
    )
    assert out.read_bytes() == html.encode()
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="cannot write"):
        report.write(documents.bare(), tmp_path / "file" / "report.html")
    assert (tmp_path / "file").read_text() == "mine"


def test_one_seed_and_nothing_else() -> None:
    page = Page(report.page(documents.bare()))
    cells = page.tables["results"]["mlp / backprop"]
    assert cells["value"] == ["31.42", "31.42"]
    assert page.tables["cost"]["mlp / backprop"]["train.seconds"] == ["n/a"]
    text = "".join(page.text)
    assert "One seed has no interval" in text
    assert "Figures" not in text
    assert "lower is better" in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


@pytest.mark.parametrize(
    "gone", ["rows", "curves", "floors", "pairs", "env", "results", "verdict", "task", "budget", "seeds", "warnings"]
)
@pytest.mark.parametrize("how", [None, {}])
def test_a_missing_piece_is_left_out(gone: str, how: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "figures", lambda compare, style: [])  # they have their own test, and take their time
    document = documents.full() | {gone: how}
    if gone == "rows":
        document |= {"pairs": []}
    assert Page(report.page(document)).tables["results"] is not None


def _one_point(point: dict[str, Any]) -> dict[str, Any]:
    return {"neuronsv2 / backprop": [{"seed": 0, "points": [point]}]}


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        ({"curves": {}}, 3),
        ({"rows": []}, 0),
        ({"floors": {"底线 $x$": 0.8, "nan": float("nan"), "none": None}}, 5),
        ({"curves": _one_point({"step": 0, "seconds": None, "loss": 1.0, "value": 0.5})}, 4),
        ({"curves": _one_point({"step": 0, "seconds": 0.0, "value": float("nan")})}, 3),
        ({"primary": {"name": "loss", "higher_is_better": False}}, 5),
    ],
)  # fmt: skip
def test_figures_are_drawn_from_what_there_is(change: dict[str, Any], figures: int) -> None:
    document = documents.full() | change
    drawn = report_figures.figures(document, report_svg.looks(document["rows"]))
    assert len(drawn) == figures
    for one in drawn:
        assert "NaN" not in one.svg
        assert "底线 $x$" not in change.get("floors", {}) or "Attention" in one.title or ">底线 $x$</text>" in one.svg
        assert "nan" not in one.svg.replace(">↓ nan", "")


def test_without_pairs_there_is_no_reference() -> None:
    assert report_table.reference(documents.bare()) is None
    assert report_table.to_reference(documents.bare(), "mlp / backprop") is None


def test_markdown_reads_back() -> None:
    document = documents.full()
    lines = report.markdown_table(document).split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {len(row) for row in cells} == {9}
    assert len(cells) == 2 + len(document["rows"]) + len(document["floors"])
    for row, shown in zip(document["rows"], cells[2:], strict=False):
        assert shown[0] == row["model"]
        if row["n"] == 0:
            assert shown[2] == "n/a: stages share a tensor, which Z-IL cannot relax"
            continue
        mean, half = (float(part) for part in shown[2].removesuffix(" %").split(" ± "))
        assert mean == pytest.approx(100 * row["value"]["mean"], abs=0.051)
        assert half == pytest.approx(100 * (row["value"]["high"] - row["value"]["low"]) / 2, abs=0.051)
        wanted = [row["n"], row["parameters"]["non_embedding"], row["parameters"]["attention"], row["train"]["seconds"],
                  row["inference"]["latency_ms"], row["cosine_to_backprop"]["end"]]  # fmt: skip
        assert [read(text) for text in shown[3:]] == pytest.approx(wanted, rel=0.005)
        assert ("*(control)*" in shown[1]) == row["control"]
    floors = {row[0].removeprefix("*floor:* "): read(row[2]) for row in cells[2 + len(document["rows"]) :]}
    assert floors == pytest.approx(document["floors"], abs=5.1e-4)


def test_markdown_cannot_be_broken_by_a_name() -> None:
    document = documents.bare()
    document["rows"][0] |= {"model": "a|b\n<b>", "label": "a|b\n<b> / backprop"}
    assert report.markdown_table(document).split("\n")[2].startswith("| a\\|b &lt;b&gt; | backprop | 31.42 | 1 |")
