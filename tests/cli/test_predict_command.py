"""``unetseg predict`` over many images: formats, bad files, reports, and kills."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import zarr
from helpers import random_model
from large_parts import ids_of, mask_of, noise, object_model, smooth, tree
from PIL import Image

from napari_unetseg.cli import main
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large.output_format import Saving
from napari_unetseg.inference.large.predict_files import FileDone, OptionalOutputs, predict_files
from napari_unetseg.inference.predict import predict, predict_probabilities
from napari_unetseg.inference.predict_objects import predict_objects
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.write_masks import FORMATS, MaskFormat, MaskNotes, format_names

if TYPE_CHECKING:
    from cli_runner import Run

    from napari_unetseg.models.model import Model

ROOT = Path(__file__).resolve().parents[2]
PLANES = 18  # of the image of the kills, a chunk each


@pytest.fixture
def run(run: Run) -> Run:
    """The command line with one thread."""
    return lambda *arguments: run(*arguments, "--threads", "1")


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(1, (1, 3), depth=2, width=4)


@pytest.fixture
def data(tmp_path: Path, model: Model) -> Path:
    """A model, and two good images with a bad one between them."""
    model.save(tmp_path / "m.safetensors")
    folder = tmp_path / "images"
    folder.mkdir()
    for name, seed in (("a", 0), ("c", 1)):
        image = (noise((2, 40, 50), seed) * 200).astype(np.uint8)
        what = {"axes": "TYX", "unit": "um"}
        tifffile.imwrite(
            folder / f"{name}.tif", image, imagej=True, resolution=(4, 4), metadata=what
        )
    (folder / "b.tif").write_bytes(b"not a picture")
    return tmp_path


def wanted(model: Model, file: Path) -> np.ndarray:
    return predict(model, open_stack(file), PredictSettings(threads=1))


def test_a_bad_image_is_told_at_the_end_and_does_not_stop_the_others(
    run: Run, data: Path, model: Model
) -> None:
    out = data / "out"
    code, said, err = run("predict", data / "m", data / "images", "-o", out, "--report")
    assert code == 1
    assert "does not exist; check the name." in err
    assert not out.exists()
    m = data / "m.safetensors"
    code, said, err = run("predict", m, data / "images", "-o", out, "--report")
    assert code == 3, err
    assert said == f"2 masks written to {out}.\n"
    assert "1 image of 3 failed:" in err
    assert f"{data / 'images' / 'b.tif'}: " in err.splitlines()[-1]
    assert "cannot be read" in err.splitlines()[-1]
    assert sorted(p.name for p in out.iterdir()) == ["a.tif", "c.tif", "report.csv"]
    mask = wanted(model, data / "images" / "c.tif")
    np.testing.assert_array_equal(open_stack(out / "c.tif").data[...], mask)
    with (out / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["status"] for r in rows] == ["done", "failed", "done"]
    assert int(rows[2]["structure 3 (3)"]) == (mask == 3).sum() > 0
    assert "cannot be read" in rows[1]["error"]
    brighter = "c is brighter than the training images (2 to 199 instead of 0 to 1): scaled"
    assert brighter in err
    assert rows[2]["notices"].startswith(brighter)
    assert rows[1]["notices"] == ""
    (data / "images" / "b.tif").unlink()
    before = tree(out)
    code, said, err = run("predict", m, data / "images", "-o", out, "--skip-existing")
    assert (code, said) == (0, "")
    assert "2 images skipped" in err
    assert tree(out) == before


@pytest.mark.parametrize("form", ["tiff", "ome-tiff", "png", "zarr"])
def test_every_format_holds_the_same_mask(run: Run, data: Path, model: Model, form: str) -> None:
    image, out = data / "images" / "a.tif", data / "out"
    mask = wanted(model, image)
    m = data / "m.safetensors"
    command = ["predict", m, data / "images" / "[a]*.tif", "-o", out, "--format", form]
    code, said, err = run(*command)
    assert code == 0, err
    assert said == f"1 mask written to {out}.\n"
    if form == "zarr":
        np.testing.assert_array_equal(mask_of(out / "a.zarr")[...], mask)
    elif form == "png":
        pages = [np.asarray(Image.open(out / f"a_t00{t}.png")) for t in range(2)]
        np.testing.assert_array_equal(pages, mask)
    else:
        found = open_stack(out / ("a.tif" if form == "tiff" else "a.ome.tif"))
        np.testing.assert_array_equal(found.data[...], mask)
        assert (found.axes, found.spacing[1:], found.units[1:]) == ("TYX", (0.25,) * 2, ("um",) * 2)
    assert not list(out.glob(".*"))
    before = tree(out)
    assert "1 image skipped" in run(*command, "--skip-existing")[2]
    assert tree(out) == before
    assert run(*command)[0] == 0
    assert tree(out) == before or form != "zarr"


@pytest.mark.parametrize("precision", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("form", ["tiff", "zarr"])
def test_probabilities_of_each_precision(
    run: Run, data: Path, model: Model, form: str, precision: str
) -> None:
    command = ["predict", data / "m.safetensors", data / "images" / "a.tif", "-o", data / "out"]
    more = ["--probabilities", "--precision", precision, "--format", form]
    code, _, err = run(*command, *more)
    if form == "tiff" and precision == "uint8":
        assert code == 2
        assert "--precision uint8 needs --format zarr" in err
        return
    assert code == 0, err
    stack = open_stack(data / "images" / "a.tif")
    shares = predict_probabilities(model, stack, PredictSettings(threads=1))
    if form == "zarr":
        found = np.moveaxis(zarr.open_array(str(data / "out" / "a.zarr" / "0"))[...], 1, 0)
    else:
        end = ".ome.tif" if precision == "float32" else ".tif"
        found = tifffile.imread(data / "out" / f"a_probabilities{end}")
        found = found.reshape(shares.shape)
    assert found.dtype == precision
    scale = 255 if precision == "uint8" else 1
    close = {"float32": 1e-6, "float16": 1e-3, "uint8": 0.003}[precision]
    assert np.abs(found.astype(float) / scale - shares).max() < close


def test_masks_of_another_model_are_replaced_when_told(run: Run, data: Path) -> None:
    other = data / "other.safetensors"
    random_model(2, depth=2, width=4).save(other)
    rest = [data / "images" / "a.tif", "-o", data / "out", "--format", "zarr"]
    assert run("predict", data / "m.safetensors", *rest)[0] == 0
    code, _, err = run("predict", other, *rest)
    assert code == 1
    assert "holds a mask of another model" in err
    assert "--overwrite" in err
    assert run("predict", other, *rest, "--overwrite")[0] == 0


def test_masks_go_inside_ome_zarr_images(data: Path, model: Model) -> None:
    image = data / "image.zarr"
    root = zarr.open_group(str(image), mode="w", attributes={"ome": {"multiscales": []}})
    root.create_array("0", data=noise((40, 50)))
    events = predict_files(
        model,
        {"image": image},
        Saving(None, FORMATS["zarr"]),
        PredictSettings(threads=1),
        open_image=lambda path: Stack(zarr.open_array(str(path / "0"), mode="r"), "YX"),
    )
    (done,) = [e for e in events if isinstance(e, FileDone)]
    assert (done.status, done.mask) == ("done", image / "labels" / "mask"), done.error
    np.testing.assert_array_equal(mask_of(image)[...], predict(model, noise((40, 50))))


def test_a_format_is_one_entry_of_the_registry(
    run: Run, data: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, batches, counts and tables know a format that one place declares."""

    def write(path: Path, mask: Any, dtype: np.dtype, notes: MaskNotes) -> list[Path]:
        np.savez(path, mask=np.asarray(mask[...], dtype), axes=notes.axes)
        path.with_suffix(".txt").write_text(notes.provenance)
        return [path]

    def read(path: Path) -> Stack:
        with np.load(path) as stored:
            return Stack(stored["mask"], str(stored["axes"]), name=path.stem)

    npz = MaskFormat("npz", "NumPy", "an archive", (".npz",), write, read=read)
    monkeypatch.setitem(cast("dict[str, MaskFormat]", FORMATS), "npz", npz)
    image, out = data / "images" / "a.tif", data / "out"
    rest = [image, "-o", out, "--format", "npz"]
    assert run("predict", data / "m.safetensors", *rest)[0] == 0
    np.testing.assert_array_equal(np.load(out / "a.npz")["mask"], wanted(model, image))
    assert model.id in (out / "a.txt").read_text()
    assert "1 image skipped" in run("predict", data / "m.safetensors", *rest, "--skip-existing")[2]
    job = "model: m.safetensors, images: images/c.tif, output: out, format: npz, measure: csv"
    (data / "batch.yaml").write_text(f"threads: 1\njobs: [{{{job}}}]")
    assert main(["batch", str(data / "batch.yaml")]) == 0
    assert np.load(out / "c.npz")["mask"].shape == (2, 40, 50)
    assert (out / "c_objects.csv").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "Give either -o with a folder for the masks, or --inside"),
        (["-o", "x", "--inside"], "Give either -o with a folder for the masks, or --inside"),
        (["--inside", "--format", "tiff"], "--inside writes OME-Zarr masks only"),
        (["-o", "x", "--precision", "uint8"], "--precision needs --probabilities"),
        (
            ["-o", "x", "--format", "gif"],
            f"--format cannot be gif; choose {format_names()}.",
        ),
    ],
)
def test_options_that_do_not_go_together(run: Run, more: list[str], sentence: str) -> None:
    code, _, err = run("predict", "m", "a.tif", *more)
    assert code == 2
    assert sentence in err


def test_images_that_are_not_there_or_no_ome_zarr(run: Run, data: Path) -> None:
    m = data / "m.safetensors"
    assert "No file matches" in run("predict", m, data / "z*.tif", "-o", data / "o")[2]
    assert "is not an OME-Zarr 0.5 image" in run("predict", m, data / "images", "--inside")[2]


# -- killed ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("form", "kills"), [("zarr", 3), ("tiff", 1)])
def test_kills_and_the_same_bytes(run: Run, tmp_path: Path, form: str, kills: int) -> None:
    """The same command goes on after SIGKILL; no chunk is predicted twice, none is half."""
    random_model(1, depth=3, width=12).save(tmp_path / "m.safetensors")
    np.save(tmp_path / "image.npy", (noise((PLANES, 400, 400)) * 255).astype(np.uint8))

    def command(out: Path) -> list[str]:
        rest = [tmp_path / "m.safetensors", tmp_path / "image.npy", "-o", out, "--format", form]
        return ["predict", *map(str, rest), "--tile", "128"]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    program = [sys.executable, "-m", "napari_unetseg", *command(killed), "--threads", "1"]

    def written() -> dict[Path, int]:
        chunks = killed.glob(".image.unetseg/*/labels/mask/0/c/**/*")
        found = [p for p in chunks if p.is_file() and not p.name.startswith(".")]
        return {p: p.stat().st_mtime_ns for p in found}

    times: dict[Path, int] = {}
    for _ in range(kills):
        process = subprocess.Popen(program, cwd=ROOT, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while len(written()) < len(times) + 2:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = written()
        assert {p: now[p] for p in times} == times
        times = now
    assert 2 * kills <= len(times) < PLANES
    for out in (killed, whole):
        assert run(*command(out))[0] == 0
    assert [p.name for p in killed.iterdir()] == [f"image.{form[:3] if form == 'tiff' else form}"]
    assert tree(killed) == tree(whole)


@pytest.fixture
def nuclei(data: Path) -> Model:
    """A model that numbers objects, as ``objects.safetensors``, and an image for it."""
    model = object_model()
    model.save(data / "objects.safetensors")
    tifffile.imwrite(data / "images" / "n.tif", smooth((90, 80)), metadata={"axes": "YX"})
    return model


@pytest.mark.parametrize("form", ["tiff", "ome-tiff", "png", "zarr"])
def test_every_format_holds_the_numbers_of_objects(
    run: Run, data: Path, nuclei: Model, form: str
) -> None:
    image, out = data / "images" / "n.tif", data / "out"
    ids = predict_objects(nuclei, open_stack(image), PredictSettings(threads=1))
    assert ids.max() > 5
    how = Saving(out, FORMATS[form])
    command = ["predict", data / "objects.safetensors", image, "-o", out, "--format", form]
    assert run(*command)[0] == 0
    np.testing.assert_array_equal(np.asarray(how.open_mask("n", image).data).squeeze(), ids)
    assert not list(out.glob(".*"))
    before = tree(out)
    assert "1 image skipped" in run(*command, "--skip-existing")[2]
    assert tree(out) == before
    code, _, err = run(*command, "--no-objects", "--overwrite")
    assert code == 0, err
    found = np.asarray(how.open_mask("n", image).data).squeeze()
    np.testing.assert_array_equal(found, predict(nuclei, open_stack(image)))
    if form == "zarr":
        assert not (out / "n.zarr" / "labels" / "objects").exists()
        labels: Any = zarr.open_group(str(out / "n.zarr" / "labels"), mode="r").attrs["ome"]
        assert labels["labels"] == ["mask"]
        assert run(*command, "--overwrite")[0] == 0
        np.testing.assert_array_equal(ids_of(out / "n.zarr"), ids)
        labels = zarr.open_group(str(out / "n.zarr" / "labels"), mode="r").attrs["ome"]
        assert set(labels["labels"]) == {"mask", "objects"}


def test_objects_go_inside_ome_zarr_images_beside_the_mask(data: Path) -> None:
    model, image = object_model(), data / "image.zarr"
    pixels = smooth((40, 50))
    root = zarr.open_group(str(image), mode="w", attributes={"ome": {"multiscales": []}})
    root.create_array("0", data=pixels)
    root.create_group("scratch")  # somebody's
    for objects in (True, False, True):
        events = predict_files(
            model,
            {"image": image},
            Saving(None, FORMATS["zarr"], overwrite=True, objects=objects),
            PredictSettings(threads=1),
            open_image=lambda path: Stack(zarr.open_array(str(path / "0"), mode="r"), "YX"),
        )
        (done,) = [e for e in events if isinstance(e, FileDone)]
        assert done.status == "done", done.error
        np.testing.assert_array_equal(mask_of(image)[...], predict(model, pixels))
        assert (image / "labels" / "objects").exists() == objects
    np.testing.assert_array_equal(ids_of(image), predict_objects(model, pixels))
    assert sorted(p.name for p in image.iterdir()) == ["0", "labels", "scratch", "zarr.json"]
    label: Any = zarr.open_group(str(image / "labels" / "objects"), mode="r").attrs["ome"]
    assert label["image-label"]["source"] == {"image": "../../"}


def test_a_table_of_objects_has_a_row_for_each_number(data: Path, nuclei: Model) -> None:
    events = predict_files(
        nuclei,
        {"n": data / "images" / "n.tif"},
        Saving(data / "out"),
        PredictSettings(threads=1),
        open_image=open_stack,
        optional=OptionalOutputs(measure=".csv", count=True),
    )
    (done,) = [e for e in events if isinstance(e, FileDone)]
    ids = open_stack(data / "out" / "n.tif").data[...]
    with (data / "out" / "n_objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["object"]) for r in rows] == list(range(1, int(np.max(ids)) + 1))
    assert done.objects == {1: len(rows)}
    assert done.voxels[1] >= (np.asarray(ids) > 0).sum()


@pytest.mark.parametrize("form", ["tiff", "zarr"])
@pytest.mark.usefixtures("nuclei")
def test_a_table_says_of_which_structure_each_object_is(data: Path, form: str) -> None:
    model = object_model(numbers=(1, 2, 5), objects=(1, 5))
    image, how = data / "images" / "n.tif", Saving(data / "out", FORMATS[form])
    files = ({"n": image}, how, PredictSettings(threads=1))
    more = OptionalOutputs(measure=".csv", skip_existing=True)
    for _ in range(2):  # then of the mask that is there
        list(predict_files(model, *files, open_image=open_stack, optional=more))
        with (data / "out" / "n_objects.csv").open(newline="") as file:
            found = {int(r["object"]): int(r["structure"]) for r in csv.DictReader(file)}
        mask, ids = predict(model, open_stack(image)), predict_objects(model, open_stack(image))
        wanted = {n: int(mask[ids == n][0]) for n in range(1, int(ids.max()) + 1)}
        assert set(wanted.values()) == {1, 5}
        assert found == wanted
        if form == "tiff":
            break  # its mask of structures is not kept
        (data / "out" / "n_objects.csv").unlink()


def test_objects_at_the_rim_are_left_out_of_masks(run: Run, data: Path, nuclei: Model) -> None:
    image, m = data / "images" / "n.tif", data / "objects.safetensors"
    assert run("predict", m, image, "-o", data / "out", "--no-rim-objects")[0] == 0
    wanted = predict_objects(nuclei, open_stack(image), rim_objects=False)
    np.testing.assert_array_equal(tifffile.imread(data / "out" / "n.tif"), wanted)
    code, _, err = run("predict", m, image, "-o", data, "--no-rim-objects", "--no-objects")
    assert code == 2
    code, _, err = run("predict", data / "m.safetensors", image, "-o", data, "--no-rim-objects")
    assert code == 1
    assert "No structure of this model consists of objects" in err
