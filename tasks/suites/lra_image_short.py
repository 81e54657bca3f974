"""A small grey-photograph task of our own, for a demonstration that takes minutes."""

from __future__ import annotations

from typing import ClassVar, Literal

from neurons.specs import OutputSpec
from tasks import TASKS
from tasks.data import Source, stratified
from tasks.grey import grey, input_of, pooled, sequences
from tasks.images import load_images
from tasks.suites.cifar10 import CIFAR10
from tasks.task import Task, TaskData, check_sizes
from tasks.thin import thinned


@TASKS.register("lra-image-short")
class LRAImageShort(Task):
    """Ours, not Long Range Arena's: lra-image in 16 x 16 pixels, means of 2 x 2, with 10,000 pictures to train on.

    ``reading`` as of lra-image. ``train``, ``held_out`` and ``test`` are numbers of pictures at most, drawn by
    ``seed``, the classes in proportion; train and held out from CIFAR-10's train split, nine to one.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "nearest-prototype", "logistic-regression", "convolution")
    data: ClassVar[Source | None] = CIFAR10.data

    def __init__(
        self,
        *,
        reading: Literal["symbols", "continuous"] = "symbols",
        train: int = 10000,
        held_out: int = 2000,
        test: int = 4000,
        seed: int = 0,
    ) -> None:
        self.reading, self.train, self.held_out, self.test, self.seed = reading, train, held_out, test, seed
        check_sizes(train, held_out, test, seed)

    def load(self, data_dir: str | None = None) -> TaskData:
        assert self.data is not None
        images, labels, source = load_images(self.data, data_dir, task=self.name)
        kept, chosen = stratified(labels["train"], 0.1, self.seed)
        levels, levels_test = pooled(grey(images["train"])), pooled(grey(images["test"]))
        train, held_out, test = (
            thinned(sequences(pictures, answers, self.reading), count, self.seed)
            for pictures, answers, count in (
                (levels[kept], labels["train"][kept], self.train),
                (levels[chosen], labels["train"][chosen], self.held_out),
                (levels_test, labels["test"], self.test),
            )
        )
        length = levels[0].size
        return TaskData(
            train=train,
            held_out=held_out,
            test=test,
            input=input_of(length, self.reading),
            output=OutputSpec("label", self.data.classes),
            source=source,
            protocol=f"{self.name}: CIFAR-10 in grey (BT.601), 2 x 2 means, {length} {self.reading} levels;"
            f" train / held out / test {len(train)} / {len(held_out)} / {len(test)}, drawn by seed {self.seed}",
        )
