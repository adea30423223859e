"""Keys, help, focus and the first hint, in a real window with a keyboard."""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import napari.layers
import numpy as np
import pytest
from app_model import Application
from gui_parts import squares
from napari.layers import Image, Labels
from napari.settings import get_plugin_settings, get_settings
from napari.utils.shortcuts import default_shortcuts
from qtpy import API_NAME, QT_VERSION
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QLabel, QShortcut, QWidget
from window_parts import LEFT, NONE, Window, in_front

from napari_unetseg import __version__
from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.focus import stops
from napari_unetseg.gui.shortcuts.commands import BRUSH_MODIFIER, COMMANDS, keys_of
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.preferences import PLUGIN, read_shortcuts
from napari_unetseg.gui.state.session import Level
from napari_unetseg.gui.state.user_state import user_flags
from napari_unetseg.gui.widgets.section import Caption

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.gui

SHIFT, ALT = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.AltModifier
DEFAULTS = {c.id: c.keys for c in COMMANDS}
LAYERS = ("Image", "Labels", "Points", "Shapes", "Surface", "Tracks", "Vectors")


@pytest.fixture
def keys_kept() -> Iterator[None]:
    """Shortcuts that a test sets under Preferences are as before afterwards."""
    before = read_shortcuts()
    yield
    get_plugin_settings(PLUGIN).shortcuts.update(before)


@pytest.fixture
def hands(painted: Window, keys_kept: None, monkeypatch: pytest.MonkeyPatch) -> Window:
    """The window in front, the keyboard at its canvas; napari's tests hide its application."""
    from napari._app_model import get_app_model

    monkeypatch.setattr(Application, "get_app", lambda _: get_app_model())
    in_front(painted)
    return painted


def press(key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
    """Press a key where the keyboard is."""
    QTest.keyClick(QApplication.focusWidget(), key, modifier)
    QApplication.processEvents()


# -- no collision ----------------------------------------------------------------------------------


def test_no_key_of_ours_is_napari_s_or_a_layer_s(hands: Window) -> None:
    theirs = {str(k) for keys in default_shortcuts.values() for k in keys}
    theirs |= {str(k) for keys in get_settings().shortcuts.shortcuts.values() for k in keys}
    app = Application.get_app("napari")
    assert app is not None
    theirs |= {str(b.keybinding) for b in app.keybindings}
    for kind in LAYERS:
        theirs |= {str(k) for k in getattr(napari.layers, kind).class_keymap}
    theirs |= {str(k) for k in (*type(hands.viewer).class_keymap, *hands.viewer.keymap)}
    assert {"Ctrl+Shift+T", "Alt+S", "M", "Shift+L", "Ctrl+Z", "Space"} <= theirs
    ours = list(DEFAULTS.values())
    assert len(set(ours)) == len(ours)
    assert not set(ours) & theirs
    assert set(hands.dock.context.keys.bound) == set(DEFAULTS)


def test_mnemonics_are_nobody_else_s(hands: Window) -> None:
    """Alt and a letter, underlined in labels and buttons of the dock."""
    dock, main = hands.dock, hands.dock.window()
    of_labels = [w.text() for w in dock.findChildren(QLabel) if w.buddy() is not None]
    texts = of_labels + [w.text() for w in dock.findChildren(QAbstractButton)]
    ours = [k for t in texts if (k := QKeySequence.mnemonic(t).toString())]
    assert len(ours) > 8
    assert len(set(ours)) == len(ours)
    menus = main.menuBar().actions()
    theirs = {QKeySequence.mnemonic(action.text()).toString() for action in menus}
    assert {"Alt+F", "Alt+H"} <= theirs
    app = Application.get_app("napari")
    assert app is not None
    theirs |= {str(binding.keybinding) for binding in app.keybindings}
    assert not set(ours) & (theirs | set(DEFAULTS.values()))
    press(Qt.Key.Key_U, ALT)
    hands.wait(lambda: [s.number for s in hands.session.structures] == [1, 2])


# -- what the keys do ------------------------------------------------------------------------------


@pytest.mark.bindings
def test_keys_train_and_stop(hands: Window) -> None:
    hands.session.change_settings(steps=100_000)
    press(Qt.Key.Key_T, SHIFT)
    hands.wait(lambda: hands.session.job is not None and hands.session.job.text.startswith("Step"))
    press(Qt.Key.Key_T, SHIFT)
    hands.wait(hands.idle)
    assert hands.session.entry is not None
    press(Qt.Key.Key_M, SHIFT)
    hands.wait(lambda: "Prediction shown" in hands.session.message.text)
    prediction = hands.plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    press(Qt.Key.Key_H, SHIFT)
    assert not prediction.layer.visible
    press(Qt.Key.Key_H, SHIFT)
    assert prediction.layer.visible


@pytest.mark.bindings
def test_keys_take_brushes_and_make_a_layer(window: Window) -> None:
    window.viewer.add_layer(Image(squares(), name="squares"))
    in_front(window)
    press(Qt.Key.Key_H, SHIFT)
    assert window.session.message.text == messages.NO_PREDICTION
    press(Qt.Key.Key_N, SHIFT)
    layer = window.viewer.layers["squares · annotations"]
    press(Qt.Key.Key_0, ALT)
    assert (layer.selected_label, layer.mode) == (BACKGROUND_LABEL, "paint")
    press(Qt.Key.Key_1, ALT)
    assert (layer.selected_label, layer.mode) == (1, "paint")
    press(Qt.Key.Key_3, ALT)
    assert "no structure 3" in window.session.message.text
    window.plugin.structures.add()
    press(Qt.Key.Key_1, ALT)
    press(Qt.Key.Key_2, ALT)
    assert layer.selected_label == 2
    press(Qt.Key.Key_1)  # napari's own: erase
    assert layer.mode == "erase"


@pytest.mark.bindings
def test_what_is_typed_into_a_field_is_text(hands: Window) -> None:
    field = hands.dock.annotate.brushes.row_of(1).name
    field.setFocus()
    field.selectAll()
    press(Qt.Key.Key_T, SHIFT)
    press(Qt.Key.Key_0, ALT)
    press(Qt.Key.Key_F1)
    assert field.text().lower() in ("t", "t0")  # Qt's test keyboard types Alt and 0 as 0
    assert hands.idle()
    assert hands.session.brush == 1
    assert not any(s.isEnabled() for s in hands.dock.context.keys.bound.values())
    hands.viewer.window._qt_viewer.canvas.native.setFocus()
    press(Qt.Key.Key_0, ALT)
    assert hands.session.brush == BACKGROUND_LABEL


@pytest.mark.bindings
def test_keys_end_with_the_dock_and_come_back_with_the_next(hands: Window) -> None:
    main, keys = hands.dock.window(), hands.dock.context.keys
    before = main.findChildren(QShortcut)
    hands.viewer.window.remove_dock_widget(hands.dock)
    hands.wait(lambda: len(main.findChildren(QShortcut)) == len(before) - len(DEFAULTS))
    assert not keys.bound
    again = Window(hands.viewer)
    in_front(again)
    assert again.dock.context.keys is keys
    press(Qt.Key.Key_0, ALT)
    assert again.session.brush == BACKGROUND_LABEL


@pytest.mark.usefixtures("keys_kept")
def test_a_window_that_is_gone_hears_of_no_change(make_napari_viewer: Any) -> None:
    """Its help was open when it was closed, and its keys were there to the end."""
    gone, left = (Window(make_napari_viewer(show=True)) for _ in range(2))
    in_front(gone)
    gone.dock.help.click()
    gone.viewer.close()
    QApplication.processEvents()
    get_plugin_settings(PLUGIN).shortcuts.train = "Shift+K"
    assert left.dock.context.keys.bound["train"].key().toString() == "Shift+K"
    get_settings().appearance.font_size += 1
    get_settings().appearance.font_size -= 1


def test_two_windows_have_keys_of_their_own(make_napari_viewer: Any) -> None:
    windows = []
    for _ in range(2):
        window = Window(make_napari_viewer(show=True))
        window.viewer.add_layer(Image(squares(), name="squares"))
        windows.append(window)
    for window in windows:
        in_front(window)
        press(Qt.Key.Key_N, SHIFT)
        assert len(window.viewer.layers) == 2
    assert [len(w.viewer.layers) for w in windows] == [2, 2]


# -- help, and other keys --------------------------------------------------------------------------


def open_help(hands: Window) -> Any:
    press(Qt.Key.Key_F1)
    dialog = hands.dock.context.help
    hands.wait(lambda: dialog.isVisible())
    return dialog


def test_the_help_opens_by_key_and_by_button_and_lists_every_command(hands: Window) -> None:
    dialog = open_help(hands)
    for command in COMMANDS:
        assert command.title in dialog.keys.text()
        assert f">{command.keys}<" in dialog.keys.text()
    dialog.close()
    hands.click(hands.dock.help)
    hands.wait(dialog.isVisible)
    assert hands.dock.context.help is dialog
    assert not dialog._scroll.horizontalScrollBar().maximum()
    dialog.close()


def test_the_help_ends_with_the_versions_and_the_binding_in_use(hands: Window) -> None:
    dialog = open_help(hands)
    lines = dialog.versions.text().split("<br>")
    assert lines[0] == f"unetseg {__version__}"
    (used,) = [line for line in lines if "in use" in line]
    assert used == f"{API_NAME} {version(API_NAME)}, in use with Qt {QT_VERSION}"
    QTest.mouseDClick(dialog.versions, LEFT, NONE, QPoint(20, 8))
    assert dialog.versions.selectedText() == "unetseg"
    dialog.close()


@pytest.mark.bindings
def test_a_key_set_under_preferences_works_at_once(hands: Window) -> None:
    dialog = open_help(hands)
    preferences = get_plugin_settings(PLUGIN).shortcuts
    preferences.show_mask = "Shift+B"
    assert ">Shift+B<" in dialog.keys.text()
    assert ">Shift+H<" not in dialog.keys.text()
    dialog.close()
    in_front(hands)
    press(Qt.Key.Key_H, SHIFT)
    assert hands.session.message.text != messages.NO_PREDICTION
    press(Qt.Key.Key_B, SHIFT)
    assert hands.session.message.text == messages.NO_PREDICTION
    preferences.show_mask = ""
    assert set(DEFAULTS) - set(hands.dock.context.keys.bound) == {"show_mask"}


@pytest.mark.bindings
def test_brushes_share_a_modifier_that_can_be_another(hands: Window) -> None:
    get_plugin_settings(PLUGIN).shortcuts.brush_modifier = "Meta"
    press(Qt.Key.Key_0, ALT)
    assert hands.session.brush == 1
    press(Qt.Key.Key_0, Qt.KeyboardModifier.MetaModifier)
    assert hands.session.brush == BACKGROUND_LABEL
    assert not any(keys_of({BRUSH_MODIFIER: ""})[f"brush_{n}"] for n in range(1, 10))


def test_a_key_of_two_commands_is_said(hands: Window) -> None:
    get_plugin_settings(PLUGIN).shortcuts.show_mask = "Shift+N"
    press(Qt.Key.Key_N, SHIFT)
    assert "Shift+N" in hands.session.message.text
    assert hands.session.message.level is Level.WARNING


def test_preferences_and_program_agree_on_the_default_keys() -> None:
    preferences = get_plugin_settings(PLUGIN).shortcuts
    defaults = {name: field.default for name, field in type(preferences).model_fields.items()}
    assert keys_of(defaults) == DEFAULTS
    assert set(defaults) == {c for c in DEFAULTS if "brush" not in c} | {BRUSH_MODIFIER}


@pytest.mark.parametrize("text", ["{", "[1]", '{"welcome_seen": 5}', "\x00"])
def test_a_damaged_file_of_what_was_remembered_does_no_harm(text: str) -> None:
    user_flags.path.parent.mkdir(parents=True, exist_ok=True)
    user_flags.path.write_text(text)
    assert not user_flags.flag("welcome_seen")


# -- the keyboard's way ----------------------------------------------------------------------------


def walk(dock: QWidget) -> list[QWidget]:
    """Press Tab from the first stop until the way leaves the dock or comes round."""
    seen: list[QWidget] = []
    for _ in range(200):
        now = QApplication.focusWidget()
        if now is None or now in seen or not dock.isAncestorOf(now):
            return seen
        seen.append(now)
        press(Qt.Key.Key_Tab)
    raise AssertionError("Tab never comes round")


@pytest.mark.bindings
def test_tab_goes_from_top_to_bottom_and_into_nothing_folded(hands: Window) -> None:
    dock = hands.dock
    hands.plugin.structures.add()  # rows that were made last stand in the middle
    hands.wait(lambda: len(dock.annotate.brushes._rows) == 3)
    for _ in range(20):
        QApplication.processEvents()
    dock.welcome.dismiss.setFocus()
    seen = walk(dock)
    tops = [w.mapTo(dock, w.rect().center()).y() for w in seen]
    slack = 8  # of widgets side by side
    assert all(b >= a - slack for a, b in pairwise(tops))
    for one in (
        dock.image.image.native,
        dock.annotate.new,
        dock.annotate.brushes.row_of(1),
        dock.annotate.brushes.row_of(BACKGROUND_LABEL),
        dock.train.button,
        dock.model.load,
        dock.help,
    ):
        assert one in seen
    assert not any(dock.advanced.form.isAncestorOf(one) for one in seen)
    assert dock.result.write not in seen
    dock.advanced.fold.expand(animate=False)
    for _ in range(20):
        QApplication.processEvents()
    dock.welcome.dismiss.setFocus()
    assert any(dock.advanced.form.isAncestorOf(one) for one in walk(dock))


def test_a_brush_is_taken_by_keyboard(hands: Window) -> None:
    row = hands.dock.annotate.brushes.row_of(BACKGROUND_LABEL)
    row.setFocus()
    press(Qt.Key.Key_Space)
    assert hands.session.brush == BACKGROUND_LABEL


def test_every_stop_has_a_name_that_can_be_read_out(hands: Window) -> None:
    hands.plugin.structures.add()
    hands.dock.advanced.fold.expand(animate=False)
    QApplication.processEvents()
    nameless = [w for w in stops(hands.dock) if not name_of(w)]
    assert not nameless
    assert name_of(hands.dock.annotate.brushes.row_of(1)) == "Brush 1, structure 1"
    assert name_of(hands.dock.image.image.native) == "Image"
    assert name_of(hands.dock.help) == "Help"
    for label in hands.dock.findChildren(Caption):
        field = label.buddy()
        assert field is None or field.accessibleName()


def name_of(widget: QWidget) -> str:
    """What a screen reader says: the accessible name, or else the text of a button."""
    own = widget.text() if isinstance(widget, QAbstractButton) else ""
    return widget.accessibleName() or own


def test_where_the_keyboard_is_can_be_seen(hands: Window) -> None:
    hands.dock.advanced.fold.expand(animate=False)
    dock = hands.dock
    shown = (
        dock.annotate.new,
        dock.train.button,
        dock.train.end,
        dock.annotate.brushes.row_of(1),
        dock.model.go_on,
        dock.advanced.fold.toggleButton(),
        dock.advanced.form.values["threads"].native,
    )
    for theme in ("dark", "light"):
        hands.viewer.theme = theme
        for widget in shown:
            hands.viewer.window._qt_viewer.canvas.native.setFocus()
            QApplication.processEvents()
            before = widget.grab().toImage()
            widget.setFocus()
            QApplication.processEvents()
            after = widget.grab().toImage()
            assert before.size() == after.size()
            assert before != after, (theme, widget)


# -- the first hint --------------------------------------------------------------------------------


def test_the_first_hint_goes_for_good_when_dismissed(hands: Window) -> None:
    assert hands.dock.welcome.isVisible()
    hands.click(hands.dock.welcome.dismiss)
    assert not hands.dock.welcome.isVisible()
    hands.viewer.window.remove_dock_widget(hands.dock)
    assert not Window(hands.viewer).dock.welcome.isVisible()


def test_the_first_hint_goes_with_the_first_training(hands: Window) -> None:
    hands.dock.train.button.click()
    hands.wait(lambda: hands.idle() and hands.session.entry is not None)
    assert not hands.dock.welcome.isVisible()
    assert user_flags.flag("welcome_seen")


def test_what_cannot_be_written_is_remembered_until_the_end(
    hands: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari_unetseg.gui.state.user_state as module

    def full(_: Any) -> Any:
        raise module.UserError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(module, "atomic_path", full)
        hands.click(hands.dock.welcome.dismiss)
    assert user_flags.flag("welcome_seen")
    assert not user_flags.path.exists()
    user_flags.put("other", True)
    assert json.loads(user_flags.path.read_text()) == {"welcome_seen": True, "other": True}


# -- long waits ------------------------------------------------------------------------------------


def test_every_job_says_how_long(hands: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_unetseg.gui.state import eta
    from napari_unetseg.gui.state.session import JobKind, JobState

    doing = hands.dock.train.doing
    for kind in JobKind:
        hands.session.job = JobState(1, kind, "Working", 0.5, 75.0)
        assert "Working · " in doing.text()
        assert "1:15 left" in doing.text()
    hands.session.job = JobState(1, JobKind.EXPORT, "Writing a.tif")
    assert doing.text() == "Writing a.tif"
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    hands.dock.train._clock.timeout.emit()
    assert "so far" in doing.text()
    monkeypatch.undo()
    hands.session.job = None
    assert eta.LEAST_SECONDS <= 2
    labels = hands.viewer.layers["strokes"]
    assert isinstance(labels, Labels)


def test_an_object_is_accepted_and_the_acceptance_undone_by_key(hands: Window) -> None:
    plugin = hands.plugin
    target = plugin.masks.open(hands.session.image, "model", hands.session.structures)
    prediction = plugin.masks.current
    assert prediction is not None
    assert prediction.layer is not None
    mask = np.zeros(prediction.layer.data.shape[-2:], np.uint8)
    mask[8:28, 8:28] = 1
    mask[40:50, 40:50] = 1
    prediction.write((slice(None), slice(None)), mask)
    target.close()
    hands.viewer.reset_view()
    canvas = hands.viewer.window._qt_viewer.canvas.native
    hands.settle(canvas)
    hands.wait(lambda: hands.aims(canvas, (18, 18)))
    plugin.actions()["accept_object"]()
    truth = plugin.annotations.of(hands.session.image)
    assert truth.count(LabelSource.ACCEPTED) == 400
    plugin.actions()["undo"]()
    assert truth.count(LabelSource.ACCEPTED) == 0
    plugin.actions()["accept_plane"]()
    assert truth.count(LabelSource.ACCEPTED) == mask.size
