"""What Ctrl-C, SIGTERM and SIGHUP do to a command: what was done is kept, and said."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tifffile
from cli_runner import Result, Run
from helpers import blobs

from napari_unetseg.cli import console, interrupts, main
from napari_unetseg.cli.console import Meter
from napari_unetseg.models.model import load_model
from napari_unetseg.training import training_run
from napari_unetseg.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--depth", "2", "--width", "4", "--patch", "32", "--batch", "2", "--threads", "1"]
STEPS = [*SMALL, "--steps", "22"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An image and its mask."""
    folder = tmp_path_factory.mktemp("files")
    image, truth = blobs((64, 64), 8)
    tifffile.imwrite(folder / "image.tif", image)
    tifffile.imwrite(folder / "mask.tif", truth)
    return [folder / "image.tif", folder / "mask.tif"]


@pytest.fixture(scope="module")
def whole(files: list[Path]) -> Path:
    """A model whose training nobody stopped."""
    path = files[0].with_name("whole.safetensors")
    assert main(["train", *map(str, files), "-o", str(path), *STEPS]) == 0
    return path


def in_step(
    monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals, times: int = 1
) -> None:
    """A signal comes within that step of a training."""
    real = Trainer.step

    def sending(self: Trainer, rate: float) -> float:
        for _ in range(times if self.steps == step - 1 else 0):
            signal.raise_signal(number)
        return real(self, rate)

    monkeypatch.setattr(Trainer, "step", sending)


ENDS = {
    "SIGINT": (130, "Ctrl-C"),
    "SIGTERM": (143, "SIGTERM"),
    "SIGHUP": (129, "SIGHUP"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_signal_ends_a_training_after_its_step_and_the_same_command_goes_on(
    name: str, run: Run, files: list[Path], whole: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    model, checkpoint = tmp_path / "m.safetensors", tmp_path / "m.checkpoint"
    command = ["train", *files, "-o", model, *STEPS]
    with monkeypatch.context() as patch:
        in_step(patch, 5, signal.Signals[name])
        stopped = run(*command)
    code, said = ENDS[name]
    assert stopped.code == code, stopped.err
    assert stopped.err.splitlines()[-1] == (
        f"unetseg: Stopped by {said}: the model so far is saved. Give the same command "
        f"again to resume from step 5 ({checkpoint}), or add --no-resume to start anew."
    )
    assert "after 5 steps: it was stopped" in stopped.out
    assert load_model(model).history[-1].steps == 5

    again = run(*command)
    assert again.code == 0
    assert "Resuming from step 5, reached after 0:0" in again.err
    assert load_model(model).id == load_model(whole).id
    assert [path.name for path in tmp_path.iterdir()] == [model.name]
    assert "Resuming" not in run(*command).err  # a training that has ended begins anew


def test_a_signal_that_is_ignored_stays_so(
    run: Run, files: list[Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGHUP is under nohup."""
    in_step(monkeypatch, 5, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("train", *files, "-o", tmp_path / "m", *STEPS).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert load_model(tmp_path / "m.safetensors").id == load_model(whole).id


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_shells_and_launchers_send_twice_is_one_request(
    name: str, run: Run, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_step(monkeypatch, 5, signal.Signals[name], times=2)
    result = run("train", *files, "-o", tmp_path / "m", *STEPS)
    assert result.code == ENDS[name][0]
    assert (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_quits_at_once(
    name: str, run: Run, files: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(interrupts, "SAME_S", 0.0)
    in_step(monkeypatch, 5, signal.Signals[name], times=2)
    result = run("train", *files, "-o", tmp_path / "m", *STEPS)
    code, said = ENDS[name]
    assert result.code == code
    assert result.err.splitlines()[-1] == f"Stopped by {said}."
    assert not list(tmp_path.iterdir())


def test_a_signal_before_a_job_begins_is_a_sentence(
    run: Run, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = "napari_unetseg.io.open_image.is_image"
    monkeypatch.setattr(kill, lambda _: signal.raise_signal(signal.SIGTERM))
    assert run("info", files[0]) == Result(143, "", "Stopped by SIGTERM.\n")


def test_a_stop_before_the_first_step_says_that_nothing_was_learned(
    run: Run, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training_run.fit_head

    def begin(trainer: Trainer, **more: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(trainer, **more)

    monkeypatch.setattr(training_run, "fit_head", begin)
    result = run("train", *files, "-o", tmp_path / "m", *STEPS)
    assert result.code == 143
    assert "Stopped by SIGTERM: Training was stopped before its first step" in result.err
    assert not list(tmp_path.iterdir())


def other_commands(folder: Path, files: list[Path], model: Path) -> dict[str, list[Any]]:
    batch = folder / "batch.yaml"
    job = f"{{model: {model}, images: [{files[0]}], output: {folder / 'batch'}}}"
    batch.write_text(f"jobs: [{job}]\n")
    return {
        "predict": ["predict", model, files[0], "-o", folder / "masks"],
        "evaluate": ["evaluate", model, *files],
        "batch": ["batch", batch],
    }


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("predict", "0 of 1 images are done. Give the same command again to continue."),
        ("evaluate", "The evaluation was stopped before anything was scored."),
        ("batch", "done. Give the same command again to continue."),
    ],
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_commands_end_as_with_ctrl_c(
    command: str,
    kept: str,
    name: str,
    run: Run,
    files: list[Path],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = other_commands(tmp_path, files, whole)[command]
    enter = Meter.__enter__
    with monkeypatch.context() as patch:

        def entered(self: Meter) -> Meter:
            signal.raise_signal(signal.Signals[name])
            return enter(self)

        patch.setattr(Meter, "__enter__", entered)
        result = run(*arguments)
    assert result.code == ENDS[name][0], result.err
    assert result.err.splitlines()[-1].startswith(f"unetseg: Stopped by {name}: ")
    assert result.err.splitlines()[-1].endswith(kept)
    assert run(*arguments).code == 0


TAKES_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "napari_unetseg", *sys.argv[1:]])
"""


def test_a_terminal_that_is_closed_costs_nothing(files: list[Path], tmp_path: Path) -> None:
    """SIGHUP comes, and there is nothing any more to write to."""
    arguments = ["train", *files, "-o", tmp_path / "m", *SMALL, "--minutes", "60"]
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKES_THE_TERMINAL, *map(str, arguments)],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    while not re.search(rb"step [1-9]", shown):
        shown += os.read(master, 1024)
    os.close(master)
    assert process.wait(60) == 129
    assert load_model(tmp_path / "m.safetensors").history[-1].steps
    assert (tmp_path / "m.checkpoint").exists()


class Unread(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_goes_away_costs_nothing(
    run: Run, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``unetseg train … 2>&1 | head -1``, for what is said beside the result."""
    silenced: list[int] = []
    monkeypatch.setattr(console, "write_nowhere", silenced.append)
    monkeypatch.setattr(sys, "stderr", Unread())
    result = run("train", *files, "-o", tmp_path / "m", *STEPS)
    assert result.code == 0
    assert "saved as" in result.out
    assert set(silenced) == {2}
