"""Objects section: tools of the object layer, counts, and how objects are found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicgui.widgets import FloatSlider, SpinBox
from qtpy.QtWidgets import QPushButton

from napari_unetseg.core.settings import ObjectSettings, description_of
from napari_unetseg.gui.state.session import ObjectTool
from napari_unetseg.gui.widgets.forms import Form
from napari_unetseg.gui.widgets.section import Panel, folded, hint, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.object_tuning import ObjectTuning
    from napari_unetseg.gui.features.objects import Objects
    from napari_unetseg.gui.state.session import ObjectCount, Session

TOOLS = {
    ObjectTool.PAINT: (
        "New",
        "Paint all of one object; press New again (N) for the next. With the number of an object "
        "you draw that one anew.",
    ),
    ObjectTool.MERGE: ("Merge", "Drag from one object into another: they become one (J)."),
    ObjectTool.SPLIT: (
        "Split",
        "Drag through an object, from outside to outside: it is cut in two (K).",
    ),
    ObjectTool.DELETE: ("Delete", "Click an object: it becomes background (W)."),
    ObjectTool.ACCEPT: (
        "Accept",
        "Click an object that is right: it is finished, and predictions leave it as it is (G).",
    ),
}
ENOUGH = 10
"""Finished objects with which the network can learn where objects end."""
NONE_YET = (
    "Press Train: with the mask come its objects, each in a colour of its own. Or paint a few "
    "whole ones with New."
)
FEW = (
    "Finish a few whole objects, touching ones above all: accept those that are right, correct "
    "or paint others. The network learns from them where objects end."
)
MORE = "Correct objects that are wrong: merge, split, delete or paint them. Then train again."
TRAIN = "Press Train, or let it run in Live: the network learns the finished objects."
NECKS = "Until then objects are split at necks of the mask."


class ObjectsPanel(Panel):
    """Tools and counts of the objects of the chosen image; shown where structures have them."""

    def __init__(self, session: Session, objects: Objects, tuning: ObjectTuning) -> None:
        super().__init__("Objects", session)
        self._tuning = tuning
        self._objects = objects
        self.explanation = hint()
        self.column.addWidget(self.explanation)
        self.tools: dict[ObjectTool, QPushButton] = {}
        for tool, (text, tip) in TOOLS.items():
            button = self.tools[tool] = QPushButton(text)
            button.setCheckable(True)
            button.setProperty("role", "segment")
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_pressed, tool))
        tools = row(*self.tools.values())
        tools.setSpacing(0)
        for place in range(len(self.tools)):
            tools.setStretch(place, 1)
        self.column.addLayout(tools)
        self.how = hint()
        self.how.setProperty("role", "result")
        self.column.addWidget(self.how)
        self.counts = hint()
        self.column.addWidget(self.counts)
        self._add_settings()
        self.follow("structures", "image", "entry", "objects", "brush", call=self._on_state)
        self.follow("object_tool", call=self._on_tool)
        self.follow_running(self._on_state)
        self._on_state()
        self._on_tool()

    def _add_settings(self) -> None:
        self.prominence = FloatSlider(
            min=0.01, max=0.6, step=0.01, name="prominence", label="Prominence", tracking=True
        )
        self.prominence.tooltip = description_of(ObjectSettings.model_fields["prominence"])
        self.smoothing = FloatSlider(
            min=0.0, max=6.0, step=0.1, name="smoothing", label="Smoothing", tracking=True
        )
        self.smoothing.tooltip = description_of(ObjectSettings.model_fields["smoothing"])
        self.smallest = SpinBox(min=0, max=10**7, name="smallest", label="Smallest (px)")
        self.smallest.tooltip = description_of(ObjectSettings.model_fields["smallest"])
        self.shape = FloatSlider(min=0.0, max=1.0, step=0.1, name="shape", label="Mask's shape")
        self.shape.tooltip = description_of(ObjectSettings.model_fields["shape"])
        self._fields = (self.prominence, self.shape, self.smoothing, self.smallest)
        form = Form(self._fields)
        for field in self._fields:
            field.changed.connect(partial(self._on_changed, field.name))
        self.settings = folded("How objects are found", form)
        self.column.addWidget(self.settings)

    # -- showing -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Update from the state of layers and models."""
        self._on_state()

    def _on_state(self) -> None:
        session, settings = self.session, self._tuning.settings
        able = session.image is not None and any(s.objects for s in session.structures)
        self.setVisible(able)
        trained = session.entry is not None and settings is not None
        self.settings.setVisible(able and trained)
        if not able:
            return
        count = session.objects
        self.explanation.setText(self._advice(count, trained=trained))
        self.counts.setText(f"{count.on_plane:,} on this plane, {count.finished:,} finished")
        self.settings.setEnabled(session.job is None)
        if settings is not None:
            self._show_settings(settings)

    def _advice(self, count: ObjectCount, *, trained: bool) -> str:
        """What to do next."""
        if not count.on_plane and not count.finished:
            return NONE_YET
        if trained:
            return MORE
        advice = TRAIN if count.finished >= ENOUGH else FEW
        return advice if self.session.entry is None else f"{advice} {NECKS}"

    def _show_settings(self, settings: ObjectSettings) -> None:
        for field in self._fields:
            with field.changed.blocked():
                field.value = min(max(getattr(settings, field.name), field.min), field.max)

    def _on_tool(self) -> None:
        for tool, button in self.tools.items():
            button.setChecked(tool is self.session.object_tool)
        _, how = TOOLS.get(self.session.object_tool, ("", ""))
        self.how.setText(how)
        self.how.setVisible(bool(how))

    # -- announcing ----------------------------------------------------------------------------

    def _on_pressed(self, tool: ObjectTool, _: bool = False) -> None:
        self._objects.toggle(tool)
        self._on_tool()

    def _on_changed(self, name: str, value: float) -> None:
        self._tuning.change(**{name: value})
