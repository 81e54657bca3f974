"""Handwritten digits of 28 x 28."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.data import Source
from tasks.images import ImageTask


@TASKS.register("mnist")
class MNIST(ImageTask):
    """Handwritten digits, 60,000 to train on and 10,000 to test, 28 x 28 grey levels, 10 classes (LeCun et al. 1998).

    ``reading``: "rows", 28 steps of 28 levels; "pixels", 784 steps of one, as in sequential MNIST.
    ``fraction`` of train is held out by ``seed``, stratified.
    """

    title: ClassVar[str] = "MNIST"
    data: ClassVar[Source | None] = Source(
        folder="mnist",
        config="mnist",
        hub="ylecun/mnist",
        text="image",
        classes=10,
        image=(28, 28, 1),
        checksums={
            "train": "5b4f12f015799a2a03a4d5a1d9cea3bd0f8029bb52130aa388fb0bad7ea76bc7",
            "test": "fa7558aebe3153f01640e7cdb17adbdcb7e883f6762b6f9dbb3fe7d006b454bb",
        },
    )

    def __init__(self, *, reading: Literal["rows", "pixels"] = "rows", fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__(reading=reading, fraction=fraction, seed=seed)
