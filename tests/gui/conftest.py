"""Controllers without a window, and a core that fails on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from gui_parts import TINY, squares, strokes
from napari.components import ViewerModel
from napari.layers import Image, Labels
from sync_runner import SyncRunner
from window_parts import Window

from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.state.session import Session
from napari_unetseg.gui.state.user_state import user_flags

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event


@pytest.fixture(autouse=True)
def sessions_are_let_go(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take off what is connected to the sessions of a test.

    psygnal holds a function that a test connects, and what that holds, as long as the session
    lives: with a session among it for ever, its layers and windows too.
    """
    init, made = Session.__init__, []

    def noted(self: Session, *args: Any, **more: Any) -> None:
        made.append(self)
        init(self, *args, **more)

    monkeypatch.setattr(Session, "__init__", noted)
    yield
    for session in made:
        session.events.disconnect()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the projects that another one left."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def model_viewer() -> ViewerModel:
    """A viewer without a window, with an image and strokes on it."""
    viewer = ViewerModel()
    viewer.add_layer(Image(squares(), name="squares"))
    viewer.add_layer(Labels(strokes(), name="strokes"))
    return viewer


@pytest.fixture
def plugin(model_viewer: ViewerModel) -> Iterator[Plugin]:
    """A plugin whose jobs run at once, with a tiny network."""
    one = Plugin(model_viewer, SyncRunner())
    one.session.change_settings(**TINY)
    yield one
    one.disconnect()


@pytest.fixture
def readers() -> Iterator[None]:
    """napari's own readers, which its test fixtures leave out."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    there = "napari" in manager
    if not there:
        manager.register(PluginManifest.from_distribution("napari"))
    yield
    if not there:
        manager.unregister("napari")


@pytest.fixture
def said(plugin: Plugin) -> list[str]:
    """Everything that the status line said."""
    sentences: list[str] = []
    plugin.session.events.message.connect(lambda m: sentences.append(m.text))
    return sentences


@pytest.fixture
def broken_core(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Put another generator function in the place of the core's training."""
    import napari_unetseg.training.train as train

    def replace(function: Any) -> None:
        monkeypatch.setattr(train, "train_events", function)

    return replace


@pytest.fixture
def window(make_napari_viewer: Any) -> Iterator[Window]:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 800)
    return Window(viewer)


@pytest.fixture
def painted(window: Window) -> Window:
    """The window with a small image and strokes."""
    window.viewer.add_layer(Image(squares(), name="squares"))
    window.viewer.add_layer(Labels(strokes(), name="strokes"))
    return window


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A training that goes on until it is stopped; the event says that it has ended."""
    import napari_unetseg.training.train as train

    real, ended = train.train_events, threading.Event()

    def run(pairs: Any, settings: Any, **options: Any) -> Generator[Event, None, Any]:
        settings = settings.model_copy(update={"steps": 100_000})
        try:
            return (yield from real(pairs, settings, **options))
        finally:
            ended.set()

    monkeypatch.setattr(train, "train_events", run)
    return ended


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Every test begins as a first run does."""
    user_flags.path.unlink(missing_ok=True)
    yield
    user_flags.path.unlink(missing_ok=True)
