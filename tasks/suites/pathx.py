"""Path-X of Long Range Arena: Pathfinder in 16,384 steps."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks import TASKS
from tasks.paddles import Scene
from tasks.suites.pathfinder32 import PathfinderTask, scene_of
from tasks.task import check_sizes


@TASKS.register("pathx")
class PathX(PathfinderTask):
    """Pathfinder in 128 x 128 pixels, Long Range Arena's parameters, drawn anew: its files cannot be regenerated.

    Options as of pathfinder32. All 200,000 pictures take 3.3 GB of memory as symbols, 13 GB read as "continuous".
    """

    floors: ClassVar[tuple[str, ...]] = ("majority", "brightness")
    piece: ClassVar[int] = 50

    def __init__(
        self,
        *,
        difficulty: Literal["hard", "intermediate", "easy"] = "hard",
        reading: Literal["symbols", "continuous"] = "symbols",
        train: int = 160000,
        held_out: int = 20000,
        test: int = 20000,
        seed: int = 0,
    ) -> None:
        self.difficulty, self.reading = difficulty, reading
        self.train, self.held_out, self.test, self.seed = train, held_out, test, seed
        check_sizes(train, held_out, test, seed)

    def scene(self) -> Scene:
        base = Scene(
            size=128,
            length=5,
            thickness=1.5,
            margins=(2, 3),
            marker_radius=3,
            seed_distance=20,
            clearance=40,
            continuity=1.8,
            target_contrast=0.9,
            distractor_contrast=0.9,
        )
        return scene_of(base, self.difficulty, 35)
