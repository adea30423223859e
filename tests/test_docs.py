"""What the documentation shows runs as it stands."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg import load_model, open_stack
from napari_unetseg.cli import main

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """What a command of `unetseg` writes in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def call(command: str) -> str:
        capsys.readouterr()
        code = main(shlex.split(command)[1:])
        out, err = capsys.readouterr()
        assert code == 0, f"{command}: {err}"
        return "\n".join(line.rstrip() for line in out.splitlines())

    return call


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two images with binary masks, in ``images`` and ``masks``."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        mask = np.kron(rng.integers(0, 2, (8, 8), dtype=np.uint8), np.ones((8, 8), np.uint8))
        image = mask * 150 + rng.integers(0, 50, mask.shape, dtype=np.uint8)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image)
        Image.fromarray(mask * 255).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_the_classic_script_runs(folders: Path) -> None:
    arguments = ["images", "masks", "m", "--epochs", "2", "--depth", "2", "--width", "4"]
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "classic_script.py", *arguments],
        cwd=folders,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2: loss" in done.stdout
    model = load_model(folders / "m.safetensors")
    assert model.history[0].settings.learning_rate == 1e-3
    assert not model.history[0].settings.dice
    assert model.classes.structures[0].file_value == 255


def test_the_code_of_the_api_page_runs(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert len(blocks) == 8
    monkeypatch.chdir(folders)
    names: dict[str, object] = {}
    for block in blocks:
        quick = block.replace("epochs=25", "epochs=1, depth=2, width=2, patch=16, batch=1")
        exec(compile(quick, "api.md", "exec"), names)
    assert open_stack("a.ome.tif").grid_shape == (64, 64)
    assert names["logits"].shape == (1, 2, 65, 40)


def test_the_commands_of_the_formats_page_run(tmp_path: Path, said: Callable[[str], str]) -> None:
    import zarr

    image = np.arange(2 * 3 * 32 * 40, dtype=np.uint16).reshape(2, 3, 32, 40)
    ome = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    ome |= {f"PhysicalSize{a}": s for a, s in (("X", 0.5), ("Y", 0.5), ("Z", 2.0))}
    tifffile.imwrite(tmp_path / "cells.ome.tif", image, metadata=ome)
    tifffile.imwrite(tmp_path / "pages.tif", image[0], photometric="minisblack")
    (tmp_path / "slices").mkdir()
    for t, z in np.ndindex(2, 3):
        tifffile.imwrite(tmp_path / "slices" / f"img_t{t}_z{z}.tif", image[t, z])
    with tifffile.TiffWriter(tmp_path / "slide.tif", ome=True) as writer:
        writer.write(image[0], metadata={"Name": "scan", "axes": "ZYX"})
        writer.write(image[0, 0, :20], metadata={"Name": "Macro"})
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        for rows in (32, 20):
            writer.write(image[0, 0, :rows])
    scales = {"multiscales": [{"axes": list("zyx"), "datasets": [{"path": "0"}]}]}
    for name in ("plate.zarr/A/1/0", "image.zarr/labels/cells"):
        group = zarr.open_group(tmp_path / name, mode="w", zarr_format=2)
        group.create_array("0", data=image[0])
        group.attrs.update(scales)
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [line[2:] for b in blocks for line in b.splitlines() if line.startswith("$ ")]
    assert len(commands) == 9
    found = [said(command) for command in commands]
    shown = [line for line in blocks[0].splitlines() if not line.startswith("$ ")]
    assert shown == found[0].splitlines()
    assert "200 nm" in found[1]
    assert "T" in found[3]
    assert "image 2   Macro, YX 20 × 40 uint16, belongs to another image" in found[4]
    assert "Y         20" in found[5]
    assert "Y         20" in found[6]


def test_the_batch_of_its_page_runs(tmp_path: Path, said: Callable[[str], str]) -> None:
    from helpers import random_model

    text = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (batch,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "batch.yaml").write_text(batch, encoding="utf-8")
    for name in ("nuclei", "membranes"):
        random_model(1, depth=2, width=4).save(tmp_path / f"{name}.safetensors")
    for name in ("scans/a.tif", "scans/b.tif", "more/c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, np.random.default_rng(0).random((40, 50), np.float32))
    block = next(re.finditer(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE))[1]
    commands = [line[2:] for line in block.splitlines()]
    listed, done = (said(command) for command in commands)
    assert listed.count(" -> ") == 5
    assert done == "5 masks written by 2 jobs."
    masks = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").glob("*/*"))
    assert masks == [
        "membranes/a.zarr",
        "membranes/b.zarr",
        *(f"nuclei/{n}{e}" for n in "abc" for e in (".tif", "_objects.csv")),
    ]


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text("utf-8"))]
    here = [(page, link) for page, link in links if not link.startswith(("http", "mailto:", "#"))]
    assert len(here) > 40, "the decisions alone have as many"
    broken = [f"{page.name}: {link}" for page, link in here if not (page.parent / link).exists()]
    assert not broken


def test_every_decision_is_listed_once() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = LINK.findall((folder / "README.md").read_text("utf-8"))
    found = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert sorted(link for link in listed if re.match(r"\d{3}-", link)) == found


def test_the_model_card_is_of_the_weights_that_are_shipped() -> None:
    models = ROOT / "napari_unetseg" / "models"
    provenance = json.loads((models / "body.json").read_text(encoding="utf-8"))
    weights = (models / "body.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == provenance["sha256"]
    page = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(ROOT / "docs" / "model_card.py"))["rendered"]
    assert rendered(page) == page, "run 'python docs/model_card.py'"
    assert all(one["licence"] in page for one in provenance["sets"])
