"""Objects section: structures of objects, tools to correct them, how they are found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, QTimer
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QWidget,
)

from napari_unetseg.core.settings import ObjectSettings, description_of
from napari_unetseg.gui.state.session import ObjectTool
from napari_unetseg.gui.widgets.section import Panel, folded, hint, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.objects import Objects
    from napari_unetseg.gui.features.structures import Structures
    from napari_unetseg.gui.state.session import Session

TOOLS = {
    ObjectTool.MERGE: "Drag a line across two or more objects: they become one.",
    ObjectTool.SPLIT: "Drag a line right across an object: it is cut in two.",
    ObjectTool.DELETE: "Click on an object that is none.",
    ObjectTool.ACCEPT: "Click on an object that is right: it is used for training as it is.",
}
AREAS = "Tick this where touching ones are to be counted and measured one by one, such as nuclei."
FEW = "Finish a few whole objects: paint them new, or accept right ones. Then train."
DELAY_MS = 200
"""After the last change of a number, before objects are found again."""


class ObjectsPanel(Panel):
    """Says which structure consists of objects, and corrects them."""

    def __init__(self, session: Session, structures: Structures, objects: Objects) -> None:
        super().__init__("Objects", session)
        self._structures, self._objects = structures, objects
        self.consists = QCheckBox()
        self.consists.setToolTip(AREAS)
        self.consists.clicked.connect(self._on_consists)
        self.column.addWidget(self.consists)
        self.new = QPushButton("Paint new object")
        self.new.setToolTip("Paint a whole object with the next free number.")
        self.new.clicked.connect(objects.paint_new)
        self.column.addWidget(self.new)
        self.tools = self._tool_row()
        self.count = hint()
        self.column.addWidget(self.count)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(DELAY_MS)
        self._timer.timeout.connect(self._on_numbers)
        self.prominence, self.smoothing, self.smallest = self._numbers()
        self.found = folded("How objects are found")
        for caption, field in (
            ("Prominence", self.prominence),
            ("Smoothing", self.smoothing),
            ("Smallest", self.smallest),
        ):
            line = QWidget()
            line.setLayout(row(caption, field, None))
            self.found.addWidget(line)
        self.column.addWidget(self.found)
        self.follow("structures", "brush", "object_tool", "objects", "entry", call=self.refresh)
        self.refresh()

    def _tool_row(self) -> dict[ObjectTool, QPushButton]:
        line = QHBoxLayout()
        line.setSpacing(0)
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)
        tools = {}
        for tool, tip in TOOLS.items():
            button = tools[tool] = QPushButton(tool.capitalize())
            button.setCheckable(True)
            button.setProperty("role", "segment")
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_tool, tool))
            self._group.addButton(button)
            line.addWidget(button, 1)
        self.column.addLayout(line)
        return tools

    def _numbers(self) -> tuple[QDoubleSpinBox, QDoubleSpinBox, QSpinBox]:
        fields = ObjectSettings.model_fields
        prominence, smoothing, smallest = QDoubleSpinBox(), QDoubleSpinBox(), QSpinBox()
        prominence.setRange(0.0, 1.0)
        prominence.setSingleStep(0.02)
        smoothing.setRange(0.0, 16.0)
        smoothing.setSingleStep(0.5)
        smallest.setRange(0, 1_000_000)
        for name, field in (
            ("prominence", prominence),
            ("smoothing", smoothing),
            ("smallest", smallest),
        ):
            field.setToolTip(description_of(fields[name]))
            field.valueChanged.connect(self._timer.start)
        return prominence, smoothing, smallest

    def refresh(self) -> None:
        """Update all from the session."""
        session = self.session
        number = session.brush
        structure = next((s for s in session.structures if s.number == number), None)
        structure = structure or session.structures[0]
        self.consists.setText(f"{structure.name} consists of objects")
        with QSignalBlocker(self.consists):
            self.consists.setChecked(structure.objects)
        any_objects = any(s.objects for s in session.structures)
        self.new.setVisible(any_objects)
        for tool, button in self.tools.items():
            button.setVisible(any_objects)
            button.setEnabled(session.objects is not None)
            with QSignalBlocker(button):
                button.setChecked(session.object_tool is tool)
        self.count.setVisible(any_objects)
        self.count.setText(self._sentence())
        model = session.entry.model if session.entry is not None else None
        chosen = model.object_settings if model is not None else None
        self.found.setVisible(any_objects and chosen is not None)
        if chosen is not None and not self._timer.isActive():
            fields = self.prominence, self.smoothing, self.smallest
            blockers = [QSignalBlocker(field) for field in fields]
            self.prominence.setValue(chosen.prominence)
            self.smoothing.setValue(chosen.smoothing)
            self.smallest.setValue(chosen.smallest)
            del blockers

    def _sentence(self) -> str:
        tool, counts = self.session.object_tool, self.session.objects
        if tool in TOOLS:
            return TOOLS[tool]
        if counts is None:
            return FEW
        there, finished = counts
        text = f"{there:,} object{'s' * (there != 1)} on screen, {finished:,} finished."
        return text if finished else f"{text} {FEW}"

    def _on_consists(self, wanted: bool) -> None:
        structures = {s.number for s in self.session.structures}
        number = self.session.brush
        if number not in structures:
            number = self.session.structures[0].number
        self._structures.make_objects(number, wanted)

    def _on_tool(self, tool: ObjectTool, wanted: bool) -> None:
        self.session.object_tool = tool if wanted else ObjectTool.NONE

    def _on_numbers(self) -> None:
        self._objects.change_settings(
            prominence=round(self.prominence.value(), 4),
            smoothing=round(self.smoothing.value(), 4),
            smallest=self.smallest.value(),
        )
