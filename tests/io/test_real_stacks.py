"""Real stacks train and predict through files and the command line alone (`../shared/data`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.segmentation import find_boundaries

from napari_unetseg import load_model, open_stack
from napari_unetseg.cli import main

SMALL = ["--device", "cpu", "--threads", "1"]
FEW = ["--steps", "2", "--batch", "1", "--patch", "32"]


def said(*arguments: object) -> None:
    """Run a command, which must succeed."""
    assert main([str(a) for a in arguments]) == 0


@pytest.mark.parametrize(
    ("name", "axes", "dims"),
    [
        ("timelapse_sim_ctc/fluo_n2dh_sim_01.tif", "TYX", 2),
        ("timelapse_bacteria_trpl/trpl_150310_11.tif", "TYX", 2),
        ("nuclei3d_gonuclear/ovule_1135.tif", "ZYX", 2),
        ("nuclei3d_gonuclear/ovule_1135.tif", "ZYX", 3),
    ],
)
def test_strokes_in_a_stack_give_a_mask_of_it(
    shared_data: Path, tmp_path: Path, name: str, axes: str, dims: int
) -> None:
    """With the pixel sizes that were given, better than nothing: the first answer is kept."""
    folder, file = name.split("/")
    image = shared_data / folder / "images" / file
    strokes, masks = (shared_data / folder / kind / file for kind in ("scribbles", "masks"))
    given = ["--axes", axes, "--spacing", "2,0.5,0.25um" if axes == "ZYX" else "0.5,0.25um"]
    # a few planes of it, so that it is quick
    part = tmp_path / "part" / file
    part.parent.mkdir()
    truth = np.asarray(tifffile.imread(masks))
    painted = np.flatnonzero(tifffile.imread(strokes).any((1, 2)))
    planes = slice(painted[0], painted[0] + (16 if dims == 3 else 2))
    tifffile.imwrite(part, tifffile.imread(image)[planes], photometric="minisblack")
    for kind, array in (("strokes", tifffile.imread(strokes)), ("masks", truth)):
        tifffile.imwrite(tmp_path / f"{kind}.tif", array[planes], photometric="minisblack")
    model = tmp_path / "model.safetensors"
    labels = [tmp_path / "strokes.tif", "-o", model, "--labels", "strokes", "--dims", dims]
    said("train", part, *labels, *given, *FEW, *SMALL)
    said("predict", model, part, "-o", tmp_path / "out", *given, *SMALL)
    scores = tmp_path / "scores.json"
    kind = ["--labels", "instances", "--json", scores]
    said("evaluate", model, part, tmp_path / "masks.tif", *kind, *given, *SMALL)
    mask = open_stack(tmp_path / "out" / file)
    assert mask.grid_shape == truth[planes].shape
    assert mask.axes == axes
    assert mask.spacing[-2:] == pytest.approx((0.5, 0.25))
    assert load_model(model).dims == dims
    assert json.loads(scores.read_text())["mean_dice"] > 0.4


def test_membranes_of_a_volume_train_from_full_masks(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "membrane3d_ovule_plantseg"
    cells = tifffile.imread(folder / "masks" / "sample_ovule.tif")[:16]
    image = tifffile.imread(folder / "images" / "sample_ovule.tif")[:16]
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    walls = find_boundaries(cells).astype(np.uint8)
    tifffile.imwrite(tmp_path / "walls.tif", walls, photometric="minisblack")
    files = [tmp_path / "image.tif", tmp_path / "walls.tif"]
    said("train", *files, "-o", tmp_path / "m.safetensors", "--dims", 3, *FEW, *SMALL)
    said("predict", tmp_path / "m.safetensors", files[0], "-o", tmp_path / "out", *SMALL)
    mask = tifffile.imread(tmp_path / "out" / "image.tif")
    both = np.count_nonzero((mask == 1) & (walls == 1))
    assert 2 * both / (np.count_nonzero(mask) + np.count_nonzero(walls)) > 0.4


def test_a_folder_of_rgb_pictures_trains(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "bloodsmear_rgb_wbc1"
    names = sorted(file.name for file in (folder / "scribbles").iterdir())[:2]
    for kind in ("images", "scribbles"):
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).symlink_to(folder / kind / name)
    model = tmp_path / "model.safetensors"
    labels = [tmp_path / "scribbles", "-o", model, "--labels", "strokes"]
    said("train", tmp_path / "images", *labels, *FEW, *SMALL)
    said("predict", model, tmp_path / "images", "-o", tmp_path / "out", "--format", "png", *SMALL)
    scores = tmp_path / "scores.json"
    said("evaluate", model, tmp_path / "images", folder / "masks", "--json", scores, *SMALL)
    assert len(load_model(model).channels) == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert json.loads(scores.read_text())["mean_dice"] > 0.6
