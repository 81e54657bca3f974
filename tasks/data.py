"""One loader for every data set: a local folder in hub format, then the hub.

A local root (``--data-dir``, else ``NEURONS_DATA_DIR``) holds ``<folder>/<config>/<split>-*.parquet``, the hub's own
layout, which is read directly; any other layout that ``datasets.load_dataset(folder, config)`` understands is left to
it. Generated tasks need neither. Nothing is ever written below the data root.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neurons.errors import DataError, nearest

PROBE_SECONDS = 5.0  # the hub client alone retries for 24 s when there is no network


@dataclass(frozen=True)
class Source:
    """A data set: ``folder`` below the data root, ``config``, ``hub`` id, columns and number of classes.

    ``text``: the column of the samples. ``image``: None where they are text, else the shape (H, W, C) of the encoded
    pictures (PNG, WebP) they are. ``label`` None: running text without labels. ``checksums``: sha256 of each split's
    rows in any order, as this project measured with them.
    """

    folder: str
    config: str
    hub: str
    text: str
    classes: int = 0
    splits: tuple[str, ...] = ("train", "test")
    label: str | None = "label"
    checksums: dict[str, str] = field(default_factory=dict)
    image: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Rows:
    """One split as it was found: ``samples``, strings or encoded pictures (bytes), and ``labels`` (n,) int64."""

    samples: list[Any]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def texts(self) -> list[str]:
        """The samples of a data set of text."""
        return self.samples

    def take(self, chosen: np.ndarray) -> Rows:
        """The rows ``chosen``, in that order."""
        return Rows([self.samples[i] for i in chosen], self.labels[chosen])

    def digest(self) -> str:
        """sha256 over the rows, whatever their order."""
        return content_hash(
            f"{label}\t".encode() + (sample if isinstance(sample, bytes) else sample.encode())
            for sample, label in sorted(zip(self.samples, self.labels, strict=True))
        )


def text_hash(texts: Sequence[str] | Iterator[str]) -> str:
    """sha256 over strings in order, each told apart from the next."""
    return content_hash(text.encode() for text in texts)


def content_hash(contents: Iterable[bytes]) -> str:
    """sha256 over byte strings in order, each told apart from the next."""
    sha = hashlib.sha256()
    for content in contents:
        sha.update(f"{len(content)}:".encode() + content)
    return sha.hexdigest()


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, chosen), ascending: ``fraction`` of the places of each label, drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        chosen[places[: round(fraction * len(places))]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def data_root(data_dir: str | None = None) -> Path | None:
    """The folder that holds local data sets, if one is named."""
    named = data_dir or os.environ.get("NEURONS_DATA_DIR")
    return Path(named).expanduser() if named else None


def locate(source: Source, data_dir: str | None = None) -> Path | None:
    """The local folder of ``source``, or None."""
    root = data_root(data_dir)
    return root / source.folder if root is not None and (root / source.folder).is_dir() else None


def load_rows(source: Source, data_dir: str | None = None, *, task: str) -> tuple[dict[str, Rows], str]:
    """Rows of every split and where they came from; DataError (exit 4) naming the three ways if none serves."""
    folder = locate(source, data_dir)
    if folder is not None:
        return _from_folder(source, folder), f"local:{source.folder}/{source.config}"
    try:
        found = _from_hub(source)
    except DataError:
        raise
    except Exception as error:  # the hub client fails in many ways, which all mean: not from here
        root = data_root(data_dir)
        looked = f"not in {root}" if root is not None else "none named"
        raise DataError(
            f"no data for task '{task}': (1) local folder '{source.folder}': {looked}, name its parent with --data-dir"
            f" or NEURONS_DATA_DIR; (2) hub '{source.hub}': {_first_line(error)}; (3) generator: '{task}' has none,"
            " --task listops-short makes its own data"
        ) from error
    return found, f"hub:{source.hub}/{source.config}"


def describe(source: Source, data_dir: str | None = None, *, read: bool = False) -> dict[str, Any]:
    """What ``neurons data`` shows: ``path`` of the local copy (None: there is none); with ``read`` also rows and sha256
    of each split, and ``verified``: whether they are the rows this project measured with (None: none are recorded)."""
    folder = locate(source, data_dir)
    told: dict[str, Any] = {
        "folder": source.folder,
        "config": source.config,
        "hub": source.hub,
        "path": None if folder is None else str(folder),
    }
    if read and folder is not None:
        rows = _from_folder(source, folder)
        told["rows"] = {split: len(part) for split, part in rows.items()}
        told["sha256"] = {split: part.digest() for split, part in rows.items()}
        told["verified"] = told["sha256"] == source.checksums if source.checksums else None
    return told


def _from_folder(source: Source, folder: Path) -> dict[str, Rows]:
    place = folder / source.config
    if not place.is_dir():
        try:
            return _from_library(source, str(folder))
        except DataError:
            raise
        except Exception as error:
            layout = f"{source.config}/<split>-*.parquet"
            raise DataError(f"{folder}: no {layout}, and not readable by datasets: {_first_line(error)}") from error
    rows = {}
    for split in source.splits:
        files = sorted(place.glob(f"{split}-*.parquet"))
        if not files:
            have = ", ".join(sorted({path.name.split("-")[0] for path in place.glob("*-*.parquet")})) or "none"
            raise DataError(f"{place}: split '{split}' is missing (no {split}-*.parquet); splits found: {have}")
        rows[split] = _joined([_checked(_read_parquet(path), source, str(path)) for path in files])
    return rows


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {_first_line(error)}") from error


def _from_library(source: Source, place: str) -> dict[str, Rows]:
    """Through ``datasets``: a local folder in another layout, or the hub."""
    import datasets  # 0.9 s: only when it is needed

    loaded = datasets.load_dataset(place, source.config)
    for split in source.splits:
        if split not in loaded:
            raise DataError(f"{place}: split '{split}' is missing; splits found: {', '.join(loaded)}")
    tables = {split: loaded[split].with_format("arrow")[:] for split in source.splits}
    return {split: _checked(table, source, f"{place} {split}") for split, table in tables.items()}


def _from_hub(source: Source) -> dict[str, Rows]:
    """From the hub, or its cache on this machine when the hub cannot be reached."""
    if _hub_answers():
        return _from_library(source, source.hub)
    with _hub_offline():
        return _from_library(source, source.hub)


def _hub_answers() -> bool:
    """Whether the hub can be asked at all, told within seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as status:
        status.close()
        return True  # it answered, if only with a status
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def _hub_offline() -> Iterator[None]:
    """The hub client's offline switch, which it reads once, when it is imported."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _checked(table: pa.Table, source: Source, where: str) -> Rows:
    """The sample and label columns of ``table``, or one line that says what is wrong with which row."""
    for column in (source.text, source.label):
        if column is not None and column not in table.column_names:
            have = ", ".join(table.column_names) or "none"
            near = nearest(column, table.column_names)
            raise DataError(f"{where}: column '{column}' is missing; columns found: {have}.{near}")
    if table.num_rows == 0:
        raise DataError(f"{where} is empty: it has no rows")
    read = _texts if source.image is None else _pictures
    samples = read(table[source.text], f"{where}, column '{source.text}'")
    if source.label is None:
        return Rows(samples, np.zeros(len(samples), np.int64))
    return Rows(samples, _labels(table[source.label], source, where))


def _texts(column: pa.ChunkedArray, where: str) -> list[str]:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise DataError(f"{where} holds {column.type}, not text")
    texts = []
    for row, raw in enumerate(column.cast(pa.large_binary()).to_pylist()):
        if raw is None:
            raise DataError(f"{where}, row {row}: the text is missing (null)")
        try:
            texts.append(raw.decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}, row {row}: the text is not UTF-8 ({error.reason} at byte {error.start})"
            ) from error
    return texts


def _pictures(column: pa.ChunkedArray, where: str) -> list[bytes]:
    """The hub keeps a picture as {bytes, path}; the bytes, still encoded."""
    if not (pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0):
        raise DataError(f"{where} holds {column.type}, not pictures (a struct with a field 'bytes')")
    pictures: list[bytes] = pc.struct_field(column, "bytes").to_pylist()
    for row, picture in enumerate(pictures):
        if picture is None:
            raise DataError(f"{where}, row {row}: the picture is missing (null)")
    return pictures


def _labels(column: pa.ChunkedArray, source: Source, where: str) -> np.ndarray:
    where = f"{where}, column '{source.label}'"
    if not pa.types.is_integer(column.type):
        raise DataError(f"{where} holds {column.type}, not integer class numbers")
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise DataError(f"{where}, row {row}: the label is missing (null)")
    labels = column.to_numpy().astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= source.classes))
    if len(wrong):
        last = source.classes - 1
        raise DataError(f"{where}, row {wrong[0]}: label {labels[wrong[0]]} is out of range 0..{last}")
    return labels


def _joined(parts: list[Rows]) -> Rows:
    return Rows([sample for part in parts for sample in part.samples], np.concatenate([part.labels for part in parts]))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
