"""The run directory: never overwritten, never half written, always telling its state."""

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from tiny_training import CONFIG, fit

import learning.environment
from learning.environment import environment
from learning.run import RunDirectory
from neurons.errors import RunError, UsageError


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "a" / "run", CONFIG)


def test_it_holds_what_the_design_says(run):
    fit(run)
    run.write_result({"schema": 1, "status": "complete"})
    files = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file())
    checkpoints = ["checkpoints/best.safetensors", "checkpoints/last.safetensors"]
    assert files == sorted([*checkpoints, "config.json", "env.json", "metrics.jsonl", "result.json"])
    assert json.loads((run.path / "config.json").read_text()) == CONFIG
    assert run.weights == run.best


def test_a_taken_folder_is_refused_without_resume(run):
    with pytest.raises(RunError, match=r"already holds a run \(interrupted\). Add --resume auto"):
        RunDirectory.create(run.path, CONFIG)
    foreign = run.path.parent / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").touch()
    for resume in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no run"):
            RunDirectory.create(foreign, CONFIG, resume=resume)
    assert [p.name for p in foreign.iterdir()] == ["cat.jpg"]


def test_an_empty_folder_or_one_killed_at_birth_is_used(tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"tas')
    assert RunDirectory.create(tmp_path, CONFIG).config == CONFIG


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"trainer": {"steps": 60, "lr": 0.02}, "task": {"name": "tiny"}}, "'trainer.lr' is 0.01 there, but 0.02"),
        ({"trainer": {"steps": 60}, "task": {"name": "tiny"}}, "'trainer.lr' is 0.01 there, but absent"),
        ({**CONFIG, "seed": 1}, "'seed' is absent there, but 1"),
        ({**CONFIG, "task": None}, "'task' is .* there, but null"),
        ({**CONFIG, "trainer": {"steps": 60.0, "lr": 0.01}}, "'trainer.steps' is 60 there, but 60.0"),
    ],
)
def test_another_configuration_cannot_resume(run, change, key):
    with pytest.raises(UsageError, match=key) as raised:
        RunDirectory.create(run.path, change, resume=True)
    assert raised.value.exit_code == 2


def test_the_configuration_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    class Crash(BaseException):
        pass

    def die(*arguments):
        raise Crash

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(Crash):
        RunDirectory.create(tmp_path / "run", CONFIG)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json.tmp"]


def test_the_same_configuration_resumes(run):
    reordered = json.loads(json.dumps({"task": CONFIG["task"], "trainer": dict(reversed(CONFIG["trainer"].items()))}))
    again = RunDirectory.create(run.path, reordered, resume=True)
    assert again.config_hash == run.config_hash
    assert again.warnings == []
    assert RunDirectory.create(run.path.parent / "new", CONFIG, resume=True).config == CONFIG


def test_a_file_in_the_way_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot write .*Choose another folder with --out DIR") as raised:
            RunDirectory.create(path, CONFIG)
        assert "\n" not in str(raised.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_reading_what_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="is not a run directory"):
        RunDirectory(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read .*config.json"):
        RunDirectory(tmp_path)


def test_status(run):
    assert run.status == "interrupted"
    with pytest.raises(RunError, match="holds no checkpoint yet"):
        _ = run.weights
    with run.lock():
        assert run.status == "running"
        assert RunDirectory(run.path).status == "running"
    assert RunDirectory(run.path).status == "interrupted"
    run.fail("non-finite loss")
    assert run.status == "failed"
    assert run.result["error"] == "non-finite loss"
    run.rewind(0)
    assert run.status == "interrupted"
    run.write_result({"schema": 1, "status": "complete"})
    run.rewind(0)
    assert run.status == "complete"


def test_only_one_process_writes(run):
    """Two handles on one file exclude each other within a process as they do between two."""
    with run.lock(), run.lock(), pytest.raises(RunError, match="another process"), RunDirectory(run.path).lock():
        pass
    with RunDirectory(run.path).lock():
        pass


def test_rows_survive_a_torn_last_line(run):
    for step in (1, 2):
        run.append({"step": step, "loss": 0.5})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in run.rows()] == [1, 2]
    assert [row["step"] for row in run.rewind(9)] == [1, 2]
    run.append({"step": 3})
    assert [row["step"] for row in run.rows()] == [1, 2, 3]


def test_rewind_cuts_at_the_step(run):
    for step in (1, 2, 2, 5):
        run.append({"step": step})
    whole = (run.path / "metrics.jsonl").read_bytes()
    assert [row["step"] for row in run.rewind(2)] == [1, 2, 2]
    assert (run.path / "metrics.jsonl").read_bytes() == whole[: -len(b'{"step": 5}\n')]
    assert run.rewind(0) == []
    assert (run.path / "metrics.jsonl").read_bytes() == b""


def test_a_damaged_line_in_the_middle_is_reported(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2 is not JSON"):
        run.rows()


def test_every_number_written_is_strict_json(run):
    run.append({"step": 1, "loss": math.nan, "metrics": [math.inf, 1.0]})
    run.write_result({"value": -math.inf, "nested": {"x": (math.nan,)}})

    def refuse(token):
        raise AssertionError(token)

    assert json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)["metrics"] == [None, 1.0]
    assert json.loads((run.path / "result.json").read_text(), parse_constant=refuse)["nested"] == {"x": [None]}


def test_environment_says_where_it_ran(run):
    here = run.environment
    assert here == json.loads(json.dumps(environment()))
    wanted = {"python", "torch", "numpy", "neurons", "platform", "cpu", "gpu", "threads", "git_revision", "git_dirty"}
    assert set(here) == wanted
    assert here["neurons"] == "0.1.0"
    assert here["cpu"]


def git(folder, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True).stdout


def test_git_revision_is_that_of_the_checkout_that_tracks_us(tmp_path, monkeypatch):
    source = tmp_path / "environment.py"
    source.touch()
    monkeypatch.setattr(learning.environment, "__file__", str(source))
    assert (environment()["git_revision"], environment()["git_dirty"]) == (None, None)
    git(tmp_path, "init", "-q")
    (tmp_path / "other").touch()
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "other")
    assert environment()["git_revision"] is None  # a checkout around us, as with a virtual environment inside one
    git(tmp_path, "add", "environment.py")
    git(tmp_path, "commit", "-qm", "us")
    assert environment()["git_revision"] == git(tmp_path, "rev-parse", "HEAD").strip()
    assert environment()["git_dirty"] is False
    source.write_text("changed")
    assert environment()["git_dirty"] is True


def test_resuming_elsewhere_is_a_warning(run):
    stored = {**run.environment, "threads": 99, "git_revision": "other"}
    (run.path / "env.json").write_text(json.dumps(stored))
    (warning,) = RunDirectory.create(run.path, CONFIG, resume=True).warnings
    assert "threads 99 ->" in warning
    assert "git" not in warning
    assert json.loads((run.path / "env.json").read_text()) == stored


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_while_logging(run):
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match="disk full while writing"):
        run.append({"step": 1})
