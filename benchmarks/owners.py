"""Several processes make one output and are killed at random: what is left is right, or nothing.

    python benchmarks/owners.py [--rounds 50] [--cases tiff,zarr] [--seed 0]

A round starts two to four processes of the same command, 0 to 3 s apart, and kills some of them at
random moments with SIGKILL. Afterwards each file that is there must hold the mask, or the
probabilities, of a process that was left alone; a process that was not killed must have ended with
its mask there, or with a sentence. The same command once more must give the mask and leave nothing
hidden. Cases: the formats, each with and without probabilities; ``batch``, three images with tables
and a report; and ``rivals``, where the processes have two models and replace each other's masks.

Processes are forked from one that has imported PyTorch, so that a round takes seconds: POSIX alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
import torch
import zarr
from PIL import Image

import napari_unetseg.inference.large.batch_job
import napari_unetseg.inference.large.predict_files
import napari_unetseg.inference.large.results_table  # noqa: F401 - all is imported before processes are forked
from napari_unetseg import Model, Structure, cli
from napari_unetseg.core.image_stack import Normalization
from napari_unetseg.core.labels import Classes
from napari_unetseg.core.settings import NetSettings
from napari_unetseg.models.registry import build

SIDE = 256
FORMATS = ("tiff", "ome-tiff", "png", "zarr", "inside")
CASES = (*FORMATS, *(f"{name}+probabilities" for name in FORMATS[:-1]), "batch", "rivals")
SPREADS = (0.0, 0.3, 1.0, 3.0)
"""Starts of a round are spread over so many seconds."""
KILLED_WITHIN = 2.0
"""Seconds after its start within which a process is killed, about what one alone takes."""


# -- made-up data ----------------------------------------------------------------------------------


def make_model(seed: int, path: Path) -> None:
    """A network with random weights that finds its structure in every plane of noise."""
    classes = Classes((Structure(1),), background=True)
    settings = NetSettings(depth=3, width=8, out_channels=classes.out_channels)
    torch.manual_seed(seed)
    network = build(settings).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, 1, 128, 128))
        network.head.bias.sub_(logits.mean((0, 2, 3)))
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    normalization = Normalization((0.0,), (255.0,), (127.0,))
    Model(
        net=settings,
        weights=weights,
        classes=classes,
        channels=("channel 1",),
        normalization=normalization,
        spacing=(1.0, 1.0),
        units=("pixel", "pixel"),
    ).save(path)


def make_inputs(folder: Path, planes: int) -> None:
    """Two models, three stacks of noise, the first of so many planes, and an OME-Zarr image."""
    for seed, name in ((1, "m"), (2, "n")):
        make_model(seed, folder / f"{name}.safetensors")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("a", planes), ("b", 6), ("c", 6)):
        stack = rng.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8)
        tifffile.imwrite(folder / "in" / f"{name}.tif", stack, photometric="minisblack")
        if name == "a":
            _write_zarr(folder / "a.zarr", stack)


def _write_zarr(path: Path, stack: np.ndarray) -> None:
    axes = [{"name": n, "type": "space"} for n in "zyx"]
    scale = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
    levels = [{"path": "0", "coordinateTransformations": [scale]}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    root = zarr.open_group(str(path), mode="w", attributes={"ome": ome})
    root.create_array("0", data=stack, chunks=(1, SIDE, SIDE))


# -- a command and what it leaves ------------------------------------------------------------------


def command(case: str, data: Path, out: Path, number: int = 0) -> list[str]:
    """What a process is told; ``number`` tells rivals apart."""
    if case == "batch":
        text = (
            f"threads: 1\ntile: 128\nreport: {out}/report.csv\njobs:\n"
            f"  - {{model: {data}/m.safetensors, images: {data}/in, output: {out}, measure: csv}}\n"
        )
        config = out.with_suffix(".yaml")
        config.write_text(text)
        return ["batch", str(config)]
    form, _, more = case.partition("+")
    model = data / f"{'mn'[number % 2] if case == 'rivals' else 'm'}.safetensors"
    rest = [str(model), "--threads", "1", "--tile", "128"]
    if form == "inside":
        return ["predict", *rest, str(out), "--inside"]
    form = "zarr" if form == "rivals" else form
    options = ["--probabilities"] if more else []
    options += ["--overwrite"] if case == "rivals" else []
    image = str(data / "in" / "a.tif")
    return ["predict", *rest, image, "-o", str(out), "--format", form, *options]


def found_in(case: str, out: Path) -> dict[str, np.ndarray]:
    """Every mask, probabilities and table that can be seen in an output."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(out.glob("[!.]*.tif")):
        found[file.name] = tifffile.imread(file)
    if pages := sorted(out.glob("[!.]*.png")):
        found["pages"] = np.array([len(pages)])
        found |= {page.name: np.asarray(Image.open(page)) for page in pages}
    for file in sorted(out.glob("[!.]*_objects.csv")):
        found[file.name] = np.frombuffer(file.read_bytes(), np.uint8)
    store = out if case == "inside" else out / "a.zarr"
    for name in ("labels/mask/0", *(() if case == "inside" else ("0",))):
        if (store / name / "zarr.json").exists():
            found[name] = np.asarray(zarr.open_array(str(store / name), mode="r")[...])
    return found


def hidden_in(out: Path) -> list[str]:
    """Files and folders that should not stay."""
    return sorted(str(p.relative_to(out)) for p in out.rglob(".*"))


# -- processes -------------------------------------------------------------------------------------


@dataclass
class Process:
    """A forked process that runs a command."""

    pid: int
    log: Path
    killed: bool = False
    code: int | None = None

    def ended(self) -> bool:
        """Whether it is over."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def kill(self) -> None:
        """End it, if it still runs."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.killed = True


def start(arguments: Sequence[str], log: Path) -> Process:
    """Run a command in a process of its own."""
    log.touch()  # it may be killed before it can
    pid = os.fork()
    if pid:
        return Process(pid, log)
    try:
        handle = os.open(log, os.O_WRONLY)
        os.dup2(handle, 1), os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = cli.main(list(arguments))
        sys.stdout.flush(), sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the parent must not run twice
        code = 99
    os._exit(code)


def run(arguments: Sequence[str], log: Path) -> Process:
    """Run a command to its end."""
    process = start(arguments, log)
    while not process.ended():
        time.sleep(0.01)
    return process


@dataclass
class Tally:
    """What happened in the rounds of a case."""

    rounds: int = 0
    processes: int = 0
    killed: int = 0
    waited: int = 0
    shared: int = 0
    refused: int = 0
    nothing: int = 0
    wrong: list[str] = field(default_factory=list)


def play(
    case: str, data: Path, out: Path, wanted: Sequence[dict[str, np.ndarray]], chance: random.Random
) -> Callable[[Tally], None]:
    """One round; what is to be added to the tally."""
    spread = chance.choice(SPREADS)
    moments = [(chance.uniform(0, spread), n) for n in range(chance.randint(2, 4))]
    ends = {n: at + chance.uniform(0, KILLED_WITHIN) for at, n in moments if chance.random() < 0.6}
    begun, processes = time.monotonic(), {}
    while len(processes) < len(moments) or not all(p.ended() for p in processes.values()):
        now = time.monotonic() - begun
        for at, n in moments:
            if n not in processes and now >= at:
                processes[n] = start(command(case, data, out, n), out.with_suffix(f".{n}.log"))
        for n, at in ends.items():
            if n in processes and now >= at:
                processes[n].kill()
        if now > 300:
            for process in processes.values():
                process.kill()
        time.sleep(0.005)
    wrong = [*_judged(case, out, wanted, processes), *_finished(case, data, out, wanted)]
    texts = [p.log.read_text() for p in processes.values()]

    def add(tally: Tally) -> None:
        tally.rounds += 1
        tally.processes += len(processes)
        tally.killed += sum(p.killed for p in processes.values())
        tally.waited += sum("is being predicted by" in text for text in texts)
        tally.shared += sum("by another program meanwhile" in text for text in texts)
        tally.refused += sum((p.code or 0) > 0 for p in processes.values())
        tally.nothing += all(p.killed for p in processes.values())
        tally.wrong += wrong

    return add


def _judged(
    case: str,
    out: Path,
    wanted: Sequence[dict[str, np.ndarray]],
    processes: dict[int, Process],
) -> list[str]:
    """What is wrong after a round."""
    found, wrong = found_in(case, out), []
    for name, array in found.items():
        if not any(name in w and np.array_equal(array, w[name]) for w in wanted):
            if name != "pages":  # some of a mask in several files may be there after a kill
                wrong.append(f"{name} is not what one process makes")
    for n, process in processes.items():
        text = process.log.read_text()
        if "Traceback" in text or "Unexpected" in text or process.code == 99:
            wrong.append(f"process {n} failed: {text[-500:]}")
        elif process.code == 0 and not any(w.keys() <= found.keys() for w in wanted):
            wrong.append(f"process {n} ended well, but not all files are there")
        elif (process.code or 0) > 0 and "unetseg: " not in text:
            wrong.append(f"process {n} ended with {process.code} and no sentence: {text[-300:]}")
    return wrong


def _finished(
    case: str, data: Path, out: Path, wanted: Sequence[dict[str, np.ndarray]]
) -> list[str]:
    """What is wrong after the same command once more."""
    last = run(command(case, data, out), out.with_suffix(".last.log"))
    if last.code != 0:
        return [f"the same command once more ended with {last.code}: {last.log.read_text()[-500:]}"]
    found, hidden = found_in(case, out), hidden_in(out)
    wrong = [f"{hidden} stayed"] if hidden else []
    if found.keys() != wanted[0].keys():
        return [*wrong, f"{sorted(found)} are there, not {sorted(wanted[0])}"]
    wrong += [n for n, array in wanted[0].items() if not np.array_equal(found[n], array)]
    return wrong


def references(case: str, data: Path, folder: Path) -> list[dict[str, np.ndarray]]:
    """What each command makes when it is left alone."""
    made = []
    for number in range(2 if case == "rivals" else 1):
        out = prepared(case, data, folder / f"reference-{case}-{number}")
        process = run(command(case, data, out, number), out.with_suffix(".log"))
        if process.code != 0:
            raise RuntimeError(process.log.read_text())
        found = found_in(case, out)
        masks = [a for n, a in found.items() if a.ndim == 3 and n.find("prob") < 0 and n != "0"]
        if any((mask != 0).mean((1, 2)).min() < 0.05 for mask in masks):
            raise RuntimeError(f"{case}: a plane of the reference is nearly empty")
        made.append(found)
    return made


def prepared(case: str, data: Path, out: Path) -> Path:
    """The place of an output; of ``inside`` a copy of the image."""
    if case == "inside":
        shutil.copytree(data / "a.zarr", out)
    return out


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Play so many rounds of each case; returns what was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--planes", type=int, default=60, help="of the image")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        run_in_child(lambda: make_inputs(data, options.planes))
        for case in options.cases.split(","):
            wanted = references(case, data, Path(folder))
            tally = tallies[case] = Tally()
            for number in range(options.rounds):
                chance = random.Random(f"{options.seed} {case} {number}")
                out = prepared(case, data, Path(folder) / f"{case}-{number}")
                before = len(tally.wrong)
                play(case, data, out, wanted, chance)(tally)
                for problem in tally.wrong[before:]:
                    print(f"{case}, round {number + 1}: {problem}", flush=True)
                if len(tally.wrong) == before:
                    _forget(out)
            print(f"{case}: {_told(tally)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({c: vars(t) for c, t in tallies.items()}, indent=1))
    total = sum((Counter(rounds=t.rounds, wrong=len(t.wrong)) for t in tallies.values()), Counter())
    print(f"{total['rounds']} rounds, {total['wrong']} faults")
    return [problem for tally in tallies.values() for problem in tally.wrong]


def run_in_child(work: Callable[[], None]) -> None:
    """Do something with PyTorch in a child, so that the parent has no threads of it to fork."""
    pid = os.fork()
    if not pid:
        torch.set_num_threads(1)
        work()
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the inputs could not be made")


def _forget(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for file in out.parent.glob(f"{out.name}.*"):
        file.unlink()


def _told(tally: Tally) -> str:
    return (
        f"{tally.rounds} rounds, {tally.processes} processes, {tally.killed} killed, "
        f"{tally.waited} waited, {tally.shared} took another's mask, {tally.refused} ended with a "
        f"sentence, {len(tally.wrong)} faults"
    )


if __name__ == "__main__":
    sys.exit(bool(main()))
