"""The cache: whole files or none, whoever races, crashes or damages them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tasks.cache import cache_dir, cached_arrays, cached_bytes, key, write_atomically


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    def __init__(self, content: bytes) -> None:
        self.content, self.calls = content, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.content


def test_makes_once(place: Path) -> None:
    make = Maker(b"content")
    assert [cached_bytes("x", make) for _ in range(3)] == [b"content"] * 3
    assert make.calls == 1
    assert cache_dir() == place


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_made_again(place: Path, damage: bytes | None) -> None:
    make = Maker(bytes(range(200)))
    cached_bytes("x", make)
    path = place / "x"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert cached_bytes("x", make) == make.content
    assert cached_bytes("x", make) == make.content
    assert make.calls == 2


def test_a_crash_while_writing_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(place / "x", b"content")
    assert list(place.iterdir()) == []


def test_an_unwritable_cache_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"a file, where a folder should be")
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "file"))
    make = Maker(b"content")
    assert [cached_bytes("x", make) for _ in range(2)] == [b"content"] * 2
    assert make.calls == 2


def test_racing_readers_see_whole_files(place: Path) -> None:
    wrong: list[int] = []
    content = os.urandom(1 << 18)

    def race() -> None:
        for _ in range(20):
            (place / "x").unlink(missing_ok=True)
            if cached_bytes("x", lambda: content) != content:
                wrong.append(1)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in place.iterdir()] == ["x"]


def test_arrays_keep_type_and_shape(place: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array([0.5])}
    for _ in range(2):
        got = cached_arrays("a.npz", lambda: arrays)
        assert {name: (array.dtype, array.shape) for name, array in got.items()} == {
            name: (array.dtype, array.shape) for name, array in arrays.items()
        }
        np.testing.assert_array_equal(got["a"], arrays["a"])


def test_the_key_follows_values_not_order() -> None:
    assert key(a=1, b="x") == key(b="x", a=1)
    assert len({key(a=1, b="x"), key(a=2, b="x"), key(a=1, b="y"), key(a=1)}) == 4


def test_the_platform_decides_where_no_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NEURONS_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "neurons"
