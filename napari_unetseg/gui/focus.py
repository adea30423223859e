"""Keyboard focus order of the dock, without hidden widgets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from qtpy.QtWidgets import QLayout


def stops(widget: QWidget) -> Iterator[QWidget]:
    """Widgets in the Tab order, in the order of the layout."""
    if widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
        yield widget
    layout = widget.layout()
    if layout is not None:
        yield from _stops_in(layout)


def _stops_in(layout: QLayout) -> Iterator[QWidget]:
    for index in range(layout.count()):
        item = layout.itemAt(index)
        if item is None:
            continue
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            yield from stops(widget)
        elif inner is not None:
            yield from _stops_in(inner)


class FocusOrder(QObject):
    """Keeps the focus order equal to the layout's, also when rows are added or removed.

    Parameters
    ----------
    root
        The root widget; a change of its layout updates the focus order.
    after
        Widgets that come last.
    """

    def __init__(self, root: QWidget, *after: QWidget) -> None:
        super().__init__(root)
        self._root, self._after = root, after
        self._order: list[QWidget] = []
        self._deferred = QTimer(self)
        self._deferred.setSingleShot(True)
        self._deferred.timeout.connect(self.arrange)
        root.installEventFilter(self)
        self.arrange()

    def eventFilter(self, _: QObject | None, event: QEvent | None) -> bool:
        """Schedule an update when the layout changes."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self._deferred.start(0)
        return False

    def arrange(self) -> None:
        """Set the focus order if it changed."""
        order = [*stops(self._root), *(stop for one in self._after for stop in stops(one))]
        if [id(w) for w in order] != [id(w) for w in self._order]:
            self._order = order
            for one, following in pairwise(order):
                QWidget.setTabOrder(one, following)
