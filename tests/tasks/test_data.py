"""The loader: local folder, hub, and everything that can be wrong with what they hold."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from neurons.errors import DataError
from tasks import data
from tasks.data import Rows, Source, describe, load_rows, stratified
from tests.tasks.conftest import write_split

SOURCE = Source(folder="films", config="plain", hub="no-such-owner/films", text="text", classes=2)
GOOD = (["a fine film", "a dull film", "café"], [1, 0, 1])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in SOURCE.splits:
        write_split(tmp_path, SOURCE, split, *GOOD)
    return tmp_path


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(SOURCE, str(root), task="films")
    said = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in said
    return said


def test_reads_the_rows_in_order(root: Path) -> None:
    rows, source = load_rows(SOURCE, str(root), task="films")
    assert source == "local:films/plain"
    assert rows["test"].texts == GOOD[0]
    assert rows["test"].labels.tolist() == GOOD[1]


def test_reads_what_the_datasets_library_reads(root: Path, library: Any) -> None:
    rows, _ = load_rows(SOURCE, str(root), task="films")
    there = library.load_dataset(str(root / "films"), "plain")
    assert list(there["train"]["text"]) == rows["train"].texts
    assert list(there["train"]["label"]) == rows["train"].labels.tolist()


def test_leaves_other_layouts_to_the_library(tmp_path: Path, library: Any) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for split in SOURCE.splits:
        lines = [json.dumps({"text": text, "label": label}) for text, label in zip(*GOOD, strict=True)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    files = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in SOURCE.splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: plain\n  data_files:\n{files}---\n")
    rows, _ = load_rows(SOURCE, str(tmp_path), task="films")
    assert rows["train"].texts == GOOD[0]
    (folder / "README.md").unlink()
    (folder / "train.jsonl").write_text('{"text": ')
    assert "films" in refusal(tmp_path)


def test_joins_the_shards_of_a_split_in_order(root: Path) -> None:
    first = write_split(root, SOURCE, "train", ["a", "b"], [0, 1])
    first.rename(first.with_name("train-00000-of-00002.parquet"))
    write_split(root, SOURCE, "train", ["c"], [1]).rename(first.with_name("train-00001-of-00002.parquet"))
    rows, _ = load_rows(SOURCE, str(root), task="films")
    assert rows["train"].texts == ["a", "b", "c"]


def test_the_argument_goes_before_the_environment(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for split in SOURCE.splits:
        write_split(other, SOURCE, split, ["other"], [0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONS_DATA_DIR", str(other))
        assert load_rows(SOURCE, None, task="films")[0]["train"].texts == ["other"]
        assert load_rows(SOURCE, str(root), task="films")[0]["train"].texts == GOOD[0]


def not_utf8() -> pa.Array:
    raw = pa.array([b"fine", b"caf\xe9", b"fine"], pa.binary())
    return pa.StringArray.from_buffers(3, *raw.buffers()[1:])


BAD = {
    "label beyond the classes": ((GOOD[0], [0, 1, 2]), ["row 2", "label 2", "0..1"]),
    "negative label": ((GOOD[0], [0, -1, 1]), ["row 1", "label -1", "0..1"]),
    "labels as words": ((GOOD[0], ["pos", "neg", "pos"]), ["'label'", "string"]),
    "no label": ((GOOD[0], pa.array([0, None, 1])), ["row 1", "label is missing"]),
    "no text": ((pa.array(["a", None, "b"]), [0, 1, 1]), ["row 1", "text is missing"]),
    "numbers for texts": (([1, 2, 3], [0, 1, 1]), ["'text'", "int64"]),
    "not UTF-8": ((not_utf8(), [0, 1, 1]), ["row 1", "UTF-8"]),
    "not UTF-8, as bytes": ((pa.array([b"ok", b"ok", b"\xff"]), [0, 1, 1]), ["row 2", "UTF-8"]),
    "empty": ((pa.array([], pa.string()), pa.array([], pa.int64())), ["empty"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_told_with_file_and_row(root: Path, case: str) -> None:
    columns, parts = BAD[case]
    path = write_split(root, SOURCE, "test", *columns)
    said = refusal(root)
    assert str(path) in said
    for part in parts:
        assert part in said


def test_a_missing_column_is_told_with_those_found(root: Path) -> None:
    renamed = Source(**{**SOURCE.__dict__, "text": "txet"})
    path = write_split(root, renamed, "train", *GOOD)
    said = refusal(root)
    assert f"{path}: column 'text' is missing; columns found: txet, label. Did you mean 'txet'?" == said


def test_a_missing_split_is_told_with_those_found(root: Path) -> None:
    (root / "films" / "plain" / "test-00000-of-00001.parquet").unlink()
    said = refusal(root)
    assert "split 'test' is missing" in said
    assert "found: train" in said


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", None])
def test_a_corrupt_file_is_told(root: Path, content: bytes | None) -> None:
    path = root / "films" / "plain" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    assert f"{path} is not a readable parquet file" in refusal(root)


def test_the_hub_serves_when_there_is_no_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    asked = []
    real = library.load_dataset

    def hub(name: str, config: str) -> Any:
        asked.append((name, config))
        return real(str(root / "films"), config)

    monkeypatch.setattr(data, "_hub_answers", lambda: True)
    monkeypatch.setattr(library, "load_dataset", hub)
    monkeypatch.delenv("NEURONS_DATA_DIR", raising=False)
    rows, source = load_rows(SOURCE, None, task="films")
    assert asked == [("no-such-owner/films", "plain")]
    assert source == "hub:no-such-owner/films/plain"
    assert rows["train"].digest() == load_rows(SOURCE, str(root), task="films")[0]["train"].digest()


def test_an_unreachable_hub_is_asked_in_offline_mode_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants as constants

    seen = []

    def hub(name: str, config: str) -> None:
        seen.append((datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        raise ConnectionError("not in the hub's cache\nsecond line")

    monkeypatch.setattr(data, "_hub_answers", lambda: False)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    before = (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    assert "not in the hub's cache;" in refusal(tmp_path)
    assert seen == [(True, True)]
    after = (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    assert after == before


def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert data._hub_answers()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not data._hub_answers()
        monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not data._hub_answers()  # nobody listens any more


def test_describe(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert describe(SOURCE, str(tmp_path_factory.mktemp("none")), read=True)["path"] is None
    told = describe(SOURCE, str(root), read=True)
    assert told["path"] == str(root / "films")
    assert told["rows"] == {"train": 3, "test": 3}
    assert told["verified"] is None
    known = Source(**{**SOURCE.__dict__, "checksums": told["sha256"]})
    assert describe(known, str(root), read=True)["verified"] is True
    write_split(root, SOURCE, "test", GOOD[0], [1, 1, 1])
    assert describe(known, str(root), read=True)["verified"] is False


def test_the_digest_of_rows_is_blind_to_order_alone() -> None:
    rows = Rows(["a", "b", "c"], np.array([0, 1, 1]))
    assert rows.digest() == rows.take(np.array([2, 0, 1])).digest()
    assert rows.digest() != Rows(["a", "b", "c"], np.array([1, 0, 1])).digest()
    assert Rows(["ab", "c"], np.array([0, 0])).digest() != Rows(["a", "bc"], np.array([0, 0])).digest()


def test_stratified_takes_the_share_of_each_label() -> None:
    labels = np.array([0] * 50 + [1] * 30 + [2] * 20)
    kept, chosen = stratified(labels, 0.1, 3)
    assert sorted([*kept, *chosen]) == list(range(100))
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 2]
    assert not np.array_equal(chosen, stratified(labels, 0.1, 4)[1])


@pytest.mark.data
@pytest.mark.parametrize(("task", "rows"), [("sst2", {"train": 67349, "validation": 872})])
def test_the_real_rows_are_those_recorded(real_data: str, task: str, rows: dict[str, int]) -> None:
    from tasks import TASKS

    source = TASKS.get(task).data
    if data.locate(source, real_data) is None:
        pytest.skip(f"real data: no folder {source.folder} in NEURONS_DATA_DIR")
    told = describe(source, real_data, read=True)
    assert told["rows"] == rows
    assert told["verified"] is True


def test_nothing_is_written_into_the_data_folder(hub_folder: Callable[[Source], str]) -> None:
    from tasks import TASKS

    task = TASKS.build("sst2")
    place = Path(hub_folder(task.data))
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    task.load(str(place))
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
