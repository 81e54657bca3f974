"""Pathfinder: stamps against direct drawing, labels by tracing the drawn curves, the step's law, pieces, the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import correlate, label

from neurons.errors import UsageError
from tasks import TASKS
from tasks.contours import Lanes, targets_of
from tasks.distractors import distractors_of
from tasks.paddles import DEGREES, Paddles, Scene, paddles
from tasks.pathfinder import Pictures, draw, rendered
from tasks.picture_grid import grid
from tasks.shards import sharded

SHORT: Scene = TASKS.build("pathfinder-short").scene()
HARD: Scene = TASKS.build("pathfinder32").scene()
WIDE: Scene = TASKS.build("pathx", difficulty="easy").scene()


def kit_of(scene: Scene) -> Paddles:
    return paddles(scene, scene.margins[0])


def test_the_scenes_are_the_published_parameters() -> None:
    hard, wide = HARD, TASKS.build("pathx").scene()
    assert (hard.size, hard.length, hard.thickness, hard.margins, hard.marker_radius) == (32, 2, 0.5, (1,), 1.5)
    assert (hard.seed_distance, hard.continuity, hard.padding, hard.antialias) == (7, 1.0, 1, 2)
    assert (hard.contour, hard.distractor, hard.distractors) == (14, 14 // 3, 20 // 4)
    assert (hard.target_contrast, hard.distractor_contrast) == (2 * 0.75, 2)
    assert (wide.size, wide.length, wide.thickness, wide.margins, wide.marker_radius) == (128, 5, 1.5, (2, 3), 3)
    assert (wide.seed_distance, wide.continuity, wide.distractors) == (20, 1.8, 35 // 4)
    assert TASKS.build("pathfinder32", difficulty="intermediate").scene().contour == 9
    with pytest.raises(UsageError, match="difficulty"):
        TASKS.build("pathfinder32", difficulty="hart")


@pytest.mark.parametrize("degree", [-180, -120, -90, 0, 37, 90, 151])
def test_a_stamp_is_the_line_drawn_in_place(degree: int) -> None:
    """A line on a canvas of its own, twice as fine, reduced by Lanczos' filter."""
    half, row = 4, degree + 180
    fine = Image.new("L", (17, 17))
    end = [int(np.ceil(8 + 4 * np.cos(np.deg2rad(degree)))), int(np.ceil(8 + 4 * np.sin(np.deg2rad(degree))))]
    ImageDraw.Draw(fine).line([(8, 8), (end[0], end[1])], fill=255, width=1)
    expected = np.asarray(fine.resize((9, 9), Image.Resampling.LANCZOS))
    kit = kit_of(HARD)
    stamp = np.zeros((kit.width, kit.width), np.uint8)
    centre = kit.width // 2
    places = centre * kit.width + centre + kit.line.offset[row]
    np.maximum.at(stamp.reshape(-1), places, kit.line.value[row])
    np.testing.assert_array_equal(stamp[centre - half : centre + half + 1, centre - half : centre + half + 1], expected)


@pytest.mark.parametrize("scene", [HARD, WIDE], ids=["32", "128"])
def test_a_step_bends_by_cosine_squared_and_never_back(scene: Scene) -> None:
    kit = kit_of(scene)
    rows, columns = np.divmod(kit.ring + kit.rim * (kit.width + 1), kit.width)
    ahead = np.arctan2(rows - kit.rim, columns - kit.rim)
    np.testing.assert_allclose(ahead, kit.angle[DEGREES:])
    bend = np.abs(np.angle(np.exp(1j * (kit.angle[:, None] - ahead))))
    expected = np.where(scene.continuity * bend < np.pi / 2, np.cos(scene.continuity * bend) ** 2, 0)
    np.testing.assert_allclose(kit.turn, expected, atol=1e-6)


@pytest.mark.parametrize(("scene", "count"), [(HARD, 60), (WIDE, 8)], ids=["32", "128"])
def test_every_step_turns_at_the_original_s_pivot(scene: Scene, count: int) -> None:
    """One paddle at a time, in floating point and absolute places: where rounding up falls matters near a border."""

    def translated(place: np.ndarray, angle: float, distance: float) -> np.ndarray:
        return np.ceil(place + float(distance) * np.array([np.sin(angle), np.cos(angle)]))

    for curve in draw(scene, count, (8,)).paddles.astype(np.float64).reshape(-1, scene.contour, 4):
        margin, angle = curve[0, 3], np.deg2rad(np.rint(np.rad2deg(curve[0, 2])))
        back = angle + np.pi if angle < 0 else angle - np.pi
        pivot = translated(translated(curve[0, :2], angle, scene.length), back, scene.length + margin)
        for y, x, drawn_along, _ in curve[1:]:
            pivot = translated(pivot, angle, scene.length + 2 * margin)
            rows, columns = y - pivot[0], x - pivot[1]
            assert scene.length + margin - 1.5 < np.hypot(rows, columns) < scene.length + margin + 1.5
            angle = np.arctan2(rows, columns)
            assert abs(np.angle(np.exp(1j * (drawn_along - np.pi - angle)))) < 1e-5


def ends(drawn: Pictures, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Where each paddle was drawn from and to, (n, 2, contour, 2) y, x."""
    start, angle = drawn.paddles[..., :2], drawn.paddles[..., 2]
    return start, start + scene.length * np.stack([np.sin(angle), np.cos(angle)], -1)


def marked(image: np.ndarray, scene: Scene) -> list[np.ndarray]:
    """The two discs that a picture shows, found by their shape alone."""
    kit = kit_of(scene)
    half = int(np.ceil(scene.marker_radius)) + 3
    disc = np.zeros((2 * half + 1, 2 * half + 1))
    y, x = np.divmod(kit.marker.offset[0] + half * (kit.width + 1), kit.width)
    np.maximum.at(disc, (y, x), kit.marker.value[0] / 255)
    level = image / 255 * max(scene.target_contrast, scene.distractor_contrast, 1)
    solid = disc > 0.9
    score = correlate(np.minimum(level, 1), solid / solid.sum(), mode="constant")
    found = []
    for _ in range(2):
        place = np.array(np.unravel_index(score.argmax(), score.shape))
        found.append(place)
        y, x = np.ogrid[: image.shape[0], : image.shape[1]]
        score[(y - place[0]) ** 2 + (x - place[1]) ** 2 <= (scene.marker_radius + 1) ** 2] = 0
    return found


@pytest.mark.parametrize(("scene", "count"), [(SHORT, 100), (HARD, 100), (WIDE, 16)], ids=["16", "32", "128"])
def test_labels_by_tracing_the_drawn_curves(scene: Scene, count: int) -> None:
    """Each curve is drawn anew as one line through its paddles, flood filled, and asked for the markers."""
    drawn = draw(scene, count, (3,))
    start, end = ends(drawn, scene)
    seen, agree = 0, 0
    rows = zip(drawn.images, drawn.labels, start, end, drawn.markers, strict=True)
    for image, answer, first, second, markers in rows:
        colours = []
        for curve in (0, 1):
            canvas = Image.new("L", (scene.size * 4, scene.size * 4))
            # The first paddle is drawn from its free end, the others towards the one before.
            points = [first[curve, 0], second[curve, 0]]
            for a, b in zip(second[curve, 1:], first[curve, 1:], strict=True):
                points += [a, b]
            ImageDraw.Draw(canvas).line([(float(x) * 4 + 2, float(y) * 4 + 2) for y, x in points], fill=255, width=3)
            areas, number = label(np.asarray(canvas) > 0, np.ones((3, 3)))
            assert number == 1
            colours.append(areas > 0)
        if scene.apart:
            assert not (colours[0] & colours[1]).any()
        # Elsewhere ends may cross, so that a place alone does not tell whose a marker is: ends do.
        owner = [
            [c for c in (0, 1) if (tip == first[c, step]).all()] for tip, step in zip(markers, (0, -1), strict=True)
        ]
        one = owner[0] == owner[1]
        for (y, x), curves in zip(markers, owner, strict=True):
            assert len(curves) == 1
            assert colours[curves[0]][int(y) * 4 + 2, int(x) * 4 + 2]
        seen += 1
        agree += one == bool(answer)
        gaps = np.linalg.norm(second[:, 1:] - first[:, :-1], axis=-1)
        assert gaps[:, 1:].max() <= 4 * (2 * max(scene.margins) + 2)
        for y, x in markers:
            assert image[int(y), int(x)] >= 0.9 * 255 / max(scene.distractor_contrast, scene.target_contrast, 1)
    assert agree == seen == count
    assert 0.3 < drawn.labels.mean() < 0.7


def test_the_markers_are_where_the_picture_shows_them() -> None:
    drawn = draw(WIDE, 6, (4,))
    for image, markers in zip(drawn.images, drawn.markers, strict=True):
        found = marked(image, WIDE)
        for marker in markers:
            assert min(np.linalg.norm(marker - place) for place in found) <= 1.5


@pytest.mark.parametrize("scene", [HARD, WIDE], ids=["32", "128"])
def test_every_paddle_is_in_the_picture(scene: Scene) -> None:
    drawn = draw(scene, 16, (5,))
    start, end = ends(drawn, scene)
    middle = np.rint((start + end) / 2).astype(int)
    for image, places in zip(drawn.images, middle.reshape(16, -1, 2), strict=True):
        for y, x in places:
            assert image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max() > 60


def test_a_picture_is_scaled_to_its_brightest_pixel_and_targets_are_dimmer_in_32() -> None:
    drawn = draw(HARD, 64, (6,))
    assert (drawn.images.max((1, 2)) == 255).all()
    start, _ = ends(drawn, HARD)
    y, x = np.moveaxis(start[:, :, 1:-1].astype(int), -1, 0)
    rows = np.arange(64)[:, None, None]
    assert np.median(drawn.images[rows, y, x]) < 0.76 * 255


def test_pictures_are_a_pure_function_of_scene_count_and_seed() -> None:
    one, two = draw(SHORT, 40, (1, 2)), draw(SHORT, 40, (1, 2))
    np.testing.assert_array_equal(one.images, two.images)
    assert not np.array_equal(draw(SHORT, 40, (1, 3)).images, one.images)


def test_readings_hold_the_same_levels() -> None:
    options = {"train": 20, "held_out": 5, "test": 5}
    symbols = TASKS.build("pathfinder-short", **options).load()
    levels = TASKS.build("pathfinder-short", reading="continuous", **options).load()
    np.testing.assert_array_equal(np.stack(list(symbols.test.inputs)), np.rint(levels.test.inputs[:, :, 0] * 255))
    with pytest.raises(UsageError, match="reading"):
        TASKS.build("pathfinder-short", reading="rows")


def lines(kit: Paddles, drawn: Lanes, steps: slice) -> np.ndarray:
    """(n, width^2): the lines of the paddles ``steps``, without their masks."""
    canvas = np.zeros((len(drawn.place), kit.width**2), np.uint8)
    for place, stamp in zip(drawn.place.T[steps], drawn.stamp.T[steps], strict=True):
        for lane in np.flatnonzero(stamp >= 0):
            np.maximum.at(canvas[lane], place[lane] + kit.line.offset[stamp[lane]], kit.line.value[stamp[lane]])
    return canvas


def test_in_the_short_task_nothing_crosses_the_end_of_a_contour_and_in_the_original_s_something_does() -> None:
    crossed = {}
    for name, scene in (("short", SHORT), ("hard", HARD)):
        kit, rng = kit_of(scene), np.random.default_rng(2)
        targets = targets_of(scene, kit, 1500, rng)
        distractors = distractors_of(scene, kit, targets, rng)
        tip = lines(kit, targets, slice(scene.contour - 1, scene.contour)) > 127
        others = np.maximum(lines(kit, distractors, slice(None)), lines(kit, targets, slice(scene.contour, None)))
        crossed[name] = int((tip & (others > 127)).any(1).sum())
    assert crossed["short"] == 0
    assert crossed["hard"] > 0


def test_a_picture_is_the_brightest_of_its_parts() -> None:
    kit, rng = kit_of(HARD), np.random.default_rng(3)
    targets = targets_of(HARD, kit, 20, rng)
    distractors = distractors_of(HARD, kit, targets, rng)
    tips = targets.place[:, [0, HARD.contour - 1]]
    markers = np.zeros((20, kit.width**2))
    for lane in range(20):
        for tip in tips[lane]:
            np.maximum.at(markers[lane], tip + kit.marker.offset[0], kit.marker.value[0])
    parts = (lines(kit, targets, slice(None)) * 1.5, lines(kit, distractors, slice(None)) * 2.0, markers)
    whole = np.max(parts, axis=0).reshape(20, kit.width, kit.width)[:, kit.rim : -kit.rim, kit.rim : -kit.rim]
    expected = np.rint(whole * 255 / whole.max((1, 2), keepdims=True))
    np.testing.assert_allclose(rendered(HARD, kit, targets, distractors, tips), expected, atol=1)


def _count_piece(piece: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(piece * 3, piece * 3 + 3)}


def test_pieces_are_made_once_side_by_side_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    made: list[int] = []

    def make(piece: int) -> dict[str, np.ndarray]:
        made.append(piece)
        return _count_piece(piece)

    got: Callable[[int], np.ndarray] = lambda count: sharded("set", make, count=count, size=3, processes=1)["x"]  # noqa: E731
    np.testing.assert_array_equal(got(4), range(4))
    np.testing.assert_array_equal(got(8), range(8))
    assert made == [0, 1, 2]
    (tmp_path / "set" / "000001.npz").write_bytes(b"damaged")
    np.testing.assert_array_equal(got(8), range(8))
    assert made == [0, 1, 2, 1]
    np.testing.assert_array_equal(sharded("other", _count_piece, count=20, size=3, processes=2)["x"], range(20))


def test_a_lane_that_fails_leaves_nothing_behind() -> None:
    """The mask after distractors is that of the contours and of the distractors that are drawn, and no more."""
    rng = np.random.default_rng(0)
    kit = kit_of(HARD)
    targets = targets_of(HARD, kit, 40, rng)
    before = targets.mask.copy()
    after = distractors_of(HARD, kit, targets, rng)
    rebuilt = before.copy()
    for place, stamp in zip(after.place.T, after.stamp.T, strict=True):
        for lane in np.flatnonzero(stamp >= 0):
            where = place[lane] + kit.mask.offset[stamp[lane]]
            np.maximum.at(rebuilt[lane], where, kit.mask.value[stamp[lane]])
    np.testing.assert_array_equal(after.mask, rebuilt)
    assert (after.stamp >= 0).any()


def test_contours_that_find_no_room_end_in_one_line_and_not_in_a_search_without_end(monkeypatch) -> None:
    monkeypatch.setattr("tasks.contours._WORKING_BYTES", 1 << 16)
    monkeypatch.setattr("tasks.contours._FRUITLESS", 5)
    with pytest.raises(UsageError, match="no two contours of 60 paddles found room in 16 x 16"):
        draw(TASKS.build("pathfinder-short", contour=60).scene(), 1, (0,))
    with pytest.raises(UsageError, match="2 paddles or more"):
        TASKS.build("pathfinder-short", contour=1)


def test_a_grid_shows_every_picture_and_a_bar_below_those_of_label_1() -> None:
    images = np.arange(8, dtype=np.uint8)[:, None, None] * 30 + np.zeros((8, 32, 32), np.uint8)
    sheet = grid(images, np.array([1, 0, 0, 0, 0, 0, 0, 1]))
    assert sheet.shape == (2 * 140, 6 * 140)
    assert (sheet[146 : 146 + 128, 146 : 146 + 128] == 7 * 30).all()
    assert [int(sheet[137, 70]), int(sheet[137, 210]), int(sheet[277, 210])] == [255, 0, 255]


def test_a_script_without_a_main_guard_may_load_a_large_set(tmp_path: Path) -> None:
    """Spawned processes would run the script again, and that one spawn its own."""
    script = tmp_path / "plain.py"
    script.write_text(
        "from tasks import TASKS\n"
        'task = TASKS.build("pathfinder-short", train=2600, held_out=50, test=50, seed=7)\n'
        "print(len(task.load().train))\n"
    )
    told = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120,
        env=os.environ | {"NEURONS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert told.stdout == "2600\n", told.stderr
