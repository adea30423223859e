"""Prediction on several processes: the same bytes, lost workers, and what is said when it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from helpers import random_model, trained_at
from large_parts import ids_of, mask_of, noise, object_model, smooth, tree

from napari_unetseg.cli import main
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.large import dask_cluster, dask_connect
from napari_unetseg.inference.large.atomic_store import FolderStore
from napari_unetseg.inference.large.dask_cluster import on_cluster
from napari_unetseg.inference.large.dask_connect import Where, workers_of
from napari_unetseg.inference.large.output_format import Saving
from napari_unetseg.inference.large.predict_files import Opening, predict_files
from napari_unetseg.inference.large.predict_to_zarr import CannotGoOnError, predict_to_zarr
from napari_unetseg.inference.predict import predict, predict_probabilities
from napari_unetseg.inference.predict_objects import predict_objects
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.write_masks import FORMATS

distributed = pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")

ROOT = Path(__file__).resolve().parents[3]
SMALL = PredictSettings(tile=64, threads=1, device="cpu")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two local workers, as on a machine with two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        workers = workers_of(Where(local=2), 1)
        found = workers.__enter__()
    yield found
    workers.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """dask sets variables of this process for the workers that it starts."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one tile; the workers are told the grid."""
    monkeypatch.setattr("napari_unetseg.inference.large.chunk_grid.CHUNK", {2: 1, 3: 1})
    monkeypatch.setattr("napari_unetseg.inference.large.chunk_grid.BLENDED_CHUNK", {2: 1, 3: 1})


def saved(folder: Path, shape: tuple[int, ...]) -> Path:
    np.save(folder / "image.npy", (noise(shape) * 255).astype(np.uint8))
    return folder / "image.npy"


def fill(
    client: Any, model: Any, image: Path, folder: Path, axes: str | None = None, **more: Any
) -> list[Any]:
    opening = Opening(axes)
    chunks = on_cluster(client, opening)(image) if client is not None else None
    store = FolderStore(folder)
    return list(predict_to_zarr(model, opening(image), store, SMALL, chunks=chunks, **more))


TABLE: list[tuple[tuple[int, ...], str, dict[str, Any]]] = [
    ((201, 190), "YX", {}),
    ((190, 201), "YX", {"norm": "group"}),
    ((2, 10, 130, 40), "TZYX", {"dims": 3, "depth": 2}),
]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("shape", "axes", "net"), TABLE)
def test_workers_write_the_bytes_that_one_process_does(
    client: Any, tmp_path: Path, shape: tuple[int, ...], axes: str, net: dict[str, Any]
) -> None:
    model = random_model(1, (2, 7), **{"depth": 3, "width": 4, **net})
    image = saved(tmp_path, shape)
    events = fill(client, model, image, tmp_path / "two", axes, probabilities="float32")
    fill(None, model, image, tmp_path / "one", axes, probabilities="float32")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    done = [e.done for e in events if isinstance(e, ChunkPredicted)]
    assert done == [*range(1, done[-1] + 1), done[-1]], "every chunk was told of"
    assert done[-1] > 3
    assert len(client.nthreads()) == 2


@pytest.mark.usefixtures("small_chunks")
def test_workers_predict_at_the_pixel_size_of_the_model(client: Any, tmp_path: Path) -> None:
    model = trained_at(random_model(1, (2, 7), depth=3, width=4), 0.2)
    image, opening = saved(tmp_path, (201, 190)), Opening(spacing="0.1,0.1um")
    settings = SMALL.model_copy(update={"match_spacing": True, "tile": 16})
    for name, chunks in (("two", on_cluster(client, opening)(image)), ("one", None)):
        store = FolderStore(tmp_path / name)
        events = predict_to_zarr(model, opening(image), store, settings, chunks=chunks)
        assert sum(isinstance(event, ChunkPredicted) for event in events) > 4
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    wanted = predict(model, opening(image), settings)
    np.testing.assert_array_equal(mask_of(tmp_path / "two")[:], wanted)


@pytest.mark.usefixtures("small_chunks")
def test_the_mask_is_that_of_the_whole_image_but_for_ties(client: Any, tmp_path: Path) -> None:
    model = random_model(3, (1,), depth=3, width=4)
    image = saved(tmp_path, (230, 250))
    fill(client, model, image, tmp_path / "out")
    whole = PredictSettings(tile=512, threads=1)
    shares = predict_probabilities(model, open_stack(image), whole)
    differs = mask_of(tmp_path / "out")[:] != predict(model, open_stack(image), whole)
    assert (np.abs(shares[1] - shares[0])[differs] < 1e-4).all()
    assert len(np.unique(mask_of(tmp_path / "out")[:])) == 2


def plugins(dask_worker: Any) -> list[tuple[str, int]]:
    """Our models on a worker, by name and identity; a function for workers."""
    return [(n, id(p)) for n, p in dask_worker.plugins.items() if n.startswith("unetseg-")]


def test_a_model_is_sent_once_for_all_images(client: Any, tmp_path: Path) -> None:
    model, image = random_model(1, depth=2, width=4), saved(tmp_path, (50, 60))
    fill(client, model, image, tmp_path / "a")
    before = client.run(plugins)
    fill(client, random_model(1, depth=2, width=4), image, tmp_path / "b")
    assert client.run(plugins) == before
    assert [len(found) for found in before.values()] == [1, 1]
    fill(client, random_model(2, depth=2, width=4), image, tmp_path / "c")
    assert [len(found) for found in client.run(plugins).values()] == [1, 1]
    dask_cluster.forget_model(client)
    assert list(client.run(plugins).values()) == [[], []]


def test_each_local_worker_has_a_gpu_of_its_own(client: Any) -> None:
    shown = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(shown.values()) == ["0", "1"]


def test_local_workers_keep_freed_memory(client: Any) -> None:
    assert set(client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {None}


@pytest.mark.usefixtures("small_chunks")
def test_a_stop_keeps_what_was_predicted_and_it_goes_on(client: Any, tmp_path: Path) -> None:
    model, control = random_model(1, depth=2, width=4), JobControl(1)
    image, done = saved(tmp_path, (40, 64, 64)), 0
    chunks = on_cluster(client, Opening())(image)
    events = predict_to_zarr(
        model,
        open_stack(image),
        FolderStore(tmp_path / "out"),
        SMALL,
        control=control,
        chunks=chunks,
    )
    for event in events:
        done += isinstance(event, ChunkPredicted)
        if done == 3:
            control.stop()
    assert 3 <= done < 40
    stored = [p for p in (tmp_path / "out/labels/mask/0/c").rglob("*") if p.is_file()]
    assert len(stored) == done, "nothing is written behind one's back"
    again = fill(client, model, image, tmp_path / "out")
    assert sum(isinstance(e, ChunkPredicted) for e in again) == 40 - done + 1
    fill(None, model, image, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def finished(dask_scheduler: Any) -> int:
    """How often a chunk was worked out; a function for the scheduler."""
    return sum(
        (start, end) == ("processing", "memory")
        for key, start, end, *_ in dask_scheduler.transition_log
        if str(key).startswith("predict_chunk")
    )


@POSIX
@pytest.mark.usefixtures("small_chunks")
def test_a_killed_worker_costs_its_own_chunks_alone(tmp_path: Path) -> None:
    model = random_model(1, depth=3, width=8)
    image = saved(tmp_path, (12, 128, 128))
    told: list[int] = []
    with workers_of(Where(local=2), 1) as client:
        chunks = on_cluster(client, Opening())(image)
        victim = next(iter(client.run(os.getpid).values()))
        store = FolderStore(tmp_path / "out")
        total = 48
        for event in predict_to_zarr(model, open_stack(image), store, SMALL, chunks=chunks):
            if isinstance(event, ChunkPredicted):
                told.append(event.done)
            if len(told) == 12 and victim:
                os.kill(victim, signal.SIGKILL)
                victim = 0
        worked = client.run_on_scheduler(finished)
    assert told == [*range(1, total + 1), total], "each chunk was told of once"
    assert total <= worked <= total + 4, "no more than it had in hand is done again"
    fill(None, model, image, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@POSIX
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("before_it_is_fetched", [False, True])
def test_when_all_workers_are_gone_it_says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_it_is_fetched: bool
) -> None:
    """Workers of a scheduler that nobody starts again; a result may go with them."""
    monkeypatch.setattr(dask_cluster, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(dask_cluster, "RESULT_SECONDS", 1.0)
    look = dask_cluster._ended

    def go_after_looking(client: Any, going: Any) -> Any:
        found = look(client, going)
        if found and told >= 3 and before_it_is_fetched:
            local.scale(0)
            until = time.monotonic() + 60
            while client.nthreads():
                assert time.monotonic() < until
                time.sleep(0.01)
        return found

    monkeypatch.setattr(dask_cluster, "_ended", go_after_looking)
    model, image = random_model(1, depth=2, width=4), saved(tmp_path, (12, 128, 128))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as local,
        workers_of(Where(address=local.scheduler_address)) as client,
    ):
        chunks, told = on_cluster(client, Opening())(image), 0
        store = FolderStore(tmp_path / "out")
        events = predict_to_zarr(model, open_stack(image), store, SMALL, chunks=chunks)
        while told < 3:
            told += isinstance(next(events), ChunkPredicted)
        if not before_it_is_fetched:
            local.scale(0)
        with pytest.raises(UserError, match="All workers were lost"):
            told += sum(isinstance(event, ChunkPredicted) for event in events)
    assert 3 <= told < 48
    again = fill(None, model, image, tmp_path / "out")
    assert sum(isinstance(e, ChunkPredicted) for e in again) <= 48 - 3 + 1
    fill(None, model, image, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.usefixtures("small_chunks")
def test_a_scheduler_that_is_lost_is_a_sentence_and_ends_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_connect, "ANSWER_SECONDS", 0.5)
    model, image = random_model(1, depth=2, width=4), saved(tmp_path, (40, 128, 128))
    local = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with workers_of(Where(address=local.scheduler_address)) as client:
        events = predict_files(
            model,
            {"a": image, "b": image},
            Saving(tmp_path / "out", FORMATS["zarr"]),
            SMALL,
            open_image=Opening(),
            chunks=on_cluster(client, Opening()),
        )
        told = 0
        while told < 3:
            told += isinstance(next(events), ChunkPredicted)
        local.close()
        with pytest.raises(CannotGoOnError, match=r"connection to the dask scheduler was lost"):
            list(events)
    assert not (tmp_path / "out" / "b.zarr").exists()


@POSIX
def test_a_worker_that_lacks_the_program_is_named(tmp_path: Path) -> None:
    """A process with all the packages of this one but ours."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "napari_unetseg" not in entry.name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as local:
        command = [sys.executable, "-S", "-m", "distributed.cli.dask_worker", "--no-nanny"]
        bare = subprocess.Popen(
            [*command, "--no-dashboard", "--host", "127.0.0.1", local.scheduler_address],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(packages)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with workers_of(Where(address=local.scheduler_address)) as client:
                (address,) = client.nthreads()
                with pytest.raises(UserError, match=f"{address} lacks napari-unetseg; install"):
                    on_cluster(client, Opening())
        finally:
            bare.kill()
            bare.wait()


def test_a_worker_that_cannot_reach_the_image_says_so(client: Any, tmp_path: Path) -> None:
    image = saved(tmp_path, (40, 50))
    chunks = on_cluster(client, Broken())(image)
    store = FolderStore(tmp_path / "out")
    with pytest.raises(UserError, match=r"does not exist.*same paths on all machines"):
        list(predict_to_zarr(random_model(1), open_stack(image), store, SMALL, chunks=chunks))


class Broken(Opening):
    """Opens another path, as on a machine that lacks the folder."""

    def __call__(self, path: Path) -> Any:
        return Opening()(path.with_name("not here.npy"))


def test_another_version_is_refused_by_name(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_connect, "PROGRAM_VERSION", "99.0")
    with pytest.raises(UserError, match=r"has napari-unetseg .* and this is 99\.0"):
        on_cluster(client, Opening())


# -- the command -----------------------------------------------------------------------------------


def test_the_command_predicts_many_images_and_names_the_bad_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # the command's own
    random_model(1, depth=2, width=4).save(tmp_path / "m.safetensors")
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("ac"):
        np.save(tmp_path / "in" / f"{name}.npy", noise((2, 40, 50), seed))
    (tmp_path / "in" / "b.npy").write_bytes(b"nothing")
    rest = [
        str(tmp_path / "m.safetensors"),
        str(tmp_path / "in"),
        "--threads",
        "1",
        "--axes",
        "TYX",
    ]
    before = dict(os.environ)
    assert main(["predict", *rest, "-o", str(tmp_path / "two"), "--cluster", "local:2"]) == 3
    assert dict(os.environ) == before
    said = capsys.readouterr()
    assert "2 workers; dashboard: http://127.0.0.1" in said.err
    assert "b.npy" in said.err
    assert main(["predict", *rest, "-o", str(tmp_path / "one")]) == 3
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert set(tree(tmp_path / "two")) == {"a.tif", "c.tif"}


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--cluster", "local:none"], 2, "write local:2 for two"),
        (["--cluster", "slurm"], 2, "tcp://host:8786"),
        (["--workers", "2", "--scheduler", "tcp://a:1"], 2, "Give one of"),
        (["--workers", "0"], 2, "write local:2 for two"),
        (["--scheduler", "tcp://127.0.0.1:PORT"], 1, "No dask scheduler answers"),
    ],
)
def test_wrong_words_and_schedulers_that_do_not_answer(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.setattr(dask_connect, "ANSWER_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    random_model(1).save(tmp_path / "m.safetensors")
    image = saved(tmp_path, (20, 20))
    options = [option.replace("PORT", port) for option in options]
    rest = [str(tmp_path / "m.safetensors"), str(image), "-o", str(tmp_path / "out")]
    assert main(["predict", *rest, *options]) == code
    assert sentence in capsys.readouterr().err


def test_without_dask_the_sentence_names_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    random_model(1).save(tmp_path / "m.safetensors")
    image = saved(tmp_path, (20, 20))
    rest = [str(tmp_path / "m.safetensors"), str(image), "-o", str(tmp_path / "out")]
    assert main(["predict", *rest, "--workers", "2"]) == 1
    assert "pip install distributed" in capsys.readouterr().err


def test_local_workers_listen_on_the_loopback_device_alone(client: Any) -> None:
    tree_of = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [c for p in tree_of for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert found
    assert {c.laddr.ip for c in found} == {"127.0.0.1"}


@POSIX
def test_a_killed_command_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    random_model(1, depth=3, width=8).save(tmp_path / "m.safetensors")
    saved(tmp_path, (16, 300, 300))

    def command(out: str, *more: str) -> list[str]:
        files = [str(tmp_path / name) for name in ("m.safetensors", "image.npy")]
        rest = ["-o", str(tmp_path / out), "--format", "zarr", "--tile", "128", "--threads", "1"]
        return ["predict", *files, *rest, *more]

    def written() -> int:
        found = tmp_path.glob("killed/.image.unetseg/*/labels/mask/0/c/**/*")
        return sum(p.is_file() and not p.name.startswith(".") for p in found)

    process = subprocess.Popen(
        [sys.executable, "-m", "napari_unetseg", *command("killed", "--workers", "2")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while written() < 4:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()  # its workers notice and end; the next ones may begin before
    process.wait()
    assert 4 <= written() < 16
    assert main(command("killed", "--workers", "2")) == 0
    assert main(command("whole")) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@POSIX
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_after_the_chunks_at_hand(tmp_path: Path) -> None:
    """A terminal sends it to all processes, the workers too."""
    random_model(1, depth=3, width=8).save(tmp_path / "m.safetensors")
    saved(tmp_path, (60, 300, 300))
    rest = ["m.safetensors", "image.npy", "-o", "out", "--format", "zarr", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_unetseg", "predict", *rest, "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    chunks = "out/.image.unetseg/*/labels/mask/0/c/**/[0-9]*"
    until = time.monotonic() + 120
    while len(list(tmp_path.glob(chunks))) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Stopped by Ctrl-C: 0 of 1 images are done" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_recipe_for_slurm_with_jobs_that_are_processes_here(tmp_path: Path) -> None:
    for name in ("dask_jobqueue", "cryptography"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    random_model(1, depth=2, width=4).save(tmp_path / "m.safetensors")
    saved(tmp_path, (6, 100, 90))
    recipe = [sys.executable, str(ROOT / "docs" / "slurm_predict.py"), "--kind", "local"]
    jobs = ["--jobs", "2", "--cores", "1", "--memory", "4GB", "--"]
    rest = ["m.safetensors", "image.npy", "--format", "zarr", "--threads", "1", "--tile", "64"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [*recipe, *jobs, *rest, "-o", "jobs"],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    here = [str(tmp_path / word) if "." in word else word for word in rest]
    assert main(["predict", *here, "-o", str(tmp_path / "one")]) == 0
    assert tree(tmp_path / "jobs") == tree(tmp_path / "one")


@POSIX
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("maps", [True, False])
def test_workers_number_objects_as_one_process_does(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: bool
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SMALL", SMALL.model_copy(update={"tile": 40}))
    model = object_model(maps=maps)
    np.save(tmp_path / "image.npy", smooth((130, 150)))
    image = tmp_path / "image.npy"
    events = fill(client, model, image, tmp_path / "two")
    fill(None, model, image, tmp_path / "one")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    np.testing.assert_array_equal(
        ids_of(tmp_path / "two"), predict_objects(model, open_stack(image))
    )
    done = [e.done for e in events if isinstance(e, ChunkPredicted)]
    assert done == [*range(1, done[-1] + 1), done[-1]], "every chunk and stage was told of"
    assert len(client.nthreads()) == 2


@POSIX
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("after", [0.3, 0.6, 0.9])
def test_a_worker_killed_while_objects_are_numbered_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SMALL", SMALL.model_copy(update={"tile": 40}))
    model, image = object_model(), tmp_path / "image.npy"
    np.save(image, smooth((130, 150)))
    with workers_of(Where(local=2), 1) as client:
        chunks = on_cluster(client, Opening())(image)
        victim = next(iter(client.run(os.getpid).values()))
        store = FolderStore(tmp_path / "out")
        for event in predict_to_zarr(model, open_stack(image), store, SMALL, chunks=chunks):
            if isinstance(event, ChunkPredicted) and event.done > after * event.total and victim:
                os.kill(victim, signal.SIGKILL)
                victim = 0
        assert not victim
    fill(None, model, image, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
