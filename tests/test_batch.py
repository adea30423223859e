"""``unetseg batch``: many images, several models, tables, from a file that cannot run anything."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import random_model
from test_engine import noise, tree

from napari_unetseg.cli import main
from napari_unetseg.core.config import PredictSettings
from napari_unetseg.core.control import Control
from napari_unetseg.core.predict import predict
from napari_unetseg.core.uncertainty import uncertainty_map
from napari_unetseg.engine.batch import read_batch, run_batch
from napari_unetseg.engine.files import FileDone, Opening, Wish, predict_files
from napari_unetseg.engine.saving import Saving
from napari_unetseg.io.images import open_stack

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., tuple[int, str, str]]

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
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["batch", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return call


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
    assert [row["status"] for row in rows_of(place / "out" / "report.csv")] == [
        "failed",
        "done",
        "done",
    ]


def test_a_dry_run_lists_and_makes_nothing(run: Run, place: Path) -> None:
    code, out, _ = run(written(place, TWO), "--dry-run")
    assert code == 0
    assert f"{place / 'in' / 'one.tif'} -> {place / 'out' / 'b' / 'one.zarr'}" in out
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("jobs: [", "is no YAML"),
        ("", "needs a list of jobs"),
        ("- 1", "needs a list of jobs"),
        ("jobs: []", "line 1: jobs cannot be that"),
        ("jobs:\n  - model: a\n    images: b\n    colour: red", "line 4: colour is nothing that"),
        ("jobs:\n  - images: b", "line 2: model is missing"),
        ("threads: 0\njobs:\n  - model: a\n    images: b", "line 1: threads cannot be that"),
        ("jobs:\n  - model: a\n    images: b\n    format: gif", "line 4: format cannot be that"),
        ("jobs: &a [*a]", "without anchors, aliases and tags"),
        ("a: &a [1]\nb: [*a, *a]", "line 1: a batch is plain data"),
        ("jobs: !!python/object/apply:os.system ['touch canary']", "without anchors"),
        ("[" * 3000, "is no"),
        ("jobs: " + "x" * 2**21, "too large"),
    ],
)
def test_what_is_no_batch_gets_a_sentence(
    run: Run, place: Path, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    code, _, err = run(written(place, text))
    assert code == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert not (place / "canary").exists()


def test_a_batch_that_is_no_text_or_not_there(run: Run, place: Path) -> None:
    assert "cannot be read" in run(place / "none.yaml")[2]
    (place / "batch.yaml").write_bytes(b"\xff\xfe\x00\xff")
    assert "it is no text" in run(place / "batch.yaml")[2]


def test_a_paused_batch_waits_and_a_stop_ends_it(place: Path) -> None:
    control, seen = Control(1), []
    events = run_batch(read_batch(written(place, TWO)), control)
    for event in events:
        seen.append(event)
        if isinstance(event, FileDone):
            control.stop()
    assert sum(isinstance(event, FileDone) for event in seen) == 1
    control = Control(1)
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
        wish=Wish(unsure=True),
    )
    done = [event for event in events if isinstance(event, FileDone)]
    for one in done:
        stack = open_stack(one.image)
        maps = [uncertainty_map(model, stack, plane, settings) for plane in stack.planes(2)]
        assert one.unsure == pytest.approx(float(np.mean(maps)), abs=1e-5)
    assert done[0].unsure != done[1].unsure


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.slow
def test_a_killed_batch_goes_on_to_the_same_bytes(place: Path) -> None:
    np.save(place / "in" / "large.npy", (noise((12, 500, 400)) * 255).astype(np.uint8))
    text = TWO.replace("in/*.tif", "in").replace("threads: 1", "threads: 1\ntile: 128")
    written(place, text)
    written(place, text).rename(place / "whole.yaml")
    (place / "whole.yaml").write_text(text.replace("out/", "whole/"), encoding="utf-8")
    written(place, text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def command(file: str) -> list[str]:
        return [sys.executable, "-m", "napari_unetseg", "batch", file]

    chunks = place / "out" / "a" / ".large.unetseg" / "labels" / "mask" / "0" / "c"
    process = subprocess.Popen(
        command("batch.yaml"), cwd=place, env=environment, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while sum(p.is_file() and not p.name.startswith(".") for p in chunks.rglob("*")) < 3:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for file in ("batch.yaml", "whole.yaml"):
        subprocess.run(command(file), cwd=place, env=environment, check=True, capture_output=True)
    killed, whole = tree(place / "out"), tree(place / "whole")
    killed.pop("report.csv"), whole.pop("report.csv")
    assert killed == whole
