"""Programs that decide between ways of training: sets of a corpus, steps on sets, one image."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import corpus_sets
import decide
import decide_report
import mistakes
import numpy as np
import painter
import pytest
import quality
import same_image
import sets
from helpers import blobs, random_model, tiny
from PIL import Image

SMALL = [f"--set={change}" for change in ("width=4", "depth=2", "device=cpu")]
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="needs scikit-learn: install the extra bench",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six pictures of three slides, two crops each."""
    root = tmp_path / "corpus"
    rows = ["set\titem\tlabels\tcolour"]
    for folder in ("images", "masks"):
        (root / "flat" / folder).mkdir(parents=True)
    for seed in range(6):
        image, truth = blobs((96, 96), 12, seed)
        item = f"slide{seed // 2}_y{seed}x0"
        pixels = (image.clip(0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "flat" / "images" / f"{item}.png")
        objects = truth.astype(np.uint16) * (seed + 300)
        Image.fromarray(objects).save(root / "flat" / "masks" / f"{item}.png")
        rows.append(f"flat\t{item}\tinstances\tgrey")
    (root / "index.tsv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def root(corpus: Path, tmp_path: Path) -> Path:
    """The corpus as a data root."""
    corpus_sets.main([str(corpus), str(tmp_path / "root")])
    return tmp_path / "root"


# -- the corpus as sets -----------------------------------------------------------------------


def test_a_slide_is_on_one_side_of_the_split(root: Path) -> None:
    (flat,) = sets.read_sets(root)
    sides = [{item.file.split("_")[0] for item in items} for items in (flat.train, flat.test)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_strokes_of_the_corpus_are_right_and_equal_for_every_class(root: Path) -> None:
    (flat,) = sets.read_sets(root)
    for strokes, truth in zip(flat.training(), flat.training("full"), strict=True):
        assert set(np.unique(strokes.labels)) == {0, 1, 255}
        assert (truth.labels[strokes.labels == 1] == 1).all()
        assert (truth.labels[strokes.labels == 255] == 0).all()
        painted = painter.amounts([strokes])
        assert painted[1] == painted[255] == round(0.015 * 96 * 96 / 2)


def test_of_a_stack_the_first_part_trains_and_the_last_tests() -> None:
    items = [f"slice_{number}" for number in range(12)]
    train, test = corpus_sets.split("em_mouse_cortex", items)
    assert train == ["slice_0", "slice_1"]
    assert test[0] == "slice_6"
    assert test[-1] == "slice_11"


def test_three_pictures_are_one_to_train_and_two_to_test() -> None:
    train, test = corpus_sets.split("flat", ["a_y0x0", "a_y0x9", "a_y9x0"])
    assert (len(train), len(test)) == (1, 2)
    assert not set(train) & set(test)


def test_a_class_without_room_gets_fewer_strokes() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:14, 10:14] = 1
    strokes = painter.even_strokes(mask, (1, 255), 0.1, np.random.default_rng(0))
    assert 0 < (strokes == 1).sum() <= 4
    assert (strokes == 255).sum() == round(0.05 * 64 * 64)


# -- steps on many sets -----------------------------------------------------------------------


def test_the_initial_model_comes_first_and_then_the_newest_weights(root: Path) -> None:
    (flat,) = sets.read_sets(root)
    models = list(decide.newest_models(flat.training(), tiny(), (2, 3)))
    assert [model.history[-1].steps for model in models] == [0, 2, 3]
    assert len({model.id for model in models}) == 3


def test_fewer_test_items_are_spread_over_the_set(root: Path) -> None:
    (flat,) = sets.read_sets(root)
    assert decide.shortened(flat, None) is flat
    assert decide.shortened(flat, 2).test == flat.test[::2]


def test_the_summary_counts_sets_below_the_forest() -> None:
    runs = [{"dice": [0.8, 0.9], "forest": 0.8}, {"dice": [0.6, 0.9], "forest": 0.8}]
    found = decide_report.summary(
        {"a": decide_report.of_set(runs), "b": decide_report.of_set(runs[1:])}
    )
    assert found["mean_ratio"] == pytest.approx([1.75, 0.5])
    assert found["worst_ratio"] == pytest.approx([2.0, 0.5])
    assert found["worse_than_forest"] == [2, 0]


def test_two_reports_are_compared_where_both_have_a_set_and_a_mark() -> None:
    before = {"marks": [0, 60, 150], "sets": {"a": {"dice": [0.5, 0.6, 0.7]}, "b": {}}}
    after = {"marks": [0, 150], "sets": {"a": {"dice": [0.55, 0.65]}}}
    assert decide_report.differences(before, after) == {"a": [[0.5, 0.55], [0.7, 0.65]]}


def test_an_unknown_constant_is_not_changed() -> None:
    with pytest.raises(SystemExit, match="linear_probe has no RIDGES"):
        decide.change("linear_probe.RIDGES=1")


def test_strokes_at_mistakes_grow_a_fifth_a_round(root: Path) -> None:
    (flat,) = sets.read_sets(root)
    seen: list[int] = []
    inits: list[Any] = []

    def train(images: Any, init: Any) -> Any:
        seen.append(sum(painter.amounts(images).values()))
        inits.append(init)
        return random_model(len(seen), depth=2, width=4)

    images, _ = mistakes.strokes_at_mistakes(flat, 0, "cpu", train)
    given = sum(painter.amounts(flat.training()).values())
    assert seen == pytest.approx([given * part / 5 for part in range(1, 6)], abs=5)
    assert seen[-1] == sum(painter.amounts(images).values())
    assert [init is None for init in inits] == [True, False, False, False, False]


@needs_sklearn
def test_decide_keeps_the_forest_and_writes_its_report(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(root), "--out", str(out), "--steps", "2,4", "--tests", "1", *SMALL]
    first = decide.main(arguments)
    (kept,) = (out / "forests").iterdir()
    kept.write_text("0.5")
    second = decide.main([*arguments, "--name", "again"])
    assert first["sets"]["flat"]["dice"] == second["sets"]["flat"]["dice"]
    assert second["sets"]["flat"]["forest"] == 0.5
    assert json.loads((out / "again.json").read_text())["marks"] == [0, 2, 4]


# -- one image --------------------------------------------------------------------------------


def test_the_iou_of_both_classes_counts_the_same() -> None:
    truth, mask = np.array([[1, 1, 0, 0]]), np.array([[2, 0, 0, 0]])
    assert same_image.mean_iou(mask, truth) == pytest.approx((1 / 2 + 2 / 3) / 2)


@needs_sklearn
def test_quality_on_the_same_image_writes_its_report(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "SAME_IMAGE_FROM", 2)
    monkeypatch.setattr(same_image, "SHARES", (0.05,))
    arguments = [str(root), "--same-image", "--images", "1", "--seconds", "2", "--seeds", "0"]
    quality.main([*arguments, "--threads", "1", "--out", str(tmp_path / "out"), *SMALL])
    report = json.loads((tmp_path / "out" / "same_image.json").read_text())
    (run,) = report["sets"]["flat"]["runs"]
    assert run["strokes"] == pytest.approx(0.05, abs=0.001)
    assert len(run["iou"]) == 2
    assert report["mean"]["5.00%"]["forest"] == run["forest"] > 0.5
