"""Base class of sections: heading, session events, style."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_unetseg.gui.binding import blank_icon

if TYPE_CHECKING:
    from napari_unetseg.gui.state.session import Session

WIDEST_LABEL = "They are "
"""Width of captions, independent of the font size."""


class Panel(QWidget):
    """A section of the dock.

    Parameters
    ----------
    title
        The heading; omitted if empty.
    """

    def __init__(self, title: str, session: Session) -> None:
        super().__init__()
        self.session = session
        self._connected: list[tuple[Any, Callable[..., None]]] = []
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        self.column.setSpacing(4)
        if title:
            heading = QLabel(title)
            heading.setProperty("role", "heading")
            self.column.addWidget(heading)

    def follow(self, *fields: str, call: Callable[..., None]) -> None:
        """Call a slot whenever one of the given fields of the session changes."""
        for field in fields:
            signal = getattr(self.session.events, field)
            signal.connect(call, max_args=0)
            self._connected.append((signal, call))

    def follow_running(self, call: Callable[[], None]) -> None:
        """Call a slot when a job begins or ends, but not at its steps."""
        running = self.session.job is not None

        def on_job() -> None:
            nonlocal running
            if (self.session.job is not None) != running:
                running = not running
                call()

        self.follow("job", call=on_job)

    def release(self) -> None:
        """Disconnect from all events before the widget is deleted."""
        for signal, slot in self._connected:
            signal.disconnect(slot, missing_ok=True)
        self._connected.clear()

    def refresh(self) -> None:
        """Update the layers to choose from."""


def hint(text: str = "") -> QLabel:
    """A dim, wrapped line of explanation."""
    label = QLabel(text)
    label.setProperty("role", "hint")
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
    return label


def row(*widgets: QWidget | str | None, stretch: int | None = None) -> QHBoxLayout:
    """A row of widgets; a string becomes a label, None a gap; one of them may stretch."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for index, widget in enumerate(widgets):
        if widget is None:
            layout.addStretch(1)
            continue
        one = QLabel(widget) if isinstance(widget, str) else widget
        if isinstance(widget, str) and index == 0:
            one = Caption(widget)
        layout.addWidget(one, 1 if index == stretch else 0)
    first = layout.itemAt(0)
    if first is not None and isinstance(caption := first.widget(), Caption):
        for widget in widgets[1:2]:
            if isinstance(widget, QWidget):
                belong(caption, widget)
    return layout


class Caption(QLabel):
    """The caption of a field; all captions have the same width, also in large fonts."""

    def sizeHint(self) -> QSize:
        """The width of the widest caption."""
        self.ensurePolished()
        size = super().sizeHint()
        metrics = self.fontMetrics()
        shorter = metrics.horizontalAdvance(WIDEST_LABEL) - metrics.horizontalAdvance(
            self.text().replace("&", "")
        )
        return QSize(size.width() + max(0, shorter), size.height())

    def minimumSizeHint(self) -> QSize:
        """Never truncated."""
        return self.sizeHint()


def belong(label: QLabel, field: QWidget) -> None:
    """Connect a caption with its field, for keyboard mnemonics and screen readers."""
    if field.focusPolicy() == Qt.FocusPolicy.NoFocus:
        return
    label.setBuddy(field)
    if not field.accessibleName():
        field.setAccessibleName(label.text().replace("&", ""))


def layer_combo(choices: Callable[[], list[Any]], tooltip: str) -> ComboBox:
    """A combo box of layers with an empty choice."""
    combo = ComboBox(choices=lambda _: choices(), nullable=True, tooltip=tooltip)
    combo.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    combo.native.setMinimumWidth(56)
    return combo


def folded(title: str, *widgets: QWidget) -> QCollapsible:
    """Widgets below a collapsible heading; collapsed widgets are no Tab stops."""
    fold = QCollapsible(title, collapsedIcon=blank_icon(), expandedIcon=blank_icon())
    fold.setDuration(0)
    if (layout := fold.layout()) is not None:
        layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        fold.addWidget(widget)
    button, content = fold.toggleButton(), fold.content()
    button.setProperty("role", "fold")
    button.setStyleSheet("")
    button.setIconSize(QSize(0, 0))
    button.setAccessibleName(title)

    def show(open_now: bool) -> None:
        content.setVisible(open_now)
        fold.setText(f"{'▾' if open_now else '▸'}  {title}")

    fold.toggled.connect(show)
    show(fold.isExpanded())
    return fold


def menu_button(text: str, tip: str, actions: dict[str, Callable[[], None] | None]) -> QPushButton:
    """A button with a menu; ``-`` is a separator."""
    button = QPushButton(text)
    button.setToolTip(tip)
    menu = QMenu(button)
    for name, call in actions.items():
        if call is None:
            menu.addSeparator()
        elif (action := menu.addAction(name)) is not None:
            action.triggered.connect(lambda _=False, call=call: call())
    button.setMenu(menu)
    return button


def show_choice(combo: ComboBox, value: Any) -> None:
    """Set the value of a combo box without emitting signals."""
    with combo.changed.blocked():
        combo.reset_choices()
        combo.value = value if value in combo.choices else None


def restyle(widget: QWidget, **properties: Any) -> None:
    """Set dynamic properties that the style sheet uses."""
    for name, value in properties.items():
        widget.setProperty(name, value)
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)
