"""Pictures of clothes of 28 x 28."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.data import Source
from tasks.images import ImageTask


@TASKS.register("fashion-mnist")
class FashionMNIST(ImageTask):
    """Articles of clothing in MNIST's format, 60,000 to train on and 10,000 to test, 10 classes (Xiao et al. 2017).

    ``reading``: "rows", 28 steps of 28 levels; "pixels", 784 steps of one.
    ``fraction`` of train is held out by ``seed``, stratified.
    """

    title: ClassVar[str] = "Fashion-MNIST"
    data: ClassVar[Source | None] = Source(
        folder="fashion_mnist",
        config="fashion_mnist",
        hub="zalando-datasets/fashion_mnist",
        text="image",
        classes=10,
        image=(28, 28, 1),
        checksums={
            "train": "2e3812895730a313b82800ad0760dda559fbbc6d2cf2c942138626b42b67a15a",
            "test": "10dc256551ab8030dd562ab6efdf4414f9fa4896cd9dd1de3e1bb9e6a3338cfc",
        },
    )

    def __init__(self, *, reading: Literal["rows", "pixels"] = "rows", fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__(reading=reading, fraction=fraction, seed=seed)
