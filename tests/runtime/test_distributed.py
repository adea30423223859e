"""Several processes train as one: two of them on this machine, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import team_member
import tifffile
import torch
from helpers import blobs, painted_pair, tiny

from napari_unetseg.core.errors import UserError
from napari_unetseg.models.model import Model, load_model
from napari_unetseg.runtime.cpu import cores, default_threads
from napari_unetseg.runtime.devices import pick_device
from napari_unetseg.runtime.distributed import World, world
from napari_unetseg.training.train import train

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    ),
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
NAMES = [each.__name__ for each in team_member.ALIKE]
ROUGHLY = ["with_dice", "measured_norms"]
"""Where each process looks at its own samples: Dice, and norms on a CPU."""
OTHERS = [*ROUGHLY, "no_memory_at_first", "by_the_clock"]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the loopback has another name elsewhere"
)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def together(folder: Path, *names: str) -> tuple[int, str]:
    """Run trainings in two processes: exit code and what was said."""
    process = start(TESTS / "team_member.py", folder, *names)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out + errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they learned."""
    path = tmp_path_factory.mktemp("together")
    code, text = together(path, *NAMES, *OTHERS)
    assert code == 0, text
    return path


def learned(folder: Path, name: str, rank: int) -> tuple[Model, list[Any]]:
    model = load_model(folder / f"{name}-{rank}.safetensors")
    return model, json.loads((folder / f"{name}-{rank}.json").read_text())


def assert_close(found: Any, wanted: Any) -> None:
    """Compare what events say, numbers to five digits."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        found, wanted = list(found.values()), list(wanted.values())
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for some, other in zip(found, wanted, strict=True):
            assert_close(some, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5, nan_ok=True)
    else:
        assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_does_with_the_joint_batch(folder: Path, name: str) -> None:
    model, events = getattr(team_member, name)()
    first, told = learned(folder, name, 0)
    for key, tensor in model.weights.items():
        torch.testing.assert_close(first.weights[key], tensor, rtol=1e-5, atol=1e-5)
    events = [event for event in events if not team_member.between_epochs(event)]
    alone = json.loads(json.dumps([team_member.said(event) for event in events]))
    assert_close(told, alone)
    assert (first.history[-1].processes, model.history[-1].processes) == (2, 1)
    assert any("shared by 2 processes" in c.value for c in first.history[-1].choices)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_first_process_speaks_and_all_return_one_model(folder: Path, name: str) -> None:
    first, told = learned(folder, name, 0)
    second, silence = learned(folder, name, 1)
    assert told
    assert silence == []
    assert second.history[-1].steps == first.history[-1].steps
    assert second.scores == first.scores
    for key, tensor in first.weights.items():
        assert torch.equal(second.weights[key], tensor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUGHLY)
def test_what_each_process_measures_for_itself_scores_alike(folder: Path, name: str) -> None:
    model, _ = getattr(team_member, name)()
    first, _ = learned(folder, name, 0)
    assert first.scores is not None
    assert model.scores is not None
    assert first.scores.soft_dice == pytest.approx(model.scores.soft_dice, abs=0.05)


@pytest.mark.slow
def test_what_does_not_fit_into_one_process_is_smaller_for_all(folder: Path) -> None:
    _, told = learned(folder, "no_memory_at_first", 0)
    said = [facts["text"] for kind, facts in told if kind == "Notice"]
    assert "Not enough memory: continuing with 2 patch(es) per step." in said
    assert told[-1][1]["steps"] == 6


@pytest.mark.slow
def test_the_clock_of_the_first_process_ends_it(folder: Path) -> None:
    _, told = learned(folder, "by_the_clock", 0)
    assert "minutes was over" in told[-1][1]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("killed", "exitcode  : -9"),
        ("other_labels", "Process 1 reads other images, labels or options than process 0"),
        ("no_memory_for_gradients", "start again with a smaller --batch or --patch"),
    ],
)
def test_what_fails_in_one_process_ends_all(tmp_path: Path, name: str, sentence: str) -> None:
    began = time.monotonic()
    code, text = together(tmp_path, name)
    assert code == 1
    assert sentence in text
    assert time.monotonic() - began < 60  # not after the ten minutes that others are waited for
    assert not list(tmp_path.iterdir())


# -- the command line ------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    image, truth = blobs((64, 64), 8)
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "mask.tif", truth)
    return [tmp_path / "image.tif", tmp_path / "mask.tif", tmp_path / "model.safetensors"]


@pytest.mark.slow
def test_a_signal_ends_all_and_the_first_process_prints_and_writes(files: list[Path]) -> None:
    """A scheduler sends it to all processes, and torchrun passes it on once more."""
    small = ["--depth", "2", "--width", "4", "--device", "cpu", "--epochs", "100000"]
    process = start("-m", "napari_unetseg", "train", *files[:2], "-o", files[2], *small)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(("initial model", "epoch")):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    for number in (*map(int, children), process.pid):
        os.kill(number, signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    said = "".join(lines) + errors
    once = ("1 image with labels", "Device cpu", "the model so far is saved")
    assert [said.count(words) for words in once] == [1, 1, 1]
    assert out.count("it was stopped") == out.count("saved as") == 1
    record = load_model(files[2]).history[-1]
    assert (record.processes, record.threads) == (2, max(1, len(os.sched_getaffinity(0)) // 2))


def test_a_batch_too_small_to_share_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_unetseg.data.dataset import TrainingDataset
    from napari_unetseg.training.training_plan import make_plan

    data = TrainingDataset([painted_pair()], 2, 0.15)
    assert make_plan(data, tiny(batch=None), "cpu", None, 12).batch == 12
    with pytest.raises(UserError, match="3 processes cannot share 2 patch"):
        make_plan(data, tiny(batch=2), "cpu", None, 3)


# -- one process -----------------------------------------------------------------------------------


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, size: int, local: int) -> None:
    """What torchrun says to a process; ``local`` of them on this machine."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % local}
    for name, number in {**numbers, "LOCAL_WORLD_SIZE": local}.items():
        monkeypatch.setenv(name, str(number))


def test_each_process_has_a_gpu_and_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert world() == World(0, 1, 0, 1)
    launched(monkeypatch, 5, 8, 4)
    assert world() == World(5, 8, 1, 4)
    assert default_threads() == cores() == max(1, len(os.sched_getaffinity(0)) // 4)
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert pick_device("auto") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="4 processes need one GPU each, but there are only 2 here"):
        pick_device("auto")


def test_without_torchrun_nothing_is_connected() -> None:
    train([painted_pair((48, 48))], tiny(steps=2))
    assert not torch.distributed.is_initialized()


def test_other_commands_are_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_unetseg.cli import main

    launched(monkeypatch, 1, 2, 2)
    assert main(["info", "model.safetensors"]) == 2
    assert "(process 1): torchrun works with train only" in capsys.readouterr().err
