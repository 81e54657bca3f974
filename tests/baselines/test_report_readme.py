"""README.md's results are what results/ holds, and --check notices when they are not."""

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


def test_it_writes_every_comparison_sorted_by_name_and_nothing_else(root: Path) -> None:
    assert readme_table.main(["--root", str(root)]) == 0
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# neurons\n\nbefore\n\n<!-- results:start -->\n")
    assert text.endswith("\n<!-- results:end -->\n\nafter\n")
    assert "stale" not in text
    assert text.index("### ant") < text.index(report.markdown_table(documents.full())) < text.index("### zebra")
    assert text.index("### zebra") < text.index(report.markdown_table(documents.bare()))
    assert text.count("### ") == 2
    for part in (
        documents.full()["verdict"],
        documents.full()["command"],
        "split `9f2c41d07be8a356`",
        "> Warning: transformer",
    ):
        assert part in text


def test_check_writes_nothing_and_fails_until_it_is_current(root: Path) -> None:
    assert readme_table.main(["--check", "--root", str(root)]) == 1
    assert (root / "README.md").read_text(encoding="utf-8") == README
    assert readme_table.main(["--root", str(root)]) == 0
    assert readme_table.main(["--check", "--root", str(root)]) == 0
    document = documents.full()
    document["rows"][0]["value"]["mean"] += 0.01
    (root / "results" / "ant" / "compare.json").write_text(json.dumps(document))
    assert readme_table.main(["--check", "--root", str(root)]) == 1


def test_no_results_is_said(root: Path) -> None:
    assert readme_table.section(root / "nowhere") == "No results yet: `neurons compare` writes them."


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
