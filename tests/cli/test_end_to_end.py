"""The real thing, small: digits, an MLP, backprop, 20 steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from documents import one_document

from cli.main import group
from learning.run import RunDirectory

TINY = ("--task", "digits", "--model", "mlp:width=16", "--rule", "backprop", "--threads", "1", "--steps", "20")
MODELS = ("--models", "mlp:width=16,mlp:width=4", "--rules", "backprop")
COMPARISON = ("compare", "--task", "digits", *MODELS, "--seeds", "2", "--steps", "10", "--threads", "1")


def one_line(result: Result) -> str:
    """The error, after whatever progress there was."""
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert "Traceback" not in result.stderr
    return lines[-1]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    result = CliRunner().invoke(group, ["train", *TINY, "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert "floors" in result.stdout
    return out


@pytest.fixture
def copied(trained: Path) -> Path:
    return Path(shutil.copytree(trained, "copied"))


def stored(path: Path) -> dict:
    return json.loads((path / "result.json").read_text())


def test_the_same_command_gives_the_same_number(neurons, trained):
    again = one_document(neurons("train", *TINY, "--out", "again", "--json"))["result"]
    assert again["primary"] == stored(trained)["primary"]
    assert again["predictions"] == stored(trained)["predictions"]
    other = one_document(neurons("train", *TINY, "--out", "other", "--seed", "1", "--json"))["result"]
    assert other["predictions"] != again["predictions"]


def test_dry_run_counts_what_the_run_then_has(neurons, trained):
    planned = one_document(neurons("train", *TINY, "--dry-run", "--json"))
    assert planned["parameters"] == stored(trained)["model"]["parameters"]
    assert planned["origin"]["model.width"] == "flag"
    assert not Path("runs").exists()


def test_eval_of_the_test_split_repeats_the_result(neurons, trained):
    found = one_document(neurons("eval", str(trained), "--split", "test", "--json"))
    assert found["primary"]["value"] == pytest.approx(stored(trained)["primary"]["value"])
    held_out = one_document(neurons("eval", str(trained), "--json"))
    assert held_out["primary"]["value"] == pytest.approx(stored(trained)["metrics"]["held_out"])


def test_an_existing_run_is_never_overwritten(neurons, copied):
    before = (copied / "result.json").read_bytes()
    result = neurons("train", *TINY, "--out", str(copied))
    assert result.exit_code == 1
    assert "--resume auto" in one_line(result)
    assert (copied / "result.json").read_bytes() == before


def test_a_folder_that_is_no_run_is_left_alone(neurons):
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    result = neurons("train", *TINY, "--out", "mine")
    assert result.exit_code == 1
    assert "not empty" in one_line(result)
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def test_a_finished_run_is_not_run_again(neurons, copied):
    found = one_document(neurons("train", *TINY, "--out", str(copied), "--resume", "auto", "--json"))
    assert found["result"] == stored(copied)


def test_resuming_with_another_configuration_is_refused(neurons, copied):
    result = neurons("train", *TINY, "--set", "trainer.lr=0.5", "--out", str(copied), "--resume", "auto")
    assert result.exit_code == 2
    assert "trainer.lr" in one_line(result)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""]
)
def test_a_corrupt_checkpoint_is_refused(neurons, copied, damage):
    for path in (copied / "checkpoints").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    result = neurons("eval", str(copied))
    assert result.exit_code == 1
    assert "corrupt" in one_line(result)
    (copied / "result.json").unlink()
    result = neurons("train", *TINY, "--out", str(copied), "--resume", "auto")
    assert result.exit_code == 1
    assert "corrupt" in one_line(result)


def test_a_folder_that_cannot_be_written_is_one_line(neurons):
    Path("file").touch()
    result = neurons("train", *TINY, "--out", "file/run")
    assert result.exit_code == 1
    assert "--out" in one_line(result)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_line(neurons):
    Path("locked").mkdir(mode=0o500)
    result = neurons("train", *TINY, "--out", "locked/run")
    assert result.exit_code == 1
    assert "--out" in one_line(result)


def test_missing_data_is_exit_4_and_names_three_ways(neurons):
    result = neurons("train", "--task", "sst2", "--model", "mlp", "--rule", "backprop", "--steps", "1")
    assert result.exit_code == 4
    line = one_line(result)
    for way in ("NEURONS_DATA_DIR", "hub", "generator"):
        assert way in line
    assert not Path("runs").exists() or not list(Path("runs").rglob("result.json"))


def test_a_loss_that_explodes_is_exit_1_and_told_in_the_run(neurons):
    arguments = (
        "--set",
        "trainer.lr=1e30",
        "--set",
        "trainer.clip=none",
        "--set",
        "trainer.warmup=0.0",
        "--out",
        "lost",
    )
    result = neurons("train", *TINY, *arguments)
    assert result.exit_code == 1
    assert "non-finite" in one_line(result)
    assert one_document(neurons("runs", "list", ".", "--json"))["runs"][0]["status"] == "failed"


def test_an_unknown_device_is_exit_2(neurons):
    result = neurons("train", *TINY, "--device", "cpuu")
    assert result.exit_code == 2
    assert "Did you mean 'cpu'" in one_line(result)


@pytest.mark.usefixtures("foreground")
def test_ctrl_c_leaves_a_checkpoint_and_resume_ends_as_if_nothing_had_happened(neurons, monkeypatch):
    append = RunDirectory.append

    def append_then_ctrl_c(self: RunDirectory, row: dict) -> None:
        append(self, row)
        if (row["step"], row["split"]) == (7, "held_out"):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append", append_then_ctrl_c)
        result = neurons("train", *TINY, "--set", "trainer.eval_every=7", "--out", "cut")
    assert result.exit_code == 130, result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("interrupted at step")
    assert list(Path("cut/checkpoints").glob("*.safetensors"))
    assert one_document(neurons("runs", "list", ".", "--json"))["runs"][0]["status"] == "interrupted"
    resumed = one_document(neurons("train", "--resume", "cut", "--json"))["result"]
    whole = one_document(neurons("train", *TINY, "--set", "trainer.eval_every=7", "--out", "whole", "--json"))["result"]
    assert resumed["predictions"] == whole["predictions"]
    assert resumed["metrics"] == whole["metrics"]


@pytest.fixture
def foreground():
    """Ctrl-C as in a terminal; a background job starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("compared") / "mlps"
    arguments = [*COMPARISON, "--require", "mlp:width=4 > mlp:width=16", "--out", str(out)]
    return out, CliRunner(env={"COLUMNS": None}).invoke(group, arguments, prog_name="neurons")


def test_compare_writes_its_documents_and_ends_by_its_requirement(compared):
    out, result = compared
    assert result.exit_code == 3, result.stderr
    document = json.loads((out / "compare.json").read_text())
    lines = result.stdout.splitlines()
    assert lines[0] == document["verdict"]
    assert lines[-1] == f"report  {out / 'report.html'}"
    assert (out / "report.html").stat().st_size > 1000
    assert result.stderr.splitlines()[-1].startswith("Error: not met: mlp:width=4 > mlp:width=16")
    for floor in document["floors"]:
        assert f"floor {floor}" in result.stdout
    assert document["command"].startswith("neurons compare --task digits")


def test_report_of_the_comparison_and_of_its_runs(neurons, compared):
    out, _ = compared
    assert neurons("report", str(out), "-o", "a.html").exit_code == 0
    runs = [path["path"] for path in one_document(neurons("runs", "list", str(out), "--json"))["runs"]]
    assert len(runs) == 4
    result = neurons("report", *runs, "-o", "b.html")
    assert result.exit_code == 0, result.stderr
    assert Path("a.html").stat().st_size > 1000
    assert Path("b.html").stat().st_size > 1000


def test_a_finished_comparison_resumed_trains_nothing(neurons, compared):
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    result = neurons(*COMPARISON, "--out", str(out), "--resume", "auto")
    assert result.exit_code == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before
    clash = neurons(*COMPARISON, "--out", str(out))
    assert clash.exit_code == 1
    assert "--resume auto" in one_line(clash)
