"""What every test gets: a home of its own, and a failure for whatever it leaves running."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
OUR_THREADS = "unetseg"  # what our threads' names begin with
GRACE_S = 5.0  # how long a thread may take to end after its test
BAD_QT_MESSAGES = re.compile(
    r"different thread|another thread|Destroyed while thread|[Tt]imers can|not a GUI thread"
)

T = TypeVar("T")

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def isolate_home() -> None:
    """Point everything that keeps settings or data of a user to a temporary folder.

    This must happen before napari and Qt are imported. Caches (fonts, downloads) stay shared.
    """
    home = Path(tempfile.mkdtemp(prefix="unetseg-home-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    cache = Path.home() / ".cache"
    os.environ.setdefault("XDG_CACHE_HOME", str(cache))
    os.environ.update(
        HOME=str(home),
        USERPROFILE=str(home),
        APPDATA=str(home / "appdata"),
        LOCALAPPDATA=str(home / "localappdata"),
        XDG_CONFIG_HOME=str(home / "config"),
        XDG_DATA_HOME=str(home / "data"),
        XDG_STATE_HOME=str(home / "state"),
        NAPARI_CONFIG=str(home / "config" / "napari" / "settings.yaml"),
        MPLBACKEND="Agg",
    )


def choose_qt() -> None:
    """Let napari and pytest-qt use the same binding, PyQt6 unless told otherwise.

    Without a screen Qt draws nowhere: napari's canvas needs Xvfb (`run.py test` starts it).
    """
    installed = (
        name
        for name, module in (("pyqt6", "PyQt6"), ("pyqt5", "PyQt5"), ("pyside6", "PySide6"))
        if importlib.util.find_spec(module)
    )
    binding = os.environ.setdefault("QT_API", next(installed, "pyqt6"))
    os.environ["PYTEST_QT_API"] = binding
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not screen:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


isolate_home()
choose_qt()


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real images beside the checkout, or skip where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "benchmark.tsv").is_file():
        pytest.skip("needs the real images of ../shared/data")
    return folder


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves one of our threads, a pool job or a QThread running.

    QThreads are looked for (which takes 0.1 s and more) after tests that may make some (marked
    ``gui``, below ``tests/gui`` or with pytest-qt's ``qtbot``) and that left a thread of any kind.
    """
    before, numbers = set(threading.enumerate()), thread_numbers()
    yield
    left = wait_for_none(lambda: left_threads(before))
    assert not left, f"threads left running: {left}"
    if "qtpy" in sys.modules and may_use_qt(request.node):
        jobs = wait_for_none(pool_jobs)
        assert not jobs, f"jobs left running in Qt's thread pool: {jobs}"
        left = wait_for_none(running_qthreads) if thread_numbers() - numbers else []
        assert not left, f"QThreads left running: {left}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test in which Qt was used from a wrong thread."""
    result = yield
    capture = getattr(item, "qt_log_capture", None)
    messages = [record.message for record in capture.records] if capture else []
    bad = [message for message in messages if BAD_QT_MESSAGES.search(message)]
    assert not bad, f"Qt complained: {bad}"
    return result


def wait_for_none(find: Callable[[], T], timeout_s: float = GRACE_S) -> T:
    """Return what is still found after waiting until nothing is, processing Qt events."""
    end = time.monotonic() + timeout_s
    while (found := find()) and time.monotonic() < end:
        if (application := qt_application()) is not None:
            application.processEvents()
        time.sleep(0.01)
    return found


def may_use_qt(test: Any) -> bool:
    """Tell whether a test may have made QThreads."""
    return (
        test.get_closest_marker("gui") is not None
        or "gui" in test.path.relative_to(ROOT).parts
        or "qtbot" in test.fixturenames
    )


def left_threads(before: set[threading.Thread]) -> list[str]:
    """Return the names of our threads that were started after `before` and still run."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith(OUR_THREADS)
    ]


def thread_numbers() -> set[int]:
    """Return the numbers of this process's threads, those of Qt and other libraries too."""
    return {thread.id for thread in psutil.Process().threads()}


def pool_jobs() -> int:
    """Return how many jobs run in Qt's thread pool."""
    from qtpy.QtCore import QThreadPool

    return int(QThreadPool.globalInstance().activeThreadCount())


def running_qthreads() -> list[str]:
    """Return the QThreads that run, but for this one."""
    from qtpy.QtCore import QThread

    current = QThread.currentThread()
    types = with_subclasses(QThread)
    threads = [each for each in gc.get_objects() if type(each) in types and each != current]
    return [repr(thread) for thread in threads if is_running(thread)]


def with_subclasses(kind: type) -> set[type]:
    """Return a class and everything derived from it."""
    return {kind}.union(*(with_subclasses(each) for each in kind.__subclasses__()))


def is_running(thread: Any) -> bool:
    """Tell whether a QThread runs; one whose C++ side is gone does not."""
    try:
        return bool(thread.isRunning())
    except RuntimeError:
        return False


def qt_application() -> Any:
    """Return the running QApplication, or None, without importing Qt."""
    if "qtpy" not in sys.modules:
        return None
    from qtpy.QtCore import QCoreApplication

    return QCoreApplication.instance()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command line in this process: `cli_runner.Run`."""
    from cli_runner import runner

    return runner(capsys)
