"""What the documentation shows runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg import load_model, open_stack

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


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


def test_the_classic_script_is_short() -> None:
    assert len((ROOT / "docs" / "classic_script.py").read_text().splitlines()) < 60


def test_the_code_of_the_api_page_runs(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    monkeypatch.chdir(folders)
    names: dict[str, object] = {}
    for block in blocks:
        quick = block.replace("epochs=25", "epochs=1, depth=2, width=2, patch=16, batch=1")
        exec(compile(quick, "api.md", "exec"), names)
    assert open_stack("a.ome.tif").grid_shape == (64, 64)
    assert names["logits"].shape == (1, 2, 65, 40)
