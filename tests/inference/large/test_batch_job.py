"""``unetseg batch``: many images, several models, tables, from a file that cannot run anything."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from helpers import random_model
from large_parts import noise, object_model, smooth, tree

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large.batch_job import read_batch, run_batch
from napari_unetseg.inference.large.output_format import Saving
from napari_unetseg.inference.large.predict_files import (
    FileDone,
    Opening,
    OptionalOutputs,
    predict_files,
)
from napari_unetseg.inference.predict import predict
from napari_unetseg.inference.predict_objects import predict_objects
from napari_unetseg.inference.uncertainty import uncertainty_map
from napari_unetseg.io.open_image import open_stack

if TYPE_CHECKING:
    from cli_runner import Run

ROOT = Path(__file__).resolve().parents[3]

TWO = """
threads: 1
report: out/report.csv
jobs:
  - model: a.safetensors
    images: in/*.tif
    output: out/a
    measure: csv
  - model: b.safetensors
    images: [in/one.tif, more]
    output: out/b
    format: zarr
    axes: TYX
"""


@pytest.fixture
def run(run: Run) -> Run:
    """The command `batch`."""
    return lambda *arguments: run("batch", *arguments)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two models and two folders of images; the batch lies beside them."""
    for seed, name in enumerate("ab"):
        random_model(seed + 1, (1, 3), depth=2, width=4).save(tmp_path / f"{name}.safetensors")
    for seed, name in enumerate(("in/one", "in/two", "more/three")):
        file = tmp_path / f"{name}.tif"
        file.parent.mkdir(exist_ok=True)
        image = (noise((2, 40, 50), seed) * 200).astype(np.uint8)
        what = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
        tifffile.imwrite(file, image, imagej=True, resolution=(4, 4), metadata=what)
    return tmp_path


def written(place: Path, text: str) -> Path:
    (place / "batch.yaml").write_text(text, encoding="utf-8")
    return place / "batch.yaml"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def test_several_models_many_images_tables_and_a_report(run: Run, place: Path) -> None:
    code, out, _ = run(written(place, TWO))
    assert (code, out) == (0, "4 masks written by 2 jobs.\n")
    settings = PredictSettings(threads=1)
    from napari_unetseg import load_model

    model = load_model(place / "a.safetensors")
    wanted = predict(model, open_stack(place / "in" / "two.tif"), settings)
    np.testing.assert_array_equal(tifffile.imread(place / "out" / "a" / "two.tif"), wanted)
    rows = rows_of(place / "out" / "report.csv")
    assert [(row["model"], Path(row["image"]).name, row["status"]) for row in rows] == [
        ("a.safetensors", "one.tif", "done"),
        ("a.safetensors", "two.tif", "done"),
        ("b.safetensors", "one.tif", "done"),
        ("b.safetensors", "three.tif", "done"),
    ]
    assert int(rows[1]["structure 1 (1)"]) == (wanted == 1).sum()
    objects = rows_of(place / "out" / "a" / "two_objects.csv")
    assert len(objects) == int(rows[1]["objects of 1"]) + int(rows[1]["objects of 3"])
    assert sum(float(row["volume (um³)"]) for row in objects) == pytest.approx(
        (wanted != 0).sum() * 2 * 0.25 * 0.25, rel=1e-3
    )
    assert any(name.startswith("mean of") for name in objects[0])
    again, out, err = run(place / "batch.yaml")
    assert (again, out) == (0, "0 masks written by 2 jobs.\n")
    assert "4 images skipped" in err


def test_a_table_that_is_wanted_later_is_made_of_the_mask_that_is_there(
    run: Run, place: Path
) -> None:
    run(written(place, TWO))
    rows = rows_of(place / "out" / "a" / "one_objects.csv")
    before = tree(place / "out" / "a")
    (place / "out" / "a" / "one_objects.csv").unlink()
    mask = place / "out" / "a" / "one.tif"
    changed = mask.stat().st_mtime_ns
    assert run(place / "batch.yaml")[0] == 0
    assert mask.stat().st_mtime_ns == changed
    assert rows_of(place / "out" / "a" / "one_objects.csv") == rows
    assert tree(place / "out" / "a").keys() == before.keys()


def test_bad_images_and_jobs_are_told_at_the_end_and_stop_nothing(run: Run, place: Path) -> None:
    (place / "in" / "bad.tif").write_bytes(b"no picture")
    text = TWO.replace("b.safetensors", "gone.safetensors")
    code, out, err = run(written(place, text))
    assert code == 3
    assert out == "2 masks written by 2 jobs.\n"
    assert "2 things failed:" in err
    assert "bad.tif" in err
    assert "gone.safetensors" in err
    rows = rows_of(place / "out" / "report.csv")
    assert [row["status"] for row in rows] == ["failed", "done", "done", "failed"]
    assert "gone.safetensors" in rows[3]["error"]


def test_a_dry_run_lists_and_makes_nothing(run: Run, place: Path) -> None:
    code, out, _ = run(written(place, TWO), "--dry-run")
    assert code == 0
    assert f"{place / 'in' / 'one.tif'} -> {place / 'out' / 'b' / 'one.zarr'}" in out
    assert not (place / "out").exists()
    run(place / "batch.yaml")
    (place / "out" / "b" / "three.zarr").rename(place / "three.zarr")
    gone = written(place, TWO.replace("model: a", "model: gone").replace("more]", "more, nix]"))
    code, out, err = run(gone, "--dry-run")
    assert code == 3
    assert out.count("(exists)") == 2
    assert "The model" in err
    assert "nix does not exist" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("jobs: [", "is no YAML"),
        ("", "needs a list of jobs"),
        ("- 1", "needs a list of jobs"),
        ("jobs: []", "line 1: jobs has a wrong value"),
        (
            "jobs:\n  - model: a\n    images: b\n    colour: red",
            "line 4: colour is not a known key",
        ),
        ("jobs:\n  - images: b", "line 2: model is missing"),
        ("jobs:\n  - model: m\n    imges: b", "line 3: imges is not a known key of a batch"),
        ("threads: 0\njobs:\n  - model: a\n    images: b", "line 1: threads has a wrong value"),
        ("jobs:\n  - model: a\n    images: b\n    format: gif", "line 4: format has a wrong value"),
        ("jobs: &a [*a]", "without anchors, aliases, tags and"),
        ("a: &a [1]\nb: [*a, *a]", "line 1: a batch is plain data"),
        ("jobs: !!python/object/apply:os.system ['touch canary']", "without anchors"),
        ("[" * 60_000, "its lists are too deep"),
        ("- " * 30_000, "its lists are too deep"),
        ("jobs: [" + "a," * 32_000 + "]", "jobs has a wrong value"),
        ("jobs: " + "x" * 2**17, "too large"),
        (
            f"threads: {'1' * 5000}\njobs:\n  - model: a\n    images: b",
            "line 1: threads has a wrong value",
        ),
        ("? [a, b]\n: c", "line 1: a list is no name"),
        ("jobs: []\njobs: []", "line 2: jobs is there twice"),
        ("jobs:\n  - model:\n    images: b", "line 2: model is missing"),
        ('jobs:\n  - model: "a\\0"\n    images: b', "line 2: this has characters that no name has"),
        ('"\\e[2J": 1', "line 1: this has characters that no name has"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\njobs: []", "line 1: a batch is plain data"),
        ("jobs:\n  - {<<: {axes: YX}, model: a, images: b}", "line 2: << is not a known key"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_batch_gets_a_sentence(
    run: Run, place: Path, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    begun = time.monotonic()
    code, _, err = run(written(place, text))
    assert time.monotonic() - begun < 30, "a parser that takes the square of it takes minutes"
    assert code == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert not (place / "canary").exists()


def test_a_batch_that_is_no_text_or_not_there(run: Run, place: Path) -> None:
    assert "cannot be read" in run(place / "none.yaml")[2]
    (place / "batch.yaml").write_bytes(b"\xff\xfe\x00\xff")
    assert "it is no text" in run(place / "batch.yaml")[2]
    assert "it is no file" in run("/dev/zero" if os.name == "posix" else place)[2]


def test_values_are_what_was_written_not_what_yaml_makes_of_them(place: Path) -> None:
    text = "threads: 2\njobs:\n  - {model: 12.50, images: [2024-13-45, on, 1:30], overwrite: true,"
    job = read_batch(written(place, f"{text} spacing: 0.5, axes: , format: null}}")).jobs[0]
    assert job.model == place / "12.50"
    assert job.images == [str(place / name) for name in ("2024-13-45", "on", "1:30")]
    assert (job.spacing, job.axes, job.format, job.overwrite) == ("0.5", None, None, True)


def test_two_jobs_do_not_write_the_same_masks(run: Run, place: Path) -> None:
    text = TWO.replace("out/b", "./in/../out/a").replace("format: zarr", "measure: csv")
    code, out, err = run(written(place, text))
    assert (code, out) == (3, "2 masks written by 2 jobs.\n")
    assert f"{place / 'out' / 'a' / 'one.tif'} is already written by job 1" in err
    rows = rows_of(place / "out" / "report.csv")
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    assert rows[2]["model"] == "b.safetensors"
    assert "another output folder" in rows[2]["error"]
    others = TWO.replace("out/b", "out/a").replace("[in/one.tif, more]", "more")
    assert run(written(place, others))[0] == 0, "other images may go into the same folder"


def test_a_folder_that_cannot_be_written_fails_its_job_alone(run: Run, place: Path) -> None:
    (place / "file").write_text("no folder")
    code, out, err = run(written(place, TWO.replace("out/a", "file/a")))
    assert (code, out) == (3, "2 masks written by 2 jobs.\n")
    assert str(place / "file" / "a") in err
    assert "Unexpected" not in err
    code, _, err = run(written(place, TWO.replace("in/*.tif", "i" * 5000)))
    assert code == 3
    assert "Job 1 cannot be done (file name too long)" in err


def test_a_paused_batch_waits_and_a_stop_ends_it(place: Path) -> None:
    control, seen = JobControl(1), []
    events = run_batch(read_batch(written(place, TWO)), control)
    for event in events:
        seen.append(event)
        if isinstance(event, FileDone):
            control.stop()
    assert sum(isinstance(event, FileDone) for event in seen) == 1
    control = JobControl(1)
    control.pause()
    assert control.paused
    control.stop()
    assert not control.paused, "a stop ends a pause"
    control.wait()
    control.pause()
    assert not control.paused, "what was stopped is not paused any more"


def test_how_unsure_the_network_is_of_each_image(place: Path) -> None:
    from napari_unetseg import load_model

    model = load_model(place / "a.safetensors")
    images = {"one": place / "in" / "one.tif", "two": place / "in" / "two.tif"}
    settings = PredictSettings(threads=1, tile=32)
    events = predict_files(
        model,
        images,
        Saving(place / "out"),
        settings,
        open_image=Opening(),
        optional=OptionalOutputs(unsure=True),
    )
    done = [event for event in events if isinstance(event, FileDone)]
    for one in done:
        stack = open_stack(one.image)
        maps = [uncertainty_map(model, stack, plane, settings) for plane in stack.planes(2)]
        assert one.unsure == pytest.approx(float(np.mean(maps)), abs=1e-5)
    assert done[0].unsure != done[1].unsure


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.slow
def test_a_job_names_the_image_in_files_of_several(place: Path) -> None:
    with tifffile.TiffWriter(place / "in" / "more.tif") as writer:
        for rows in (32, 24):
            writer.write(np.zeros((rows, 40), np.uint8))
    text = "jobs: [{model: a.safetensors, images: in/more.tif, output: out, series: 2, "
    text += "missing_planes: drop}]"
    (job,) = read_batch(written(place, text)).jobs
    assert {stem: job.opening(p).grid_shape for stem, p in job.find().items()} == {
        "more_2": (24, 40)
    }
    assert job.opening.missing_planes == "drop"


def test_a_killed_batch_goes_on_to_the_same_bytes(run: Run, place: Path) -> None:
    np.save(place / "in" / "large.npy", (noise((12, 200, 200)) * 255).astype(np.uint8))
    random_model(1, (1, 3), depth=3, width=12).save(place / "a.safetensors")
    text = TWO.replace("in/*.tif", "in").replace("threads: 1", "threads: 1\ntile: 128")
    file = written(place, text)
    (place / "whole.yaml").write_text(text.replace("out/", "whole/"), encoding="utf-8")
    chunks = "out/a/.large.unetseg/*/labels/mask/0/c/**/*"
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_unetseg", "batch", file.name],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while sum(p.is_file() and not p.name.startswith(".") for p in place.glob(chunks)) < 3:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for each in (file, place / "whole.yaml"):
        assert run(each)[0] == 0
    killed, whole = tree(place / "out"), tree(place / "whole")
    killed.pop("report.csv"), whole.pop("report.csv")
    assert killed == whole


def test_a_batch_leaves_out_objects_at_the_rim(run: Run, place: Path) -> None:
    model = object_model()
    model.save(place / "o.safetensors")
    np.save(place / "in" / "n.npy", smooth((90, 80)))
    job = "jobs:\n  - model: o.safetensors\n    images: in/n.npy\n    output: out\n"
    assert run(written(place, f"{job}    measure: csv\n    rim_objects: false\n"))[0] == 0
    ids = tifffile.imread(place / "out" / "n.tif")
    wanted = predict_objects(model, open_stack(place / "in" / "n.npy"), rim_objects=False)
    np.testing.assert_array_equal(ids, wanted)
    assert len(rows_of(place / "out" / "n_objects.csv")) == ids.max() > 3
