"""An image of other pixel sizes than the model's: said once, and the offer to match them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from gui_parts import squares, strokes
from helpers import random_model, trained_at
from napari.components import ViewerModel
from napari.layers import Image, Labels
from panel_parts import batch_panel, result_panel
from sync_runner import SyncRunner

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.state.batch_rows import BatchRow
from napari_unetseg.gui.state.session import Level, Mode, ModelEntry
from napari_unetseg.inference.large.output_format import Saving
from napari_unetseg.inference.predict import predict
from napari_unetseg.io.project.locations import recoveries

MODEL = trained_at(random_model(1, depth=2, width=4), 0.2)
FINE = {"scale": (0.05, 0.05), "units": ("um", "um")}


def picture(**more: Any) -> Image:
    return Image(squares().astype(np.float32) / 200, name="cells", **more)


class Bench:
    """A plugin over a viewer without a window, with a model trained at 0.2 µm."""

    def __init__(self, *layers: Any) -> None:
        self.viewer = ViewerModel()
        for layer in layers:
            self.viewer.add_layer(layer)
        self.plugin = Plugin(self.viewer, SyncRunner())
        self.session = self.plugin.session
        self.session.mode = Mode.ONCE
        self.session.entry = ModelEntry(MODEL, "model")
        self.warned: list[str] = []
        self.session.events.message.connect(self._hear)
        self.plugin.tick()

    def _hear(self, message: Any) -> None:
        if message.level is Level.WARNING:
            self.warned.append(message.text)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < end, self.session.sizes
            self.plugin.tick()

    def predict(self) -> np.ndarray:
        self.plugin.prediction.predict_plane()
        for _ in range(3):
            self.plugin.tick()
        assert self.session.job is None
        return self.mask()

    def mask(self) -> np.ndarray:
        prediction = self.plugin.masks.current
        assert prediction is not None
        assert prediction.layer is not None
        return np.asarray(prediction.layer.data).copy()

    def wanted(self, match: bool) -> np.ndarray:
        image = np.asarray(self.viewer.layers["cells"].data)
        stack = Stack(image, "YX", (0.05, 0.05), ("um", "um"))
        return predict(MODEL, stack, PredictSettings(match_spacing=match))


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench(picture(**FINE))
    yield one
    one.plugin.close()


def test_it_is_said_at_once_and_as_a_warning_once_with_the_mask(bench: Bench) -> None:
    sizes = bench.session.sizes
    assert sizes is not None
    assert sizes.text.startswith("cells has pixels of 0.05 µm, but the model was trained on pixel")
    assert "--" not in sizes.text
    assert sizes.possible
    np.testing.assert_array_equal(bench.predict(), bench.wanted(match=False))
    (text,) = bench.warned
    assert text == f"{sizes.text} Check 'Predict at the model's pixel size' under Result."
    assert bench.session.message.text == text
    bench.predict()
    assert bench.warned == [text]
    assert bench.session.message.text.startswith("Prediction shown")
    bench.viewer.add_layer(picture(**FINE))
    bench.plugin.sources.choose_image(bench.viewer.layers["cells [1]"])
    bench.predict()
    assert len(bench.warned) == 2


def test_what_is_chosen_holds_until_it_is_chosen_otherwise(bench: Bench) -> None:
    bench.predict()
    bench.plugin.voxel_size.choose(True)
    np.testing.assert_array_equal(bench.predict(), bench.wanted(match=True))
    assert (bench.mask() != bench.wanted(match=False)).any()
    assert bench.session.sizes is not None
    assert bench.session.sizes.text == (
        "cells is predicted at the model's pixel size, 0.2 µm instead of 0.05 µm."
    )
    bench.plugin.voxel_size.choose(False)
    np.testing.assert_array_equal(bench.predict(), bench.wanted(match=False))
    assert len(bench.warned) == 1


def test_the_mask_on_screen_follows_in_live_mode(bench: Bench) -> None:
    bench.predict()
    bench.session.mode = Mode.LIVE
    before = bench.session.message
    for match in (True, False):
        bench.plugin.voxel_size.choose(match)
        for _ in range(5):
            bench.plugin.tick()
        np.testing.assert_array_equal(bench.mask(), bench.wanted(match=match))
    assert bench.session.message is before, "the sizes are said beside the choice alone"


def test_volumes_have_voxels_in_the_offer_too() -> None:
    volume = Image(squares((4,)), name="cells", scale=(0.05,) * 3, units=("um",) * 3)
    bench = Bench(volume)
    try:
        bench.plugin.sources.choose_dims(3)
        model = trained_at(random_model(1, dims=3, depth=2, width=4), 0.2)
        bench.session.entry = ModelEntry(model, "model")
        bench.plugin.voxel_size.say()
        (text,) = bench.warned
        assert text.endswith("Check 'Predict at the model's voxel size' under Result.")
    finally:
        bench.plugin.close()


def test_it_follows_the_scale_of_the_layer_the_image_and_the_model(bench: Bench) -> None:
    layer, session = bench.viewer.layers["cells"], bench.session

    def is_said(text: str) -> bool:
        sizes = session.sizes
        return text == "" if sizes is None else text != "" and text in sizes.text

    for scale, units, said in (
        ((0.2, 0.2), ("um", "um"), ""),
        ((50, 50), ("nm", "nm"), "of 0.05 µm, but"),
        ((0.05, 0.05), ("pixel", "pixel"), ""),
        ((9.0, 9.0), ("um", "um"), "They are too far apart to resample"),
        ((9.0, 0.05), ("um", "pixel"), "The pixel size is not known along every axis"),
    ):
        layer.scale, layer.units = scale, units
        bench.until(partial(is_said, said))
        assert session.sizes is None or session.sizes.possible == ("but" in said)
    session.entry = ModelEntry(replace(MODEL, units=("pixel", "pixel")), "unknown")
    bench.plugin.tick()
    assert session.sizes is None
    bench.plugin.voxel_size.choose(True)
    bench.predict()  # what cannot be matched is predicted as it is
    assert not bench.warned


def test_a_training_of_images_of_several_sizes_says_so_and_knows_them() -> None:
    sizes: dict[str, Any] = {"scale": (0.2, 0.2), "units": ("um", "um")}
    coarse = Image(squares(), name="coarse", **sizes)
    fine = Image(squares(), name="fine", **FINE)
    bench = Bench(coarse, Labels(strokes(), name="one", **sizes))
    try:
        bench.session.change_settings(depth=2, width=4, steps=2, patch=32, batch=2)
        bench.session.entry = None
        bench.viewer.add_layer(fine)
        labels = bench.viewer.add_layer(Labels(strokes(), name="two", **FINE))
        bench.plugin.sources.choose_image(fine)
        bench.plugin.sources.choose_labels(labels)
        said: list[str] = []
        bench.session.events.message.connect(lambda message: said.append(message.text))
        for _ in range(2):  # the second goes on from the first, which knows these sizes
            bench.plugin.training.start()
            for _ in range(3):
                bench.plugin.tick()
        said = [text for text in said if "pixels of 0.05 to 0.2 µm and are not resampled" in text]
        assert len(said) == 2  # as it is found, and with what the training works with
        assert bench.session.entry.model.spacing_range == ((0.05, 0.05), (0.2, 0.2))
        assert bench.session.sizes is None
    finally:
        bench.plugin.close()


def test_a_project_remembers_it(tmp_path: Path) -> None:
    bench = Bench(picture(**FINE), Labels(strokes(), name="strokes"))
    bench.plugin.sources.new_annotation()
    bench.plugin.voxel_size.choose(True)
    layer = bench.viewer.layers[-1]
    layer.paint((4, 4), 1)
    for _ in range(5):
        bench.plugin.tick()
    bench.plugin.saving.save_as(tmp_path / "project")
    for _ in range(5):
        bench.plugin.tick()
    bench.plugin.close()
    again = Bench(picture(**FINE))
    assert not again.session.match_spacing
    again.plugin.restore.open(tmp_path / "project")
    for _ in range(5):
        again.plugin.tick()
    assert again.session.match_spacing == "auto"
    assert again.session.sizes is not None
    assert "is predicted at the model's pixel size" in again.session.sizes.text
    again.plugin.close()
    assert not recoveries()


def test_a_batch_predicts_what_it_can_at_the_models_size(tmp_path: Path) -> None:
    bench = Bench()
    size = {"resolution": (20, 20), "metadata": {"unit": "um"}}
    image = (squares() / 200).astype(np.float32)
    tifffile.imwrite(tmp_path / "fine.tif", image, imagej=True, **size)
    tifffile.imwrite(tmp_path / "unknown.tif", image)
    plugin, session = bench.plugin, bench.session
    plugin.batch.add([tmp_path / "fine.tif", tmp_path / "unknown.tif"])
    for match in (False, True):
        plugin.voxel_size.choose(match)
        plugin.batch.run(Saving(tmp_path / "out", overwrite=True), measure=False)
        for _ in range(3):
            plugin.tick()
        fine, unknown = session.batch
        assert [str(row.state) for row in session.batch] == ["done", "done"]
        said = "is predicted at the model's" if match else "the mask may be wrong."
        assert said in fine.notices[0]
        assert not unknown.notices
        stack = Stack(image, "YX", (0.05, 0.05), ("um", "um"))
        found = tifffile.imread(tmp_path / "out" / "fine.tif")
        wanted = predict(MODEL, stack, PredictSettings(match_spacing=match))
        np.testing.assert_array_equal(found, wanted)
    plugin.close()


@pytest.mark.gui
def test_the_offer_is_seen_and_taken(qtbot: Any, bench: Bench) -> None:

    result, batch = result_panel(bench.plugin), batch_panel(bench.plugin)
    qtbot.addWidget(result)
    qtbot.addWidget(batch)
    assert result.match.isVisibleTo(result)
    assert "cells has pixels of 0.05 µm" in result.sizes.text()
    result.match.click()
    assert batch.match.isChecked()
    assert "is predicted at the model's" in result.sizes.text()
    np.testing.assert_array_equal(bench.predict(), bench.wanted(match=True))
    batch.match.click()
    assert not result.match.isChecked()
    row = BatchRow("fine", Path("fine.tif"), voxels={0: 3, 1: 1}, notices=("One.", "Another."))
    bench.session.batch = (row, replace(row, name="none", voxels=None))
    texts = [batch.table.item(n, 3).text() for n in range(2)]
    assert texts == ["structure 1 25.0 %. One. Another.", "One. Another."]
    bench.viewer.layers["cells"].scale = (0.2, 0.2)
    bench.until(lambda: not result.match.isVisibleTo(result))
    assert not result.sizes.isVisibleTo(result)
    for panel in (result, batch):
        panel.release()
