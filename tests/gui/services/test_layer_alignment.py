"""What belongs to an image: layers of its grid, at its place, and of no other image."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
from gui_parts import SIDE, TINY, squares, strokes
from napari.components import ViewerModel
from napari.layers import Image, Labels
from sync_runner import SyncRunner

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import LabelKind, Structure
from napari_unetseg.data.mask_cleanup import TidySettings
from napari_unetseg.gui import layers
from napari_unetseg.gui.layers import Alignment
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

SIZED: dict[str, Any] = {"scale": (0.5, 0.5), "units": "um"}
KNOWN = [Structure(1)]


@pytest.fixture
def started() -> Iterator[Plugin]:
    """A session without layers."""
    plugin = Plugin(ViewerModel(), SyncRunner())
    plugin.session.change_settings(**TINY)
    yield plugin
    plugin.disconnect()


def with_image(plugin: Plugin, planes: tuple[int, ...] = (), **place: Any) -> Image:
    image: Image = plugin.viewer.add_layer(Image(squares(planes), name="cells", **place))
    return image


def labels(data: np.ndarray, **place: Any) -> Labels:
    return Labels(data, name="mine", **place)


def chosen(plugin: Plugin) -> Labels | None:
    source = plugin.session.source()
    return None if source is None else source.labels


def misalignment(plugin: Plugin) -> str:
    plugin.tick()
    return plugin.session.misalignment.text if plugin.session.misalignment is not None else ""


def counts(plugin: Plugin, image: Image) -> list[int]:
    truth = plugin.annotations.of(image)
    return [truth.count(origin) for origin in (LabelSource.STROKES, LabelSource.CORRECTIONS)]


# -- one question, one answer ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({}, "its pixels are 1 × 1, the image's 0.5 × 0.5 µm"),
        (SIZED, ""),
        ({"scale": (500, 500), "units": "nm"}, ""),
        ({"scale": (0.5, 0.5)}, ""),
        ({**SIZED, "translate": (0.2, -0.2)}, ""),
        ({**SIZED, "translate": (0.0, 0.25)}, "it is shifted by 0, 0.25 µm"),
        ({**SIZED, "rotate": 90}, "rotated, mirrored or sheared"),
        ({**SIZED, "shear": [0.1]}, "rotated, mirrored or sheared"),
        ({"scale": (-0.5, 0.5), "units": "um"}, "rotated, mirrored or sheared"),
        ({"affine": np.diag([0.5, 0.5, 1.0]), "units": "um"}, ""),
        ({"scale": (0.50001, 0.5), "units": "um"}, ""),
        ({"scale": (0.505, 0.5), "units": "um"}, "its pixels are 0.505 × 0.5 µm"),
        ({**SIZED, "rotate": 1}, "rotated, mirrored or sheared"),
    ],
    ids=str,
)
def test_a_place_is_compared_as_it_is_seen(place: dict[str, Any], words: str) -> None:
    """Less than half a pixel anywhere is the same place, whatever the properties say."""
    image = Image(squares(), name="cells", **SIZED)
    layer = labels(strokes(), **place)
    assert words in layers.misalignment_text(image, layer)
    assert layers.alignment(image, layer) is (Alignment.MISPLACED if words else Alignment.ALIGNED)
    layers.align_to(image, layer)
    assert layers.misalignment_text(image, layer) == ""
    np.testing.assert_allclose(layer.data_to_world((3, 50)), image.data_to_world((3, 50)))


@pytest.mark.parametrize(
    ("shape", "scale", "words"),
    [
        ((3, 50, 50), (1, 1, 1), "have 3 × 50 × 50 pixels, the image 'cells' 3 × 64 × 64"),
        ((3, 32, 32), (1, 2, 2), "the layer is of another resolution"),
        ((SIDE, SIDE), (1, 1), "'Split Stack'"),
        ((1, SIDE, SIDE), (1, 1, 1), "'Split Stack'"),
    ],
    ids=str,
)
def test_what_has_other_pixels_is_named_with_both_sizes(
    started: Plugin, shape: tuple[int, ...], scale: tuple[float, ...], words: str
) -> None:
    with_image(started, (3,))
    started.viewer.add_layer(labels(np.ones(shape, np.uint8), scale=scale))
    assert chosen(started) is None
    assert words in misalignment(started)
    assert started.session.misalignment is not None
    assert not started.session.misalignment.can_align
    started.training.start()
    assert words in started.session.message.text, "and not that nothing is painted"


def test_the_plane_on_screen_is_right_where_another_layer_has_a_smaller_unit() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(squares((4,)), scale=(1, 0.5, 0.5), units="um"))
    viewer.add_layer(labels(strokes((4,)), scale=(1000, 500, 500), units="nm"))
    viewer.dims.set_point(0, 2000)
    assert layers.plane_on_screen(viewer, image, 2) == (2,)
    layers.center_on(viewer, image, (3,), (slice(10, 20), slice(10, 20)))
    assert layers.plane_on_screen(viewer, image, 2) == (3,)
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (7250, 7250))


def test_the_same_place_in_another_unit_is_used_and_may_get_the_unit_of_the_image(
    started: Plugin,
) -> None:
    """napari paints on none of the layers with the larger unit."""
    with_image(started, **SIZED)
    layer = started.viewer.add_layer(labels(strokes(), scale=(500, 500), units="nm"))
    assert chosen(started) is layer
    assert "another unit" in misalignment(started)
    started.training.start()
    assert len(started.session.history) == 1
    started.alignment.align()
    assert misalignment(started) == ""
    assert (tuple(layer.scale), str(layer.units[0])) == ((0.5, 0.5), "micrometer")


# -- our own layers --------------------------------------------------------------------------------

MOVES: list[dict[str, Any]] = [
    {"scale": (2, 0.2, 0.3)},
    {"translate": (1, -2, 3)},
    {"rotate": (0, 0, 30)},
    {"shear": (0, 0, 0.3)},
    {"affine": np.array([[1, 0, 0, 1], [0, 1.2, 0.1, 4], [0, 0, 0.9, 2], [0, 0, 0, 1]])},
    {"units": ("um", "nm", "nm"), "scale": (1, 200, 200)},
    {"axis_labels": ("t", "y", "x")},
]


def test_what_we_made_stays_over_its_image(started: Plugin) -> None:
    viewer, image = started.viewer, with_image(started, (2,), scale=(1, 0.5, 0.5))
    annotations = started.sources.new_annotation()
    assert annotations is not None
    where = np.nonzero(strokes((2,)))
    annotations.data_setitem(where, strokes((2,))[where])
    started.training.start()
    started.postprocess.run(TidySettings())
    started.outline.show(True)
    layers.show_difference(viewer, image, np.zeros(image.data.shape, np.uint8))
    layers.UncertaintyLayer(viewer, image)
    layers.add_mask(viewer, image, Stack(np.ones(image.data.shape, np.uint8), "ZYX"), KNOWN)
    duplicate(viewer, annotations)
    assert len(viewer.layers) == 9
    for move in MOVES:
        for name, value in move.items():
            setattr(image, name, value)
        for layer in viewer.layers[1:]:
            assert layers.misalignment_text(image, layer) == "", layer.name
            for name, value in layers.transform_of(image).items():
                np.testing.assert_array_equal(layers.transform_of(layer)[name], value, layer.name)


def duplicate(viewer: ViewerModel, layer: Any) -> None:
    from napari.layers._layer_actions import _duplicate_layer

    viewer.layers.selection = {layer}
    _duplicate_layer(viewer.layers)


def test_tiles_land_where_the_image_is_by_then(
    started: Plugin, broken_core: Callable[[Any], None]
) -> None:
    image = with_image(started)
    started.sources.new_annotation()
    started.sources.choose_labels(chosen(started), LabelKind.STROKES)
    layer = chosen(started)
    assert layer is not None
    layer.data[...] = strokes()
    started.training.start()

    def moves(*_: Any, **__: Any) -> Generator[Event, None, None]:
        image.scale = (0.1, 0.1)
        yield Notice("moved")

    broken_core(moves)
    with pytest.raises(AttributeError):  # no model is returned
        started.training.start()
    prediction = started.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    assert layers.misalignment_text(image, prediction.layer) == ""


def test_a_leading_channel_axis_has_no_part_in_a_place() -> None:
    viewer = ViewerModel()
    image = Image(squares((2,)), axis_labels=("c", "y", "x"), scale=(1, 0.5, 0.5))
    viewer.add_layer(image)
    layer = layers.new_annotation(viewer, image, KNOWN)
    image.scale, image.translate = (1, 0.2, 0.3), (9, 4, 5)
    assert (tuple(layer.scale), tuple(layer.translate)) == ((0.2, 0.3), (4, 5))
    assert layers.misalignment_text(image, layer) == ""


# -- layers of others ------------------------------------------------------------------------------


def test_labels_seen_elsewhere_train_nothing_until_they_are_aligned(started: Plugin) -> None:
    image = with_image(started, **SIZED)
    layer = started.viewer.add_layer(labels(strokes(), translate=(3, 4)))
    assert chosen(started) is None
    text = misalignment(started)
    assert text.startswith("'mine' does not lie over 'cells'")
    started.training.start()
    assert started.session.message.text == text
    assert not started.session.history

    started.alignment.align()
    assert chosen(started) is layer
    assert misalignment(started) == ""
    np.testing.assert_array_equal(layer.extent.world, image.extent.world)
    np.testing.assert_array_equal(layer.data, strokes(), "its pixels are its own")
    started.training.start()
    assert len(started.session.history) == 1
    image.scale = (0.1, 0.1)
    assert misalignment(started) == "", "it stays there"

    assert started.session.undoable == "aligning mine"
    started.undo.undo()
    assert (tuple(layer.scale), tuple(layer.translate)) == ((1, 1), (3, 4))
    assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]
    started.training.start()
    assert "does not lie over" in started.session.message.text
    assert len(started.session.history) == 1
    started.undo.redo()
    assert misalignment(started) == ""


def test_labels_in_use_count_no_more_when_their_image_is_moved_away(
    started: Plugin, broken_core: Callable[[Any], None]
) -> None:
    image = with_image(started, **SIZED)
    layer = started.viewer.add_layer(labels(strokes(), **SIZED))
    assert chosen(started) is layer
    offered: list[Any] = []

    def count() -> None:
        started.annotations.announce()
        started.events.tick.emit(0.0)

    def paints(*_: Any, control: Any, **__: Any) -> Generator[Event, None, None]:
        for scale in ((0.2, 0.2), (0.5, 0.5)):
            image.scale = scale
            layer.data_setitem((np.array([5]), np.array([int(scale[0] * 10)])), 1)
            count()
            offered.append(control.pop_annotations())
            yield Notice("painted")

    broken_core(paints)
    with pytest.raises(AttributeError):  # no model is returned
        started.training.start()
    assert not offered[0], "what is painted elsewhere is not learned"
    assert offered[1][0].labels[5, 2] == 1, "and is, once it lies over the image again"

    image.scale = (0.2, 0.2)
    assert "its pixels are 0.5 × 0.5 µm, the image's 0.2 × 0.2 µm" in misalignment(started)


def test_a_mask_seen_elsewhere_is_neither_corrected_nor_written(
    started: Plugin, tmp_path: Path
) -> None:
    with_image(started)
    started.viewer.add_layer(labels(strokes()))
    started.training.start()
    assert started.masks.current is not None
    mask = started.masks.current.layer
    assert mask is not None
    mask.translate = (5, 5)
    assert "it is shifted by 5, 5" in misalignment(started)
    assert mask not in started.sources.mask_candidates()
    started.export.write(mask, tmp_path / "a.tif")
    assert "does not lie over" in started.session.message.text
    started.training.start()
    assert len(started.session.history) == 1
    started.alignment.align()
    started.export.write(mask, tmp_path / "a.tif")
    assert (tmp_path / "a.tif").exists()


def test_channels_seen_elsewhere_are_said_and_aligned(started: Plugin) -> None:
    image = with_image(started, **SIZED)
    other = started.viewer.add_layer(Image(squares()[::-1], name="DAPI"))
    started.sources.choose_channels([other])
    assert "'DAPI' does not lie over 'cells'" in misalignment(started)
    assert not started.session.message.text, "it is said beside the channels alone"
    assert started.session.misalignment is not None
    assert started.session.misalignment.is_channel
    started.alignment.align()
    assert started.sources.stack().n_channels == 2
    assert misalignment(started) == ""
    image.scale = (0.1, 0.1)
    assert tuple(other.scale) == (0.1, 0.1)


def test_labels_that_are_put_right_by_hand_are_taken(started: Plugin) -> None:
    with_image(started, **SIZED)
    layer = started.viewer.add_layer(labels(strokes()))
    assert misalignment(started)
    layer.scale = (0.5, 0.5)
    assert misalignment(started) == ""
    assert chosen(started) is layer


def test_each_of_two_tiles_takes_the_labels_that_lie_over_it(started: Plugin) -> None:
    with_image(started)
    second = started.viewer.add_layer(Image(squares()[::-1], name="right", translate=(0, SIDE)))
    layer = started.viewer.add_layer(labels(strokes(), translate=(0, SIDE)))
    assert chosen(started) is None
    assert misalignment(started) == "", "it is the other tile's"
    started.sources.choose_image(second)
    assert chosen(started) is layer


def test_labels_that_may_all_be_meant_are_named(started: Plugin) -> None:
    for name in ("one", "two"):
        started.viewer.add_layer(Labels(strokes(), name=name))
    with_image(started)
    started.training.start()
    several = messages.SEVERAL_LABELS.format("'one' and 'two'", "cells")
    assert started.session.message.text == several


# -- axes of length 1 ------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "own"), [((1,), ()), ((), (1,)), ((2, 1), (1, 2, 1))], ids=str)
def test_axes_of_length_one_make_no_difference(
    started: Plugin, image: tuple[int, ...], own: tuple[int, ...], tmp_path: Path
) -> None:
    shape = (*own, SIDE, SIDE)
    layer = labels(strokes((2,) if 2 in image else ()).reshape(shape))
    picture = with_image(started, image)
    started.viewer.add_layer(layer)
    assert chosen(started) is layer
    before = counts(started, picture)[0]
    at = tuple(np.array([i]) for i in np.unravel_index(9, shape))
    layer.data_setitem(at, 1)
    assert counts(started, picture)[0] == before + 1
    layer.undo()
    assert counts(started, picture)[0] == before
    started.training.start()
    assert len(started.session.history) == 1
    started.export.write(layer, tmp_path / "a.tif")
    np.testing.assert_array_equal(
        np.squeeze(tifffile.imread(tmp_path / "a.tif")), np.squeeze(layer.data)
    )


def test_an_axis_between_the_others_is_another_slider_so_it_is_aligned_first(
    started: Plugin,
) -> None:
    """napari shows the last axis of one layer over the last of the other."""
    image = with_image(started, (3, 1))
    layer = started.viewer.add_layer(labels(strokes((3,))))
    assert "its axes are in another order" in misalignment(started)
    data = layer.data
    started.alignment.align()
    assert (layer.data.shape, chosen(started)) == (image.data.shape, layer)
    layer.data_setitem((np.array([2]), np.array([0]), np.array([5]), np.array([6])), 1)
    assert data[2, 5, 6] == 1
    started.undo.undo()
    assert layer.data is data


def test_lazy_labels_may_have_other_axes_of_length_one(started: Plugin) -> None:
    with_image(started, (1,))
    started.viewer.add_layer(labels(da.from_array(strokes())))
    started.training.start()
    assert len(started.session.history) == 1


# -- other pixels in a layer -----------------------------------------------------------------------


@pytest.fixture
def corrected(started: Plugin) -> Plugin:
    """Strokes, a mask, and a correction of it."""
    with_image(started, (2,))
    layer = started.sources.new_annotation()
    assert layer is not None
    where = np.nonzero(strokes((2,)))
    layer.data_setitem(where, strokes((2,))[where])
    started.training.start()
    assert started.masks.current is not None
    mask = started.masks.current.layer
    assert mask is not None
    mask.data_setitem((np.array([0]), np.array([3]), np.array([3])), 1 - mask.data[0, 3, 3])
    return started


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[:, :40, :32].copy(),
        lambda a: np.pad(a, ((0, 1), (0, 9), (0, 9))),
        lambda a: a[0].copy(),
    ],
    ids=["smaller", "larger", "fewer axes"],
)
def test_another_image_in_a_layer_is_predicted_in_its_own_size(
    corrected: Plugin, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    session, image = corrected.session, corrected.session.image
    old, before = image.data, counts(corrected, corrected.session.image)
    assert before == [300, 1]
    image.data = change(old)
    assert chosen(corrected) is None
    assert session.message.level is Level.WARNING
    corrected.prediction.predict_plane()
    assert corrected.masks.current is not None
    assert corrected.masks.current.layer is not None
    assert corrected.masks.current.layer.data.shape == image.data.shape
    assert "the image 'cells'" in misalignment(corrected)

    image.data = old
    corrected.tick()
    assert counts(corrected, image) == before, "what was painted comes back with its pixels"
    layer = chosen(corrected)
    assert layer is not None
    assert (layer.data != 0).sum() == before[0]
    names = [one.name for one in corrected.viewer.layers if one.data.shape == old.shape]
    assert sorted(names) == ["cells", "cells · annotations", "cells · prediction"]


def test_other_pixels_of_the_same_shape_keep_the_labels_and_get_a_new_mask(
    corrected: Plugin,
) -> None:
    image, model = corrected.session.image, corrected.session.entry.model  # type: ignore[union-attr]
    prediction = corrected.masks.current
    assert prediction is not None
    assert prediction.masks.is_fresh((0,), model.id)
    image.data = (image.data[:, ::-1] / 255).astype(np.float32)
    assert chosen(corrected) is not None
    assert not prediction.masks.is_fresh((0,), model.id)
    corrected.tick()
    assert prediction.masks.is_fresh((0,), model.id), "live, it is predicted anew"


def test_labels_of_a_closed_image_are_not_taken_for_another_of_its_size(
    corrected: Plugin,
) -> None:
    viewer, data = corrected.viewer, corrected.session.image.data
    layer = chosen(corrected)
    viewer.layers.remove(corrected.session.image)
    other = viewer.add_layer(Image(data[:, ::-1], name="cells"))
    assert chosen(corrected) is None
    assert misalignment(corrected) == messages.LABELS_OF_CLOSED.format(layer.name, "cells")  # type: ignore[union-attr]
    corrected.sources.choose_labels(layer)
    assert chosen(corrected) is layer, "it is the user's to say"
    viewer.layers.remove(other)


def test_a_closed_image_that_is_opened_again_has_all_that_was_said_of_it(
    corrected: Plugin,
) -> None:
    viewer, data = corrected.viewer, corrected.session.image.data
    layer = chosen(corrected)
    assert layer is not None
    viewer.layers.remove(corrected.session.image)
    layer.data_setitem((np.array([1]), np.array([9]), np.array([9])), 1)  # while it is closed
    image = viewer.add_layer(Image(data.copy(), name="again"))
    corrected.tick()
    assert chosen(corrected) is layer
    assert counts(corrected, image) == [301, 1]
    masks = [one.name for one in viewer.layers if "prediction" in one.name]
    assert masks == ["again · prediction"]


def test_one_layer_may_hold_the_labels_of_two_images(started: Plugin) -> None:
    first = with_image(started)
    layer = started.viewer.add_layer(labels(strokes()))
    second = started.viewer.add_layer(Image(squares()[::-1], name="other"))
    started.sources.choose_image(second)
    assert chosen(started) is None
    started.sources.choose_labels(layer)
    layer.data_setitem((np.array([5]), np.array([5])), 1)
    assert counts(started, first) == counts(started, second) == [301, 0]
