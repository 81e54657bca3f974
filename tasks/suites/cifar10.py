"""Small colour photographs of 32 x 32."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.data import Source
from tasks.images import ImageTask


@TASKS.register("cifar10")
class CIFAR10(ImageTask):
    """Colour photographs, 50,000 to train on and 10,000 to test, 32 x 32 x 3 levels, 10 classes (Krizhevsky 2009).

    ``reading``: "rows", 32 steps of 96 levels; "pixels", 1,024 steps of three.
    ``fraction`` of train is held out by ``seed``, stratified.
    """

    title: ClassVar[str] = "CIFAR-10"
    data: ClassVar[Source | None] = Source(
        folder="cifar10",
        config="plain_text",
        hub="uoft-cs/cifar10",
        text="img",
        classes=10,
        image=(32, 32, 3),
        checksums={
            "train": "8bffdc02886c2e47e4e49fd280263577c01893da5c523ed7e9107d8bfe45e67b",
            "test": "7e8810ce33aa23e5ef90934f365791593fd0b3afa7a937716f9bf8c1599154d5",
        },
    )

    def __init__(self, *, reading: Literal["rows", "pixels"] = "rows", fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__(reading=reading, fraction=fraction, seed=seed)
