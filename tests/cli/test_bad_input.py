"""Bad input, row by row: each gives one sentence that says what to do, and harms no file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg import (
    AnnotatedImage,
    FolderDataset,
    LabelKind,
    Model,
    Stack,
    TrainSettings,
    UserError,
    load_model,
    open_stack,
    predict,
    train,
)
from napari_unetseg.cli import main

ROOT = Path(__file__).resolve().parents[2]
TINY = TrainSettings(depth=2, width=2, steps=1, patch=16, batch=1, threads=1)
OPTIONS = "--depth 2 --width 2 --steps 1 --patch 16 --batch 1 --threads 1".split()
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 48), dtype=np.uint8)
MASK = (GREY > 127).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An image ``a`` in a folder, and an empty folder for its labels."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    Image.fromarray(GREY).save(images / "a.png")
    return images, labels


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command line; return the one line with which it refuses."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("unetseg: ")]
    assert len(lines) == 1, err
    assert out == ""
    assert "Traceback" not in err
    assert "Unexpected" not in err
    assert err.endswith(lines[0] + "\n")
    return lines[0]


def refused_training(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], *options: str
) -> str:
    """Train on the two folders; nothing may be saved."""
    output = folders[0].parent / "model.safetensors"
    sentence = refused(capsys, "train", *folders, "-o", output, *OPTIONS, *options)
    assert not output.exists()
    return sentence


def tiny_model(image: np.ndarray = GREY, axes: str | None = None) -> Model:
    """Train a model of one structure for a step."""
    return train([AnnotatedImage(Stack.from_array(image, axes), MASK, LabelKind.FULL)], TINY)


# -- folders and labels ----------------------------------------------------------------------------


def test_folders_without_a_pair(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    Image.fromarray(MASK).save(folders[1] / "b.png")
    sentence = refused_training(capsys, folders)
    assert str(folders[0]) in sentence
    assert str(folders[1]) in sentence
    assert "there are 'a' and 'b'; rename one of them." in sentence


def test_an_empty_folder(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]) -> None:
    assert "contains no image; choose a folder with" in refused_training(capsys, folders)


def test_shapes_that_differ(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]) -> None:
    Image.fromarray(MASK[:30]).save(folders[1] / "a.png")
    sentence = refused_training(capsys, folders)
    assert "(40, 48)" in sentence
    assert "(30, 48)" in sentence


def test_labels_that_are_no_whole_numbers(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    tifffile.imwrite(folders[1] / "a.tif", MASK * np.float32(0.5))
    assert "0.5, which are not whole numbers" in refused_training(capsys, folders)


def test_whole_numbers_in_floats_are_fine(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    tifffile.imwrite(folders[1] / "a.tif", MASK.astype(np.float32))
    assert main(["train", *map(str, folders), "-o", str(folders[0] / "m"), *OPTIONS]) == 0
    assert "1 structure: 1, and background." in capsys.readouterr().err


def test_negative_labels(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]) -> None:
    tifffile.imwrite(folders[1] / "a.tif", np.where(MASK == 0, -1, MASK.astype(np.int16)))
    sentence = refused_training(capsys, folders)
    assert "the negative value -1; add '--ignore -1' if it means 'not labelled'" in sentence
    assert "or '--threshold 0' if it is the background" in sentence
    assert "give '--threshold 0' instead" in refused_training(capsys, folders, "--ignore", "-1")
    tifffile.imwrite(folders[1] / "a.tif", MASK.astype(np.int16) - 1)
    assert "hold only 0 and -1; save them again" in refused_training(capsys, folders)


@pytest.mark.parametrize(
    "options", [["--ignore", "-1"], ["--labels", "instances", "--ignore", "-1"]]
)
@pytest.mark.parametrize("missing", [-1, np.nan])
def test_labels_with_places_that_are_not_labelled(
    capsys: pytest.CaptureFixture[str],
    folders: tuple[Path, Path],
    options: list[str],
    missing: float,
) -> None:
    mask = MASK.astype(np.float32)
    mask[:10] = missing
    tifffile.imwrite(folders[1] / "a.tif", mask)
    output = str(folders[0].parent / "m.safetensors")
    assert main(["train", *map(str, folders), "-o", output, *OPTIONS, *options]) == 0
    said = capsys.readouterr().err
    assert "1 structure: 1, and background." in said
    assert "1,440 labelled pixels for training" in said
    assert ("a hold NaN, which counts as not labelled." in said) == bool(np.isnan(missing))
    files = [str(folder / name) for folder, name in zip(folders, ("a.png", "a.tif"), strict=True)]
    assert main(["evaluate", output, *files, *options]) == 0
    assert "On 1,440 voxels" in capsys.readouterr().out


def test_masks_with_blurred_edges(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    """A mask saved as JPEG, then as PNG: refused as it is, and taken with a threshold."""
    y, x = np.mgrid[:40, :48]
    mask = ((y - 15) ** 2 + (x - 18) ** 2 < 130) | ((y - 30) ** 2 + (x - 38) ** 2 < 40)
    Image.fromarray((mask * 255).astype(np.uint8)).save(folders[1] / "a.jpg", quality=75)
    assert "'--threshold 127'" in refused_training(capsys, folders)
    options = ["-o", str(folders[0].parent / "m.safetensors"), *OPTIONS, "--threshold", "127"]
    assert main(["train", *map(str, folders), *options]) == 0
    assert "1 structure: 1, and background." in capsys.readouterr().err
    grey = np.asarray(Image.open(folders[1] / "a.jpg"))
    (folders[1] / "a.jpg").unlink()
    Image.fromarray(grey).save(folders[1] / "a.png")
    for kind in ("full", "strokes", "instances"):
        assert "blurred by JPEG" in refused_training(capsys, folders, "--labels", kind)
    assert main(["train", *map(str, folders), *options]) == 0
    (pair,) = FolderDataset(*folders, threshold=127)
    np.testing.assert_array_equal(np.asarray(pair.labels), mask)
    with pytest.raises(UserError, match="leave out one of the two"):
        FolderDataset(*folders, kind="strokes", threshold=127)


def test_255_beside_other_numbers_in_a_full_mask(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    mask = MASK.copy()
    mask[:4] = 255
    Image.fromarray(mask).save(folders[1] / "a.png")
    assert "255 beside 1; say what 255 means" in refused_training(capsys, folders)
    arguments = ["train", *map(str, folders), "-o", str(folders[0].parent / "m"), *OPTIONS]
    assert main([*arguments, "--ignore", "255"]) == 0
    assert "1 structure: 1, and background." in capsys.readouterr().err


def test_numbers_beyond_254(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]) -> None:
    mask = MASK.astype(np.uint16) * 300
    mask[20:, 20:] *= 2
    tifffile.imwrite(folders[1] / "a.tif", mask)
    assert "if every number is a separate object" in refused_training(capsys, folders)
    tifffile.imwrite(folders[1] / "a.tif", MASK.astype(np.uint16) * 300)
    assert main(["train", *map(str, folders), "-o", str(folders[0] / "m"), *OPTIONS]) == 0
    assert "1 structure: 1 (300 in the files), and background." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, "full"), (1, "strokes"), (0, "full"), (255, "strokes"), (7, "instances")],
)
def test_one_class_only(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], value: int, kind: str
) -> None:
    Image.fromarray(np.full_like(GREY, value)).save(folders[1] / "a.png")
    sentence = refused_training(capsys, folders, "--labels", kind)
    assert "paint" in sentence.lower() or "label" in sentence.lower()


def test_no_annotation(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]) -> None:
    Image.fromarray(np.zeros_like(GREY)).save(folders[1] / "a.png")
    sentence = refused_training(capsys, folders, "--labels", "strokes")
    assert "label" in sentence.lower() or "annotat" in sentence.lower()


def test_colour_masks(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]) -> None:
    Image.fromarray(np.dstack([GREY, MASK, MASK])).save(folders[1] / "a.png")
    assert "is a colour picture, not labels" in refused_training(capsys, folders)


def test_two_images_of_one_stem(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    Image.fromarray(MASK).save(folders[1] / "a.png")
    tifffile.imwrite(folders[0] / "a.tif", GREY)
    assert "have the same stem" in refused_training(capsys, folders)


def test_images_of_different_channels(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    for name in ("a", "b"):
        Image.fromarray(MASK).save(folders[1] / f"{name}.png")
    Image.fromarray(np.dstack([GREY] * 3)).save(folders[0] / "b.png")
    assert "channels" in refused_training(capsys, folders)


# -- images ----------------------------------------------------------------------------------------


def test_a_1_by_1_image_cannot_train_but_can_be_predicted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("a.png", "m.png"):
        Image.fromarray(np.ones((1, 1), np.uint8)).save(tmp_path / name)
    output = tmp_path / "model.safetensors"
    sentence = refused(
        capsys, "train", tmp_path / "a.png", tmp_path / "m.png", "-o", output, *OPTIONS
    )
    assert "paint" in sentence.lower() or "label" in sentence.lower()
    tiny_model().save(output)
    assert main(["predict", str(output), str(tmp_path / "a.png"), "-o", str(tmp_path / "o")]) == 0
    assert open_stack(tmp_path / "o" / "a.tif").data.shape == (1, 1)


def test_a_colour_model_on_a_grey_image(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    file = tiny_model(np.dstack([GREY] * 3)).save(folders[1] / "rgb")
    output = folders[1] / "out"
    sentence = refused(capsys, "predict", file, folders[0] / "a.png", "-o", output)
    assert "needs 3 channel(s)" in sentence
    assert "a has 1" in sentence
    assert not output.exists()


def test_a_2d_image_for_a_3d_training(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    Image.fromarray(MASK).save(folders[1] / "a.png")
    assert "no Z axis" in refused_training(capsys, folders, "--dims", "3")


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_corrupt_image(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], name: str
) -> None:
    Image.fromarray(MASK).save(folders[1] / "a.png")
    (folders[0] / "a.png").unlink()
    tifffile.imwrite(folders[0] / "a.tif", GREY, compression="zlib")
    Image.fromarray(GREY).save(folders[0] / "whole.png")
    raw = (folders[0] / ("a.tif" if name == "a.tif" else "whole.png")).read_bytes()
    (folders[0] / "a.tif").unlink()
    (folders[0] / name).write_bytes(raw[: len(raw) // 2])
    sentence = refused_training(capsys, folders)
    assert str(folders[0] / name) in sentence
    assert "copy or save it again" in sentence


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04\x95 a pickle", b"PK\x03\x04 a .pt"])
def test_a_file_that_is_no_model(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], content: bytes
) -> None:
    (folders[1] / "m.safetensors").write_bytes(content)
    image = folders[0] / "a.png"
    refused(capsys, "predict", folders[1] / "m.safetensors", image, "-o", folders[1] / "out")
    assert not (folders[1] / "out").exists()


def test_the_python_interface_raises_the_same_sentences(folders: tuple[Path, Path]) -> None:
    Image.fromarray(MASK[:30]).save(folders[1] / "a.png")
    with pytest.raises(UserError, match="labels have"):
        FolderDataset(*folders)
    with pytest.raises(UserError, match="no image with labels"):
        train([], TINY)
    with pytest.raises(UserError, match="needs 1 channel"):
        predict(tiny_model(), np.dstack([GREY] * 3))


# -- writing ---------------------------------------------------------------------------------------


def test_an_output_below_a_file(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    """Nobody can write there, root neither."""
    Image.fromarray(MASK).save(folders[1] / "a.png")
    below = folders[0] / "a.png" / "below"
    sentence = refused(capsys, "train", *folders, "-o", below / "m.safetensors", *OPTIONS)
    assert "Cannot write to" in sentence
    file = tiny_model().save(folders[1] / "m")
    sentence = refused(capsys, "predict", file, folders[0] / "a.png", "-o", below)
    assert "choose another folder" in sentence
    with pytest.raises(UserError, match="could not be saved"):
        tiny_model().save(below / "m.safetensors")


def test_a_read_only_folder(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    Image.fromarray(MASK).save(folders[1] / "a.png")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("root may write everywhere")
    sentence = refused(capsys, "train", *folders, "-o", closed / "m.safetensors", *OPTIONS)
    assert "permission denied" in sentence
    assert not list(closed.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has /proc")
def test_a_read_only_file_system(
    capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path]
) -> None:
    """Refuses files of root as well."""
    Image.fromarray(MASK).save(folders[1] / "a.png")
    sentence = refused(capsys, "train", *folders, "-o", "/proc/m.safetensors", *OPTIONS)
    assert "Cannot write to /proc" in sentence


LIMITED = """
import resource, sys
from napari_unetseg.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
sys.exit(main(sys.argv[1:]))
"""


def run_with_full_disk(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line where no file can grow beyond 4,000 bytes."""
    command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_while_the_model_is_saved(folders: tuple[Path, Path]) -> None:
    Image.fromarray(MASK).save(folders[1] / "a.png")
    file = tiny_model().save(folders[0].parent / "model")
    before = file.read_bytes()
    done = run_with_full_disk("train", *folders, "-o", file, *OPTIONS)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("unetseg: ")
    assert "the disk is full; the old file is unchanged" in last
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before
    assert load_model(file).id == tiny_model().id
    assert sorted(p.name for p in file.parent.iterdir()) == ["images", "labels", file.name]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_while_a_mask_is_saved(folders: tuple[Path, Path]) -> None:
    noise = RNG.integers(0, 256, (400, 400), dtype=np.uint8)
    Image.fromarray(noise).save(folders[0] / "noise.png")
    file = tiny_model().save(folders[0].parent / "model")
    output = folders[0].parent / "out"
    output.mkdir()
    (output / "noise.tif").write_bytes(b"old")
    image = folders[0] / "noise.png"
    done = run_with_full_disk("predict", file, image, "-o", output, "--probabilities")
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr.splitlines()[-1]
    whole = [p for p in output.iterdir() if p.is_file() and p.read_bytes() != b"old"]
    assert (output / ".noise.unetseg").is_dir(), "what was predicted is kept for the next time"
    assert all(open_stack(p).data[...].shape == noise.shape for p in whole)
    assert not (output / "noise_probabilities.ome.tif").exists()


FULL_TMPFS = """
import os, subprocess, sys
from pathlib import Path
from napari_unetseg import UserError, load_model
folder = Path(sys.argv[1]) / "disk"
folder.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], check=True)
model = load_model(sys.argv[2])
file = model.save(folder / "model")
before = file.read_bytes()
with open(folder / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(512))
    except OSError:
        pass
try:
    model.save(file)
except UserError as error:
    print(error)
assert file.read_bytes() == before
assert sorted(p.name for p in folder.iterdir()) == ["filler", "model.safetensors"]
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    try:
        subprocess.run(["unshare", "-rm", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a mount namespace of its own")
    file = tiny_model().save(tmp_path / "model")
    command = ["unshare", "-rm", sys.executable, "-c", FULL_TMPFS, str(tmp_path), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the disk is full; the old file is unchanged" in done.stdout


@pytest.mark.parametrize("edge", [3, 20])
def test_a_tiny_image_trains_with_every_augmentation(edge: int) -> None:
    labels = np.where(np.arange(edge) < edge // 2, 1, 255).astype(np.uint8)
    pair = AnnotatedImage(
        Stack.from_array(GREY[:edge, :edge]), np.tile(labels, (edge, 1)), "strokes"
    )
    settings = TINY.model_copy(update={"steps": 12, "patch": None})
    model = train([pair], settings)
    assert predict(model, pair.image).shape == (edge, edge)
