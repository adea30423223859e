"""The benchmarks: how sets are read, what the clock and the marks are, what a report holds."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import agreement
import check_quality
import exposure
import isbi
import numpy as np
import painter
import pytest
import quality
import quality_report
import rounds
import sets
import tifffile
import watch
from helpers import blobs, random_model, strokes, tiny
from PIL import Image

from napari_unetseg.core.labels import Classes, Structure

SMALL = ["--threads", "1", "--set", "width=4", "--set", "depth=2", "--set", "device=cpu"]
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="needs scikit-learn: install the extra bench",
)


def write_picture(folder: Path, seed: int, train: bool) -> str:
    """One picture with its mask of 0 and 1; strokes only where it trains."""
    image, truth = blobs((96, 96), 12, seed)
    name = f"p{seed}.png"
    Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(folder / "images" / name)
    Image.fromarray(truth).save(folder / "masks" / name)
    if train:
        tifffile.imwrite(folder / "scribbles" / f"p{seed}.tif", strokes(truth))
    return name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a set of pictures and a set of one stack."""
    rows = ["set\taxes\tlabels\trole\titem"]
    for name in ("flat", "deep"):
        for folder in ("images", "masks", "scribbles"):
            (tmp_path / name / folder).mkdir(parents=True)
    for seed, role in enumerate(("train", "train", "test")):
        item = write_picture(tmp_path / "flat", seed, role == "train")
        rows.append(f"flat\tYX\tsemantic\t{role}\t{item}")
    image, truth = blobs((6, 64, 64), 9, 3)
    folder = tmp_path / "deep"
    tifffile.imwrite(folder / "images" / "s.tif", image)
    tifffile.imwrite(folder / "masks" / "s.tif", truth.astype(np.uint16) * 300)
    tifffile.imwrite(folder / "scribbles" / "s.tif", strokes(truth))
    rows += [f"deep\tZYX\tinstances\t{r}\ts.tif[{p}]" for r, p in (("train", 2), ("test", 4))]
    (tmp_path / "benchmark.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


# -- sets -------------------------------------------------------------------------------------


def test_a_stack_is_one_image_with_labels_in_the_given_planes_only(root: Path) -> None:
    (deep,) = sets.read_sets(root, "deep")
    (image,) = deep.training()
    labels = image.pair("strokes").labels
    assert image.image.grid_axes == "ZYX"
    assert image.planes == ((2,),)
    assert labels[2].any()
    assert not labels[[0, 1, 3, 4, 5]].any()


def test_full_masks_know_nothing_of_other_planes_and_read_objects_as_structure_1(
    root: Path,
) -> None:
    (deep,) = sets.read_sets(root, "deep")
    pair = deep.training("full")[0].pair("full")
    assert set(np.unique(pair.labels[2])) == {0, 1}
    assert set(np.unique(pair.labels[[0, 1, 3, 4, 5]])) == {pair.ignore}


def test_an_item_may_name_a_plane_and_a_file_may_have_another_suffix(root: Path) -> None:
    assert sets.Item.parse("a[1].tif") == sets.Item("a[1].tif")
    assert sets.Item.parse("a.tif[3]") == sets.Item("a.tif", (3,))
    assert sets.Item.parse("a.tif[3,4]") == sets.Item("a.tif", (3, 4))
    assert sets.find(root / "flat" / "scribbles", "p0.png").name == "p0.tif"


def test_unknown_sets_are_named(root: Path) -> None:
    with pytest.raises(SystemExit, match="no set wide; choose from flat, deep"):
        sets.read_sets(root, "wide")


def test_dice_is_pooled_over_images_and_averaged_over_structures() -> None:
    truth = [np.array([[1, 1, 0, 0]], np.uint8), np.array([[2, 0, 0, 1]], np.uint8)]
    found = [np.array([[1, 0, 0, 0]], np.uint8), np.array([[2, 2, 0, 1]], np.uint8)]
    first, second = 2 * 2 / (3 + 2), 2 * 1 / (1 + 2)
    assert sets.pooled_dice(zip(found, truth, strict=True)) == pytest.approx((first + second) / 2)


def test_only_the_given_planes_are_scored(root: Path) -> None:
    (deep,) = sets.read_sets(root, "deep")
    tests = deep.tests()
    assert sets.score(tests, lambda stack, planes: tests[0].labels) == 1.0

    def wrong_elsewhere(stack: Any, planes: Any) -> np.ndarray:
        mask = 1 - tests[0].labels
        mask[4] = tests[0].labels[4]
        return mask

    assert sets.score(tests, wrong_elsewhere) == 1.0


# -- clock and marks --------------------------------------------------------------------------


def test_the_clock_counts_cpu_seconds_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, wall = iter([10.0, 16.0]), iter([100.0, 105.0])
    monkeypatch.setattr(watch.time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(watch.time, "perf_counter", lambda: next(wall))
    clock = watch.Clock(threads=2)
    assert clock.seconds == 3.0
    assert clock.wall == 5.0


@pytest.fixture
def trace() -> watch.Trace:
    models = [random_model(seed, depth=2, width=4) for seed in range(3)]
    times = (3.0, 25.0, 50.0)
    shown = [watch.Shown(t, 2 * t, m) for t, m in zip(times, models, strict=True)]
    return watch.Trace(shown, seconds=55.0, wall=110.0, steps=9, reason="over")


def test_a_mark_takes_the_newest_model_until_then(trace: watch.Trace) -> None:
    assert trace.at(2.9) is None
    assert trace.at(3.0) is trace.shown[0]
    assert trace.at(49.9) is trace.shown[1]
    assert trace.at(120.0) is trace.shown[2], "the last model counts on after the end"
    assert trace.between(30, 120) == trace.shown[1:]


def test_a_curve_scores_each_model_once_and_only_where_it_counts(trace: watch.Trace) -> None:
    seen: list[str] = []
    known = {s.model.id: dice for s, dice in zip(trace.shown, (0.5, 0.8, 0.7), strict=True)}

    def scorer(model: Any) -> float:
        seen.append(model.id)
        return known[model.id]

    found = quality.curve_of(trace, 120, scorer)
    assert found["dice"] == [0.0, 0.5, 0.5, 0.5, 0.8, 0.7, 0.7]
    assert found["largest_fall"] == pytest.approx(0.1)
    assert found["curve"] == [[3.0, 6.0, 0.5], [25.0, 50.0, 0.8], [50.0, 100.0, 0.7]]
    assert quality.curve_of(trace, 20, scorer)["largest_fall"] is None


def test_no_model_is_scored_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(quality, "score", lambda *given: calls.append(given) or 0.5)
    scorer = quality.cached([], 1, "cpu")
    model = random_model(0, depth=2, width=4)
    assert [scorer(model), scorer(replace(model, history=()))] == [0.5, 0.5]
    assert len(calls) == 1


def test_ratio_and_fall() -> None:
    assert quality_report.ratio(0.9, 0.8) == pytest.approx(0.5)
    assert quality.largest_fall([0.5, 0.8, 0.75, 0.9, 0.83]) == pytest.approx(0.07)
    assert quality.largest_fall([0.5, 0.6]) == 0.0


def test_medians_and_the_summary_over_the_counted_sets() -> None:
    runs = [
        {"seed": s, "dice": [d, d + 0.1], "first_dice": d, "first_seconds": 1.0, "largest_fall": f}
        for s, (d, f) in enumerate([(0.5, 0.0), (0.7, 0.03), (0.6, 0.01)])
    ]
    middle = quality_report.medians(runs)
    assert middle["dice"] == [0.6, 0.7]
    assert (middle["largest_fall"], middle["worst_fall"]) == (0.01, 0.03)
    one = {"median": {"strokes": middle}, "ratio": [1.0, 0.5], "first_over_forest": 0.9}
    results = {"a": one, "b": {**one, "ratio": [0.8, 0.7]}, "c": {**one, "ratio": [9.0, 9.0]}}
    found = quality_report.summary(results, ["a", "b"])
    assert found["mean_ratio"] == pytest.approx([0.9, 0.6])
    assert found["worst_ratio"] == [1.0, 0.7]
    assert found["worst_fall"] == 0.03


def test_a_training_is_watched_until_its_time_is_over(root: Path) -> None:
    (flat,) = sets.read_sets(root, "flat")
    pairs = [image.pair("strokes") for image in flat.training()]
    trace = watch.watch(pairs, tiny(), 0.5)
    times = [s.seconds for s in trace.shown]
    assert times == sorted(times)
    assert trace.steps > 0
    assert trace.reason
    assert trace.seconds >= times[-1]


def test_the_first_picture_has_512_pixels_a_side(root: Path) -> None:
    (flat,) = sets.read_sets(root, "flat")
    stack, plane = quality.first_picture(flat.training(), dims=2)
    assert (stack.grid_shape, plane) == ((512, 512), ())


# -- the simulated hand -----------------------------------------------------------------------


def test_a_part_of_the_strokes_has_its_share_of_every_class(root: Path) -> None:
    (flat,) = sets.read_sets(root, "flat")
    given = flat.training()
    part = painter.part_of(given, 0.2, np.random.default_rng(0))
    whole = painter.amounts(given)
    for value, total in whole.items():
        assert sum((array == value).sum() for array in part) == round(0.2 * total)
    for array, image in zip(part, given, strict=True):
        assert np.array_equal(array[array > 0], image.labels[array > 0])


def test_strokes_are_added_inside_their_class_where_the_mask_is_wrong() -> None:
    truth = np.zeros((64, 128), np.uint8)
    truth[16:48, 16:48] = truth[16:48, 80:112] = 1
    mask = truth.copy()
    mask[16:48, 80:112] = 0  # the second square is missed
    image = sets.Annotated(sets.Stack(truth, "YX"), truth, ((),))
    empty = [np.zeros_like(truth)]
    (added,) = painter.add_strokes(
        empty, [image], [mask], {1: 60, 255: 60}, np.random.default_rng(0)
    )
    assert 0 < (added == 1).sum() <= 60
    assert (truth[added == 1] == 1).all()
    assert (truth[added == 255] == 0).all()
    assert not added[:, :64][truth[:, :64] == 1].any()
    assert not added[16:18].any() or not (added[16:18] == 1).any(), "two pixels from the edge"


def test_background_strokes_are_right_where_the_mask_is_0() -> None:
    labels, mask = np.array([[255, 255, 1, 0]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    assert rounds.right([labels], [mask], [labels > 0]) == pytest.approx(2 / 3)


# -- membranes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("everything", "wanted"), [(False, 1.0), (True, 0.5)])
def test_agreement_with_new_strokes_counts_classes_alike(
    root: Path, monkeypatch: pytest.MonkeyPatch, everything: bool, wanted: float
) -> None:
    """Of the mask itself, and of one that finds the structure everywhere."""
    monkeypatch.setattr(agreement, "FRESH", 30)
    images = sets.read_sets(root, "flat")[0].training("full")
    painted = agreement.draw(images, 100, np.random.default_rng(0))
    masks = [np.ones_like(i.labels) if everything else i.labels for i in images]
    classes, rng = Classes((Structure(1),)), np.random.default_rng(1)
    found = agreement.agreement_with_new(images, masks, painted, classes, 100, rng)
    assert found == pytest.approx(wanted)


def test_perfect_membranes_have_no_error() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[20] = truth[:, 20] = 1
    found = isbi.measures([truth.astype(np.float32)], [truth])
    assert found["membrane_dice"] == 1.0
    assert found["pixel_error"] == 0.0
    assert found["rand_error"] == pytest.approx(0.0)


def test_a_gap_in_a_membrane_costs_rand_error_and_one_pixel() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[20] = 1
    found = truth.astype(np.float32)
    found[20, 5] = 0.0
    measured = isbi.measures([found], [truth])
    assert measured["pixel_error"] == pytest.approx(1 / 1600)
    assert measured["rand_error"] > 0.2


def test_numbers_of_slices() -> None:
    assert isbi.numbers("0-2,5") == [0, 1, 2, 5]


# -- the programs -----------------------------------------------------------------------------


@pytest.mark.slow
@needs_sklearn
def test_quality_writes_its_report(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(root), "--seconds", "2", "--seeds", "0", "--truth", "both"]
    quality.main([*arguments, "--out", str(out), *SMALL])
    report = json.loads((out / "quality.json").read_text())
    assert (out / "quality.png").stat().st_size > 0
    assert report["marks"] == [2]
    assert report["machine"]["cores"]
    assert list(report["sets"]) == ["flat", "deep"]
    for result in report["sets"].values():
        middle = result["median"]
        forest, ours = middle["forest"]["dice"], middle["strokes"]["dice"][0]
        assert forest > 0.5
        assert result["ratio"][0] == pytest.approx((1 - ours) / (1 - forest), rel=0.02)
        assert middle["strokes"]["first_seconds"] > 0
        assert set(result["runs"]) == {"strokes", "full", "forest"}


@pytest.mark.slow
def test_rounds_writes_its_report(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(root), "--sets", "flat", "--seeds", "0", "--rounds", "2"]
    rounds.main([*arguments, "--round-seconds", "1", "--out", str(out), *SMALL])
    (run,) = json.loads((out / "rounds.json").read_text())["sets"]["flat"]["runs"]
    first, second = run["rounds"]
    assert second["stroke_voxels"] > first["stroke_voxels"]
    assert first["new_strokes_right_before"] is None
    assert 0 <= second["new_strokes_right_after"] <= 1
    assert 0 <= run["once"]["dice"] <= 1


def test_isbi_writes_its_report(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(root), "--set-name", "flat", "--train", "0-1", "--test", "2"]
    isbi.main([*arguments, "--minutes", "0.02", "--out", str(out), *SMALL])
    report = json.loads((out / "isbi.json").read_text())
    assert 0 <= report["rand_error_best_threshold"] <= report["rand_error"] <= 1
    assert report["published_unet"]["pixel_error"] == 0.0611
    assert "hidden test set" in report["difference"]


def test_exposure_writes_its_report(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure, "GAINS", (1.0, 4.0))
    monkeypatch.setattr(exposure, "OFFSETS", (0.0, 2.0))
    monkeypatch.setattr(exposure, "OTHERS", {"inverted": exposure.inverted})
    out = tmp_path / "out"
    arguments = [str(root), "--sets", "flat", "--seeds", "0", "--steps", "20", "--out", str(out)]
    exposure.main([*arguments, *SMALL])
    report = json.loads((out / "exposure.json").read_text())
    assert list(report["sets"]) == ["flat, one, seed 0", "flat, several, seed 0"]
    one = report["sets"]["flat, one, seed 0"]
    assert one["unchanged"]["after"] == pytest.approx(one["grid"]["after"][0][0], abs=1e-3)
    np.testing.assert_allclose(one["grid"]["after"], one["grid"]["after"][0][0], atol=0.05)
    assert one["grid"]["said"][1] == [1.0, 1.0]
    assert one["others"][0]["change"] == "inverted"


# -- check of quality -------------------------------------------------------------------------


def test_a_check_of_quality_is_judged_for_each_set_and_seed(root: Path, tmp_path: Path) -> None:
    quick = ["--steps", "2", "--draws", "4", "--places", "3", "--seeds", "0,1"]
    found = check_quality.main([str(root), *SMALL, *quick, "--out", str(tmp_path / "out")])
    assert [(name, len(runs)) for name, runs in found.items()] == [("flat", 2), ("deep", 2)]
    for runs in found.values():
        for one in runs[0]["structures"].values():
            assert 0 <= one["coverage"] <= 1
            assert one["mean_estimate_by_hand"] >= one["mean_estimate"] - 1e-9
        assert runs[0]["largest_minutes"] > 0
    assert (tmp_path / "out" / "check_quality.json").is_file()


def test_the_hand_leaves_borders_and_takes_longer_for_more_errors() -> None:
    wrong = np.zeros((100, 100), bool)
    wrong[20, :] = wrong[22:24, :] = True
    assert check_quality.painting(wrong, 4.0) == 0.0
    wrong[40:50, 40:50] = True
    one = check_quality.painting(wrong, 4.0)
    wrong[80:90, 80:90] = True
    assert 0.0 < one < check_quality.painting(wrong, 4.0)
    truth = wrong.astype(np.uint8)
    left = check_quality.corrected(truth, np.zeros_like(truth))
    assert left[45, 45] == 1
    assert left[20].sum() == 0
