"""The same picture at another exposure: the mask stays, or it is said why it cannot."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import blobs, dice, of_kind, random_model, run_training, strokes, tiny

from napari_unetseg.core.events import Event, Notice
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.resample import Resampling
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.inference.predict import predict
from napari_unetseg.models.model import Model, load_model

BRIGHT_FIELD = np.array([230.0, 220.0, 210.0])
OWN = "scaled by its own percentiles"


def cells(
    seed: int = 0, count: int = 10, gain: float = 2000.0, offset: float = 300.0
) -> np.ndarray:
    """Bright blobs on a noisy ground, as counts of a camera."""
    return blobs((96, 96), count, seed)[0] * gain + offset


def stack(image: np.ndarray, axes: str = "YX", name: str = "cells") -> Stack:
    return Stack(image, axes, name=name)


def fitted(usual: Normalization, image: np.ndarray, axes: str = "YX") -> tuple[Any, str]:
    """How an image is scaled, and what is said of it."""
    found, notices = usual.for_stack(stack(image, axes))
    return found, " ".join(notice.text for notice in notices)


def chosen(*images: np.ndarray, axes: str = "YX", rule: str = "auto") -> Normalization:
    return Normalization.choose([stack(image, axes) for image in images], rule)


@pytest.fixture(scope="module")
def model() -> Model:
    """A model of one training image."""
    _, truth = blobs((96, 96), 10, 0)
    settings = tiny(steps=80, learning_rate=2e-2)
    found, _ = run_training([AnnotatedImage(stack(cells()), strokes(truth), "strokes")], settings)
    return found  # type: ignore[no-any-return]


# -- another gain, another offset ------------------------------------------------------------------


GAINS = [(gain, 0) for gain in (0.1, 0.2, 0.5, 1.5, 4, 10)]
OFFSETS = [(1, offset) for offset in (-4000, 600, 3000, 20000)]


@pytest.mark.parametrize(("gain", "offset"), [*GAINS, *OFFSETS, (0.3, 700), (2, -1500), (5, 9000)])
def test_the_mask_is_that_of_the_usual_exposure_and_it_is_said(
    model: Model, gain: float, offset: float
) -> None:
    usual = predict(model, cells(5))
    assert dice(blobs((96, 96), 10, 5)[1] > 0, usual > 0) > 0.85
    events: list[Event] = []
    image = stack(cells(5) * gain + offset, name="monday_07")
    mask = predict(model, image, on_event=events.append)
    assert dice(usual > 0, mask > 0) > 0.97
    (notice,) = of_kind(events, Notice)
    assert notice.text.startswith("monday_07 ")
    assert OWN in notice.text


def test_of_the_usual_exposure_nothing_is_said(model: Model) -> None:
    events: list[Event] = []
    predict(model, cells(7), on_event=events.append)
    assert not of_kind(events, Notice)


def test_what_nobody_listens_to_goes_to_the_log(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        predict(model, stack(4 * cells(), name="late"))
    (record,) = caplog.records
    assert record.getMessage().startswith("late is brighter than the training images (")


@pytest.mark.parametrize(
    ("gain", "offset", "words"),
    [
        (3, 0, "is brighter than"),
        (1, 900, "is brighter than"),
        (0.3, 0, "is darker than"),
        (1, -900, "is darker than"),
        (0.4, 1000, "has less contrast than"),
        (2, -1400, "has more contrast than"),
    ],
)
def test_the_sentence_says_how_it_differs(gain: float, offset: float, words: str) -> None:
    _, said = fitted(chosen(cells()), gain * cells() + offset)
    assert f"cells {words} the training images (" in said


def test_training_images_are_scaled_as_they_were_trained_on() -> None:
    alike = [cells(), cells(1) * 1.03, cells(2) + 20]
    for images in (alike[:1], alike):
        usual = chosen(*images)
        assert not usual.per_image
        for image in images:
            assert fitted(usual, image) == (usual, "")


def test_planes_of_a_bleaching_series_are_scaled_alike() -> None:
    series = np.stack([cells(n) * fade for n, fade in enumerate(np.linspace(1, 0.4, 6))])
    usual = chosen(series, axes="TYX")
    assert fitted(usual, series, "TYX") == (usual, "")


def test_planes_too_dark_for_the_range_of_all_are_said() -> None:
    fading = np.stack([cells(n) * fade for n, fade in enumerate([1, 0.7, 0.4, 0.2, 0.1])])
    usual = chosen(cells())
    _, said = fitted(usual, fading, "TYX")
    assert "such as T 4 (" in said
    assert "correct the bleaching first" in said
    empty = np.random.default_rng(1).normal(500, 100, (96, 96))
    for plane in (empty, np.zeros((96, 96)), np.full((96, 96), np.nan)):
        assert "darker" not in fitted(usual, np.stack([cells(), cells(1), plane]), "TYX")[1]
    assert "bleaching" not in fitted(usual, fading, "ZYX")[1]


# -- images without signal -------------------------------------------------------------------------


@pytest.mark.parametrize("ground", [0.1, 0.5])
@pytest.mark.parametrize("rare", [0, 3])
def test_an_empty_image_of_the_usual_exposure_is_not_stretched(ground: float, rare: int) -> None:
    """Also where a few pixels are as bright as what was trained on."""
    noise = np.random.default_rng(1).normal(0, 0.02, (128, 128))
    usual = chosen(cells(gain=500, offset=0) + 200 + 500 * ground + 400 * noise[:96, :96])
    empty = 200 + 500 * (ground + 0.1) + 1000 * noise
    empty[5, : 2 * rare] += 500
    assert fitted(usual, empty) == (usual, "")


@pytest.mark.parametrize(("gain", "offset"), [(4.0, 0.0), (1.0, 5000.0), (0.2, 900.0)])
@pytest.mark.parametrize("several", [False, True])
def test_noise_of_another_exposure_is_not_stretched_either(
    gain: float, offset: float, several: bool
) -> None:
    usual = chosen(*([cells(), 5 * cells(1)] if several else [cells()]))
    assert usual.per_image == several
    empty = np.random.default_rng(3).normal(500, 100, (96, 96)) * gain + offset
    found, said = fitted(usual, empty)
    trained = chosen(cells()).apply(cells()[np.newaxis])
    scaled = found.apply(empty[np.newaxis])
    assert scaled.std() < 0.1
    assert scaled.mean() == pytest.approx(np.median(trained), abs=0.1)
    assert "hardly more than noise" in said


@pytest.mark.parametrize("exposure", [1.0, 0.1])
@pytest.mark.parametrize("factor", [0.125, 0.25, 0.5, 1.3, 2.0, 4.0])
def test_noise_of_an_image_that_is_resampled_is_not_stretched(
    exposure: float, factor: float
) -> None:
    """Though there is less of it between pixels that were interpolated or blurred."""
    usual = chosen(cells(gain=2000, offset=300))
    empty = stack(np.random.default_rng(3).normal(400, 80 * exposure, (256, 256)))
    seen = Resampling((256, 256), (factor, factor)).view(empty)
    found, _ = usual.for_stack(seen)
    assert found.apply(seen.read((), seen.whole(2))).std() < 0.1


def test_a_few_objects_are_signal_enough(model: Model) -> None:
    image, truth = blobs((192, 192), 1, 4)
    mask = predict(model, stack(6000 * image + 900))
    assert dice(truth > 0, mask > 0) > 0.8


@pytest.mark.parametrize("photons", [1.0, 0.1, 0.01])
def test_a_shorter_exposure_with_its_noise_is_no_empty_image(model: Model, photons: float) -> None:
    image, truth = blobs((96, 96), 10, 5)
    counted = np.random.default_rng(0).poisson(photons * (2000 * image + 300).clip(0))
    mask = predict(model, counted.astype(np.uint16))
    assert dice(truth > 0, mask > 0) > 0.85


def test_more_objects_are_no_other_sample(model: Model) -> None:
    image, truth = blobs((96, 96), 30, 4)
    mask = predict(model, stack(2000 * image + 300))
    assert dice(truth > 0, mask > 0) > 0.85


# -- pixels that show nothing of the sample --------------------------------------------------------


def padded(image: np.ndarray, black: float = 0.0) -> np.ndarray:
    """As registering and rotating leave it: black corners and a black border."""
    out, (rows, columns) = image.copy(), np.ogrid[: image.shape[0], : image.shape[1]]
    out[(columns < 12) | (rows + columns < 40)] = black
    return out


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (0.1, 90), (1, 3000), (4, 0)])
def test_black_borders_change_nothing_elsewhere(model: Model, gain: float, offset: float) -> None:
    usual = predict(model, cells(5))
    mask = predict(model, padded(cells(5) * gain + offset))
    shown = padded(np.ones((96, 96))) > 0
    assert dice(usual[shown] > 0, mask[shown] > 0) > 0.95
    assert not mask[~shown].any()


def test_black_borders_of_bright_fields_are_taken_for_background() -> None:
    image = 255 - 40 * blobs((96, 96), 10, 5)[0]
    found, _ = fitted(chosen(255 - 40 * blobs((96, 96), 10, 0)[0]), padded(image))
    scaled = found.apply(padded(image)[np.newaxis])[0]
    assert scaled[padded(image) == 0] == pytest.approx(np.median(scaled), abs=0.1)


def test_a_channel_that_is_blank_is_named() -> None:
    usual = chosen(np.stack([cells(), cells(1)]), axes="CYX")
    _, said = fitted(usual, np.stack([cells(), cells(1) * 0]), "CYX")
    assert said.startswith("cells has the same value everywhere in channel 2, so the mask may")
    assert "saturated" not in said


def test_black_borders_of_training_images_are_no_part_of_their_range() -> None:
    plain, black = (chosen(image, 2 * image) for image in (cells(), padded(cells())))
    assert black.low == pytest.approx(plain.low, rel=0.1)
    assert black.high == pytest.approx(plain.high, rel=0.1)


@pytest.mark.parametrize("floor", [0.0, 1500.0])
def test_background_that_was_set_to_0_is_part_of_the_image(floor: float) -> None:
    image, truth = blobs((96, 96), 40, 4)
    cleared = np.where(truth > 0, 2000 * image + floor, 0)
    assert 0.1 < (cleared == 0).mean() < 0.5
    assert chosen(cleared).low == (0.0,)


@pytest.mark.parametrize("size", [6, 14])
def test_debris_does_not_set_the_range(model: Model, size: int) -> None:
    usual, image = predict(model, cells(5)), cells(5)
    image[50 : 50 + size, 8 : 8 + size] = 60000
    far = np.ones((96, 96), bool)
    far[40 : 60 + size, : 18 + size] = False
    mask = predict(model, image)
    assert dice(usual[far] > 0, mask[far] > 0) > 0.95


def test_debris_on_an_empty_image_does_not_stretch_its_noise(model: Model) -> None:
    empty = np.random.default_rng(3).normal(500, 100, (96, 96))
    empty[50:56, 8:14] = 60000
    assert predict(model, empty)[:, 30:].mean() < 0.01


# -- what no scaling can mend ----------------------------------------------------------------------


def eight_bits(image: np.ndarray) -> np.ndarray:
    return image.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (eight_bits(0.4 * cells()), "is saturated"),
        (eight_bits(0.01 * cells()), "grey levels, so the mask may be wrong"),
        (np.maximum(cells() - 1500, 0), "is clipped at the dark end"),
        (cells().max() + cells().min() - cells(), "looks inverted"),
        (np.full((96, 96), 65535, np.uint16), "has the same value everywhere (65,535)"),
        (np.zeros((96, 96)), "has the same value everywhere (0)"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_what_cannot_be_mended_is_said(image: np.ndarray, words: str, several: bool) -> None:
    usual = chosen(*([cells(), 5 * cells(1)] if several else [cells()]))
    (notice,) = [n for n in usual.for_stack(stack(image))[1] if n.warning]
    assert words in notice.text
    assert "may be wrong" in notice.text or "nothing to segment" in notice.text


def test_what_is_mended_is_no_warning() -> None:
    (notice,) = chosen(cells()).for_stack(stack(5 * cells(1)))[1]
    assert "is brighter than" in notice.text
    assert not notice.warning
    (kept,) = chosen(cells(), rule="training").for_stack(stack(5 * cells(1)))[1]
    assert "keeps their range" in kept.text
    assert kept.warning


def test_what_the_training_images_have_too_is_not_said() -> None:
    saturated = eight_bits(0.2 * cells())
    coarse = eight_bits(0.006 * cells())
    dark = np.maximum(cells() - 700, 0)
    for image in (saturated, coarse, dark):
        assert fitted(chosen(image), image)[1] == ""
        assert fitted(chosen(image, 2.0 * image), image)[1] == ""


# -- channels and colours --------------------------------------------------------------------------


def test_each_channel_is_looked_at_on_its_own() -> None:
    both = np.stack([cells(), cells(1, gain=800)])
    usual = chosen(both, axes="CYX")
    other = both * np.array([1.0, 4.0])[:, None, None]
    found, notices = usual.for_stack(Stack(other, "CYX", channels=("DAPI", "GFP"), name="two"))
    assert found.low[0] == usual.low[0]
    assert found.low[1] == pytest.approx(4 * usual.low[1])
    assert found.high[1] == pytest.approx(4 * usual.high[1])
    (said,) = [notice.text for notice in notices]
    assert said.startswith("two is brighter than the training images (GFP ")
    assert "DAPI" not in said


def slide(seed: int, pink: int, purple: int, light: float = 1.0) -> np.ndarray:
    """A stained section in RGB: white, some pink, and some purple nuclei."""
    rng = np.random.default_rng(seed)
    picture = np.broadcast_to(BRIGHT_FIELD, (128, 128, 3)).copy()
    for count, radius, color in ((pink, 16, (205, 130, 170)), (purple, 6, (110, 60, 130))):
        for y, x in rng.integers(0, 128, (count, 2)):
            rows, columns = np.ogrid[:128, :128]
            picture[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = color
    return eight_bits((picture + rng.normal(0, 3, picture.shape)) * light)


@pytest.mark.parametrize("light", [0.5, 0.75, 0.9])
def test_hues_of_a_stained_slide_are_kept_in_other_light(light: float) -> None:
    """Though it has hardly any of the purple that gives the training images' dark end."""
    usual = chosen(slide(0, 20, 40), axes="YXS")
    found, said = fitted(usual, slide(1, 20, 1, light), "YXS")
    for ends in ((found.high, usual.high), (found.low, usual.low)):
        np.testing.assert_allclose(np.divide(*ends), light, atol=0.03)
    assert f"its colours are multiplied by {1 / light:.2g}" in said


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_hues_are_kept_at_another_pixel_size(factor: float) -> None:
    usual = chosen(slide(0, 20, 40), axes="YXS")
    other = stack(slide(1, 20, 1, 0.5), "YXS")
    found, notices = usual.for_stack(Resampling((128, 128), (factor, factor)).view(other))
    np.testing.assert_allclose(np.divide(found.high, usual.high), 0.5, atol=0.03)
    np.testing.assert_allclose(np.divide(found.low, usual.low), 0.5, atol=0.03)
    assert "its colours are multiplied by 2" in " ".join(notice.text for notice in notices)


def test_a_slide_with_other_contents_is_scaled_as_the_others() -> None:
    usual = chosen(slide(0, 20, 40), axes="YXS")
    for other in (slide(2, 30, 4), slide(3, 6, 8), slide(4, 0, 0)):
        found, _ = fitted(usual, other, "YXS")
        np.testing.assert_allclose(found.low, usual.low, atol=8)
        np.testing.assert_allclose(found.high, usual.high, atol=8)


# -- settings, going on, files ---------------------------------------------------------------------


def test_a_range_that_is_to_be_kept_is_kept() -> None:
    usual = chosen(cells(), rule="training")
    found, said = fitted(usual, 4 * cells())
    assert found is usual
    assert "this model keeps their range" in said
    assert fitted(usual, cells(3)) == (usual, "")
    assert OWN in fitted(usual, 257 * cells())[1]  # another bit depth


def test_a_training_that_goes_on_with_another_exposure_says_no_more_of_it(model: Model) -> None:
    image, truth = stack(5 * cells(8)), blobs((96, 96), 10, 8)[1]
    assert model.normalization.for_stack(image)[1]
    on = run_training(
        [AnnotatedImage(image, strokes(truth), "strokes")], tiny(steps=2), init=model
    )[0]
    assert on.normalization.per_image
    assert why_this_range(on) == "the ranges of these images or of your model's differ"
    for known in (image, stack(cells())):
        assert on.normalization.for_stack(known)[1] == ()
    same = run_training(
        [AnnotatedImage(stack(cells(9)), strokes(truth), "strokes")], tiny(steps=2), init=model
    )[0]
    assert same.normalization == model.normalization
    assert why_this_range(same) == why_this_range(model) == "all images have about the same range"
    told = tiny(steps=1, normalization="image")
    assert why_this_range(
        run_training([AnnotatedImage(image, strokes(truth), "strokes")], told)[0]
    ).endswith("settings")


def why_this_range(model: Model) -> str:
    (reason,) = [c.reason for c in model.history[-1].choices if c.name == "Intensities"]
    return reason


def test_a_model_file_keeps_what_is_known_of_the_training_images(
    tmp_path: Path, model: Model
) -> None:
    assert model.normalization.profiles
    again = load_model(model.save(tmp_path / "m"))
    assert again.normalization == model.normalization


def test_a_model_of_an_earlier_version_is_read_and_stretches_nothing_dim(tmp_path: Path) -> None:
    plain = random_model(1, depth=1, width=2)
    old = replace(plain, normalization=Normalization((300.0,), (2500.0,), (500.0,)))
    description = old.description()
    del description["normalization"]["profiles"], description["normalization"]["keep"]
    text = json.dumps(description)
    assert Normalization(**json.loads(text)["normalization"]).profiles == ()
    usual = load_model(old.save(tmp_path / "old")).normalization
    for image in (cells(), 0.5 * cells() + 150, np.random.default_rng(0).normal(500, 90, (96, 96))):
        assert fitted(usual, image)[0] is usual
    for image in (3 * cells(), cells() + 3000, cells() - 3000, 0.05 * cells()):
        assert OWN in fitted(usual, image)[1]


# -- what is measured ------------------------------------------------------------------------------


def test_the_noise_of_a_large_image_is_that_of_its_pixels() -> None:
    """Where the percentiles are of every n-th pixel, the noise is not that of structures."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:2000, :1600]
    waves = 500 * np.sin(rows / 3.0) * np.sin(columns / 3.0) + 1000
    image = waves + rng.normal(0, 10, waves.shape)
    large, small = (Normalization.choose([stack(i)]) for i in (image, image[:400, :400]))
    assert large.profiles[0].contrast == pytest.approx(small.profiles[0].contrast, rel=0.1)
