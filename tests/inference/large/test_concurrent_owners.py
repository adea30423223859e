"""Several programs and one output: they wait, share the work, and no mask has holes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from helpers import of_kind, random_model
from large_parts import mask_of, noise, tree
from PIL import Image

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event, Notice
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large import publishing
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.output import attach_output
from napari_unetseg.inference.large.output_format import Saving
from napari_unetseg.inference.large.predict_files import (
    FileDone,
    Opening,
    OptionalOutputs,
    predict_files,
)
from napari_unetseg.inference.large.predict_to_zarr import make_plan, predict_to_zarr
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.write_masks import FORMATS, MaskFormat

ROOT = Path(__file__).resolve().parents[3]
PLANES = 5
SETTINGS = PredictSettings(threads=1, device="cpu")
MODEL = random_model(1, (1, 3), depth=2, width=4)
OTHER = random_model(2, (1, 3), depth=2, width=4)
Events = Generator[Event, None, list[FileDone]]


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two stacks."""
    found = {}
    for seed, name in enumerate("ab"):
        found[name] = tmp_path / f"{name}.tif"
        pixels = (noise((PLANES, 40, 50), seed) * 200).astype(np.uint8)
        tifffile.imwrite(found[name], pixels, photometric="minisblack")
    return found


def begin(images: dict[str, Path], how: Saving, model: Any = MODEL, **more: Any) -> Events:
    """What another program does, up to where it is asked for the next event."""
    return predict_files(model, images, how, SETTINGS, open_image=Opening(), **more)


def advance(events: Events, chunks: int) -> list[Event]:
    """Let a program go on until it has predicted so many chunks."""
    seen: list[Event] = []
    while len(of_kind(seen, ChunkPredicted)) < chunks:
        seen.append(next(events))
    return seen


def finish(events: Events) -> list[Event]:
    return list(events)


def done_in(events: list[Event]) -> list[tuple[str, str]]:
    return [(done.name, done.status) for done in of_kind(events, FileDone)]


def masks(how: Saving, stem: str, image: Path) -> np.ndarray:
    found = how.opened_as(stem, image)
    if how.format is FORMATS["png"]:
        return np.stack([np.asarray(Image.open(p)) for p in sorted(found.parent.glob(found.name))])
    return np.asarray(open_stack(found).data[...])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Any], np.ndarray]:
    """Masks of both images by both models, from a program that is alone."""
    folder = tmp_path_factory.mktemp("reference")
    found = {}
    for seed, name in enumerate("ab"):
        pixels = (noise((PLANES, 40, 50), seed) * 200).astype(np.uint8)
        np.save(folder / f"{name}.npy", pixels)
        for model in (MODEL, OTHER):
            how = Saving(folder / model.id)
            finish(begin({name: folder / f"{name}.npy"}, how, model))
            mask = masks(how, name, folder)
            assert (mask != 0).any((1, 2)).all(), "an empty plane could not be seen"
            found[name, model.id] = mask
    return found


# -- waiting and sharing ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_two_lists_that_overlap_share_the_work(
    tmp_path: Path, images: dict[str, Path], reference: Any, form: MaskFormat
) -> None:
    """The second does the other image first, and takes the first one's mask when it is there."""
    how = Saving(tmp_path / "out", form)
    one = begin({"a": images["a"]}, how)
    advance(one, 2)
    two = begin(images, how, optional=OptionalOutputs(count=True))
    seen = [next(two)]
    assert isinstance(seen[0], Notice)
    assert f"a.tif is being predicted by process {os.getpid()} on this computer" in seen[0].text
    assert seen[0].text.endswith("going on with the others.")
    while not of_kind(seen, FileDone):
        seen.append(next(two))
    assert done_in(seen) == [("b", "done")]
    waiting = next(two)
    assert isinstance(waiting, Notice)
    assert waiting.text.endswith("waiting for it.")
    assert done_in(finish(one)) == [("a", "done")]
    rest = finish(two)
    assert done_in(rest) == [("a", "done")]
    assert not of_kind(rest, ChunkPredicted), "what was predicted is predicted again"
    (last,) = of_kind(rest, FileDone)
    numbers, counts = np.unique(reference["a", MODEL.id], return_counts=True)
    assert last.voxels == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    for stem, image in images.items():
        np.testing.assert_array_equal(masks(how, stem, image), reference[stem, MODEL.id])
    assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_what_was_finished_before_is_predicted_anew(
    tmp_path: Path, images: dict[str, Path]
) -> None:
    """A mask that lay there when the command began may have been changed by hand."""
    how = Saving(tmp_path / "out")
    finish(begin(images, how))
    for stem in images:
        os.utime(tmp_path / "out" / f"{stem}.tif", (1e9, 1e9))
    again = finish(begin(images, how))
    assert len(of_kind(again, ChunkPredicted)) == 2 * (PLANES + 1)


def test_a_stop_ends_waiting_at_once(
    tmp_path: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_unetseg.inference.large.image_turns.POLL_SECONDS", 1e4)
    control, how = JobControl(1), Saving(tmp_path / "out")
    one = begin({"a": images["a"]}, how)
    advance(one, 1)
    two = begin({"a": images["a"]}, how, control=control)
    notice = next(two)
    assert isinstance(notice, Notice)
    assert notice.text.endswith("waiting for it.")
    timer = threading.Timer(0.1, control.stop)
    timer.start()
    assert finish(two) == []
    timer.join()
    one.close()


def test_another_model_waits_and_replaces_the_mask(
    tmp_path: Path, images: dict[str, Path], reference: Any
) -> None:
    how = Saving(tmp_path / "out")
    one, two = begin({"a": images["a"]}, how), begin({"a": images["a"]}, how, OTHER)
    advance(one, 2)
    assert isinstance(next(two), Notice)
    finish(one)
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", MODEL.id])
    assert len(of_kind(finish(two), ChunkPredicted)) == PLANES + 1
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", OTHER.id])


def test_skipping_waits_for_the_owner_and_then_skips(
    tmp_path: Path, images: dict[str, Path]
) -> None:
    """Of whatever model; a table that only the second one wants is made of the mask."""
    how = Saving(tmp_path / "out")
    finish(begin({"a": images["a"]}, how, OTHER))
    one = begin({"a": images["a"]}, how)
    advance(one, 2)
    two = begin(
        {"a": images["a"]}, how, optional=OptionalOutputs(skip_existing=True, measure=".csv")
    )
    assert isinstance(next(two), Notice)
    finish(one)
    rest = finish(two)
    assert done_in(rest) == [("a", "skipped")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tif", "a_objects.csv"]


@pytest.mark.parametrize("form", [FORMATS["png"], FORMATS["zarr"]])
def test_what_a_killed_program_did_not_clear_away_is_cleared_when_its_mask_is_skipped(
    tmp_path: Path, images: dict[str, Path], form: MaskFormat
) -> None:
    """It was killed between its last two steps."""
    how, hidden = Saving(tmp_path / "out", form), tmp_path / "out" / ".a.unetseg"
    finish(begin({"a": images["a"]}, how))
    before = tree(tmp_path / "out")
    (hidden / "deleted-1234" / "labels").mkdir(parents=True)
    for name in ("lock", ".a-12345678.tif"):
        (hidden / name).touch()
    events = finish(begin({"a": images["a"]}, how, optional=OptionalOutputs(skip_existing=True)))
    assert done_in(events) == [("a", "skipped")]
    assert tree(tmp_path / "out") == before
    assert not hidden.exists()


def test_a_folder_without_locks_is_told_once_and_still_has_one_owner(
    tmp_path: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, *, blocking: bool) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("napari_unetseg.core.file_locks.lock_descriptor", refuse)
    how = Saving(tmp_path / "out")
    one, two = begin(images, how), begin({"a": images["a"]}, how)
    said = advance(one, 2)
    assert "does not support locks (function not implemented)" in of_kind(said, Notice)[0].text
    waits = [next(two), next(two)]
    assert "does not support locks" in of_kind(waits, Notice)[0].text
    assert "is being predicted by process" in of_kind(waits, Notice)[1].text
    assert "locks" not in str(of_kind(finish(one), Notice))
    assert done_in(finish(two)) == [("a", "done")]


def test_an_output_that_cannot_be_locked_fails_alone(
    tmp_path: Path, images: dict[str, Path]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.unetseg").write_text("somebody's")
    events = finish(begin(images, Saving(tmp_path / "out")))
    assert done_in(events) == [("a", "failed"), ("b", "done")]
    assert " (not a directory); choose another folder" in of_kind(events, FileDone)[0].error


# -- no holes --------------------------------------------------------------------------------------


def chunks_of(folder: Path) -> list[Path]:
    found = folder.glob(".a.unetseg/*/labels/mask/0/c/**/*")
    return sorted(p for p in found if p.is_file())


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@pytest.mark.parametrize("fate", ["gone", "damaged"])
def test_no_mask_is_made_of_chunks_that_are_not_there(
    tmp_path: Path, images: dict[str, Path], reference: Any, form: MaskFormat, fate: str
) -> None:
    """As when another program, or a cleaning job, deletes a file of the hidden folder."""
    how = Saving(tmp_path / "out", form)
    events = begin({"a": images["a"]}, how)
    advance(events, PLANES)
    victim = chunks_of(tmp_path / "out")[1]
    victim.unlink() if fate == "gone" else victim.write_bytes(b"no chunk")
    if form is FORMATS["zarr"] and fate == "damaged":
        return  # it is moved as it is, and readers see that it is damaged
    (done,) = of_kind(finish(events), FileDone)
    assert done.status == "failed"
    assert not how.opened_as("a", images["a"]).exists()
    if fate == "gone":
        assert done.error.startswith(f"1 of {PLANES} chunks are missing in ")
        assert done.error.endswith("give the same command again.")
    else:
        assert done.error == f"{victim} is damaged; delete it and give the same command again."
        victim.unlink()
    again = finish(begin({"a": images["a"]}, how))
    assert done_in(again) == [("a", "done")]
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", MODEL.id])


def test_a_chunk_that_goes_while_it_is_read_is_no_zero(
    tmp_path: Path, images: dict[str, Path]
) -> None:
    store = FolderStore(tmp_path / "store")
    events = predict_to_zarr(MODEL, open_stack(images["a"]), store, SETTINGS, ome=False)
    finish(events)  # type: ignore[arg-type]
    plan = make_plan(MODEL, open_stack(images["a"]), SETTINGS, ome=False)
    output = attach_output(store, plan)
    assert output.mask[...].any()
    shutil.rmtree(tmp_path / "store" / "labels" / "mask" / "0" / "c" / "2")
    with pytest.raises(UserError, match=r"c/2/0/0 is missing; give the same command again"):
        output.mask[...]


def test_a_worker_whose_program_is_gone_does_no_harm(
    tmp_path: Path, images: dict[str, Path], reference: Any
) -> None:
    """It goes on with chunks of an output that others took over, finished, and deleted."""
    how = Saving(tmp_path / "out")
    killed = begin({"a": images["a"]}, how)
    advance(killed, 2)
    (hidden,) = (p for p in (tmp_path / "out" / ".a.unetseg").iterdir() if p.is_dir())
    plan = make_plan(MODEL, open_stack(images["a"]), SETTINGS, ome=False)
    worker = attach_output(FolderStore(hidden), plan)
    killed.close()  # as the system does with the locks of a killed process
    other = begin({"a": images["a"]}, how, OTHER)
    advance(other, 2)
    predicted = wrong_chunk()
    with pytest.raises(UserError, match="was removed while it was written to"):
        worker.write(3, predicted)
    finish(other)
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", OTHER.id])
    with pytest.raises(UserError, match="was removed while it was written to"):
        worker.write(4, predicted)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.tif"]


def wrong_chunk() -> Any:
    from napari_unetseg.inference.large.chunk_task import Predicted

    return Predicted(np.full((40, 50), 3, np.uint8), None)


def test_what_an_older_version_began_is_gone_on_with(
    tmp_path: Path, images: dict[str, Path], reference: Any
) -> None:
    """Its store was the hidden folder itself; one that says it is whole may have holes."""
    how, store = Saving(tmp_path / "out"), tmp_path / "out" / ".a.unetseg"
    events = predict_to_zarr(
        MODEL, open_stack(images["a"]), FolderStore(store), SETTINGS, ome=False
    )
    finish(events)  # type: ignore[arg-type]
    shutil.rmtree(store / "labels" / "mask" / "0" / "c" / "2")
    seen = finish(begin({"a": images["a"]}, how))
    assert len(of_kind(seen, ChunkPredicted)) == 2, "one chunk, and the end"
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", MODEL.id])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.tif"]


@pytest.mark.parametrize("form", [FORMATS["tiff"], FORMATS["png"]])
def test_files_are_moved_to_their_place_when_all_are_written(
    tmp_path: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch, form: MaskFormat
) -> None:
    """What a killed program leaves half written lies in the hidden folder, and goes with it."""
    out, real = tmp_path / "out", Path.replace
    moved: list[tuple[str, int]] = []

    def replace(self: Path, target: Path) -> Path:
        if Path(target).parent == out:
            written = [p for p in self.parent.iterdir() if p.suffix in (".tif", ".png", ".csv")]
            moved.append((self.parent.name, len(written)))
        return real(self, target)

    (out / ".a.unetseg").mkdir(parents=True)
    (out / ".a.unetseg" / ".a-12345678.tif").write_bytes(b"half")
    monkeypatch.setattr(Path, "replace", replace)
    finish(begin({"a": images["a"]}, Saving(out, form), optional=OptionalOutputs(measure=".csv")))
    planes = PLANES if form is FORMATS["png"] else 1
    assert moved == [(".a.unetseg", n) for n in (1, *range(planes, 0, -1))]
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]


# -- OME-Zarr --------------------------------------------------------------------------------------


def whole(root: Path) -> bool:
    """Whether a mask can be seen in an OME-Zarr; it has no holes then."""
    if not (root / "labels" / "mask" / "zarr.json").exists():
        return False
    assert zarr.open_group(str(root / "labels" / "mask"), mode="r").attrs["napari-unetseg"][
        "finished"
    ]
    array = mask_of(root)
    assert array.nchunks_initialized == array.nchunks
    return True


def test_an_earlier_mask_stays_until_the_new_one_is_whole(
    tmp_path: Path, images: dict[str, Path], reference: Any
) -> None:
    how = Saving(tmp_path / "out", FORMATS["zarr"], overwrite=True)
    finish(begin({"a": images["a"]}, how))
    before = tree(tmp_path / "out" / "a.zarr")
    events = begin({"a": images["a"]}, how, OTHER)
    advance(events, 3)
    assert tree(tmp_path / "out" / "a.zarr") == before
    finish(events)
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", OTHER.id])


class Dies(BaseException):
    """A kill that a test can catch."""


@pytest.mark.parametrize("step", range(6))
def test_killed_at_any_step_of_replacing_a_mask(
    tmp_path: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Labels and the probabilities around them are never those of two models."""
    how = Saving(tmp_path / "out", FORMATS["zarr"], "float32", overwrite=True)
    finish(begin({"a": images["a"]}, how, OTHER))
    root = tmp_path / "out" / "a.zarr"
    shutil.copytree(root / "labels" / "mask", root / "labels" / "by hand")
    before = tree(root)
    finish(begin({"a": images["a"]}, Saving(tmp_path / "new", FORMATS["zarr"], "float32")))
    new = tree(tmp_path / "new" / "a.zarr")
    real, steps = Path.rename, [0]

    def rename(self: Path, target: Path) -> Path:
        if "a.zarr" in (*self.parts, *Path(target).parts):
            steps[0] += 1
            if steps[0] > step:
                raise Dies
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    if step < 4:
        with pytest.raises(Dies):
            finish(begin({"a": images["a"]}, how))
        if whole(root):
            assert {k: v for k, v in tree(root).items() if k in before} == before
        monkeypatch.undo()
    finish(begin({"a": images["a"]}, how))
    assert whole(root)
    after = tree(root)
    assert {k: v for k, v in after.items() if "by hand" not in k} == new
    assert any("by hand" in k for k in after)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.zarr"]


def test_a_mask_that_cannot_be_moved_is_a_sentence_and_is_moved_later(
    tmp_path: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch, reference: Any
) -> None:
    """As on Windows, where another program has a file of it open."""
    how = Saving(tmp_path / "out", FORMATS["zarr"])

    def refuse(output: Any, place: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "out" / "a.zarr").mkdir(parents=True)
    monkeypatch.setattr(publishing, "_replace", refuse)
    (done,) = of_kind(finish(begin({"a": images["a"]}, how)), FileDone)
    assert "cannot be moved to" in done.error
    assert "close the programs that have it open" in done.error
    monkeypatch.undo()
    again = finish(begin({"a": images["a"]}, how))
    assert not of_kind(again, ChunkPredicted)
    np.testing.assert_array_equal(masks(how, "a", images["a"]), reference["a", MODEL.id])


def zarr_image(path: Path, pixels: np.ndarray) -> Path:
    axes = [{"name": n, "type": "space"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [1.0] * 3}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    root = zarr.open_group(str(path), mode="w", attributes={"ome": ome})
    root.create_array("0", data=pixels, chunks=(1, 40, 50))
    return path


def test_labels_inside_an_image_come_whole_and_name_it(tmp_path: Path, reference: Any) -> None:
    pixels = (noise((PLANES, 40, 50), 0) * 200).astype(np.uint8)
    image = zarr_image(tmp_path / "a.zarr", pixels)
    how = Saving(None, FORMATS["zarr"])
    one, two = begin({"a": image}, how), begin({"a": image}, how)
    advance(one, 3)
    assert not whole(image)
    assert isinstance(next(two), Notice)
    finish(one)
    assert done_in(finish(two)) == [("a", "done")]
    assert whole(image)
    np.testing.assert_array_equal(mask_of(image)[...], reference["a", MODEL.id])
    label = zarr.open_group(str(image / "labels" / "mask"), mode="r").attrs["ome"]
    assert label["image-label"]["source"] == {"image": "../../"}
    assert zarr.open_group(str(image / "labels"), mode="r").attrs["ome"]["labels"] == ["mask"]
    assert sorted(p.name for p in image.iterdir()) == ["0", "labels", "zarr.json"]


# -- killed at random ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_processes_that_are_killed_at_random_leave_the_mask_or_none(tmp_path: Path) -> None:
    """Two short rounds of benchmarks/owners.py."""
    cases = "tiff+probabilities,inside"
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/owners.py",
            "--rounds",
            "1",
            "--planes",
            "8",
            "--cases",
            cases,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("2 rounds, 0 faults\n")


@pytest.fixture(autouse=True)
def _no_locks_left(tmp_path: Path) -> Iterator[None]:
    """Whatever happened, nobody has a lock afterwards."""
    yield
    assert not list(tmp_path.rglob("lock"))
