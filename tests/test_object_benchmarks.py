"""The benchmark of numbered objects: what is labelled, the ways, the report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import object_annotator
import object_mistakes
import object_scores
import object_sets
import object_ways
import objects
import pytest
import sets
import tifffile
from helpers import blobs, strokes
from PIL import Image
from scipy import ndimage

from napari_unetseg.core.image_stack import Stack

SMALL = ["--threads", "1", "--set", "width=4", "--set", "depth=2", "--set", "device=cpu"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a set of three pictures and a set of a stack."""
    rows = ["set\taxes\tlabels\trole\titem"]
    for name in ("flat", "deep"):
        for folder in ("images", "masks", "scribbles"):
            (tmp_path / name / folder).mkdir(parents=True)
    for seed, role in enumerate(("train", "train", "test")):
        image, truth = blobs((96, 96), 12, seed)
        ids = ndimage.label(truth)[0].astype(np.uint16)
        pixels = (image.clip(0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "flat" / "images" / f"p{seed}.png")
        tifffile.imwrite(tmp_path / "flat" / "masks" / f"p{seed}.tif", ids)
        tifffile.imwrite(tmp_path / "flat" / "scribbles" / f"p{seed}.tif", strokes(truth))
        rows.append(f"flat\tYX\tinstances\t{role}\tp{seed}.png")
    image, truth = blobs((8, 64, 64), 9, 3)
    tifffile.imwrite(tmp_path / "deep" / "images" / "s.tif", image)
    ids = 300 * ndimage.label(truth)[0].astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep" / "masks" / "s.tif", ids)
    tifffile.imwrite(tmp_path / "deep" / "scribbles" / "s.tif", strokes(truth))
    rows += [f"deep\tZYX\tinstances\t{r}\ts.tif[{p}]" for r, p in (("train", 2), ("test", 5))]
    (tmp_path / "benchmark.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def squares() -> np.ndarray:
    """Four objects: one alone, two that touch, one at the rim."""
    ids = np.zeros((40, 40), np.int32)
    ids[2:10, 2:10] = 7
    ids[15:25, 10:20], ids[15:25, 20:30] = 3, 900
    ids[30:40, 30:40] = 5
    return ids


# -- scores -----------------------------------------------------------------------------------


def test_precision_counts_right_missed_and_extra_objects() -> None:
    truth, found = squares(), squares()
    found[found == 7] = 0  # missed
    found[15:25, 20:25] = 0  # half of an object: an IoU of 0.5
    found[2:4, 30:34] = 11  # there is none
    scores = object_scores.scores_of_objects([truth], [found])
    assert scores["ap50"] == pytest.approx(3 / 5)
    assert scores["ap75"] == pytest.approx(2 / 6)
    assert scores["ap"] == pytest.approx((3 / 5 + 9 * 2 / 6) / 10)
    assert scores["pq"] == pytest.approx(2 * 2.5 / 8)


def test_scores_are_pooled_and_numbers_do_not_matter() -> None:
    truth, empty = squares(), np.zeros((40, 40), int)
    scores = object_scores.scores_of_objects([truth, truth], [truth * 2, empty])
    assert scores["ap50"] == scores["ap"] == pytest.approx(0.5)


# -- what is labelled -------------------------------------------------------------------------


def test_finished_objects_are_whole_dealt_evenly_and_cut_ones_come_last() -> None:
    masks = [squares(), squares()]
    for seed in range(5):
        chosen = object_sets.finished_objects(masks, 6, seed)
        for ids in chosen:
            assert set(np.unique(ids)) == {0, 7, 3, 900}
            assert np.array_equal(ids, np.where(squares() == 5, 0, squares()))
    again = [object_sets.finished_objects(masks, 1, 0)[0] for _ in range(2)]
    assert np.array_equal(*again)
    assert len(np.unique(again[0])) == 2
    assert np.array_equal(object_sets.finished_objects(masks, 20, 0)[1], squares())


def test_a_large_set_is_split_into_fifteen_and_ten_that_differ(tmp_path: Path) -> None:
    items = [sets.Item(f"{n}.png") for n in range(30)]
    data = sets.BenchmarkSet(tmp_path, "YX", True, tuple(items[:4]), tuple(items[4:]))
    train, test = object_sets.split_items(data)
    assert (len(train), len(test)) == (15, 10)
    assert train[:4] == data.train
    assert len({*train, *test}) == 25
    assert object_sets.split_items(data) == (train, test)


def test_a_stack_is_read_plane_by_plane_or_in_halves(root: Path) -> None:
    (deep,) = sets.read_sets(root, "deep")
    planes, halves = object_sets.read_split(deep), object_sets.read_split(deep, 3)
    assert planes.names == {"train": ["s.tif[2]"], "test": ["s.tif[5]"]}
    assert planes.train[0].ids.shape == (64, 64)
    assert planes.train[0].ids.max() >= 300
    assert [p.ids.shape for p in (*halves.train, *halves.test)] == [(4, 64, 64)] * 2
    assert np.array_equal(halves.train[0].ids[2], planes.train[0].ids)


def test_stardist_ignores_what_is_not_labelled() -> None:
    ids, painted = squares(), np.zeros((40, 40), np.uint8)
    painted[0], painted[4, 3:6] = 255, 1
    picture = object_sets.Picture(Stack(ids.astype(np.float32), "YX"), ids, painted)
    labelled = object_sets.Labelled(picture, np.where(ids == 3, ids, 0))
    task = object_ways.Task([labelled], [picture], 0, 1.0, Path(), argparse.Namespace())
    given = object_ways._for_stardist(task)["ids_0"]
    assert np.array_equal(given == 3, ids == 3)
    assert np.array_equal(given == 0, painted == 255)
    assert (given[(ids != 3) & (painted != 255)] == -1).all()


# -- a border class ---------------------------------------------------------------------------


def test_components_of_the_inside_grow_back_to_the_objects() -> None:
    found = object_ways.grown_back(object_ways._inside_and_border(squares()))
    assert np.array_equal(found > 0, squares() > 0)
    assert object_scores.scores_of_objects([squares()], [found])["ap"] == 1.0
    large = object_ways.grown_back(object_ways._inside_and_border(squares()), 80)
    assert len(np.unique(large)) == 1 + 3, "the object of 64 voxels is left out"


# -- the program ------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_broken_off(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = [str(root), "--seeds", "0", "--sets", "flat", "--out", str(out), *SMALL]
    quick = [*arguments, "--minutes", "0.02", "--few-minutes", "0.02"]
    report = objects.main(quick)
    found = report["sets"]["flat"]
    for mode in object_sets.MODES:
        for way in ("ours", "necks"):
            assert 0 <= found[mode][way]["median"]["ap50"] <= 1
        assert "skipped" in found[mode]["stardist"]
    assert 0 <= found["finished"]["border"]["median"]["pq"] <= 1
    assert "skipped" in found["strokes"]["border"]
    assert json.loads((out / "objects.json").read_text())["sets"].keys() == {"flat"}
    monkeypatch.setattr(object_ways, "train", lambda *_: pytest.fail("trained again"))
    for path in (out / "runs").glob("*_necks.json"):  # the model of this way is that of ours
        path.unlink()
    assert objects.main(quick)["sets"]["flat"]["masks"]["necks"]["median"]["ap50"] == pytest.approx(
        found["masks"]["necks"]["median"]["ap50"], abs=1e-3
    )
    with pytest.raises(SystemExit, match="choose another --out"):
        objects.main([*arguments, "--minutes", "3"])


# -- the simulated annotator ------------------------------------------------------------------

EVERYWHERE = (slice(0, 40), slice(0, 40))


def kinds(shown: np.ndarray) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """What is to be done to objects on screen, by its kind."""
    found: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for act in object_mistakes.acts(squares(), shown, EVERYWHERE):
        found.setdefault(act.kind, []).append((act.shown, act.true))
    return found


def test_right_objects_are_accepted() -> None:
    assert kinds(squares())["accepted"] == [((n,), (n,)) for n in (3, 5, 7, 900)]


def test_pieces_are_merged_holders_split_others_deleted_or_painted() -> None:
    shown = squares()
    shown[2:6, 2:10], shown[6:10, 2:10] = 11, 12  # pieces of 7
    shown[15:25, 10:30] = 13  # both 3 and 900
    shown[30:40, 30:40] = 0  # 5 is missed
    shown[0:4, 30:34] = 14  # there is none
    assert kinds(shown) == {
        "deleted": [((14,), ())],
        "merged": [((11, 12), (7,))],
        "split": [((13,), (3, 900))],
        "painted": [((), (5,))],
    }
    assert not list(object_mistakes.acts(squares(), shown, (slice(0, 40), slice(36, 40))))


def test_corrected_objects_stay_whatever_is_found() -> None:
    ids = squares()
    sheet = object_annotator.Sheet(object_sets.Picture(Stack(ids.astype(np.float32), "YX"), ids))
    sheet.finish(ids == 3)
    sheet.finish(ids == 7)
    found = np.where(ids == 900, 2, 0)
    found[0:12, 0:12] = 1  # around the object 7
    found[30:40, 30:40] = 3
    sheet.strokes[30:40, 30:40] = 255
    shown = sheet.shown(found)
    assert np.array_equal(shown == 1, ids == 3)
    assert np.array_equal(shown == 2, ids == 7)
    assert set(np.unique(shown[ids == 900])) == {4}
    assert not shown[30:, 30:].any()
    assert sheet.pair.objects.max() == 2


def test_painting_and_gestures_are_timed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(root), "--sets", "flat", "--seeds", "0", "--out", str(out), *SMALL]
    report = object_annotator.main([*arguments, "--minutes", "0.5", "--every", "0.1"])
    (run,) = report["sets"]["flat"]["runs"]
    assert run["painting"]["reached"]
    assert 0.8 <= run["painting"]["curve"][-1]["ap50"] <= 1
    assert 1 < run["painting"]["seconds_per_object"] < 10
    assert run["gestures"]["seconds_per_object"] > 0
    assert run["gestures"]["curve"]
    assert (out / "object_annotator.json").is_file()
