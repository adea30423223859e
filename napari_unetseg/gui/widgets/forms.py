"""magicgui forms with aligned labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, Container
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QLabel, QSizePolicy, QWidget

from napari_unetseg.gui.widgets.section import belong

if TYPE_CHECKING:
    from magicgui.widgets.bases import ValueWidget


class Form(QWidget):
    """Value widgets in a column; ``values`` is the magicgui container."""

    def __init__(self, widgets: Sequence[ValueWidget[Any]]) -> None:
        super().__init__()
        self.values: Container[Any] = Container(widgets=widgets, labels=False)
        self.labels: dict[str, QLabel] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(2, 0, 0, 0)
        layout.setVerticalSpacing(3)
        layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for widget in widgets:
            native = widget.native
            if isinstance(widget, CheckBox):
                widget.text = widget.label
                layout.addRow(native)
                continue
            native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            self.labels[widget.name] = QLabel(widget.label)
            self.labels[widget.name].setToolTip(widget.tooltip or "")
            belong(self.labels[widget.name], native)
            layout.addRow(self.labels[widget.name], native)
