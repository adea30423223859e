"""One mutated file after another, opened in a process of its own that notes what is touched."""

from __future__ import annotations

import collections
import dataclasses
import os
import shutil
import sys
import sysconfig
import tempfile
import time
import traceback
import typing
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mutations import OUTSIDE, Files, Seed, mutate, write_case

from napari_unetseg.core.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Result", "serve"]

TILE = 256
RUNS = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "subprocess.Popen",
    "pickle.find_class", "socket.connect", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir",
    "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree",
}  # fmt: skip
INSTALLED = tuple(
    os.path.realpath(p)
    for p in {
        *(sysconfig.get_paths()[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")),
        *(p for p in sys.path if p.endswith("-packages")),
        str(Path(__file__).resolve().parents[1] / "napari_unetseg"),
    }
)


MAKERS = (collections.__file__, dataclasses.__file__, typing.__file__)


@dataclass(frozen=True, slots=True)
class Result:
    """How a case ended: ``opened``, ``refused``, or ``failed``, and what was seen on the way.

    ``megabytes`` is the peak above what the process held before; None where it is not known.
    """

    number: int
    kind: str
    end: str
    text: str
    seconds: float
    megabytes: float | None
    seen: tuple[str, ...] = ()


class Watch:
    """Notes, while ``folder`` is set, what code ran and which files elsewhere were opened."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: set[str] = set()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in RUNS:
            self.seen.add(f"{event} {args}"[:200])
        elif event in ("open", "os.listdir", "os.scandir"):
            self._touch(event, args)
        elif event == "exec":
            self._code(event, getattr(args[0], "co_filename", "?"))
        elif event == "compile" and args[1] is not None:
            self._code(event, os.fsdecode(args[1]))
        elif event == "import" and args[1] is not None and self._within(str(args[1])):
            self.seen.add(f"import {args[0]} from {args[1]}")

    def _within(self, path: str) -> bool:
        return f"{path}/".startswith(f"{self.folder}/")

    def _touch(self, event: str, args: tuple[Any, ...]) -> None:
        if not isinstance(args[0], str | bytes | os.PathLike):
            return  # a file that is open already
        path = os.path.realpath(os.fsdecode(args[0]))
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or not (self._within(path) or path.startswith(INSTALLED)):
            self.seen.add(f"{event} {path}{' to write' if writes else ''}")

    def _code(self, event: str, name: str) -> None:
        """Code of installed modules is imported late; ``<unknown>`` is text read as a literal.

        Named tuples, data classes and names of types are made from ``<string>``; Cython names
        its ``.pyx`` in tracebacks.
        """
        known = name.startswith("<frozen ") or (event == "compile" and name == "<unknown>")
        known |= event == "compile" and name.endswith(".pyx")
        known |= name == "<string>" and sys._getframe(2).f_code.co_filename in MAKERS
        if not known and not os.path.realpath(name).startswith(INSTALLED):
            self.seen.add(f"{event} {name}")


def open_case(path: Path) -> None:
    """Open an image or a model, and read a corner of its first and of its last plane."""
    if path.suffix == ".safetensors":
        from napari_unetseg.models.model import load_model

        load_model(path)
        return
    from napari_unetseg.io.open_image import open_levels

    for stack in open_levels(path):
        inner = [slice(0, TILE) if a in "YX" else None for a in stack.axes]
        for place in (0, -1):
            if all(stack.data.shape):
                np.asarray(stack.data[tuple(place if i is None else i for i in inner)])


def serve(pipe: Connection, seeds: list[Seed], seed: int, numbers: range) -> None:
    """Open the cases of these numbers; before each its number is sent, after it a `Result`."""
    from napari_unetseg.io.readers.lazy_array import clear_cache

    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print about bad files
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="unetseg-mutants-") as name:
        folder = Path(os.path.realpath(name))
        (folder / OUTSIDE).write_text("not for reading")
        for good in seeds:  # what is loaded once is loaded before anything is measured
            for _ in range(2):
                if (result := _tried(folder, -1, good, good.files, watch)).end != "opened":
                    raise RuntimeError(f"{good.kind} is no good seed: {result.text}")
        _limit()
        for number in numbers:
            pipe.send(number)
            chosen = seeds[number % len(seeds)]
            files = mutate(chosen, np.random.default_rng([seed, number]))
            clear_cache()
            pipe.send(_tried(folder, number, chosen, files, watch))


def _tried(folder: Path, number: int, seed: Seed, files: Files, watch: Watch) -> Result:
    case = folder / "case"
    try:
        write_case(case, files)
        before = _reset_peak()
        watch.seen.clear()
        watch.folder = str(case)
        start = time.perf_counter()
        end, text = _ended(case / seed.entry)
        seconds = time.perf_counter() - start
        watch.folder = None
        peak = None if before is None else max(_status("VmHWM") - before, 0.0)
    finally:
        watch.folder = None
        shutil.rmtree(case, ignore_errors=True)
    return Result(number, seed.kind, end, text, seconds, peak, tuple(sorted(watch.seen)))


def _ended(path: Path) -> tuple[str, str]:
    try:
        open_case(path)
    except UserError as error:
        text = str(error)
        plain = text.endswith(".") and "\n" not in text
        return ("refused", text) if plain else ("failed", f"no sentence: {text!r}")
    except BaseException:  # noqa: BLE001 - whatever comes is what is looked for
        return "failed", traceback.format_exc()
    return "opened", ""


# -- memory, as Linux tells it ---------------------------------------------------------------------


def _status(name: str) -> float:
    """A figure of this process in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def _reset_peak() -> float | None:
    """Begin a new peak; what is held now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _limit() -> None:
    """Let a runaway end itself and not the machine: 2 GB of addresses more than now."""
    if sys.platform == "linux":
        import resource

        most = int((_status("VmSize") + 2048) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
