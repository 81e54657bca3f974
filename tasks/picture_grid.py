"""First pictures of tasks as one PNG: ``python -m tasks.picture_grid docs/pathfinder.png pathfinder32 pathx``.

A row or more for each task, enlarged to 128 pixels; a bright bar below a picture where its label is 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS, SIDE, GAP = 6, 128, 6


def grid(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, s, s) uint8 pictures and (n,) labels 0 or 1 as one grey picture, row by row."""
    scale = max(1, SIDE // images.shape[1])
    large = images.repeat(scale, 1).repeat(scale, 2)
    step = large.shape[1] + 2 * GAP
    sheet = np.full((-(-len(images) // COLUMNS) * step, COLUMNS * step), 96, np.uint8)
    for place, (image, label) in enumerate(zip(large, labels, strict=True)):
        y, x = (GAP + step * n for n in divmod(place, COLUMNS))
        sheet[y : y + len(image), x : x + len(image)] = image
        sheet[y + len(image) + 1 : y + len(image) + GAP - 1, x : x + len(image)] = 255 * label
    return sheet


def main(out: str, *names: str, rows: int = 2) -> None:
    from tasks import TASKS

    sheets = []
    for name in names:
        data = TASKS.build(name, train=COLUMNS * rows, held_out=1, test=1).load()
        side = round(data.input.length**0.5)
        sheets.append(grid(np.stack(list(data.train.inputs)).reshape(-1, side, side), data.train.labels))
    Image.fromarray(np.concatenate(sheets)).quantize(16).save(Path(out), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
