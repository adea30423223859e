"""What we write is read back by other libraries: shape, axes, pixel sizes, names and numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from helpers import random_model
from PIL import Image

from napari_unetseg.cli import main
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.labels import Structure
from napari_unetseg.inference.predict import predict

SPACING = {"t": 1.5, "z": 2.0, "y": 0.5, "x": 0.25}
SHAPE = (2, 3, 48, 64)
IMAGE = np.random.default_rng(1).integers(0, 4000, SHAPE, dtype=np.uint16)
NAMES = {1: "nucleus", 2: "membrane"}
COLORS = {1: "#ff8000", 2: "#0080ff"}

pytestmark = pytest.mark.filterwarnings(
    "ignore:::(bioio|ngff_zarr|ome_|zarr|xarray|dask|itkwasm|napari|fsspec|s3fs|aiohttp)"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An OME-Zarr image, its masks in every format, and what a mask must be."""
    folder = tmp_path_factory.mktemp("written")
    model = random_model(numbers=(1, 2), width=4, depth=2)
    named = tuple(Structure(n, name, COLORS[n]) for n, name in NAMES.items())
    model = replace(
        model,
        classes=replace(model.classes, structures=named),
        normalization=Normalization((0.0,), (4000.0,), (0.5,)),
    )
    model.save(folder / "model.safetensors")
    image = folder / "image.zarr"
    write_image(image)
    command = ["predict", str(folder / "model.safetensors"), str(image)]
    for form in ("tiff", "ome-tiff", "png", "zarr"):
        more = ["--probabilities"] if form in ("zarr", "ome-tiff") else []
        assert main([*command, "-o", str(folder / form), "--format", form, *more]) == 0
    assert main([*command, "-o", str(folder / "bare"), "--format", "zarr"]) == 0
    assert main([*command, "--inside"]) == 0
    return folder, predict(model, Stack(IMAGE, "TZYX"))


def write_image(path: Path) -> None:
    """A time lapse of volumes as OME-Zarr 0.5, with a place and a second resolution."""
    axes = [{"name": "t", "type": "time", "unit": "second"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    levels = []
    for level in range(2):
        scale = [s * 2**level if a in "yx" else s for a, s in SPACING.items()]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        transforms.append({"type": "translation", "translation": [0.0, 10.0, 20.0, 30.0]})
        levels.append({"path": str(level), "coordinateTransformations": transforms})
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for level in range(2):
        step = 2**level
        group.create_array(str(level), data=IMAGE[..., ::step, ::step], chunks=(1, 1, 24, 32))
    scales = [{"name": "image", "axes": axes, "datasets": levels}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales}


def test_the_masks_hold_both_structures(written: tuple[Path, np.ndarray]) -> None:
    assert set(np.unique(written[1])) == {0, 1, 2}


# -- TIFF and PNG ----------------------------------------------------------------------------------


def test_tifffile_reads_what_imagej_would(written: tuple[Path, np.ndarray]) -> None:
    folder, mask = written
    with tifffile.TiffFile(folder / "tiff" / "image.tif") as file:
        assert file.is_imagej
        said = file.imagej_metadata
        assert file.series[0].axes == "TZYX"
        np.testing.assert_array_equal(file.asarray(), mask)
        x, y = (file.pages[0].tags[f"{a}Resolution"].value for a in "XY")
    assert said is not None
    assert (said["frames"], said["slices"]) == (2, 3)
    assert (said["spacing"], said["unit"], said["finterval"]) == (2.0, "um", 1.5)
    assert (x[0] / x[1], y[0] / y[1]) == pytest.approx((4.0, 2.0))
    assert "1 = nucleus" in said["Info"]


@pytest.mark.parametrize("name", ["image.ome.tif", "image_probabilities.ome.tif"])
def test_bioio_reads_ome_tiff(written: tuple[Path, np.ndarray], name: str) -> None:
    reader = pytest.importorskip("bioio_ome_tiff").Reader
    folder, mask = written
    image = pytest.importorskip("bioio").BioImage(folder / "ome-tiff" / name, reader=reader)
    sizes = image.physical_pixel_sizes
    assert (sizes.Z, sizes.Y, sizes.X) == pytest.approx((2.0, 0.5, 0.25))
    if "probabilities" not in name:
        np.testing.assert_array_equal(image.get_image_data("TZYX"), mask)
        return
    assert list(image.channel_names) == ["background", "nucleus", "membrane"]
    found = image.get_image_data("CTZYX")
    np.testing.assert_array_equal(found.argmax(0), mask)


def test_pillow_reads_png(written: tuple[Path, np.ndarray]) -> None:
    folder, mask = written
    files = sorted((folder / "png").glob("*.png"))
    assert [f.name for f in files][:2] == ["image_t000_z000.png", "image_t000_z001.png"]
    pictures = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(np.reshape(pictures, SHAPE), mask)
    with Image.open(files[0]) as picture:
        assert picture.info["dpi"] == pytest.approx((25.4e3 / 0.25, 25.4e3 / 0.5), rel=1e-3)


# -- OME-Zarr --------------------------------------------------------------------------------------


WHERE = {
    "in the image": "image.zarr",
    "beside probabilities": "zarr/image.zarr",
    "alone": "bare/image.zarr",
}


@pytest.mark.parametrize("where", WHERE)
def test_ngff_zarr_reads_labels(written: tuple[Path, np.ndarray], where: str) -> None:
    library = pytest.importorskip("ngff_zarr")
    folder, mask = written
    several = library.from_ngff_zarr(str(folder / WHERE[where] / "labels" / "mask"), validate=True)
    image = several.images[0]
    assert list(image.dims) == list("tzyx")
    assert {str(k): v for k, v in image.scale.items()} == pytest.approx(SPACING)
    assert image.translation["x"] == 30.0
    assert image.axes_units["z"] == "micrometer"
    np.testing.assert_array_equal(np.asarray(image.data), mask)


@pytest.mark.parametrize("where", WHERE)
def test_bioio_reads_labels(written: tuple[Path, np.ndarray], where: str) -> None:
    reader = pytest.importorskip("bioio_ome_zarr").Reader
    folder, mask = written
    image = pytest.importorskip("bioio").BioImage(
        str(folder / WHERE[where] / "labels" / "mask"), reader=reader
    )
    sizes = image.physical_pixel_sizes
    assert (sizes.Z, sizes.Y, sizes.X) == pytest.approx((2.0, 0.5, 0.25))
    np.testing.assert_array_equal(image.get_image_data("TZYX"), mask)


@pytest.mark.parametrize("where", WHERE)
def test_ome_zarr_reads_labels(written: tuple[Path, np.ndarray], where: str) -> None:
    reader = pytest.importorskip("ome_zarr.reader")
    parse = pytest.importorskip("ome_zarr.io").parse_url
    folder, mask = written
    nodes = list(reader.Reader(parse(str(folder / WHERE[where] / "labels" / "mask")))())
    labels = next(n for n in nodes if any(isinstance(s, reader.Label) for s in n.specs))
    np.testing.assert_array_equal(np.asarray(labels.data[0]), mask)
    said = labels.metadata
    assert [a["name"] for a in said["axes"]] == list("tzyx")
    scale, shift = said["coordinateTransformations"][0]
    assert scale["scale"] == pytest.approx(list(SPACING.values()))
    assert shift["translation"] == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize("where", WHERE)
def test_napari_ome_zarr_opens_image_and_labels(
    written: tuple[Path, np.ndarray], where: str
) -> None:
    """Its reader, into a viewer without a window; it leaves out places (translations)."""
    pytest.importorskip("napari_ome_zarr")
    from napari.components import ViewerModel
    from napari.layers import Labels
    from npe2 import PluginManager

    folder, mask = written
    PluginManager.instance().discover()
    viewer = ViewerModel()
    store = folder / WHERE[where]
    viewer.open(store / "labels" if where == "alone" else store, plugin="napari-ome-zarr")
    (labels,) = (layer for layer in viewer.layers if isinstance(layer, Labels))
    images = [layer for layer in viewer.layers if layer is not labels]
    assert len(images) == {"in the image": 1, "beside probabilities": 3, "alone": 0}[where]
    for layer in viewer.layers:
        assert tuple(layer.scale) == pytest.approx(tuple(SPACING.values()))
        assert [str(u) for u in layer.units] == ["second", *["micrometer"] * 3]
        assert tuple(layer.axis_labels) == tuple("tzyx")
        np.testing.assert_array_equal(layer.extent.world, labels.extent.world)
    found = np.asarray(labels.data[0] if labels.multiscale else labels.data)
    np.testing.assert_array_equal(found, mask)
    assert list(labels.properties["name"]) == ["nucleus", "membrane"]
    assert labels.get_color(1) == pytest.approx((1.0, 128 / 255, 0.0, 1.0), abs=0.01)
    if where == "in the image":
        np.testing.assert_array_equal(np.asarray(images[0].data[0]), IMAGE)
