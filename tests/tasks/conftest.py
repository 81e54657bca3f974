"""Data folders in hub format, made in a temporary place; a cache of the session's own."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.data import Source

WORDS = [first + second for first in "bdfgklmn" for second in ("ax", "em", "in", "op", "ur")]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def real_data() -> str:
    """The root of the real data sets, or a skip that says what is missing."""
    root = os.environ.get("NEURONS_DATA_DIR")
    if not root or not Path(root).is_dir():
        pytest.skip("real data: NEURONS_DATA_DIR is unset or names no folder")
    return root


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 12)))


def phrases(rng: random.Random) -> list[str]:
    """A sentence and two pieces of it, as GLUE's train set has them."""
    words = sentence(rng).split()
    return [" ".join(words), " ".join(words[:2]), " ".join(words[1:4])]


def picture(rng: random.Random, shape: tuple[int, int, int], format: str = "PNG") -> bytes:
    """Noise of ``shape`` (H, W, C), encoded without loss."""
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    file = io.BytesIO()
    Image.frombytes(mode, (width, height), rng.randbytes(height * width * channels)).save(file, format, lossless=True)
    return file.getvalue()


@pytest.fixture
def hub_folder(tmp_path: Path) -> Callable[[Source], str]:
    """Writes ``source`` with 90 made-up rows a split below a root; returns the root."""

    def write(source: Source) -> str:
        rng = random.Random(0)
        for split in source.splits:
            samples: list[Any] = [sentence(rng) for _ in range(90)]
            if source.image is not None:
                samples = [{"bytes": picture(rng, source.image), "path": None} for _ in range(90)]
            elif split == "train":
                samples = [text for _ in range(30) for text in phrases(rng)]
            write_split(tmp_path, source, split, samples, [row % max(source.classes, 1) for row in range(len(samples))])
        return str(tmp_path)

    return write


def write_split(root: Path, source: Source, split: str, texts: object, labels: object) -> Path:
    """One split as the hub keeps it, with the hub's card."""
    place = root / source.folder / source.config
    place.mkdir(parents=True, exist_ok=True)
    files = "".join(f"  - split: {name}\n    path: {source.config}/{name}-*\n" for name in source.splits)
    card = f"---\nconfigs:\n- config_name: {source.config}\n  data_files:\n{files}---\n"
    (root / source.folder / "README.md").write_text(card)
    path = place / f"{split}-00000-of-00001.parquet"
    columns = {source.text: texts} if source.label is None else {source.text: texts, source.label: labels}
    pq.write_table(pa.table(columns), path)
    return path


def papers(root: Path, *, count: int = 30) -> str:
    """Long Range Arena's Retrieval files with ``count`` made-up pairs each below ``root``."""
    rng = random.Random(0)
    (root / "aan").mkdir()
    for part in ("train", "eval", "test"):
        lines = [f"{n % 2}.0\tP{n}\tQ{n}\t{part} {n} {sentence(rng)}\t{sentence(rng)}\n" for n in range(count)]
        (root / "aan" / f"new_aan_pairs.{part}.tsv").write_text("".join(lines), encoding="utf-8")
    return str(root)
