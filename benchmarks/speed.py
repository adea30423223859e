"""How fast training and prediction are beside MONAI, segmentation-models-pytorch and the machine.

Every contender lives in a process of its own and works only when asked to; they take turns for a
few seconds each, so that a busy machine is busy for all. Rates are medians; ratios are medians of
the ratios of each turn. CPU seconds are those of all threads of a process; peak memory is that of
its process, and ``job`` is what it rose by after the imports.

    python benchmarks/speed.py [--device cuda] [--threads N] [--widths 32,64] [--out FILE]

The peers come from ``pip install 'napari-unetseg[bench]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from contenders import Contender, Task, load_peer, make
from watch import machine, write_json

MIB = 2**20
WARM_UP = {"train": 5, "predict": 1, "machine": 3}
"""Pieces of work that nobody times."""
MACHINE = ("machine:matmul:2048", "machine:convolution:nchw", "machine:convolution:channels_last")
TRAIN = [f"train:{who}:{how}" for who in ("monai", "smp") for how in ("nchw", "channels_last")]
PREDICT = [f"predict:monai:{tile}" for tile in (256, 512, 1024)]
LIMITS = (("train", "monai", 2.5), ("predict", "monai", 2.0))
"""How many times a peer's pixels a second ours must reach."""

Row = dict[str, Any]


# -- in a contender's process ----------------------------------------------------------------------


def serve(name: str, task: Task) -> None:
    """Work for as many seconds as each line of the input says; answer with a line of JSON."""
    torch.set_num_threads(task.threads)
    load_peer(name)
    base = _memory()["now"]
    contender = make(name, task)
    for _ in range(WARM_UP[name.split(":")[0]]):
        contender.piece()
    _say({})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        _say(_turn(contender, float(line), task.device))
    peak = _memory()["peak"]
    cuda = torch.cuda.max_memory_allocated() if task.device == "cuda" else 0
    _say(
        {
            "pixels": contender.pixels,
            "flops": contender.finish(),
            "peak_mib": peak / MIB,
            "job_mib": (peak - base) / MIB,
            "cuda_mib": cuda / MIB,
        }
    )


def _turn(contender: Contender, seconds: float, device: str) -> Row:
    """Work for some seconds, at least one piece."""
    spent = []
    with _utilisation(device) as shares:
        while not spent or sum(s.seconds for s in spent) < seconds:
            spent.append(contender.piece())
    return {
        "pieces": len(spent),
        "seconds": sum(s.seconds for s in spent),
        "cpu": sum(s.cpu for s in spent),
        "utilisation": sum(shares) / len(shares) if shares else None,
    }


@contextmanager
def _utilisation(device: str) -> Iterator[list[float]]:
    """Percent of the time that the GPU computes, looked at ten times a second."""
    shares: list[float] = []
    over = threading.Event()

    def look() -> None:
        with suppress(ModuleNotFoundError, RuntimeError):  # without pynvml it is left out
            while not over.wait(0.1):
                shares.append(torch.cuda.utilization())

    looker = threading.Thread(target=look, daemon=True)
    if device == "cuda":
        looker.start()
    yield shares
    over.set()
    if device == "cuda":
        looker.join()


def _memory() -> dict[str, int]:
    """Resident bytes of this process, now and at most."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return {
            k: int(lines[n].split()[0]) * 1024 for k, n in (("now", "VmRSS"), ("peak", "VmHWM"))
        }
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return {"now": info.rss, "peak": info.peak_wset}
    import resource

    return {"now": info.rss, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _say(answer: Row) -> None:
    print(json.dumps(answer), flush=True)


# -- the race --------------------------------------------------------------------------------------


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--one", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self.turns: list[Row] = []

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"{self.name} failed; its error is above.")
        return json.loads(line)

    def _ask(self, line: str) -> Row:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def take_turn(self, seconds: float) -> None:
        """Let it work."""
        self.turns.append(self._ask(str(seconds)))

    def end(self) -> Row:
        """End it; what it did, with a rate for each turn."""
        row = self._ask("end")
        self._process.communicate()
        row["turns"] = self.turns
        for key, of in (("mpx", row["pixels"] / 1e6), ("gflops", row["flops"] / 1e9)):
            row[key] = [of * t["pieces"] / t["seconds"] for t in self.turns]
            row[f"{key}_cpu"] = [of * t["pieces"] / t["cpu"] for t in self.turns]
        shares = [t["utilisation"] for t in self.turns if t["utilisation"] is not None]
        row["utilisation"] = median(shares) if shares else None
        return row


def race(names: Sequence[str], arguments: Sequence[str], turns: int, seconds: float) -> Row:
    """Let contenders take turns, every other time backwards."""
    workers = []
    for name in names:
        print(f"preparing {name}", file=sys.stderr)
        workers.append(Worker(name, arguments))
    for turn in range(turns):
        for worker in workers if turn % 2 == 0 else reversed(workers):
            worker.take_turn(seconds)
        print(f"turn {turn + 1} of {turns}", file=sys.stderr)
    return {worker.name: worker.end() for worker in workers}


# -- what came out ---------------------------------------------------------------------------------


def best(rows: Row, start: str, key: str = "mpx") -> str:
    """The name of the fastest of some rows."""
    return max(
        (name for name in rows if name.startswith(start)), key=lambda n: median(rows[n][key])
    )


def compare(rows: Row) -> Row:
    """Ours beside each peer's best setting, turn by turn."""
    found = {}
    for job, peer, limit in (*LIMITS, ("train", "smp", None)):
        name = best(rows, f"{job}:{peer}:")
        ours, theirs = rows[f"{job}:ours:default"], rows[name]

        def ratio(key: str, ours: Row = ours, theirs: Row = theirs) -> float:
            return median(a / b for a, b in zip(ours[key], theirs[key], strict=True))

        found[f"{job}:{peer}"] = {
            "beside": name,
            "pixels_a_second": ratio("mpx"),
            "pixels_a_cpu_second": ratio("mpx_cpu"),
            "peak_memory": ours["peak_mib"] / theirs["peak_mib"],
            "job_memory": ours["job_mib"] / theirs["job_mib"],
            "cuda_memory": ours["cuda_mib"] / theirs["cuda_mib"] if theirs["cuda_mib"] else None,
            "limit": limit,
        }
    return found


def add_shares(rows: Row) -> None:
    """How much of the machine's own peak each contender reaches, by CPU seconds and by the wall."""
    peaks = {kind: best(rows, f"machine:{kind}", "gflops") for kind in ("matmul", "convolution")}
    for row in rows.values():
        for kind, name in peaks.items():
            for key in ("gflops", "gflops_cpu"):
                row[f"{key}_of_{kind}"] = median(row[key]) / median(rows[name][key])


def show(rows: Row, ratios: Row, device: str) -> None:
    """Print what was found; shares of the machine's peak by CPU seconds, on a GPU by the wall."""
    rate = "gflops" if device == "cuda" else "gflops_cpu"
    titles = (
        "Mpx/s",
        "Mpx/CPU s",
        "GFLOP/s *",
        "% matmul",
        "% conv",
        "peak MiB",
        "job MiB",
        "GPU %",
    )
    print(f"{'':36}" + "".join(f"{t:>11}" for t in titles))
    for name, row in rows.items():
        values = (
            median(row["mpx"]),
            median(row["mpx_cpu"]),
            median(row[rate]),
            100 * row[f"{rate}_of_matmul"],
            100 * row[f"{rate}_of_convolution"],
            row["peak_mib"],
            row["job_mib"],
        )
        used = row["utilisation"]
        cells = [f"{v:11.3f}" if v < 10 else f"{v:11.0f}" for v in values]
        print(f"{name:36}" + "".join(cells) + (f"{used:11.0f}" if used is not None else ""))
    print(f"* a {'second' if device == 'cuda' else 'CPU second'}")
    for row in ratios.values():
        limit = f" (wanted {row['limit']})" if row["limit"] else ""
        print(
            f"{row['beside']}: ours has {row['pixels_a_second']:.2f} × the pixels a second{limit}, "
            f"{row['pixels_a_cpu_second']:.2f} × a CPU second, {row['peak_memory']:.2f} × the peak "
            f"memory, {row['job_memory']:.2f} × without the imports"
        )


def main() -> None:
    """Race in training, then in prediction; print a table; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--image", type=int, default=2048, help="edge of the predicted image")
    parser.add_argument("--widths", default="", help="wider networks of ours, such as 32,64")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keys = ("device", "threads", "patch", "batch", "image")
    chosen = {key: getattr(options, key) for key in keys}
    if options.one:
        serve(options.one, Task(**chosen, models=options.models))
        return
    ours = ["default", *filter(None, options.widths.split(","))]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as models:
        arguments = [f"--{key}={value}" for key, value in {**chosen, "models": models}.items()]
        rows = {}
        for names in (
            [*MACHINE, *(f"train:ours:{width}" for width in ours), *TRAIN],
            [*(f"predict:ours:{width}" for width in ours), *PREDICT],
        ):
            rows |= race(names, arguments, options.turns, options.seconds)
    ratios = compare(rows)
    add_shares(rows)
    show(rows, ratios, options.device)
    if options.out:
        task = {**chosen, "turns": options.turns, "seconds": time.perf_counter() - started}
        write_json(
            options.out, {"machine": machine(), "task": task, "ratios": ratios, "rows": rows}
        )


if __name__ == "__main__":
    main()
