"""Image layers as stacks, and the annotation layers over them."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_appearance import Appearance, LabelAppearance
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.data import image_grids
from napari_unetseg.gui import layers

GRID = {
    "scale": (30.0, 2.0, 0.5, 0.25),
    "translate": (0.0, 4.0, -3.0, 7.0),
    "units": ("s", "um", "um", "um"),
    "axis_labels": ("t", "z", "y", "x"),
}


def test_a_stack_has_the_axes_spacing_and_units_of_its_layer() -> None:
    stack = layers.stack_of(Image(np.zeros((2, 3, 16, 20)), name="cells", **GRID))
    assert (stack.axes, stack.name, stack.n_channels) == ("TZYX", "cells", 1)
    assert stack.grid_spacing == (30.0, 2.0, 0.5, 0.25)
    assert stack.grid_units == ("s", "um", "um", "um")


def test_axes_go_by_position_where_nobody_named_them() -> None:
    assert layers.stack_of(Image(np.zeros((3, 16, 20)))).axes == "ZYX"
    assert layers.stack_of(Image(np.zeros((2, 3, 16, 20)))).axes == "TZYX"


def test_time_lapse_axes_offer_no_volume() -> None:
    image = Image(np.zeros((5, 16, 20)), axis_labels=("t", "y", "x"))
    with pytest.raises(UserError, match="no Z axis"):
        layers.stack_of(image).check_dims(3)


def test_several_layers_are_channels_and_rgb_is_three() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 255, (3, 16, 20)).astype(np.uint8) for _ in range(2))
    stack = layers.stack_of(Image(first, name="a"), [Image(second, name="b")])
    assert (stack.n_channels, stack.channels, stack.grid_shape) == (2, ("a", "b"), (3, 16, 20))
    region = (slice(2, 9), slice(4, 11))
    both = np.stack([first[1], second[1]])[:, 2:9, 4:11]
    np.testing.assert_array_equal(stack.read((1,), region), both)
    color = layers.stack_of(Image(np.zeros((16, 20, 3), np.uint8), rgb=True))
    assert (color.n_channels, color.grid_shape) == (3, (16, 20))


def test_channels_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(UserError, match=r"\(8, 8\).*\(16, 20\)"):
        layers.stack_of(Image(np.zeros((16, 20))), [Image(np.zeros((8, 8)))])


def test_a_multiscale_dask_image_is_read_at_full_resolution() -> None:
    full = da.from_array(np.arange(64 * 64).reshape(64, 64), chunks=16)
    image = Image([full, full[::2, ::2]], multiscale=True)
    stack = layers.stack_of(image)
    assert stack.grid_shape == (64, 64)
    np.testing.assert_array_equal(
        stack.read((), (slice(3, 6), slice(4, 8)))[0], np.asarray(full[3:6, 4:8])
    )
    viewer = ViewerModel()
    viewer.add_layer(image)
    assert layers.new_annotation(viewer, image, [Structure(1)]).data.shape == (64, 64)


def test_an_annotation_layer_lies_exactly_over_its_image() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((2, 3, 16, 20)), name="cells", **GRID))
    image.affine = np.diag([1, 1, 2, 2, 1.0])
    layer = layers.new_annotation(viewer, image, [Structure(1, "nucleus"), Structure(2)])
    assert layer.data.dtype == np.uint8
    assert layer.data.shape == (2, 3, 16, 20)
    for name in ("scale", "translate", "units", "axis_labels"):
        assert tuple(getattr(layer, name)) == tuple(getattr(image, name))
    np.testing.assert_array_equal(layer.affine.affine_matrix, image.affine.affine_matrix)
    np.testing.assert_array_equal(layer.extent.world, image.extent.world)
    assert layers.names_in(layer) == {1: "nucleus", 2: "structure 2"}
    assert (layer.selected_label, str(layer.mode)) == (1, "paint")
    assert viewer.layers.selection.active is layer
    np.testing.assert_allclose(layer.get_color(1), layer.colormap.map(1))
    assert layer.get_color(BACKGROUND_LABEL)[3] == 1.0


def test_a_leading_channel_axis_is_left_out_of_the_grid() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(
        Image(
            np.zeros((2, 16, 20)),
            axis_labels=("c", "y", "x"),
            scale=(1, 0.5, 0.25),
            units=("pixel", "um", "um"),
        )
    )
    assert layers.stack_of(image).n_channels == 2
    layer = layers.new_annotation(viewer, image, [Structure(1)])
    assert layer.data.shape == (16, 20)
    assert tuple(layer.scale) == (0.5, 0.25)


def test_a_channel_axis_in_the_middle_is_refused_with_the_way_out() -> None:
    image = Image(np.zeros((4, 2, 16, 20)), axis_labels=("t", "c", "y", "x"))
    with pytest.raises(UserError, match="Split Stack"):
        layers.stack_of(image)


def test_large_grids_live_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_grids, "ON_DISK_BYTES", 1000)
    grid = image_grids.empty_grid((4, 32, 32))
    assert isinstance(grid, np.memmap)
    assert not grid.any()
    layer = Labels(grid)
    layer.data_setitem((np.array([1]), np.array([2]), np.array([3])), 5)
    layer.undo()
    layer.redo()
    assert layers.snapshot(layer)[1, 2, 3] == 5
    assert image_grids.count_labels(grid) == {5: 1}


def test_a_snapshot_is_not_touched_by_later_painting() -> None:
    layer = Labels(np.zeros((3, 8, 8), np.uint8))
    layer.data[1, 2, 2] = 7
    copy = layers.snapshot(layer)
    layer.data[1, 2, 2] = layer.data[0, 0, 0] = 9
    assert (copy[1, 2, 2], copy[0, 0, 0]) == (7, 0)


FEW, MANY = dict.fromkeys(range(1, 6), 400), dict.fromkeys(range(1, 41), 400)


@pytest.mark.parametrize(
    ("counts", "appearance", "kind"),
    [
        ({}, None, LabelKind.STROKES),
        ({1: 50, 255: 80}, None, LabelKind.STROKES),
        ({1: 50, 2: 80}, None, LabelKind.STROKES),
        ({1: 5000}, None, LabelKind.FULL),
        ({255: 5000}, None, LabelKind.FULL),
        ({255: 50}, None, LabelKind.FULL),
        ({65535: 5000}, None, LabelKind.FULL),
        (dict.fromkeys(range(1, 14), 3), None, LabelKind.INSTANCES),
        (dict.fromkeys(range(1, 400), 30), Appearance.LABELS, LabelKind.INSTANCES),
        ({3: 50, 1000: 80}, Appearance.LABELS, LabelKind.INSTANCES),
        (FEW, Appearance.OBJECTS, LabelKind.INSTANCES),
        (FEW, Appearance.LABELS, LabelKind.FULL),
        (dict.fromkeys(range(1, 6), 40), Appearance.OBJECTS, LabelKind.STROKES),
        (MANY, Appearance.OBJECTS, LabelKind.INSTANCES),
        (MANY, Appearance.LABELS, LabelKind.FULL),
        (MANY | {255: 900}, Appearance.BLURRED, LabelKind.FULL),
        ({-1: 900, 1: 5000}, Appearance.LABELS, LabelKind.FULL),
    ],
)
def test_the_kind_of_existing_labels_is_guessed(
    counts: dict[int, int], appearance: Appearance | None, kind: LabelKind
) -> None:
    look = None if appearance is None else LabelAppearance(appearance)
    assert image_grids.guess_kind(counts, 20_000, look) is kind


def test_a_first_look_at_labels_reads_few_planes() -> None:
    read: list[int] = []

    def plane(block_info: Any) -> np.ndarray:
        read.append(block_info[None]["chunk-location"][0])
        return np.ones((1, 4, 4), np.uint8)

    lazy = da.map_blocks(plane, chunks=((1,) * 50, (4,), (4,)), dtype=np.uint8)
    read.clear()
    counts, size = image_grids.thinned_counts(lazy)
    assert counts == {1: size}
    assert len(read) == 5
    large = np.broadcast_to(np.uint8(255), (3000, 5000))
    assert image_grids.thinned_counts(large)[1] < 600 * 600


def test_names_are_added_to_a_table_of_the_users_and_overwrite_nothing() -> None:
    table = {"index": [0, 1, 2, 7], "area": [0.0, 5.0, 6.0, 9.0], "name": ["", "mine", "", "more"]}
    layer = Labels(np.zeros((8, 8), np.uint8), features=table)
    layers.write_names(layer, [Structure(1, "nucleus"), Structure(2, "debris")])
    assert layer.features["area"].tolist() == table["area"]
    assert layer.features["name"].tolist() == ["", "mine", "debris", "more"]
    short = Labels(np.zeros((8, 8), np.uint8), features={"index": [3, 7], "name": ["c", "g"]})
    for name in ("nucleus", "cell"):
        layers.write_names(short, [Structure(1, name)])
    assert layers.names_in(short) == {3: "c", 7: "g"}
    empty = Labels(np.zeros((8, 8), np.uint8))
    layers.write_names(empty, [Structure(1, "nucleus")])
    layers.write_names(empty, [Structure(1, "cell")])
    assert layers.names_in(empty) == {1: "cell"}


def test_the_plane_on_screen_follows_scale_and_translation() -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((2, 3, 16, 20)), **GRID))
    viewer.add_layer(Image(np.zeros((16, 20)), scale=(0.5, 0.25), units=("um", "um")))
    viewer.dims.set_point((0, 1), (30.0, 4.0 + 2 * 2.0))
    assert layers.plane_on_screen(viewer, image, 2) == (1, 2)
    assert layers.plane_on_screen(viewer, image, 3) == (1,)
