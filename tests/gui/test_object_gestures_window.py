"""The benchmark of edits of objects: small, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gui

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "object_gestures.py"


def test_gestures_are_timed_and_each_was_done(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    small = "--side 256 --objects 40 --turns 1 --seconds 0.3 --strokes 0 --window 900 700"
    command = [sys.executable, str(PROGRAM), *small.split(), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    kinds = {name.partition(",")[0] for name in report["ms"]}
    assert kinds == {"merge", "split", "delete", "accept"}
    assert all(0 < row["median"] <= row["max"] for row in report["ms"].values())
    assert {"gestures", "mouse alone", "new numbers"} <= set(report["late_ms"])
