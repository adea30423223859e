"""Files that napari opens through the plugin: as in the file, lazy, one layer a channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.settings import get_settings
from npe2 import PluginManager
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Structure
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.reader import get_reader, read

PLUGIN = "napari-unetseg"
RNG = np.random.default_rng(0)
CZYX = RNG.integers(0, 2**16, (2, 5, 40, 48), dtype=np.uint16)
UM = {"type": "space", "unit": "micrometer"}


def write_zarr(path: Path, labels: bool = False) -> Path:
    """Two channels at two resolutions, moved by 10 µm in Z."""
    group = zarr.open_group(str(path), mode="w")
    datasets = []
    for level in range(2):
        step = (..., slice(None, None, 2**level), slice(None, None, 2**level))
        group.create_array(str(level), data=np.ascontiguousarray(CZYX[step]), chunks=(1, 5, 16, 16))
        scale, shift = [1, 2, 0.5 * 2**level, 0.5 * 2**level], [0, 10, 0, 0]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": shift},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    axes = [{"name": "c", "type": "channel"}, *({"name": a, **UM} for a in "zyx")]
    channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"}]
    scales = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": scales,
        "omero": {"channels": channels},
    }
    if labels:
        group.create_group("labels").attrs["ome"] = {"labels": ["cells"]}
        cells = group.create_group("labels/cells")
        cells.create_array("0", data=(CZYX[0] > 9000).astype(np.uint8))
        entry = {
            "path": "0",
            "coordinateTransformations": [{"type": "scale", "scale": [2, 0.5, 0.5]}],
        }
        cells.attrs["ome"] = {"multiscales": [{"axes": axes[1:], "datasets": [entry]}]}
    return path


@pytest.fixture(autouse=True)
def plugins() -> None:
    """Without a window napari looks for no plugins."""
    PluginManager.instance().discover()


def test_channels_are_layers_with_names_colours_sizes_units_and_place(tmp_path: Path) -> None:
    viewer = ViewerModel()
    opened = viewer.open(str(write_zarr(tmp_path / "a.zarr")), plugin=PLUGIN)
    assert [layer.name for layer in opened] == ["a · DAPI", "a · GFP"]
    for channel, layer in enumerate(opened):
        assert isinstance(layer, Image)
        assert layer.multiscale
        assert [level.shape for level in layer.data] == [(5, 40, 48), (5, 20, 24)]
        assert all(isinstance(level, da.Array) for level in layer.data)
        np.testing.assert_array_equal(layer.scale, (2, 0.5, 0.5))
        np.testing.assert_array_equal(layer.translate, (10, 0, 0))
        assert [str(u) for u in layer.units] == ["micrometer"] * 3
        assert layer.axis_labels == ("z", "y", "x")
        np.testing.assert_array_equal(np.asarray(layer.data[0]), CZYX[channel])
        colour = np.asarray(layer.colormap.map(np.array([1.0])))[0, :3]
        np.testing.assert_allclose(colour, [(0, 0, 1), (0, 1, 0)][channel], atol=0.01)


def test_labels_for_such_an_image_carry_its_whole_transform(tmp_path: Path) -> None:
    viewer = ViewerModel()
    image = viewer.open(str(write_zarr(tmp_path / "a.zarr")), plugin=PLUGIN)[0]
    layer = napari_layers.new_annotation(viewer, image, [Structure(1)])
    assert not layer.multiscale
    assert layer.data.shape == (5, 40, 48)
    assert layer.editable
    for name in ("scale", "translate", "units", "axis_labels"):
        np.testing.assert_array_equal(getattr(layer, name), getattr(image, name), name)
    np.testing.assert_array_equal(layer.extent.world, image.extent.world)


def test_labels_in_the_file_are_layers_that_are_hidden(tmp_path: Path) -> None:
    viewer = ViewerModel()
    labels = viewer.open(str(write_zarr(tmp_path / "a.zarr", labels=True)), plugin=PLUGIN)[-1]
    assert isinstance(labels, Labels)
    assert (labels.name, labels.visible) == ("a · cells", False)
    np.testing.assert_array_equal(labels.scale, (2, 0.5, 0.5))
    np.testing.assert_array_equal(np.asarray(labels.data), CZYX[0] > 9000)


def test_an_imagej_stack_and_a_picture(tmp_path: Path) -> None:
    metadata = {"axes": "ZCYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(
        tmp_path / "a.tif",
        CZYX.swapaxes(0, 1),
        imagej=True,
        resolution=(4, 4),
        metadata=metadata,
    )
    viewer = ViewerModel()
    opened = viewer.open(str(tmp_path / "a.tif"), plugin=PLUGIN)
    assert [layer.name for layer in opened] == ["a · channel 1", "a · channel 2"]
    for channel, layer in enumerate(opened):
        np.testing.assert_array_equal(np.asarray(layer.data), CZYX[channel])
        np.testing.assert_array_equal(layer.scale, (2, 0.25, 0.25))
    for z in range(3):
        Picture.fromarray(np.dstack([CZYX[0, z].astype(np.uint8)] * 3)).save(tmp_path / f"{z}.png")
    (tmp_path / "a.tif").unlink()
    (rgb,) = viewer.open(str(tmp_path), plugin=PLUGIN)
    assert rgb.rgb
    assert rgb.data.shape == (3, 40, 48, 3)


def test_all_images_of_a_file_are_layers_and_the_first_is_shown(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(CZYX[0, 0], metadata={"Name": "one", "PhysicalSizeX": 0.5})
        writer.write(CZYX[0, :, :20], metadata={"Name": "two", "axes": "ZYX"})
        writer.write(CZYX[1, 0, :9], metadata={"Name": "macro"})
    viewer = ViewerModel()
    with pytest.warns(UserWarning, match="a.ome.tif holds 3 images; the first is shown, the"):
        opened = viewer.open(str(tmp_path / "a.ome.tif"), plugin=PLUGIN)
    assert [(layer.name, layer.visible) for layer in opened] == [
        ("a · one", True),
        ("a · two", False),
        ("a · macro", False),
    ]
    np.testing.assert_array_equal(opened[0].scale, (1, 0.5))
    np.testing.assert_array_equal(np.asarray(opened[1].data), CZYX[0, :, :20])


def test_a_thumbnail_that_comes_first_is_not_what_is_shown(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.dstack([CZYX[0, 0, ::4, ::4].astype(np.uint8)] * 3))
        writer.write(CZYX[0], photometric="minisblack")
    with pytest.warns(UserWarning, match="holds 2 images; the largest, number 2, is shown"):
        opened = ViewerModel().open(str(tmp_path / "a.tif"), plugin=PLUGIN)
    assert [layer.visible for layer in opened] == [False, True]


def test_pages_that_are_alike_are_one_layer_and_it_is_said(tmp_path: Path) -> None:
    for page in CZYX[0]:
        tifffile.imwrite(tmp_path / "a.tif", page, append=True)
    with pytest.warns(UserWarning, match="opened as one stack of 5 planes"):
        (layer,) = ViewerModel().open(str(tmp_path / "a.tif"), plugin=PLUGIN)
    np.testing.assert_array_equal(np.asarray(layer.data), CZYX[0])


def test_a_pyramid_in_a_tiff_has_its_resolutions(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(CZYX[0, 0], subifds=1)
        writer.write(CZYX[0, 0, ::2, ::2], subfiletype=1)
    (layer,) = ViewerModel().open(str(tmp_path / "a.tif"), plugin=PLUGIN)
    assert [level.shape for level in layer.data] == [(40, 48), (20, 24)]
    np.testing.assert_array_equal(np.asarray(layer.data[1]), CZYX[0, 0, ::2, ::2])


def test_planes_that_are_missing_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, CZYX[0], metadata={"axes": "TYX"}, photometric="minisblack")
    path.write_bytes(path.read_bytes().replace(b'SizeT="5"', b'SizeT="8"'))
    with pytest.warns(UserWarning, match=r"lacks 3 of 8 planes \(T 5–7"):
        (layer,) = ViewerModel().open(str(path), plugin=PLUGIN)
    np.testing.assert_array_equal(np.asarray(layer.data), CZYX[0])


def test_nothing_is_read_until_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_unetseg.io.readers.zarr_array import ZarrArray

    seen: list[Any] = []
    get = ZarrArray.__getitem__

    def look(self: ZarrArray, key: Any) -> np.ndarray:
        found = get(self, key)
        seen.append((self.shape, found.size))
        return found

    monkeypatch.setattr(ZarrArray, "__getitem__", look)
    moved = write_zarr(tmp_path / "a.zarr")
    (_, first, _), (_, second, _) = read(str(moved))
    assert {shape for shape, _ in seen} == {(2, 5, 20, 24)}, "the smallest resolution alone"
    assert sum(size for _, size in seen) <= 3 * 2 * 20 * 24
    for channel, options in enumerate((first, second)):
        low, high = options["contrast_limits"]
        assert (CZYX[channel].min(), CZYX[channel].max()) == pytest.approx((low, high), abs=2000)
    seen.clear()
    file = moved / "zarr.json"
    file.write_text(file.read_text().replace("10", "0"))
    assert len(read(str(moved))) == 2
    assert not seen


@pytest.mark.parametrize("edge", [1000, 100_000])
def test_a_large_plane_is_cut_into_pieces(tmp_path: Path, edge: int) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        str(path), shape=(3, edge, edge), dtype="u2", chunks=(1, 500, 500), compressors=None
    )
    array[0, :500, :500] = 1
    ((data, _, _),) = read(str(path))
    largest = data.chunksize
    assert largest[0] == 1
    assert np.prod(largest) * 2 <= 2 * 2**26
    assert largest[1] % 500 == 0
    assert data.npartitions < 3000


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(UserError, match="holds no Zarr array"):
        ViewerModel().open(str(tmp_path / "a.zarr"), plugin=PLUGIN)
    assert get_reader(str(tmp_path / "a.csv")) is None
    assert get_reader([str(tmp_path / "a.tif")]) is None


def test_an_image_of_a_project_is_opened_again_by_the_reader_that_opened_it(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr")
    viewer = ViewerModel()
    image = viewer.open(str(path), plugin=PLUGIN)[0]
    assert napari_layers.reader_of(image) == PLUGIN
    viewer.layers.clear()
    again = napari_layers.open_images(viewer, path, PLUGIN)
    assert [layer.name for layer in again] == ["a · DAPI", "a · GFP"]


@pytest.mark.gui
def test_a_store_is_dropped_into_the_window(
    make_napari_viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reader that people chose for such files; without a choice napari asks."""
    path = write_zarr(tmp_path / "a.zarr")
    viewer = make_napari_viewer(show=True)
    monkeypatch.setattr(get_settings().plugins, "extension2reader", {"*.zarr/": PLUGIN})
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    qt_viewer = viewer.window._qt_viewer
    event = QDropEvent(
        QPointF(5, 5),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    qt_viewer.dropEvent(event)
    assert [layer.name for layer in viewer.layers] == ["a · DAPI", "a · GFP"]
    viewer.dims.set_point(0, viewer.dims.range[0].start + 4)
    shot = viewer.screenshot(canvas_only=True, flash=False)
    assert shot[..., 1].max() > 100
    assert shot[..., 2].max() > 100


def test_of_many_planes_napari_gets_the_array_itself(tmp_path: Path) -> None:
    planes = RNG.integers(0, 2**16, (2, 1001, 8, 8), dtype=np.uint16)
    group = zarr.open_group(str(tmp_path / "many.zarr"), mode="w")
    group.create_array("0", data=planes, chunks=(1, 143, 8, 8))
    axes = [{"name": "c", "type": "channel"}, *({"name": a, **UM} for a in "zyx")]
    datasets = [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 1, 1]}]}
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    viewer = ViewerModel()
    viewer.open(str(tmp_path / "many.zarr"), plugin=PLUGIN)
    assert len(viewer.layers) == 2
    for channel, layer in enumerate(viewer.layers):
        assert not isinstance(layer.data, da.Array)
        assert layer.data.shape == (1001, 8, 8)
        viewer.dims.set_current_step(0, 777)
        np.testing.assert_array_equal(layer._slice.image.raw, planes[channel, 777])
        for key in (np.s_[3:5, ::2, -1], np.s_[::-90, 1:], np.s_[5], np.s_[..., 2]):
            np.testing.assert_array_equal(np.asarray(layer.data[key]), planes[channel][key])
        part = layer.data[:, 1:5, 2:]  # nothing is read yet, as napari cuts before it takes one
        assert not isinstance(part, np.ndarray)
        np.testing.assert_array_equal(part[9], planes[channel, 9, 1:5, 2:])


def test_dask_arrays_are_read_without_the_window_s_callbacks() -> None:
    """napari's cache is one; they are for one thread, and fail now and then in two."""
    from dask.callbacks import Callback

    from napari_unetseg.core.image_stack import Stack

    called: list[object] = []
    array = da.from_array(RNG.integers(0, 9, (4, 32, 32), dtype=np.uint8), chunks=(1, 32, 32))
    whole = (slice(0, 32), slice(0, 32))
    with Callback(start=called.append):
        read = Stack(array + 1, "ZYX").read((2,), whole)
        assert not called
        np.testing.assert_array_equal(read[0], np.asarray(array[2]) + 1)
        assert called, "the window's own reading calls them"
