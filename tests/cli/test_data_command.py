"""data and doctor."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import one_document


@pytest.fixture
def local(tmp_path: Path) -> str:
    """A data root that holds SST-2 as the hub lays it out: three rows of train, two of validation."""
    folder = tmp_path / "data" / "glue" / "sst2"
    folder.mkdir(parents=True)
    for split, rows in (("train", ["bad", "good", "fine"]), ("validation", ["awful", "great"])):
        pq.write_table(pa.table({"sentence": rows, "label": [0, 1, 1][: len(rows)]}), folder / f"{split}-00000.parquet")
    return str(tmp_path / "data")


def test_list_tells_what_is_here(neurons, local):
    found = {row["task"]: row for row in one_document(neurons("data", "list", "--data-dir", local, "--json"))["data"]}
    assert found["digits"]["built_in"]
    assert found["sst2"]["path"] == str(Path(local) / "glue")
    assert found["imdb"]["path"] is None
    assert (found["lra-retrieval"]["built_in"], found["lra-retrieval"]["path"]) == (False, None)
    lines = {line.split()[0]: line for line in neurons("data", "list", "--data-dir", local).stdout.splitlines()}
    assert "built in" in lines["digits"]
    assert str(Path(local) / "glue") in lines["sst2"]
    assert "not here" in lines["imdb"]
    assert "stanfordnlp/imdb" in lines["imdb"]


def test_path_prints_the_folder_or_exit_4(neurons, local, monkeypatch):
    assert neurons("data", "path", "sst2", "--data-dir", local).stdout == f"{Path(local) / 'glue'}\n"
    monkeypatch.setenv("NEURONS_DATA_DIR", local)
    assert neurons("data", "path", "sst2").stdout == f"{Path(local) / 'glue'}\n"
    missing = neurons("data", "path", "imdb")
    assert missing.exit_code == 4
    assert missing.stderr == f"Error: no folder 'imdb' below {local}. Try: neurons data fetch imdb\n"
    assert neurons("data", "path", "digits").exit_code == 2
    assert neurons("data", "path", "ssst2").stderr.startswith("Error: unknown task 'ssst2'. Did you mean 'sst2'?")
    assert one_document(neurons("data", "path", "--json"))["root"] == local
    for command in ("path", "fetch", "verify", "generate"):
        assert "your own copy, in the folder 'aan'" in neurons("data", command, "lra-retrieval").stderr
    (Path(local) / "aan").mkdir()
    assert neurons("data", "path", "lra-retrieval").stdout == f"{Path(local) / 'aan'}\n"


def test_fetch_takes_the_local_folder_and_offline_without_it_is_exit_4(neurons, local):
    found = one_document(neurons("data", "fetch", "sst2", "--data-dir", local, "--json"))
    assert found["rows"] == {"train": 3, "validation": 2}
    result = neurons("data", "fetch", "sst2")
    assert result.exit_code == 4
    assert "NEURONS_DATA_DIR" in result.stderr
    assert neurons("data", "fetch", "digits").exit_code == 2


def test_verify_tells_other_data_from_what_was_measured(neurons, local, monkeypatch):
    from tasks.data import Source

    def sst2(checksums):
        return Source("glue", "sst2", "nyu-mll/glue", "sentence", 2, ("train", "validation"), checksums=checksums)

    monkeypatch.setattr("cli.data.sources", lambda: {"sst2": sst2({}), "digits": None})
    arguments = ("data", "verify", "--data-dir", local)
    found = one_document(neurons(*arguments, "--json"))["data"]
    assert [(row["task"], row["verified"], row["rows"]) for row in found] == [
        ("sst2", None, {"train": 3, "validation": 2})
    ]
    monkeypatch.setattr("cli.data.sources", lambda: {"sst2": sst2(found[0]["sha256"])})
    assert "verified" in neurons(*arguments).stdout
    monkeypatch.setattr("cli.data.sources", lambda: {"sst2": sst2({"train": "0", "validation": "0"})})
    result = neurons(*arguments)
    assert result.exit_code == 4
    assert "differs" in result.stdout
    assert neurons("data", "verify", "sst2").exit_code == 4
    assert neurons("data", "verify").exit_code == 4


def test_a_damaged_file_is_one_line_and_exit_4(neurons, local):
    next(Path(local).rglob("train-*.parquet")).write_bytes(b"nothing")
    result = neurons("data", "verify", "sst2", "--data-dir", local)
    assert result.exit_code == 4
    assert "is not a readable parquet file" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_generate_makes_the_data_of_a_task_that_has_a_generator(neurons):
    found = one_document(neurons("data", "generate", "digits", "--json"))
    assert sum(found["rows"].values()) == 1797
    assert len(found["split_hash"]) == 16
    assert neurons("data", "generate", "sst2").exit_code == 2


def test_generate_sets_options_and_tells_where_the_data_lies_and_how_long_it_took(neurons, tmp_path):
    arguments = ("data", "generate", "pathfinder-short", "--set", "train=30", "--set", "task.held_out=10")
    small = (*arguments, "--set", "test=10", "--json")
    found = one_document(neurons(*small))
    assert found["rows"] == {"train": 30, "held_out": 10, "test": 10}
    assert found["cache"] == str(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".npz"]
    assert found["seconds"] >= 0
    again, other = (one_document(neurons(*small, *more)) for more in ((), ("--set", "seed=1")))
    assert again["split_hash"] == found["split_hash"] != other["split_hash"]
    assert "split hash" in neurons(*small[:-1]).stdout
    assert "Did you mean 'train'" in neurons("data", "generate", "listops", "--set", "trian=3").stderr
    assert "option=value" in neurons("data", "generate", "listops", "--set", "train").stderr


def findings(result) -> dict[str, dict]:
    assert result.stdout, result.stderr
    import json

    return {one["what"]: one for one in json.loads(result.stdout)["findings"]}


def test_doctor_finds_this_installation_sound(neurons, local):
    result = neurons("doctor", "--data-dir", local, "--json")
    found = findings(result)
    assert result.exit_code == 0, result.stderr
    assert all(
        found[f"package {name}"]["status"] == "ok" for name in ("neurons", "learning", "tasks", "baselines", "cli")
    )
    assert found["torch"]["detail"] == importlib.metadata.version("torch")
    assert (found["data of sst2"]["status"], found["data of imdb"]["status"]) == ("ok", "warn")
    assert {found["runs"]["status"], found["cache"]["status"]} <= {"ok", "warn"}
    lines = neurons("doctor").stdout.splitlines()
    assert all(line.split()[0] in ("ok", "warn") for line in lines)


def test_doctor_names_a_distribution_that_claims_one_of_our_names(neurons, monkeypatch):
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"tasks": ["neurons", "celery-tasks"]})
    result = neurons("doctor", "--json")
    assert result.exit_code == 1
    assert findings(result)["package tasks"]["status"] == "fail"
    assert "celery-tasks" in findings(result)["package tasks"]["detail"]
    assert "first: package tasks: also installed by celery-tasks" in result.stderr


def test_doctor_finds_a_package_from_elsewhere(neurons, tmp_path, monkeypatch):
    import importlib.util

    spec, elsewhere = importlib.util.find_spec, tmp_path / "site" / "learning" / "__init__.py"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.touch()

    def shadowed(name, package=None):
        if name == "learning":
            return importlib.util.spec_from_file_location(name, elsewhere)
        return spec(name, package)

    monkeypatch.setattr("importlib.util.find_spec", shadowed)
    result = neurons("doctor", "--json")
    assert result.exit_code == 1
    assert str(tmp_path / "site") in findings(result)["package learning"]["detail"]


def test_doctor_finds_wrong_and_missing_dependencies(neurons, monkeypatch):
    requires = ["snntorch==0.0.1", "click>=8", "surely-not-installed>=1", 'ruff>=99; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requires)
    result = neurons("doctor", "--json")
    found = findings(result)
    assert result.exit_code == 1
    assert found["snntorch"]["status"] == "fail"
    assert found["snntorch"]["fix"] == "pip install 'snntorch==0.0.1'"
    assert found["surely-not-installed"]["detail"] == "missing"
    assert found["click"]["status"] in ("ok", "warn")
    assert "ruff" not in found


def test_doctor_finds_folders_that_cannot_be_written_and_data_that_is_not_there(neurons, tmp_path, monkeypatch):
    taken = tmp_path / "file"
    taken.touch()
    monkeypatch.setenv("NEURONS_CACHE", str(taken / "cache"))
    result = neurons("doctor", "--json", "--data-dir", str(tmp_path / "nowhere"))
    found = findings(result)
    assert result.exit_code == 1
    assert found["cache"]["status"] == "fail"
    assert found["data"]["status"] == "fail"
