"""Model section: current and earlier models, save, load, details."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QPushButton

from napari_unetseg.core.score_text import score_name, score_text
from napari_unetseg.gui.widgets.section import Panel, hint, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.comparison import Comparison
    from napari_unetseg.gui.features.model_history import ModelHistory
    from napari_unetseg.gui.state.session import ModelEntry, Session

FILTER = "Model (*.safetensors)"


class ModelPanel(Panel):
    """Saving, loading and choosing models."""

    def __init__(self, session: Session, history: ModelHistory, comparison: Comparison) -> None:
        super().__init__("7  Model", session)
        self._history = history
        self.history = QComboBox()
        self.history.setToolTip("The models of this session; choose an earlier one to use it.")
        self.history.activated.connect(self._on_chosen)
        self.column.addLayout(row("In us&e", self.history, stretch=1))
        self.about = hint()
        self.column.addWidget(self.about)
        self.back = QPushButton("Back to the one before")
        self.back.setToolTip(
            "Use the model from before the last training, with its mask; press again to return."
        )
        self.back.clicked.connect(comparison.bring_back)
        self.changed = QPushButton("What changed?")
        self.changed.setToolTip("Add a layer that shows where the masks of the two models differ.")
        self.changed.clicked.connect(comparison.show_difference)
        self.column.addWidget(self.back)
        self.column.addWidget(self.changed)
        self.save = QPushButton("Save…")
        self.save.setToolTip("Save the current model as one .safetensors file.")
        self.save.clicked.connect(self._on_save_pressed)
        self.load = QPushButton("Load…")
        self.load.setToolTip("Load a model from a .safetensors file.")
        self.load.clicked.connect(self._on_load_pressed)
        buttons = row(self.save, self.load)
        buttons.setStretch(0, 1)
        buttons.setStretch(1, 1)
        self.column.addLayout(buttons)
        self.go_on = QCheckBox("Continue from this &model")
        self.go_on.setToolTip("Off: every training starts a new model.")
        self.go_on.toggled.connect(self._on_go_on)
        self.column.addWidget(self.go_on)
        self.follow("history", "entry", "go_on", call=self._on_models)
        self.follow_running(self._on_models)
        self._on_models()

    def _on_models(self) -> None:
        session = self.session
        self.history.clear()
        for each in session.history:
            self.history.addItem(each.name)
        entry = session.entry
        if entry is None:
            self.history.addItem("none yet")
        else:
            models = [each.model for each in session.history]
            self.history.setCurrentIndex(models.index(entry.model))
        free = session.job is None
        self.history.setEnabled(entry is not None and free)
        self.save.setEnabled(entry is not None and free)
        self.load.setEnabled(free)
        self.go_on.setChecked(session.go_on)
        for button in (self.back, self.changed):
            button.setEnabled(free and len(session.history) > 1)
        self.about.setVisible(entry is not None)
        if entry is not None:
            self.about.setText(_describe(entry))

    def _on_chosen(self, index: int) -> None:
        if self.session.history:
            self._history.use(self.session.history[index])

    def _on_go_on(self, go_on: bool) -> None:
        self.session.go_on = go_on

    def _on_save_pressed(self) -> None:
        folder = self._history.folder
        folder.mkdir(parents=True, exist_ok=True)
        entry = self.session.entry
        name = (entry.name if entry else "model").split(" · ")[0].replace(" ", "-").lower()
        path, _ = QFileDialog.getSaveFileName(
            self, "Save model", str(folder / f"{name}.safetensors"), FILTER
        )
        if path:
            self._history.save(Path(path))

    def _on_load_pressed(self) -> None:
        folder = self._history.folder
        path, _ = QFileDialog.getOpenFileName(self, "Load model", str(folder), FILTER)
        if path:
            self._history.load(Path(path))


def _describe(entry: ModelEntry) -> str:
    model = entry.model
    names = ", ".join(s.name for s in model.classes.structures)
    score = "not validated"
    if model.scores is not None:
        score = f"{score_name(model.scores)} {score_text(model.scores)}"
    saved = f"; file {entry.path.name}" if entry.path else "; not saved"
    channels = "channel" if len(model.channels) == 1 else "channels"
    return f"{model.dims}D, {len(model.channels)} {channels}, finds {names}; {score}{saved}."
