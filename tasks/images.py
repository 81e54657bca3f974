"""Tasks of labelled pictures: decoded once, kept in the cache, read row by row or pixel by pixel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from neurons.errors import DataError, UsageError
from neurons.specs import InputSpec, OutputSpec
from tasks.cache import cached_arrays, key
from tasks.data import Source, content_hash, load_rows, stratified
from tasks.task import Split, Task, TaskData, check_share


def decode(pictures: Sequence[bytes], shape: tuple[int, int, int], *, where: str) -> np.ndarray:
    """Encoded pictures as (n, H, W, C) uint8; DataError naming the row that is no picture of that shape."""
    from PIL import Image

    decoded = np.empty((len(pictures), *shape), np.uint8)
    mode = "L" if shape[2] == 1 else "RGB"
    for row, picture in enumerate(pictures):
        try:
            with Image.open(io.BytesIO(picture)) as image:
                pixels = np.asarray(image.convert(mode))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises, by format
            raise DataError(
                f"{where}, row {row}: not a picture that can be decoded ({error})".split("\n")[0]
            ) from error
        if pixels.shape[:2] != shape[:2]:
            found = " x ".join(str(side) for side in pixels.shape[:2])
            raise DataError(f"{where}, row {row}: a picture of {found}, not {shape[0]} x {shape[1]}")
        decoded[row] = pixels.reshape(shape)
    return decoded


class ImageTask(Task):
    """Base of every task of labelled pictures of one shape (H, W, C), grey levels in [0, 1].

    ``reading``: "rows" gives H steps of W C features, the channels of a pixel side by side, so that a convolution sees
    (B, H, W, C) by a reshape alone; "pixels" gives H W steps of C features, in reading order. ``fraction`` of the train
    split is held out by ``seed``, stratified. Logistic regression, minutes on so many pixels, is not among the floors.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "nearest-prototype")
    title: ClassVar[str]

    def __init__(self, *, reading: Literal["rows", "pixels"], fraction: float, seed: int) -> None:
        self.reading, self.fraction, self.seed = reading, fraction, seed
        check_share("fraction", fraction)
        if reading not in ("rows", "pixels"):
            raise UsageError(f"task.reading is 'rows' or 'pixels', not '{reading}'. Try: task.reading=rows")

    def load(self, data_dir: str | None = None) -> TaskData:
        assert self.data is not None
        images, labels, source = load_images(self.data, data_dir, task=self.name)
        height, width, channels = images["train"].shape[1:]
        length, size = (height, width * channels) if self.reading == "rows" else (height * width, channels)

        def split(part: str, chosen: np.ndarray | slice) -> Split:
            levels = images[part][chosen].astype(np.float32)
            levels /= 255
            return Split(levels.reshape(-1, length, size), labels[part][chosen])

        kept, held_out = stratified(labels["train"], self.fraction, self.seed)
        counts = f"{len(kept)} / {len(held_out)} / {len(labels['test'])}"
        return TaskData(
            train=split("train", kept),
            held_out=split("train", held_out),
            test=split("test", slice(None)),
            input=InputSpec("features", length=length, size=size),
            output=OutputSpec("label", self.data.classes),
            source=source,
            protocol=f"{self.title}, {length} steps of {size} levels in [0, 1]; train / held out / test {counts};"
            f" held out: stratified, seed {self.seed}",
        )


def load_images(
    source: Source, data_dir: str | None = None, *, task: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Pictures (n, H, W, C) uint8 and labels (n,) of every split, and where they came from.

    The cache file's name carries the hash of the encoded pictures, so a changed data set is decoded anew.
    """
    assert source.image is not None
    shape = source.image
    rows, place = load_rows(source, data_dir, task=task)

    def decoded() -> dict[str, np.ndarray]:
        return {split: decode(part.samples, shape, where=f"{place} {split}") for split, part in rows.items()}

    content = {split: content_hash(part.samples) for split, part in rows.items()}
    images = cached_arrays(f"images-{key(version=1, shape=list(shape), content=content)}.npz", decoded)
    return images, {split: part.labels for split, part in rows.items()}, place
