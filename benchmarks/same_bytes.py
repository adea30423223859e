"""One mask in five ways: in one go, on two workers, killed three times on each, and untiled.

    python benchmarks/same_bytes.py DATA [--dims 2]

A stack of DATA (2: a time lapse of simulated nuclei; 3: nuclei in a volume, mirrored at its far
ends to have several chunks) trains a model from its strokes and is predicted by the command line.
A kill is a SIGKILL of the command alone, once it has stored two more chunks; its workers notice by
themselves. All files of the outputs must have the same bytes, and the mask must be that of the
whole image at once but for voxels whose two best classes are closer than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_unetseg import PredictSettings, load_model, open_stack, predict_probabilities

STACKS = {2: "timelapse_sim_ctc/NAME/fluo_n2dh_sim_01", 3: "nuclei3d_gonuclear/NAME/ovule_1135"}
TILE = {2: 128, 3: 64}
LARGEST = 160
CLOSE = 1e-4


def command(*arguments: object) -> list[str]:
    """The command line of a call of ``unetseg``, on one thread."""
    return [sys.executable, "-m", "napari_unetseg", *map(str, arguments), "--threads", "1"]


def prepared(data: Path, folder: Path, dims: int) -> tuple[Path, Path]:
    """A model, and an image."""
    found = {
        name: next(data.glob(STACKS[dims].replace("NAME", name) + ".*"))
        for name in ("images", "scribbles")
    }
    model, more = folder / "model.safetensors", ["--dims", dims, "--width", 8, "--steps", 30]
    train = command("train", *found.values(), "-o", model, "--labels", "strokes", *more)
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if dims == 2:
        return model, found["images"]
    array = np.asarray(open_stack(found["images"]).data[...])
    array = np.pad(array, [(0, max(0, LARGEST - n)) for n in array.shape], "symmetric")
    np.save(folder / "volume.npy", array)
    return model, folder / "volume.npy"


def stored(folder: Path) -> int:
    """Chunks of the mask that are there."""
    return sum(1 for p in folder.glob("*/labels/mask/0/c/**/*") if p.is_file() and p.name[0] != ".")


def killed(line: list[str], out: Path, kills: int) -> list[int]:
    """Kill a command so often, then let it end; chunks that were there at each kill."""
    found = []
    for _ in range(kills):
        before = stored(out)
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        while stored(out) < before + 2 and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is not None:
            raise SystemExit("It ended before it was killed; choose a larger image.")
        process.kill()
        process.wait()
        found.append(stored(out))
    subprocess.run(line, check=True, capture_output=True)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def against_untiled(model: Path, image: Path, out: Path) -> dict[str, Any]:
    """How the mask differs from that of the whole image."""
    network, stack = load_model(model), open_stack(image)
    shares = predict_probabilities(network, stack, PredictSettings(tile=16384, threads=1))
    whole = network.classes.decode(shares.argmax(0))
    mask = zarr.open_array(str(next(out.glob("*/labels/mask/0"))), mode="r")[...]
    best = np.sort(shares, axis=0)[-2:]
    differs = mask != whole
    gap = float((best[1] - best[0])[differs].max(initial=0.0))
    found = {"voxels": whole.size, "structures": np.unique(mask).tolist()}
    return {**found, "differ": int(differs.sum()), "largest_gap": gap, "ok": gap < CLOSE}


def main() -> None:
    """Predict in all ways, print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model, image = prepared(options.data, work, options.dims)
        shape = ["--format", "zarr", "--tile", TILE[options.dims]]
        lines = {
            name: command("predict", model, image, "-o", work / name, *shape, *more)
            for name, more in (
                ("one", []),
                ("workers", ["--workers", 2]),
                ("one_killed", []),
                ("workers_killed", ["--workers", 2]),
            )
        }
        for name in ("one", "workers"):
            subprocess.run(lines[name], check=True, capture_output=True)
        first, facts = tree(work / "one"), {"chunks": stored(work / "one"), "files": 0}
        facts["files"] = len(first)
        for name in ("one_killed", "workers_killed"):
            facts[f"{name}_at"] = killed(lines[name], work / name, 3)
        for name in lines:
            facts[f"{name}_same_bytes"] = tree(work / name) == first
        facts["against_untiled"] = against_untiled(model, image, work / "one")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
