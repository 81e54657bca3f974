"""The arena's command, on recipes that train in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baselines import arena

RECIPE = """
[task]
name = "digits"
[trainer]
steps = 3
batch_size = 8
[models."transformer:width=16"]
layers = 1
[models.mlp]
width = 16
[rules.backprop]
[compare]
seeds = 2
rows = ["transformer:width=16 / backprop", "mlp / backprop"]
"""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    missing = tmp_path / "missing.toml"
    missing.write_text('[task]\nname = "sst2"\n[rules.backprop]\n[models.mlp]\n')
    monkeypatch.setattr(arena, "SHORT", {"listops": str(path), "text": str(missing)})


def test_it_trains_every_task_it_finds_data_for_and_goes_on_where_it_stopped(neurons) -> None:
    result = neurons("lra", "all", "--short", "--match", "steps", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert "best trivial reader" in result.stdout
    assert "no published row applies" in result.stdout
    assert "text: left out." in result.stderr
    document = json.loads(Path("runs/lra-short/lra.json").read_text())
    assert list(document["tasks"]) == ["listops"]
    assert set(document["left_out"]) == {"text"}
    assert {row["label"] for row in document["rows"]} == {"transformer:width=16 / backprop", "mlp / backprop"}
    assert Path("runs/lra-short/lra.html").is_file()
    assert Path("runs/lra-short/listops/report.html").is_file()
    before = Path("runs/lra-short/listops/runs/mlp-backprop-s0/result.json").stat().st_mtime_ns
    again = neurons("lra", "listops", "--short", "--match", "steps", "--threads", "1", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["rows"] == document["rows"]
    assert Path("runs/lra-short/listops/runs/mlp-backprop-s0/result.json").stat().st_mtime_ns == before


def test_a_run_that_failed_is_exit_1_after_the_table(neurons) -> None:
    rules = ("--rules", "backprop,predictive-coding:inference_rate=1e9", "--models", "mlp:width=8", "--seeds", "1")
    result = neurons("lra", "listops", "--short", "--match", "steps", "--threads", "1", *rules)
    assert result.exit_code == 1
    assert "best trivial reader" in result.stdout
    assert "Error: runs failed: listops, mlp:width=8 / predictive-coding:inference_rate=" in result.stderr


def test_a_task_alone_without_its_data_ends_with_the_data_error(neurons) -> None:
    result = neurons("lra", "text", "--short")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_the_dry_run_names_recipes_rows_and_steps(neurons) -> None:
    result = neurons("lra", "listops", "--short", "--dry-run", "--seeds", "4", "--steps", "9")
    assert result.exit_code == 0, result.stderr
    assert "mlp / backprop" in result.stdout
    plan = json.loads(neurons("lra", "listops", "--short", "--dry-run", "--seeds", "4", "--json").stdout)
    assert plan["tasks"][0] | {"recipe": ""} == {
        "task": "listops", "recipe": "", "labels": ["transformer:width=16 / backprop", "mlp / backprop"],
        "seeds": [0, 1, 2, 3], "steps": 3, "runs": 8,
    }  # fmt: skip
    assert not Path("runs").exists()


def test_one_folder_does_not_mix_short_forms_with_the_tasks_themselves(neurons) -> None:
    Path("here/text").mkdir(parents=True)
    Path("here/text/compare.json").write_text(json.dumps({"recipe": "lra-text"}))
    result = neurons("lra", "listops", "--short", "--out", "here")
    assert result.exit_code == 2
    assert result.stderr == "Error: 'here/text' holds 'lra-text', not a short form. Choose another --out\n"
    assert not Path("here/listops").exists()


def test_a_wrong_task_is_one_line_with_the_nearest(neurons) -> None:
    result = neurons("lra", "listop", "--short")
    assert result.exit_code == 2
    assert "Did you mean 'listops'" in result.stderr
