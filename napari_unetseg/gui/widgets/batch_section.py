"""Batch section: images, progress, results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHeaderView,
    QPushButton,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
)
from superqt import QElidingLabel

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state.batch_rows import BatchRow, RowState
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind
from napari_unetseg.gui.widgets.model_section import FILTER
from napari_unetseg.gui.widgets.section import Panel, restyle, row
from napari_unetseg.io.open_image import SUFFIXES
from napari_unetseg.io.write_masks import FORMATS

if TYPE_CHECKING:
    from qtpy.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent, QKeyEvent

    from napari_unetseg.gui.features.batch import BatchPrediction
    from napari_unetseg.gui.features.model_history import ModelHistory
    from napari_unetseg.gui.features.voxel_size import VoxelSize
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.state.session import Session

COLUMNS = ("Image", "State", "Unsure", "Found", "Time")
EMPTY = "Add images, or drop files and folders here. The current model predicts a mask for each."
NO_MODEL = "No model yet: train one, or load one from a file with 'Model…'."


class BatchTable(QTableWidget):
    """The table of images; accepts dropped files."""

    def __init__(self, panel: BatchPanel) -> None:
        super().__init__(0, len(COLUMNS))
        self._panel = panel
        self.setHorizontalHeaderLabels(COLUMNS)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setAcceptDrops(True)
        self.setAccessibleName("Images of the batch")
        if (rows := self.verticalHeader()) is not None:
            rows.hide()
        if (head := self.horizontalHeader()) is not None:
            head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            head.setSectionResizeMode(3, QHeaderView.ResizeMode.Stretch)
        self.setMinimumHeight(70)
        if (unsure := self.horizontalHeaderItem(2)) is not None:
            unsure.setToolTip(
                "Mean uncertainty of the network, 0 to 1; check images with a higher value "
                "than the others."
            )

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Enter opens the image, Delete removes it from the list."""
        keys = {
            Qt.Key.Key_Return: self._panel.open.click,
            Qt.Key.Key_Enter: self._panel.open.click,
            Qt.Key.Key_Delete: self._panel.remove.click,
        }
        if event is not None and (press := keys.get(Qt.Key(event.key()))) is not None:
            press()
            return
        super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Accept files."""
        if event is not None and (data := event.mimeData()) is not None and data.hasUrls():
            event.acceptProposedAction()

    def dragMoveEvent(self, event: QDragMoveEvent | None) -> None:
        """Accept files anywhere in the table."""
        if event is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Add the dropped files."""
        if event is None or (data := event.mimeData()) is None:
            return
        event.acceptProposedAction()
        paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
        self._panel._batch.add(paths)


class BatchPanel(Panel):
    """The list of images and its buttons."""

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        batch: BatchPrediction,
        voxel_size: VoxelSize,
        history: ModelHistory,
    ) -> None:
        super().__init__("", session)
        self._jobs, self._batch = jobs, batch
        self._voxel_size, self._history = voxel_size, history
        self._folder: Path | None = None
        self._add_list()
        self._add_saving()
        self.follow("batch", call=self._on_batch)
        self.follow("job", "entry", "message", call=self._on_state)
        self.follow("match_spacing", call=self._on_match)
        self._on_match()
        self._on_batch()

    def _add_list(self) -> None:
        """Add the table of images, and the buttons that change it."""
        self.files = _button("Add files…", "Choose image files.", self._on_files_pressed)
        self.folder = _button(
            "Add folder…", "A folder of images, or an OME-Zarr image.", self._on_folder_pressed
        )
        self.opened = _button(
            "Add open images",
            "Add the images that are open in napari.",
            self._batch.add_open,
        )
        self.remove = _button(
            "Remove", "Remove the selected images from the list.", self._on_remove_pressed
        )
        self.table = BatchTable(self)
        self.table.itemDoubleClicked.connect(self._on_open_pressed)
        self.table.itemSelectionChanged.connect(self._on_state)
        self.explanation = _line(EMPTY)
        self.open = _button(
            "Open with mask", "Open the selected image with its mask.", self._on_open_pressed
        )
        self.worst = _button(
            "Annotate the least certain",
            "Open the images with the highest uncertainty, each with an annotation layer: "
            "strokes there help most.",
            self._on_worst_pressed,
        )
        self.count = QSpinBox()
        self.count.setRange(1, 99)
        self.count.setValue(3)
        self.count.setAccessibleName("How many to annotate")
        self.count.setToolTip("Number of images to open.")
        self.model = _button("Model…", "", self._on_model_pressed)
        adding = (self.files, self.folder, self.opened, self.remove, self.model)
        self.column.addLayout(row(*adding, None, self.open, self.worst, self.count))
        self.column.addWidget(self.explanation)
        self.column.addWidget(self.table, 1)

    def _add_saving(self) -> None:
        """Add output folder, format and options, and the buttons of the job."""
        self.into = _button(
            "Masks into…", "The folder that masks and tables are written to.", self._on_into_pressed
        )
        self.where = QElidingLabel("choose a folder")
        self.where.setElideMode(Qt.TextElideMode.ElideLeft)
        self.where.setMinimumWidth(80)
        self.format = QComboBox()
        for each in FORMATS.values():
            self.format.addItem(each.title, each.name)
        self.format.setAccessibleName("Format of the masks")
        self.format.setToolTip("\n".join(f"{f.title}: {f.help}" for f in FORMATS.values()))
        self.measure = QCheckBox("Measure objects")
        self.measure.setToolTip("Write a table (CSV) of the objects beside each mask.")
        self.keep = QCheckBox("Keep masks")
        self.keep.setToolTip(
            "Skip images that already have a mask in the folder, of any model; this continues a "
            "batch that another window started."
        )
        self.match = QCheckBox("Model's pixel size")
        self.match.setToolTip(
            "Predict each image at the model's pixel size, if both are known: the image is "
            "resampled to it, and the mask back."
        )
        self.match.toggled.connect(self._voxel_size.choose)
        self.run = QPushButton("Predict all")
        self.run.setProperty("role", "primary")
        self.run.clicked.connect(self._on_run_pressed)
        self.pause = _button("Pause", "Pauses after the current piece.", self._on_pause_pressed)
        self.doing = _line()
        saving = (self.into, self.where, self.format, self.measure, self.keep, self.match)
        below = row(self.run, self.pause, self.doing, *saving)
        below.setStretch(2, 2)
        below.setStretch(4, 1)
        self.column.addLayout(below)

    # -- showing -------------------------------------------------------------------------------

    def _on_batch(self) -> None:
        rows = self.session.batch
        self.explanation.setVisible(not rows)
        self.table.setRowCount(len(rows))
        for place, one in enumerate(rows):
            for column, text in enumerate(self._texts(one)):
                self._show(place, column, text, one)
        self._on_state()

    def _show(self, place: int, column: int, text: str, one: BatchRow) -> None:
        item = self.table.item(place, column)
        if item is None:
            item = QTableWidgetItem()
            self.table.setItem(place, column, item)
        if item.text() != text:
            item.setText(text)
        item.setToolTip("\n".join([one.error or str(one.path), *one.notices]))

    def _texts(self, one: BatchRow) -> tuple[str, ...]:
        state = one.state.value
        if one.state is RowState.RUNNING and self.session.job is not None:
            state = "paused" if self.session.job.paused else "predicting…"
        unsure = "" if one.unsure is None else f"{one.unsure:.3f}"
        took = f"{one.seconds:.1f} s" if one.seconds else ""
        found = self._found(one)
        if one.notices:
            found = " ".join([f"{found}." if found else "", *one.notices]).lstrip()
        return one.name, state, unsure, one.error or found, took

    def _found(self, one: BatchRow) -> str:
        """Contents of a mask: objects of each structure if measured, else its area fraction."""
        names = {s.number: s.name for s in self.session.structures}
        if one.objects:
            return ", ".join(
                f"{count} × {names.get(number, number)}" for number, count in one.objects.items()
            )
        return _shares(one.voxels or {}, names)

    def _on_state(self) -> None:
        job, entry = self.session.job, self.session.entry
        mine = job is not None and job.kind is JobKind.BATCH
        rows, chosen = self.session.batch, self._selected()
        self.run.setText("Stop" if mine else "Predict all")
        role = "stop" if mine else "primary"
        if self.run.property("role") != role:
            restyle(self.run, role=role)
        self.run.setEnabled(mine or (job is None and bool(rows) and entry is not None))
        self.run.setToolTip(
            "Stops after the current piece; what was written is kept."
            if mine
            else "Predicts the missing masks; a stopped batch continues where it was."
        )
        self.pause.setEnabled(mine)
        self.pause.setText("Go on" if job is not None and job.paused else "Pause")
        self.remove.setEnabled(not mine and bool(chosen))
        adding, saving = (self.files, self.folder, self.opened), (self.into, self.format)
        for widget in (*adding, *saving, self.measure, self.keep, self.match):
            widget.setEnabled(not mine)
        self.model.setEnabled(job is None)
        used = f"In use: {entry.name}." if entry is not None else "None is in use yet."
        self.model.setToolTip(f"Use a model from a .safetensors file. {used}")
        self.open.setEnabled(bool(chosen))
        self.worst.setEnabled(job is None and any(one.unsure is not None for one in rows))
        if mine and job is not None:
            part = f"{round(100 * (job.fraction or 0))} % · " if job.fraction is not None else ""
            self.doing.setText(f"{part}{job.text}{' · paused' if job.paused else ''}")
        else:
            status = self.session.message.text or (f"Model: {entry.name}" if entry else "")
            self.doing.setText(NO_MODEL if entry is None else status)

    def _on_match(self) -> None:
        self.match.setChecked(bool(self.session.match_spacing))

    def _selected(self) -> list[BatchRow]:
        model = self.table.selectionModel()
        places = sorted(i.row() for i in model.selectedRows()) if model is not None else []
        rows = self.session.batch
        return [rows[place] for place in places if place < len(rows)]

    # -- announcing ----------------------------------------------------------------------------

    def _on_files_pressed(self) -> None:
        pattern = " ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))
        names, _ = QFileDialog.getOpenFileNames(self, "Images", "", f"Images ({pattern});;All (*)")
        if names:
            self._batch.add([Path(name) for name in names])

    def _on_folder_pressed(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "A folder of images, or an OME-Zarr image")
        if name:
            self._batch.add([Path(name)])

    def _on_model_pressed(self) -> None:
        folder = self._history.folder
        name, _ = QFileDialog.getOpenFileName(self, "Load model", str(folder), FILTER)
        if name:
            self._history.load(Path(name))

    def _on_remove_pressed(self) -> None:
        self._batch.remove(self._selected())

    def _on_into_pressed(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of the masks")
        if name:
            self._folder = Path(name)
            self.where.setText(str(self._folder))

    def _on_open_pressed(self, _: object = None) -> None:
        for one in self._selected()[:1]:
            self._batch.show(one)

    def _on_worst_pressed(self) -> None:
        self._batch.annotate_worst(self.count.value())

    def _on_pause_pressed(self) -> None:
        job = self.session.job
        if job is not None and job.paused:
            self._batch.resume()
        else:
            self._batch.pause()
        self._on_batch()

    def _on_run_pressed(self) -> None:
        from napari_unetseg.inference.large.output_format import Saving

        if self.session.job is not None:
            self._jobs.stop()
            return
        if self._folder is None:
            self._on_into_pressed()
        with refusing(self.session):
            if self._folder is None:
                raise UserError("Choose a folder for the masks with 'Masks into…'.")
            how = Saving(self._folder, FORMATS[self.format.currentData()], overwrite=True)
            self._batch.run(how, measure=self.measure.isChecked(), keep=self.keep.isChecked())


def _line(text: str = "") -> QElidingLabel:
    """A dim line that is cropped: a wrapped one would make the dock taller."""
    label = QElidingLabel(text)
    label.setProperty("role", "hint")
    label.setMinimumWidth(80)
    return label


def _button(text: str, tip: str, call: object) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.clicked.connect(lambda _=False: call())  # type: ignore[operator]
    return button


def _shares(voxels: Mapping[int, int], names: Mapping[int, str]) -> str:
    total = sum(voxels.values())
    parts = [
        f"{names.get(number, number)} {100 * count / total:.1f} %"
        for number, count in voxels.items()
        if number and total
    ]
    return ", ".join(parts)
