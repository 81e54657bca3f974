"""``neurons sample`` and the evaluation of texts, on a model of the standard library that has seen next to nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import one_document

from cli.main import group

TASK = ("--task", "stdlib", "--set", "task.megabytes=0.05", "--set", "task.context=16")
TINY = ("--model", "gpt:width=16:layers=1", "--rule", "backprop", "--steps", "6", "--threads", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run over characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONS_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("trained") / "run"
        done = CliRunner().invoke(group, ["train", *TASK, "--set", "task.unit=characters", *TINY, "--out", str(out)])
        assert done.exit_code == 0, done.stderr
        assert "bits per byte" in done.stdout
        assert "word ppl" in done.stdout
        assert "chunks of 16 characters" in done.stdout
        assert "kneser-ney" in done.stdout
        yield out


def test_text_on_stdout_what_was_measured_on_stderr(neurons, trained):
    found = neurons("sample", str(trained), "--start", "def ", "--length", "30", "--number", "2")
    assert found.exit_code == 0
    first, second = found.stdout.rstrip("\n").split("\n\n---\n")
    assert first.startswith("def ")
    assert second.startswith("def ")
    assert first != second
    assert "distinct-1" in found.stderr
    assert "per character under the model itself" in found.stderr
    again = neurons("sample", str(trained), "--start", "def ", "--length", "30", "--number", "2")
    assert again.stdout == found.stdout


def test_one_document_with_the_same_text(neurons, trained):
    options = ("--start", "import ", "--length", "40", "--seed", "7", "--top-k", "5", "--top-p", "0.9")
    asked = ("sample", str(trained), *options)
    document = one_document(neurons(*asked, "--json"))
    assert document["kind"] == "samples"
    (one,) = document["samples"]
    assert neurons(*asked).stdout == "import " + one["text"] + "\n"
    assert (one["symbols"], one["ended"]) == (40, "length")
    assert document["perplexity"] > 1
    assert set(document) >= {"distinct_1", "distinct_2", "distinct_3", "symbols_per_second"}


def test_the_start_may_be_a_file_and_a_sample_end_before_a_text(neurons, trained):
    Path("start.txt").write_text("class ", encoding="utf-8")
    free = one_document(neurons("sample", str(trained), "--start", "FILE:start.txt", "--json", "--length", "50"))
    text = free["samples"][0]["text"]
    assert free["start"] == "class "
    stopped = one_document(
        neurons("sample", str(trained), "--start", "FILE:start.txt", "--json", "--length", "50", "--stop", text[10:12])
    )
    assert stopped["samples"][0]["text"] == text.partition(text[10:12])[0]
    assert stopped["samples"][0]["ended"] == "stop"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--start", "日本"), "the prompt holds '日', '本', which is not among"),
        (("--start", "x" * 40), "the start has 40 symbols, and model 'gpt' reads 16"),
        (("--start", ""), "--start is empty"),
        (("--start", "def \udcff"), "--start is not UTF-8"),
        (("--start", "FILE:nowhere.txt"), "cannot read 'nowhere.txt': No such file"),
        (("--stop", ""), "--stop needs a text"),
        (("--top-p", "1.5"), "--top-p lies above 0"),
        (("--temperature", "-1"), "--temperature is 0"),
        (("--temperature", "nan"), "--temperature is 0"),
        (("--number", "0"), "'--number'"),
    ],
)
def test_what_cannot_be_sampled_is_one_line_and_exit_code_2(neurons, trained, options, said):
    found = neurons("sample", str(trained), *options)
    assert found.exit_code == 2
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert "Traceback" not in found.stderr


def test_any_seed_will_do(neurons, trained):
    assert neurons("sample", str(trained), "--length", "2", "--seed", str(2**70)).exit_code == 0


def test_a_run_is_not_read_with_other_data_than_it_learned_from(neurons, trained, monkeypatch):
    from baselines import setup
    from tasks.suites.stdlib import StandardLibrary

    monkeypatch.setattr(setup, "_load", setup._load.__wrapped__)
    corpus = StandardLibrary.corpus
    monkeypatch.setattr(
        StandardLibrary, "corpus", lambda self, place: replace(corpus(self, place), test="import this\n")
    )
    for command in (("sample",), ("eval",), ("eval", "--split", "test", "--stride", "4")):
        found = neurons(command[0], str(trained), *command[1:])
        assert found.exit_code == 4
        assert "learned from other data of task 'stdlib'" in found.stderr
        assert len(found.stderr.splitlines()) == 1


def test_a_run_that_learned_no_text_is_told(neurons):
    tiny = ("--model", "mlp:width=4", "--rule", "backprop", "--steps", "2", "--threads", "1")
    assert neurons("train", "--task", "digits", *tiny, "--out", "digits").exit_code == 0
    found = neurons("sample", "digits")
    assert found.exit_code == 2
    assert "'digits', which is no text" in found.stderr
    other = neurons("eval", "digits", "--split", "test", "--stride", "2")
    assert other.exit_code == 2
    assert "stride" in other.stderr


def test_a_text_is_evaluated_in_chunks_and_in_windows(neurons, trained):
    chunks = one_document(neurons("eval", str(trained), "--split", "test", "--json"))
    windows = one_document(neurons("eval", str(trained), "--split", "test", "--stride", "4", "--json"))
    assert "in chunks of 16" in chunks["protocol"]
    assert "in windows of 16 characters every 4" in windows["protocol"]
    assert chunks["primary"]["name"] == windows["primary"]["name"] == "bits_per_byte"
    assert chunks["primary"]["value"] != windows["primary"]["value"]
    assert {"nats_per_token", "token_ppl", "word_ppl"} <= set(windows["metrics"])
    assert neurons("eval", str(trained), "--stride", "4").exit_code == 2  # the default split is held out
    assert "1 to the context of 16" in neurons("eval", str(trained), "--split", "test", "--stride", "99").stderr


def test_harness_tasks_need_lm_eval_and_say_so(neurons, trained, monkeypatch):
    spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "lm_eval" else spec(name, *more)
    )
    for options, said in (
        (("--harness", "piqa"), "lm-evaluation-harness is not installed. Try: pip install 'neurons[lm]'"),
        (("--harness", ","), "--harness needs the name of a task"),
        (("--harness", "piqa", "--split", "test"), "--harness brings tasks of its own"),
        (("--limit", "3"), "--limit is about the harness's tasks"),
    ):
        found = neurons("eval", str(trained), *options)
        assert found.exit_code == 2
        assert said in found.stderr
        assert len(found.stderr.splitlines()) == 1


def test_a_harness_task_of_ones_own_on_a_run(neurons, trained, monkeypatch, tmp_path):
    pytest.importorskip("lm_eval")
    import datasets.config

    from baselines import harness

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    index = harness.TaskManager(include_defaults=False)
    monkeypatch.setattr(harness, "TaskManager", lambda: index)
    Path("rows.jsonl").write_text('{"read": "import", "told": " sys"}\n' * 3, encoding="utf-8")
    Path("own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {Path('rows.jsonl').absolute()}}}}}\n"
        "output_type: loglikelihood\ntest_split: test\ndoc_to_text: '{{read}}'\ndoc_to_target: '{{told}}'\n"
        "metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]\n",
        encoding="utf-8",
    )
    document = one_document(neurons("eval", str(trained), "--harness", "own.yaml", "--limit", "2", "--json"))
    assert document["kind"] == "harness"
    assert document["unit"] == "character"
    assert document["tasks"]["own"]["samples"] == 2
    told = neurons("eval", str(trained), "--harness", "own.yaml")
    assert [line.split()[:2] for line in told.stdout.splitlines()][1:] == [["own", "perplexity"]]
