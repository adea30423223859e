"""What all panels share: a heading, the session's events, the look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

if TYPE_CHECKING:
    from napari_unetseg.gui.controller import Controller

__all__ = ["Panel", "hint", "layer_combo", "menu_button", "row", "stylesheet"]


ACTION, ACTION_HOVER, DONE = "#0072B2", "#0A84C8", "#009E73"
"""Colours that carry white text, or meaning, in a dark and in a light theme."""

LABEL_WIDTH = 66


class Panel(QWidget):
    """A section of the dock.

    Parameters
    ----------
    title
        Its heading; none if empty.
    controller
        Told what the user wants; its session is what is shown.
    """

    def __init__(self, title: str, controller: Controller) -> None:
        super().__init__()
        self.controller, self.session = controller, controller.session
        self._connected: list[tuple[Any, Callable[..., None]]] = []
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        self.column.setSpacing(4)
        if title:
            heading = QLabel(title)
            heading.setProperty("role", "heading")
            self.column.addWidget(heading)

    def follow(self, *fields: str, call: Callable[..., None]) -> None:
        """Call a slot whenever one of these fields of the session changes."""
        for field in fields:
            signal = getattr(self.session.events, field)
            signal.connect(call, max_args=0)
            self._connected.append((signal, call))

    def follow_running(self, call: Callable[[], None]) -> None:
        """Call a slot when a job begins or ends, not at each of its steps."""
        running = self.session.job is not None

        def on_job() -> None:
            nonlocal running
            if (self.session.job is not None) != running:
                running = not running
                call()

        self.follow("job", call=on_job)

    def release(self) -> None:
        """Listen no more, before the widget is deleted."""
        for signal, slot in self._connected:
            signal.disconnect(slot, missing_ok=True)
        self._connected.clear()

    def refresh(self) -> None:
        """Show the layers that there are now."""


def hint(text: str = "") -> QLabel:
    """A dim line of explanation that wraps."""
    label = QLabel(text)
    label.setProperty("role", "hint")
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
    return label


def row(*widgets: QWidget | str | None, stretch: int | None = None) -> QHBoxLayout:
    """Widgets side by side; a string becomes a label, None a gap; one of them may stretch."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for index, widget in enumerate(widgets):
        if widget is None:
            layout.addStretch(1)
            continue
        one = QLabel(widget) if isinstance(widget, str) else widget
        if isinstance(widget, str) and index == 0:
            one.setFixedWidth(LABEL_WIDTH)
        layout.addWidget(one, 1 if index == stretch else 0)
    return layout


def layer_combo(choices: Callable[[], list[Any]], tooltip: str) -> ComboBox:
    """A choice among layers, or none."""
    combo = ComboBox(choices=lambda _: choices(), nullable=True, tooltip=tooltip)
    combo.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    combo.native.setMinimumWidth(80)
    return combo


def folded(title: str, *widgets: QWidget) -> QCollapsible:
    """Widgets under a line that folds them away."""
    fold = QCollapsible(title, collapsedIcon="▸", expandedIcon="▾")
    fold.setDuration(0)
    if (layout := fold.layout()) is not None:
        layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        fold.addWidget(widget)
    return fold


def menu_button(text: str, tip: str, actions: dict[str, Callable[[], None] | None]) -> QToolButton:
    """A button that opens a menu; ``-`` is a line."""
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
    menu = QMenu(button)
    for name, call in actions.items():
        if call is None:
            menu.addSeparator()
        elif (action := menu.addAction(name)) is not None:
            action.triggered.connect(lambda _=False, call=call: call())
    button.setMenu(menu)
    return button


def show_choice(combo: ComboBox, value: Any) -> None:
    """Bring a combo up to date without announcing anything."""
    with combo.changed.blocked():
        combo.reset_choices()
        combo.value = value if value in combo.choices else None


def stylesheet(theme_name: str) -> str:
    """The look of what napari's own style sheet does not know, in the colours of a theme."""
    theme = get_theme(theme_name)
    text, back = theme.text.as_rgb_tuple(), theme.background.as_rgb_tuple()
    dim = tuple(round(0.68 * t + 0.32 * b) for t, b in zip(text[:3], back[:3], strict=True))
    line = theme.foreground.as_hex()
    return f"""
    QLabel[role="heading"] {{ font-weight: bold; font-size: {theme.font_size}; padding-top: 2px; }}
    QLabel[role="hint"] {{ color: rgb{dim}; }}
    QLabel[role="result"], QLabel[role="value"] {{ font-weight: bold; }}
    QPushButton {{ padding: 4px 8px; min-height: 16px; }}
    QPushButton[role="primary"] {{
        background: {ACTION}; color: white; font-weight: bold;
        padding: 6px; border-radius: 3px; }}
    QPushButton[role="primary"]:hover {{ background: {ACTION_HOVER}; }}
    QPushButton[role="stop"] {{
        background: transparent; border: 2px solid {theme.error.as_hex()}; font-weight: bold;
        padding: 4px; border-radius: 3px; }}
    QPushButton[role="segment"] {{ border-radius: 0; border: 1px solid {line}; }}
    QPushButton[role="segment"]:checked {{ background: {ACTION}; color: white; }}
    QPushButton:disabled {{ color: rgb{dim}; }}
    QFrame[role="brush"] {{ border: 1px solid transparent; border-radius: 3px; }}
    QFrame[role="brush"]:hover {{ border-color: {line}; }}
    QFrame[role="brush"][chosen="true"] {{
        background: {line}; border-color: {theme.current.as_hex()}; }}
    QFrame[role="brush"] QLineEdit {{ background: transparent; border: none; padding: 0; }}
    QFrame[role="brush"] QLabel {{ background: transparent; }}
    QFrame[role="rule"] {{ background: {line}; max-height: 1px; border: none; }}
    QFrame[role="status"] {{ background: {line}; border-radius: 3px; }}
    QFrame[role="status"] QLabel {{ background: transparent; }}
    QFrame[role="status"][level="warning"] {{ border-left: 4px solid {theme.warning.as_hex()}; }}
    QFrame[role="status"][level="error"] {{ border-left: 4px solid {theme.error.as_hex()}; }}
    QFrame[role="status"][level="done"] {{ border-left: 4px solid {DONE}; }}
    QFrame[role="status"][level="info"] {{ border-left: 4px solid {theme.current.as_hex()}; }}
    """


def restyle(widget: QWidget, **properties: Any) -> None:
    """Set dynamic properties that the style sheet looks at."""
    for name, value in properties.items():
        widget.setProperty(name, value)
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)
