"""The checks that every test gets do see what they are there to see."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FAULTY = """
import os, pathlib, threading, time
from qtpy.QtCore import QThread, QTimer
kept = []

def test_clean(qtbot): pass

def test_home():
    import platformdirs
    home = pathlib.Path(os.environ["HOME"])
    assert pathlib.Path.home() == home
    assert home in pathlib.Path(os.environ["NAPARI_CONFIG"]).parents
    if not __import__("sys").platform.startswith(("win", "darwin")):
        assert home in pathlib.Path(platformdirs.user_data_dir("x")).parents

def test_left_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[0].wait, name="unetseg-left", daemon=True).start()

def test_left_qthread(qtbot):
    kept[0].set()
    kept.append(QThread())
    kept[1].start()

def test_error_in_slot(qtbot):
    kept[1].quit()
    kept[1].wait()
    QTimer.singleShot(0, lambda: 1 / 0)
    qtbot.wait(20)

def test_error_in_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

def test_timer_in_another_thread(qtbot):
    timer = QTimer()
    thread = threading.Thread(target=lambda: timer.start(1))
    thread.start()
    thread.join()

def test_warning():
    import warnings
    warnings.warn("something is wrong")
"""


def test_each_fault_fails_its_test_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("qtpy")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    shorter = conftest.replace("GRACE_S = 5.0", "GRACE_S = 0.3")
    assert shorter != conftest
    (tmp_path / "tests" / "conftest.py").write_text(shorter, encoding="utf-8")
    (tmp_path / "tests" / "test_faulty.py").write_text(FAULTY)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    bad = set(re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE))
    assert bad == set(re.findall(r"def (test_\w+)", FAULTY)) - {"test_clean", "test_home"}, (
        done.stdout + done.stderr
    )
