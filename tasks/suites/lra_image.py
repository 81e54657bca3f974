"""Image of Long Range Arena: grey photographs, pixel by pixel."""

from __future__ import annotations

from typing import ClassVar, Literal

from neurons.specs import OutputSpec
from tasks import TASKS
from tasks.data import Source, stratified
from tasks.grey import grey, input_of, sequences
from tasks.images import load_images
from tasks.suites.cifar10 import CIFAR10
from tasks.task import Task, TaskData, check_share


@TASKS.register("lra-image")
class LRAImage(Task):
    """Long Range Arena's Image: CIFAR-10 in 256 grey levels, 1,024 steps, 10 classes, 45k / 5k / 10k.

    ``reading``: "symbols", each level a symbol of its own (Tay et al. 2021), or "continuous", (level - 122.6) / 61 as
    one feature (S4 and after): two protocols whose results stand in different columns. Grey is ITU-R BT.601 luma, as
    Pillow converts. ``fraction`` of train is held out by ``seed``, stratified.
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "nearest-prototype", "convolution")
    data: ClassVar[Source | None] = CIFAR10.data

    def __init__(
        self, *, reading: Literal["symbols", "continuous"] = "symbols", fraction: float = 0.1, seed: int = 0
    ) -> None:
        self.reading, self.fraction, self.seed = reading, fraction, seed
        check_share("fraction", fraction)

    def load(self, data_dir: str | None = None) -> TaskData:
        assert self.data is not None
        images, labels, source = load_images(self.data, data_dir, task=self.name)
        kept, held_out = stratified(labels["train"], self.fraction, self.seed)
        levels, test = grey(images["train"]), grey(images["test"])
        return TaskData(
            train=sequences(levels[kept], labels["train"][kept], self.reading),
            held_out=sequences(levels[held_out], labels["train"][held_out], self.reading),
            test=sequences(test, labels["test"], self.reading),
            input=input_of(test[0].size, self.reading),
            output=OutputSpec("label", self.data.classes),
            source=source,
            protocol=f"{self.name}: CIFAR-10 in grey (BT.601), {test[0].size} {self.reading} levels; train / held out /"
            f" test {len(kept)} / {len(held_out)} / {len(test)}; held out: stratified, seed {self.seed}",
        )
