"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from neurons.specs import InputSpec, OutputSpec
from tasks import TASKS
from tasks.data import stratified
from tasks.task import Split, Task, TaskData, check_share


@TASKS.register("digits")
class Digits(Task):
    """1,797 handwritten digits of 8 x 8 grey levels, read row by row: 8 steps of 8 features in [0, 1], 10 classes.

    UCI, Alpaydin and Kaynak 1998, the part that scikit-learn ships: no download.
    Stratified random split by ``seed``: ``test`` of all, then ``held_out`` of the rest.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "logistic-regression", "nearest-prototype")

    def __init__(self, *, test: float = 0.2, held_out: float = 0.1, seed: int = 0) -> None:
        self.test, self.held_out, self.seed = test, held_out, seed
        check_share("test", test)
        check_share("held_out", held_out)

    def load(self, data_dir: str | None = None) -> TaskData:
        from sklearn.datasets import load_digits

        found = load_digits()
        images = (found.images / 16.0).astype(np.float32)
        labels = found.target.astype(np.int64)
        rest, test = stratified(labels, self.test, self.seed)
        kept, held_out = (rest[places] for places in stratified(labels[rest], self.held_out, self.seed + 1))
        counts = f"{len(kept)} / {len(held_out)} / {len(test)}"
        return TaskData(
            train=Split(images[kept], labels[kept]),
            held_out=Split(images[held_out], labels[held_out]),
            test=Split(images[test], labels[test]),
            input=InputSpec("features", length=8, size=8),
            output=OutputSpec("label", 10),
            source="package:scikit-learn",
            protocol=f"digits, 8 rows of 8 grey levels in [0, 1]; train / held out / test {counts}, stratified,"
            f" seed {self.seed}",
        )
