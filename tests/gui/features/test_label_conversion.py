"""Labels layers as people have them: what they are taken for, and what can be made of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from gui_parts import SIDE, TINY, squares
from napari.components import ViewerModel
from napari.layers import Image, Labels
from panel_parts import annotate_panel
from PIL import Image as Picture
from sync_runner import SyncRunner

from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.label_problems import check_label_folder
from napari_unetseg.gui.state.session import Level

MASK = squares() > 100


def jpeg(mask: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Picture.fromarray((mask * 255).astype(np.uint8)).save(file, "JPEG")
    return np.asarray(Picture.open(file))


def objects() -> np.ndarray:
    ids = np.zeros((SIDE, SIDE), np.uint16)
    for number, (y, x) in enumerate([(4, 4), (4, 30), (24, 12), (40, 40), (44, 8)], 1):
        ids[y : y + 12, x : x + 14] = number
    return ids


def opened(labels: np.ndarray, planes: tuple[int, ...] = ()) -> tuple[Plugin, Labels]:
    """A plugin with an image and a Labels layer, which it finds."""
    viewer = ViewerModel()
    scale = (2.0,) * labels.ndim
    viewer.add_layer(Image(squares(planes), name="image", scale=scale))
    layer = viewer.add_layer(Labels(labels, name="mask", scale=scale))
    plugin = Plugin(viewer, SyncRunner())
    plugin.session.change_settings(**TINY)
    return plugin, layer


def kind_of(plugin: Plugin) -> LabelKind:
    source = plugin.session.source()
    assert source is not None
    return source.kind


def test_numbered_objects_are_taken_for_objects() -> None:
    plugin, _ = opened(objects())
    assert kind_of(plugin) is LabelKind.INSTANCES
    assert "Each number in mask is a single region" in plugin.session.message.text
    assert not plugin.conversion.offered()


def test_structures_in_several_regions_are_structures() -> None:
    plugin, _ = opened((np.indices((SIDE, SIDE)) // 5 % 5).sum(0) * 2)
    assert kind_of(plugin) is LabelKind.FULL
    assert plugin.session.message.text == ""


@pytest.mark.parametrize("planes", [(), (3,)])
def test_a_blurred_mask_becomes_a_mask(planes: tuple[int, ...]) -> None:
    grey = np.broadcast_to(jpeg(MASK), (*planes, SIDE, SIDE)).copy()
    plugin, layer = opened(grey, planes)
    session = plugin.session
    assert session.message.level is Level.WARNING
    assert "press 'Use values above 127'" in session.message.text
    plugin.tick()
    assert [structure.number for structure in session.structures] == [1]
    plugin.training.start()
    assert "'--threshold 127' (a button below 'They are' in napari)" in session.message.text
    (conversion,) = plugin.conversion.offered()
    plugin.conversion.use(conversion)
    source = session.source()
    assert source is not None
    assert source.labels is not layer
    assert source.kind is LabelKind.FULL
    np.testing.assert_array_equal(source.labels.data, np.broadcast_to(MASK, grey.shape))
    np.testing.assert_array_equal(source.labels.scale, layer.scale)
    np.testing.assert_array_equal(layer.data, grey)
    assert not layer.visible
    assert not plugin.conversion.offered()
    assert session.message.level is Level.DONE
    plugin.training.start()
    assert [entry.model.classes.numbers for entry in session.history] == [(0, 1)]


def test_labels_that_were_put_right_by_hand_need_nothing_more() -> None:
    plugin, layer = opened(jpeg(MASK).copy())
    assert plugin.conversion.offered()
    layer.data = (layer.data > 127).astype(np.uint8)
    plugin.annotations.announce()
    plugin.tick()
    assert not plugin.conversion.offered()
    assert plugin.session.counts[1] == MASK.sum()


def test_why_labels_are_no_full_mask_is_said_when_they_are_called_one() -> None:
    labels = MASK.astype(np.uint8)
    labels[:6] = BACKGROUND_LABEL
    plugin, _ = opened(labels)
    assert kind_of(plugin) is LabelKind.STROKES
    assert not plugin.session.message.text
    plugin.sources.choose_kind(LabelKind.FULL)
    assert plugin.session.message.text == (
        "mask holds 255 beside other numbers: press '255 is not labelled', or choose 'strokes' if "
        "it is background."
    )


def test_what_aligned_labels_look_like_is_not_hidden_by_their_alignment() -> None:
    plugin, layer = opened(jpeg(MASK))
    plugin.sources.choose_labels(None)
    plugin.session.change_source(chosen=False)
    layer.scale = (3.0, 3.0)
    plugin.tick()
    plugin.alignment.align()
    assert "press 'Use values above 127'" in plugin.session.message.text


def test_what_is_not_labelled_can_be_said() -> None:
    """-1 in a mask: strokes of all but these places, or background."""
    labels = MASK.astype(np.int16)
    labels[:6] = -1
    plugin, layer = opened(labels)
    assert kind_of(plugin) is LabelKind.FULL
    assert "mask holds -1: press '-1 is not labelled' or" in plugin.session.message.text
    plugin.training.start()
    assert "the negative value -1" in plugin.session.message.text
    without, above = plugin.conversion.offered()
    assert (without.text, above.text) == ("-1 is not labelled", "Use values above 0")
    plugin.conversion.use(without)
    source = plugin.session.source()
    assert source is not None
    assert source.kind is LabelKind.STROKES
    expected = np.where(MASK, 1, BACKGROUND_LABEL)
    expected[:6] = 0
    np.testing.assert_array_equal(source.labels.data, expected)
    plugin.training.start()
    assert plugin.session.history[-1].model.history[-1].labelled_voxels == MASK[6:].size
    plugin.sources.choose_labels(layer, LabelKind.FULL)
    plugin.conversion.use(above)
    source = plugin.session.source()
    assert source is not None
    np.testing.assert_array_equal(source.labels.data, labels > 0)


def test_255_beside_others_can_be_said_not_to_be_labelled() -> None:
    labels = MASK.astype(np.uint8)
    labels[:6] = 255
    plugin, _ = opened(labels)
    assert kind_of(plugin) is LabelKind.STROKES
    assert not plugin.conversion.offered()
    plugin.sources.choose_kind(LabelKind.FULL)
    (conversion,) = plugin.conversion.offered()
    assert conversion.text == "255 is not labelled"
    plugin.conversion.use(conversion)
    source = plugin.session.source()
    assert source is not None
    assert set(np.unique(source.labels.data[:6])) == {0}
    assert set(np.unique(source.labels.data[6:])) == {1, BACKGROUND_LABEL}


def test_objects_without_a_place_that_is_not_labelled_stay_objects() -> None:
    labels = objects().astype(np.int32)
    labels[:3] = -1
    plugin, _ = opened(labels)
    assert kind_of(plugin) is LabelKind.INSTANCES
    plugin.conversion.use(plugin.conversion.offered()[0])
    source = plugin.session.source()
    assert source is not None
    expected = np.where(objects() > 0, 1, BACKGROUND_LABEL)
    expected[:3] = 0
    np.testing.assert_array_equal(source.labels.data, expected)


@pytest.mark.parametrize(
    ("name", "labels", "kind", "threshold"),
    [
        ("a.png", jpeg(MASK), LabelKind.FULL, 127),
        ("a.jpg", jpeg(MASK), LabelKind.FULL, 127),
        ("a.tif", objects(), LabelKind.INSTANCES, None),
        ("a.tif", MASK.astype(np.uint8), LabelKind.FULL, None),
        ("a.txt", MASK.astype(np.uint8), LabelKind.FULL, None),
    ],
)
def test_a_folder_is_looked_at_and_trains(
    tmp_path: Path, name: str, labels: np.ndarray, kind: LabelKind, threshold: float | None
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    tifffile.imwrite(images / "a.tif", squares())
    if name.endswith("tif"):
        tifffile.imwrite(masks / name, labels)
    else:
        Picture.fromarray(labels).save(masks / name, format="JPEG" if "jpg" in name else "PNG")
    found = check_label_folder(masks)
    assert (found[0], found[2]) == (kind, threshold)
    if name == "a.txt":
        return
    plugin = Plugin(ViewerModel(), SyncRunner())
    plugin.session.change_settings(**TINY)
    plugin.sources.add_folders(images, masks, found[0], found[2])
    plugin.training.start()
    assert [entry.model.classes.numbers for entry in plugin.session.history] == [(0, 1)]


@pytest.mark.gui
def test_the_panel_offers_what_can_be_made(qtbot: Any) -> None:

    plugin, layer = opened(jpeg(MASK))
    panel = annotate_panel(plugin)
    qtbot.addWidget(panel)
    (button,) = panel.conversions.values()
    assert button.text() == "Use values above 127"
    assert "structure 1" in button.toolTip()
    button.click()
    assert not panel.conversions
    assert button.isHidden(), "Qt deletes it later"
    assert panel.kind.currentText() == "full mask"
    plugin.sources.choose_labels(layer)
    assert list(panel.conversions) == ["Use values above 127"]
    plugin.sources.choose_labels(None)
    assert not panel.conversions
    panel.release()
