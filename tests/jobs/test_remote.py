"""A task on another computer: a real `unetseg worker` in a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import stat
import struct
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    Watched,
    blobs,
    of_kind,
    painted_pair,
    random_model,
    strokes,
    tiny,
    trained_at,
)
from hypothesis import given
from hypothesis import strategies as st
from remote_parts import ROOT, Worker, free_port
from safetensors.numpy import save

import napari_unetseg
from napari_unetseg.cli import main
from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.core.events import Event, Notice, OtherSpacing, TilePredicted
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind, Structure
from napari_unetseg.core.metrics import Scores
from napari_unetseg.core.settings import PredictSettings, TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.inference.predict import predict
from napari_unetseg.jobs.live_predictor import (
    MaskFinished,
    MaskStarted,
    Viewport,
    ViewportState,
    ViewportTask,
)
from napari_unetseg.jobs.plane_objects import ObjectsFound
from napari_unetseg.jobs.remote import connection, remote_worker
from napari_unetseg.jobs.remote.client import run
from napari_unetseg.jobs.remote.connection import Link, address_of, device_at
from napari_unetseg.jobs.remote.event_messages import decode_event, encode_event
from napari_unetseg.jobs.remote.grid_messages import pack_grid, unpack_grid
from napari_unetseg.jobs.remote.image_messages import Pieces, cut, encode_stack, hash_of
from napari_unetseg.jobs.remote.packets import (
    MAX_JSON_BYTES,
    BadMessageError,
    MessageChannel,
    pack,
    unpack,
)
from napari_unetseg.jobs.remote.recent import Recent
from napari_unetseg.jobs.remote.remote_worker import RemoteJob, WorkerServer
from napari_unetseg.jobs.remote.run_on import RunOn
from napari_unetseg.jobs.remote.worker_key import save_key, worker_key
from napari_unetseg.jobs.tasks import PredictTask, RemoteDisconnected, TrainTask
from napari_unetseg.models.model import Model, load_model
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelSetAside,
    ModelUpdated,
    Outcome,
    SetAside,
    StepDone,
    TrainingDone,
)

LONG = {"steps": 100_000}
CPU = PredictSettings(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer on this computer at once never will."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1.0)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as one:
        yield one


def training(pair: AnnotatedImage, view: Viewport | None = None, **settings: Any) -> TrainTask:
    screen = ViewportState()
    screen.view = view
    return TrainTask([pair], tiny(**settings), (), None, screen)


def finish(
    events: Generator[Event, None, Any], on_event: Callable[[Event], object] = lambda _: None
) -> tuple[Any, list[Event]]:
    seen: list[Event] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return end.value, seen
        on_event(seen[-1])


def mask_at(worker: Worker, model: Model, stack: Stack) -> np.ndarray:
    mask = np.full(stack.grid_shape, 99, np.uint8)
    _, events = finish(run(PredictTask(model, stack, None, CPU), worker.address, JobControl(1)))
    for tile in of_kind(events, TilePredicted):
        mask[tile.index] = tile.mask
    return mask


# -- training --------------------------------------------------------------------------------------


def test_a_training_there_is_the_training_here(worker: Worker) -> None:
    """The same weights, and the same events in the same order; masks of what is on screen too."""
    pair = painted_pair()
    view = Viewport(object(), pair.image, ())
    settings = tiny(steps=24)
    structures = (Structure(1, "cells", "#112233"),)
    results = []
    for address in ("", worker.address):
        screen = ViewportState()
        screen.view = view
        task = TrainTask([pair], settings, structures, None, screen)
        results.append(finish(RunOn(task, address)(JobControl(1))))
    (here, local), (there, remote) = results
    assert there.id == here.id
    assert there.classes == here.classes
    kinds = [[type(e) for e in events if not _timed(e)] for events in (local, remote)]
    assert kinds[0] == kinds[1]
    assert [e.loss for e in of_kind(remote, StepDone)] == [e.loss for e in of_kind(local, StepDone)]
    shown = [
        [e.model.id for e in of_kind(events, ModelUpdated) if not _timed(e)]
        for events in (local, remote)
    ]
    assert shown[0] == shown[1]
    assert of_kind(remote, EpochDone)[0].scores == of_kind(local, EpochDone)[0].scores
    begins = of_kind(remote, MaskStarted)[0]
    assert begins.view.image is view.image
    assert begins.structures == structures
    np.testing.assert_array_equal(
        of_kind(remote, TilePredicted)[0].mask, of_kind(local, TilePredicted)[0].mask
    )


def _timed(event: Event) -> bool:
    """Weights between epochs, and masks, come when two seconds are over, sooner or later."""
    between = isinstance(event, ModelUpdated) and event.scores is None and not event.urgent
    return between or isinstance(event, MaskStarted | TilePredicted | MaskFinished)


def test_it_stops_soon_and_keeps_what_it_learned(worker: Worker) -> None:
    control, after = JobControl(), 0

    def stop(event: Event) -> None:
        nonlocal after
        after += control.stopped and isinstance(event, StepDone)
        if isinstance(event, StepDone) and event.step == 12:
            control.stop()

    model, events = finish(run(training(painted_pair(), **LONG), worker.address, control), stop)
    assert after < 40, "steps after the stop"
    assert isinstance(events[-1], TrainingDone)
    assert events[-1].outcome is Outcome.STOPPED
    assert model.history[-1].steps == events[-1].steps


def test_newer_strokes_are_learned_from(worker: Worker) -> None:
    pair, control = painted_pair(), JobControl()
    labels = pair.labels.copy()
    labels[2] = np.where(labels[6] > 0, labels[6], labels[2])
    more = replace(pair, labels=labels)

    def paint(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            control.push_annotations((more,))
        if isinstance(event, AnnotationsUpdated):
            control.stop()

    _, events = finish(run(training(pair, **LONG), worker.address, control), paint)
    assert of_kind(events, AnnotationsUpdated)[0].voxels > np.count_nonzero(pair.labels) * 0.9
    assert control.pop_annotations() is None


def test_strokes_that_came_too_late_are_known_to_be_left(worker: Worker) -> None:
    """So that the window begins another training for them."""
    pair, control = painted_pair(), JobControl()

    def paint(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 6:
            control.push_annotations((pair,))

    finish(run(training(pair, steps=6), worker.address, control), paint)
    assert control.pop_annotations() == (pair,)


def test_it_goes_on_from_a_model_that_is_sent_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = painted_pair()
    sent = count_sent(monkeypatch)
    first, _ = finish(run(training(pair, steps=6), worker.address, JobControl()))
    before = sum(sent)
    task = TrainTask([pair], tiny(steps=6), (), first, ViewportState())
    second, _ = finish(run(task, worker.address, JobControl()))
    assert second.history[-1].parent == first.id
    assert sum(sent) - before < 2000, "neither the image nor the model went there again"


def count_sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of the arrays of every message that goes there from now on."""
    sent: list[int] = []
    real = Link.send

    def send(self: Link, words: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        sent.append(sum(array.nbytes for array in arrays))
        real(self, words, arrays)

    monkeypatch.setattr(Link, "send", send)
    return sent


def test_what_cannot_be_trained_on_is_the_same_sentence(worker: Worker) -> None:
    pair = painted_pair()
    bad = replace(pair, labels=np.minimum(pair.labels, 1))
    with pytest.raises(UserError) as here:
        finish(training(bad)(JobControl()))
    with pytest.raises(UserError) as there:
        finish(run(training(bad), worker.address, JobControl()))
    assert str(there.value) == str(here.value)
    assert type(there.value) is type(here.value)


def test_a_command_trains_there(
    worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = painted_pair()
    np.save(tmp_path / "image.npy", pair.image.data)
    np.save(tmp_path / "labels.npy", pair.labels)
    model = tmp_path / "m.safetensors"
    files = [str(tmp_path / "image.npy"), str(tmp_path / "labels.npy"), "-o", str(model)]
    options = ["--labels", "strokes", "--steps", "4", "--depth", "2", "--width", "4"]
    on = ["--on", worker.address, "--key-file", str(worker.key_file)]
    assert main(["train", *files, *options, *on]) == 0
    assert load_model(model).history[-1].steps == 4
    assert main(["train", *files, *options, "--on", f"127.0.0.1:{free_port()}"]) == 1
    assert "does not answer" in capsys.readouterr().err


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "dims"),
    [
        ((3, 300, 280), "TYX", ">u2", 2),
        ((2, 4, 40, 50), "ZCYX", "float32", 2),
        ((270, 60, 3), "YXS", "uint8", 2),
        ((6, 30, 40), "ZYX", "bool", 3),
    ],
)
def test_masks_are_the_same(
    worker: Worker, shape: tuple[int, ...], axes: str, dtype: str, dims: int
) -> None:
    rng = np.random.default_rng(0)
    stack = Stack(rng.integers(0, 200, shape).astype(dtype), axes)
    model = random_model(dims=dims, in_channels=stack.n_channels, depth=2, width=4)
    here = predict(model, stack, CPU)
    assert 0.002 < (here > 0).mean() < 0.98
    np.testing.assert_array_equal(mask_at(worker, model, stack), here)


def test_of_a_large_stack_only_what_is_needed_is_read(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planes with labels and those that show the range of intensities; each once."""
    image, truth = blobs((300, 80, 90), 40)
    labels = np.zeros(truth.shape, np.uint8)
    labels[100] = strokes(truth[100])
    watched = Watched(image, most=image[0].size)
    pair = AnnotatedImage(Stack(watched, "TYX"), labels, "strokes")
    sent = count_sent(monkeypatch)
    finish(run(training(pair, steps=2), worker.address, JobControl()))
    assert 9 <= len(watched.reads) <= 12
    assert sum(sent) < 12 * image[0].nbytes
    before = sum(sent)
    finish(run(training(pair, steps=2), worker.address, JobControl()))
    assert sum(sent) - before < 10_000, "what is there is not sent again"


def test_an_image_that_cannot_be_read_is_said(worker: Worker) -> None:
    class Gone:
        shape, dtype, ndim = (64, 64), np.dtype(np.uint8), 2

        def __getitem__(self, _: Any) -> np.ndarray:
            raise OSError("the disk is gone")

    model = random_model(depth=2, width=4)
    with pytest.raises(UserError, match="scan cannot be read: the disk is gone"):
        mask_at(worker, model, Stack(Gone(), "YX", name="scan"))


INDEX = st.one_of(
    st.integers(-3, 2),
    st.builds(slice, *(st.none() | st.integers(-9, 700),) * 2, st.sampled_from([None, 1, 3, -2])),
)


@given(st.tuples(INDEX, INDEX, INDEX))
def test_pieces_are_read_as_an_array(index: tuple[int | slice, ...]) -> None:
    array = np.arange(3 * 600 * 5).reshape(3, 5, 600).astype(np.uint16)
    stack, store = Stack(array, "ZYX"), Recent[np.ndarray](3000)

    def ask(cells: Sequence[tuple[int, ...]], whole: bool) -> Any:
        pieces = (item for batch in cut(stack, cells) for item in batch.items())
        return {cell: (hash_of(p), p if whole or cell[0] else None) for cell, p in pieces}

    pieces = Pieces(array.shape, "uint16", "ZYX", store, ask)
    for _ in range(2):
        np.testing.assert_array_equal(pieces[index], array[index])


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "bool", "float64"])
def test_labels_travel(dtype: str) -> None:
    labels = np.zeros((3, 2, 20, 30), dtype)
    labels[1, 0, 3:9] = 1
    labels[2, 1, :, 4] = 7
    words, packed = pack_grid(labels)
    assert len(words["planes"]) == 2
    np.testing.assert_array_equal(unpack_grid(words, packed), labels)
    words["planes"][0][1] -= 1
    with pytest.raises(BadMessageError):
        unpack_grid(words, packed)


def test_looking_follows_the_screen(worker: Worker) -> None:
    """The plane on screen, then its neighbours; another plane comes first when it is looked at."""
    rng = np.random.default_rng(0)
    stack = Stack(rng.random((9, 40, 40), np.float32), "TYX")
    model, layer, screen = random_model(depth=2, width=4), object(), ViewportState()
    screen.view, screen.seen = Viewport(layer, stack, (2,)), (slice(0, 20), slice(0, 20))
    work = ViewportTask(model, screen, "cpu", frozenset({(3,)}), 1)

    def move(event: Event) -> None:
        if isinstance(event, MaskStarted) and event.view.plane == (2,):
            screen.view = Viewport(layer, stack, (7,))

    _, events = finish(run(work, worker.address, JobControl()), move)
    planes = [event.view.plane for event in of_kind(events, MaskStarted)]
    assert planes[0] == (2,)
    assert planes[-3:] == [(7,), (8,), (6,)] or {(7,), (8,), (6,)} <= set(planes)
    assert all(event.view.image is layer for event in of_kind(events, MaskStarted))
    np.testing.assert_array_equal(
        of_kind(events, TilePredicted)[0].mask, predict(model, stack, CPU, planes=[(2,)])[2]
    )


def test_a_view_is_predicted_at_the_pixel_size_of_the_model(worker: Worker) -> None:
    image = np.random.default_rng(0).random((40, 40), np.float32)
    stack = Stack(image, "YX", (0.1, 0.1), ("um", "um"))
    model, screen, masks = trained_at(random_model(depth=2, width=4), 0.2), ViewportState(), []
    for match in (False, "auto"):
        screen.view = Viewport(object(), stack, (), match)
        work = ViewportTask(model, screen, "cpu", frozenset())
        _, events = finish(run(work, worker.address, JobControl()))
        (notice,) = of_kind(events, OtherSpacing)
        assert ("is predicted at the model's" in notice.text) == bool(match)
        assert ("--match-spacing" in notice.offer) == (not match)
        settings = CPU.model_copy(update={"match_spacing": match})
        (tile,) = of_kind(events, TilePredicted)
        np.testing.assert_array_equal(tile.mask, predict(model, stack, settings))
        masks.append(tile.mask)
    assert (masks[0] != masks[1]).any()


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_worker_that_dies_leaves_the_newest_model() -> None:
    with Worker() as one:
        task, seen = training(painted_pair(), **LONG), []

        def kill(event: Event) -> None:
            seen.append(event)
            if isinstance(event, EpochDone):
                one.kill()

        model, events = finish(run(task, one.address, JobControl()), kill)
        assert model.id == of_kind(events, ModelUpdated)[-1].model.id
        assert isinstance(events[-2], RemoteDisconnected)
        assert isinstance(events[-1], TrainingDone)
        assert events[-1].outcome is Outcome.DISCONNECTED
        assert f"The connection to {one.address} was lost" in events[-1].reason
        with pytest.raises(UserError, match="does not answer"):
            finish(run(task, one.address, JobControl()))


def test_a_worker_that_dies_before_anything_was_learned_is_said() -> None:
    stack = Stack(np.random.default_rng(0).random((50, 300, 300), np.float32), "TYX")
    model = random_model(depth=2, width=4)
    with Worker() as one, pytest.raises(LostError, match="this computer does the work"):
        finish(
            run(PredictTask(model, stack, None, CPU), one.address, JobControl()),
            lambda _: one.kill(),
        )


def while_silent(there: Link) -> None:
    while True:
        there.receive(0.2)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_worker_that_hangs_is_lost_and_one_that_computes_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 4.0)
    with Worker() as one, Link(one.address) as there:
        end = time.monotonic() + 6.0
        while time.monotonic() < end:  # it says nothing but that it is there
            there.receive(0.2)
        one.process.send_signal(signal.SIGSTOP)
        with pytest.raises(LostError, match="was lost"):
            while_silent(there)


def test_another_version_is_refused() -> None:
    first = "import napari_unetseg; napari_unetseg.__version__ = '99.0'"
    with Worker(first=first) as one, pytest.raises(UserError) as said:
        device_at(one.address)
    assert "has version 99.0" in str(said.value)
    assert napari_unetseg.__version__ in str(said.value)


def test_a_worker_says_what_to_type_and_ends_with_ctrl_c() -> None:
    """Also in the middle of a training."""
    with Worker() as one:
        assert f"ssh -N -L {one.port}:127.0.0.1:{one.port}" in one.said
        page = (ROOT / "docs" / "remote.md").read_text(encoding="utf-8")
        shown = page.split("$ unetseg worker\n")[1].split("```")[0].splitlines()
        said = one.said.splitlines()
        for line, printed in zip(shown[:-1], said[:-1], strict=True):
            assert _without_names(line) == _without_names(printed)
        assert said[-1].split()[:2] == [one.address, "KEY"]
        events = run(training(painted_pair(), **LONG), one.address, JobControl())
        while not isinstance(next(events), EpochDone):
            pass
        assert one.interrupt() == 0, one.said
        events.close()
        assert one.said.endswith("The worker has ended.\n")


def _without_names(line: str) -> str:
    """What does not depend on the computer."""
    return re.sub(r" on [^,]+,|\d+|\S+@\S+", "", line)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_nothing_listens_but_on_this_computers_own_address(worker: Worker) -> None:
    folder = Path(f"/proc/{worker.process.pid}")
    links = [fd.readlink().name for fd in (folder / "fd").iterdir()]
    own = {name[8:-1] for name in links if name.startswith("socket:[")}
    listening = [
        line.split()[1].split(":")
        for name in ("tcp", "tcp6")
        for line in (folder / "net" / name).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in own
    ]
    assert f"{worker.port:04X}" in [port for _, port in listening]
    assert {host for host, _ in listening} == {"0100007F"}


def test_a_port_that_is_taken_is_said(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--port", str(worker.port)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8786", "127.0.0.1:8786"),
        (" gpu-1.lab.org:9000 ", "gpu-1.lab.org:9000"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "gpu", "http://a:1", "a:70000", "a:", "a b:1"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(UserError, match="is no address"):
        address_of(text)


# -- trust -----------------------------------------------------------------------------------------


class Peer:
    """What listens at an address and does as it is told with who connects."""

    def __init__(self, behave: Callable[[socket.socket], object]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30.0)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._behave = behave
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock, suppress(OSError):  # the other side hangs up as soon as it has seen enough
            self._behave(sock)
            sock.recv(1)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._listener.close()
        self._thread.join()


def knowing(*frames: bytes) -> Callable[[socket.socket], None]:
    """A peer that has the key, and then sends what it likes."""

    def behave(sock: socket.socket) -> None:
        channel = MessageChannel(sock.dup())
        channel.authenticate(worker_key().encode(), caller=False)
        for frame in frames:
            sock.sendall(frame)
        channel.close()

    return behave


def frame(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


HELLO = {"version": napari_unetseg.__version__, "device": "cpu", "pieces": [], "models": []}
BOMB = b"[" + b"[]," * MAX_JSON_BYTES + b"[]]"
PICKLE = b"\x80\x04cbuiltins\nexit\n."


@pytest.mark.parametrize(
    ("behave", "sentence"),
    [
        (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"), "there is no worker"),
        (lambda sock: sock.sendall(struct.pack("!iQ", -1, 2**62)), "there is no worker"),
        (lambda sock: sock.sendall(frame(PICKLE)), "there is no worker"),
        (lambda sock: sock.shutdown(socket.SHUT_RDWR), "does not answer"),
        (lambda sock: None, "does not answer"),
        (knowing(struct.pack("!iQ", -1, 2**62)), "was lost"),
        (knowing(struct.pack("!i", 2**30 + 1)), "was lost"),
        (knowing(frame(PICKLE)), "no message"),
        (knowing(frame(b"")), "no message"),
        (knowing(frame(save({"json": np.frombuffer(BOMB, np.uint8)}))), "no message"),
        (knowing(frame(pack({"version": 0}))), "has version 0"),
        (knowing(frame(pack(HELLO | {"pieces": 5}))), "cpu"),
    ],
)
def test_a_peer_that_sends_nonsense_gets_one_sentence_and_no_memory(
    behave: Callable[[socket.socket], object], sentence: str
) -> None:
    worker_key()
    tracemalloc.start()
    try:
        with Peer(behave) as one:
            try:
                said = device_at(one.address)
            except UserError as error:
                said = str(error)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(BOMB)
    finally:
        tracemalloc.stop()
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack("!iQ", -1, 2**62), frame(b"x" * 16), frame(PICKLE)],
)
def test_who_has_no_key_gets_nothing_from_a_worker(worker: Worker, sent: bytes) -> None:
    """It hangs up, and goes on serving the others."""
    port = int(worker.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 30.0) as sock:
        sock.sendall(sent)
        got = b""
        while chunk := _received(sock):
            got += chunk
    assert len(got) < 200
    assert device_at(worker.address) == "cpu"


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1000)
    except ConnectionResetError:  # it hung up without reading everything
        return b""


def test_silent_connections_keep_nobody_out(worker: Worker) -> None:
    port = int(worker.address.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    assert device_at(worker.address) == "cpu"
    for sock in silent:
        sock.close()


def test_a_key_is_asked_for_once(tmp_path: Path) -> None:
    """A worker on another computer has a key that is not known here."""
    worker_key()
    with Worker(home=tmp_path) as one:
        with pytest.raises(UserError, match="has another key; choose 'ADDRESS KEY'"):
            device_at(one.address)
        key = one.key_file.read_text(encoding="utf-8").strip()
        assert key not in one.said, "it is no terminal, but a file that others may read"
        with pytest.raises(UserError, match="is no key"):
            save_key(one.address, "short")
        save_key(one.address, key)
        assert device_at(one.address) == "cpu"
        if sys.platform != "win32":
            assert stat.S_IMODE(one.key_file.stat().st_mode) == 0o600
        wrong = tmp_path / "wrong.key"
        wrong.write_text("w" * 43, encoding="utf-8")
        with pytest.raises(UserError, match="has another key"):
            finish(run(training(painted_pair()), one.address, JobControl(), wrong))


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b"x" * 10_000])
def test_a_file_without_a_key_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    for name in ("a.key", "none.key"):
        with pytest.raises(UserError, match=r"\.key"):
            Link("127.0.0.1:9", tmp_path / name)


def test_without_a_key_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_config_dir", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match="is not known here yet: choose 'ADDRESS KEY'"):
        device_at("127.0.0.1:9")


def test_more_than_a_message_holds_is_said() -> None:
    with pytest.raises(UserError, match="more than can be sent"):
        pack({}, [np.broadcast_to(np.uint8(0), (2**15, 2**15))])


TILE = {"kind": "TilePredicted", "plane": [0], "region": [[0, 2], [0, 3]], "done": 1, "total": 1}


@pytest.mark.parametrize(
    ("words", "arrays"),
    [
        ({"kind": "Model"}, []),
        ({"kind": "StepDone", "step": "many"}, []),
        ({"kind": "TrainingDone", "outcome": "fine", "reason": "", "scores": None, "epochs": 1,
          "steps": 1, "seconds": 1}, []),
        (TILE, [np.zeros((2, 2), np.uint8)]),
        (TILE, [np.zeros((2, 3), np.float32)]),
        (TILE | {"path": "x"}, [np.zeros((2, 3), np.uint8)]),
        (TILE, []),
        ({"kind": "ModelUpdated", "scores": None, "seconds": 1, "step": 1, "urgent": True},
         [np.frombuffer(b"\x80\x04N.", np.uint8)]),
        ({"kind": "ModelSetAside", "reason": "fell", "step": 1},
         [np.frombuffer(b"\x80\x04N.", np.uint8)]),
        ({"kind": "ModelSetAside", "reason": "fell", "step": 1}, []),
        ({"kind": "MaskFinished", "changed": "all"}, []),
        ({"kind": "MaskStarted", "image": 3, "plane": [], "model_id": "a", "structures": [],
          "scores": None}, []),
    ],
)  # fmt: skip
def test_events_that_cannot_be_are_refused(words: dict[str, Any], arrays: list[Any]) -> None:
    with pytest.raises(BadMessageError):
        decode_event(words, arrays, [])


@pytest.mark.parametrize(
    "event",
    [
        Notice("cells is saturated.", warning=True),
        OtherSpacing("cells has other pixels.", "a, b", "c", warning=True),
        TrainingDone(Outcome.FAILED, "A step failed.", None, 1, 2, 3.0),
        MaskFinished(0.25),
        MaskFinished(None),
    ],
)
def test_what_an_event_means_travels(event: Event) -> None:
    """It is not read from its sentence."""
    words, arrays = unpack(pack(*encode_event(event, Recent[Model](1))))
    assert decode_event(words, arrays, []) == event


@pytest.mark.parametrize("maps", [None, np.full((2, 3, 4), 7, np.uint8)])
def test_objects_travel(maps: np.ndarray | None) -> None:
    region, mask = (slice(0, 3), slice(2, 6)), np.ones((3, 4), np.uint8)
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    found = ObjectsFound((1,), region, ids, mask, maps, (1,), (0.5, 0.5))
    words, arrays = unpack(pack(*encode_event(found, Recent[Model](1))))
    there = decode_event(words, arrays, [])
    assert isinstance(there, ObjectsFound)
    assert (there.index, there.structures, there.spacing) == (found.index, (1,), (0.5, 0.5))
    np.testing.assert_array_equal(there.ids, ids)
    assert (there.maps is None) == (maps is None)
    for bad in ([ids[:2], mask], [mask, mask], [ids], [ids, mask, mask]):
        with pytest.raises(BadMessageError):
            decode_event(words, bad, [])


def test_models_travel_with_what_is_said_of_them() -> None:
    model = random_model(depth=2, width=4)
    shown = ModelUpdated(model, None, 2.0, 30, urgent=True)
    aside = ModelSetAside(model, SetAside.FELL, 20)
    for event in (shown, aside):
        words, arrays = unpack(pack(*encode_event(event, Recent[Model](1))))
        there = decode_event(words, arrays, [])
        assert isinstance(there, type(event))
        assert there.model.id == model.id
        assert (there.step, type(there)) == (event.step, type(event))
    words, arrays = encode_event(aside, Recent[Model](1))
    decoded = decode_event(words, arrays, [])
    assert isinstance(decoded, ModelSetAside)
    assert decoded.reason is SetAside.FELL


@pytest.mark.parametrize(("slow", "sent"), [(True, [1, 3, 4, 6]), (False, [1, 2, 3, 4, 5, 6])])
def test_weights_that_nobody_waits_for_are_left_out_on_a_slow_line(
    monkeypatch: pytest.MonkeyPatch, slow: bool, sent: list[int]
) -> None:
    """Those after which the line needs a rest, but for urgent ones."""
    clock = [0.0]
    monkeypatch.setattr(remote_worker, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    window, other = (MessageChannel(sock) for sock in tcp_pair())
    job, send = RemoteJob(WorkerServer(), other), MessageChannel.send

    def slowly(self: MessageChannel, *message: Any) -> None:
        clock[0] += 1.0 if slow else 0.0
        send(self, *message)

    monkeypatch.setattr(MessageChannel, "send", slowly)
    model = random_model(depth=2, width=4)
    seconds = 1 / remote_worker.MAX_TIME_FRACTION
    for number, (urgent, later) in enumerate(
        [(False, 0.0), (False, 0.5 * seconds), (True, 0.0), (False, 2 * seconds), (False, 0.0)], 1
    ):
        clock[0] += later
        job._tell(ModelUpdated(model, None, 0.0, number, urgent))
    found = Scores(("cells",), (1,), (0.9,), (0.8,), 99, 9)
    job._tell(ModelUpdated(model, found, 0.0, 6))  # of an epoch
    job._tell(Notice("the end"))
    steps = []
    while (told := window.receive()[0]["event"])["kind"] == "ModelUpdated":
        steps.append(told["step"])
    assert steps == sent
    window.close()
    other.close()


def test_the_model_set_aside_can_be_asked_for_there(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, sent, real = JobControl(), [], Link.send

    def ask(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            control.ask_for_set_aside()
        if sent:
            control.stop()

    def send(self: Link, words: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        sent.extend(words for name in words if name == "set_aside")
        real(self, words, arrays)

    monkeypatch.setattr(Link, "send", send)
    finish(run(training(painted_pair(), **LONG), worker.address, control), ask)
    (words,) = sent
    window, other = (MessageChannel(sock) for sock in tcp_pair())
    job = RemoteJob(WorkerServer(), other)
    assert not job._control.pop_set_aside_request()
    job._handle(words, [])
    assert job._control.pop_set_aside_request()
    window.close()
    other.close()


def test_a_worker_reads_no_file_but_models(worker: Worker, tmp_path: Path) -> None:
    """Neither a PyTorch file sent as a model nor encoder weights by their name."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.pt")  # noqa: TID251
    content = np.frombuffer((tmp_path / "m.pt").read_bytes(), np.uint8)
    image = {"number": 0, "shape": [9, 9], "dtype": "uint8", "axes": "YX", "name": "a"}
    image |= {n: [] for n in ("spacing", "units", "channels", "translate", "colors")}
    settings = CPU.model_dump(mode="json")
    ask = {"task": "predict", "planes": None, "stack": image, "settings": settings}
    answer = ended(worker, {**ask, "model": "x", "sent": True}, content)
    assert answer["error"] == "model"
    assert "never opened" in answer["text"]
    own = TrainSettings(encoder="resnet18", encoder_weights=str(tmp_path / "m.pt"))
    words = {"task": "train", "pairs": [], "structures": [], "model": None}
    answer = ended(worker, {**words, "settings": own.model_dump(mode="json")})
    assert "reads no encoder weights" in answer["text"]
    task = TrainTask([painted_pair()], own, (), None, ViewportState())
    with pytest.raises(UserError, match="reads no encoder weights"):
        finish(run(task, worker.address, JobControl()))


def ended(worker: Worker, words: dict[str, Any], *arrays: np.ndarray) -> dict[str, Any]:
    """How a worker ends what it is asked for."""
    with Link(worker.address) as link:
        link.send(words, arrays)
        while "end" not in (told := link.receive(1.0)[0]):
            pass
        return told["end"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("words", [{"task": "x"}, {"pieces": 5}, {"pairs": 5}, {"view": []}])
def test_a_worker_answers_nonsense_with_a_sentence(worker: Worker, words: dict[str, Any]) -> None:
    end = ended(worker, words)
    assert end["error"] in ("user", "other")
    assert end["text"]


def test_models_are_refused_as_from_a_file(worker: Worker) -> None:
    words = {"task": "look", "model": "x", "sent": True, "settings": {}}
    assert ended(worker, words, np.zeros(100, np.uint8))["error"] == "model"


def test_kinds_of_labels_travel(worker: Worker) -> None:
    """Instances of 32 bits, corrections on top."""
    image, truth = blobs((80, 80), 10)
    corrections = np.zeros(truth.shape, np.uint8)
    corrections[:, 40] = 255
    instances = truth.astype(np.int32) * 70_000
    pair = AnnotatedImage(Stack(image, "YX"), instances, LabelKind.INSTANCES, corrections)
    here, _ = finish(training(pair, steps=4)(JobControl(1)))
    there, _ = finish(run(training(pair, steps=4), worker.address, JobControl()))
    assert here.id == there.id


def test_two_threads_of_a_task_may_read_images_at_once() -> None:
    """As where samples are drawn beside a step: each gets the pieces that it asked for."""
    rng = np.random.default_rng(0)
    images = [Stack(rng.integers(0, 99, (3, 300, 300), np.uint8), "ZYX") for _ in range(3)]
    window, other = (MessageChannel(sock) for sock in tcp_pair())
    server, found = WorkerServer(), dict[int, np.ndarray]()
    job = RemoteJob(server, other)
    stacks = [job.stack(encode_stack(image, number)) for number, image in enumerate(images)]

    def read(number: int) -> None:
        planes = [stacks[number].read((z,), (slice(0, 300), slice(0, 300))) for z in range(3)]
        found[number] = np.concatenate(planes)

    readers = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(3)]
    hearing = threading.Thread(target=job.serve, daemon=True)
    for thread in (*readers, hearing):
        thread.start()
    while any(reader.is_alive() for reader in readers):
        if not window.poll(0.01) or not (asked := window.receive()[0].get("ask")):
            continue
        (batch,) = cut(images[asked["image"]], [tuple(cell) for cell in asked["cells"]])
        cells = [(cell, hash_of(batch[cell]), n) for n, cell in enumerate(batch)]
        window.send({"pieces": cells}, list(batch.values()))
    server.close()
    hearing.join()
    window.close()
    other.close()
    for number, image in enumerate(images):
        np.testing.assert_array_equal(found[number], image.data)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]
