"""README.md and docs/results.md hold what results/ holds, and --check notices when they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_documents as documents

from baselines import readme_table, report

README = "# neurons\n\nbefore\n\n<!-- results:start -->\nstale\n<!-- results:end -->\n\nafter\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "results" / "ant").mkdir(parents=True)
    (tmp_path / "results" / "ant" / "compare.json").write_text(json.dumps(documents.full()))
    (tmp_path / "results" / "zebra.json").write_text(json.dumps(documents.bare()))
    (tmp_path / "results" / "speed.json").write_text(json.dumps({"schema": 1, "kind": "bench"}))
    return tmp_path


def test_the_readme_has_a_line_per_comparison_sorted_by_name_and_nothing_else(root: Path) -> None:
    assert readme_table.main(["--root", str(root)]) == 0
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# neurons\n\nbefore\n\n<!-- results:start -->\n")
    assert text.endswith("\n<!-- results:end -->\n\nafter\n")
    assert "stale" not in text
    ant, zebra = (line for line in text.splitlines() if line.startswith("| ["))
    assert ant.startswith(f"| [ant](docs/results.md#ant) | {documents.full()['verdict']} | ")
    assert zebra.startswith("| [zebra](docs/results.md#zebra) | ")


@pytest.mark.parametrize(("higher", "best"), [(True, "second 20.0 %"), (False, "first 10.0 %")])
def test_the_best_floor_is_the_one_hardest_to_reach(root: Path, higher: bool, best: str) -> None:
    document = documents.full() | {"floors": {"first": 0.1, "second": 0.2}}
    document["primary"] = {"name": "accuracy", "higher_is_better": higher}
    (root / "results" / "ant" / "compare.json").write_text(json.dumps(document))
    told = readme_table.summary(root / "results").splitlines()
    assert next(line for line in told if "[ant]" in line).endswith(f" | {best} |")


def test_the_document_has_every_comparison_in_full(root: Path) -> None:
    assert readme_table.main(["--root", str(root)]) == 0
    text = (root / "docs" / "results.md").read_text(encoding="utf-8")
    assert text.index("## ant") < text.index(report.markdown_table(documents.full())) < text.index("## zebra")
    assert text.index("## zebra") < text.index(report.markdown_table(documents.bare()))
    assert text.count("## ") == 2
    for part in (
        documents.full()["verdict"],
        documents.full()["command"],
        "split `9f2c41d07be8a356`",
        "> Warning: transformer",
    ):
        assert part in text


def test_an_arena_is_one_table_of_its_tasks(root: Path) -> None:
    value = {"mean": 0.5, "low": 0.45, "high": 0.55}
    document = {
        "kind": "lra",
        "tasks": {"listops": {"name": "listops-short"}, "text": {"name": "lra-text-short"}},
        "rows": [
            {"label": "a / backprop", "values": {"listops": value, "text": None}, "average": None},
            {"label": "b / backprop", "values": {"listops": value, "text": value}, "average": 0.5},
        ],
        "floors": {"listops": {"name": "reader", "value": 0.4}, "text": None},
        "verdict": "b is ahead",
        "command": "neurons lra all",
    }
    (root / "results" / "lra-short").mkdir()
    (root / "results" / "lra-short" / "lra.json").write_text(json.dumps(document))
    told = readme_table.summary(root / "results")
    assert "### lra-short\n\nb is ahead.\n" in told
    assert "| model / rule | listops-short | lra-text-short | average |" in told
    assert "| a / backprop | 50.0 ± 5.0 % | n/a | n/a |" in told
    assert "| b / backprop | 50.0 ± 5.0 % | 50.0 ± 5.0 % | 50.0 % |" in told
    assert "| *best trivial reader* | 40.0 % reader | n/a |  |" in told


def test_streams_have_a_line_each_and_one_table(root: Path) -> None:
    value = {"mean": 0.9, "low": 0.89, "high": 0.91}
    row = {"label": "replay", "memory": {"state": 1024, "buffer": 1024}, "acc": value, "forgetting": value}
    document = {"kind": "continual", "stream": "split-x", "scenario": "class", "seeds": [0, 1], "verdict": "so it is."}
    (root / "results" / "continual").mkdir()
    path = root / "results" / "continual" / "split.json"
    path.write_text(json.dumps(document | {"rows": [row, row | {"label": "xdg", "sees_task_id": True}]}))
    (root / "results" / "continual" / "other.json").write_text(json.dumps({"kind": "prospective"}))
    assert "| [split](docs/results.md#streams) | On split-x, so it is. |  |" in readme_table.summary(root / "results")
    told = readme_table.full(root / "results")
    assert "## Streams" in told
    assert "| split-x | class | replay | 90.0 ± 1.0 % | 90.0 ± 1.0 % | 2 KiB | 2 |" in told
    assert "| split-x | class | xdg *(told the task)* |" in told


def test_check_writes_nothing_and_fails_until_both_are_current(root: Path) -> None:
    assert readme_table.main(["--check", "--root", str(root)]) == 1
    assert (root / "README.md").read_text(encoding="utf-8") == README
    assert not (root / "docs").exists()
    assert readme_table.main(["--root", str(root)]) == 0
    assert readme_table.main(["--check", "--root", str(root)]) == 0
    (root / "docs" / "results.md").write_text("stale")
    assert readme_table.main(["--check", "--root", str(root)]) == 1
    assert readme_table.main(["--root", str(root)]) == 0
    document = documents.full()
    document["verdict"] = "something else"
    (root / "results" / "ant" / "compare.json").write_text(json.dumps(document))
    assert readme_table.main(["--check", "--root", str(root)]) == 1


def test_no_results_is_said(root: Path) -> None:
    assert readme_table.summary(root / "nowhere") == "No results yet: `neurons compare` writes them."


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("README.md", "no markers", 2, "needs one line <!-- results:start -->"),
        ("README.md", "<!-- results:end --> <!-- results:start -->", 2, "needs one line <!-- results:start -->"),
        ("results/broken.json", "{", 4, "broken.json is not a JSON document"),
        ("results/ant/compare.json", "{}", 4, "compare.json is no comparison"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, code: int, says: str
) -> None:
    (root / name).write_text(content)
    assert readme_table.main(["--root", str(root)]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_folder_without_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert readme_table.main(["--root", str(tmp_path)]) == 2
    assert "README.md" in capsys.readouterr().err
