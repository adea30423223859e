"""Project section: named projects, and recovery of unnamed ones."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QFileDialog,
    QMenu,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from napari_unetseg.gui.widgets.section import Panel, folded, hint, row
from napari_unetseg.io.project import locations

if TYPE_CHECKING:
    from napari_unetseg.gui.features.project_restore import ProjectRestore
    from napari_unetseg.gui.features.project_saving import ProjectSaving
    from napari_unetseg.gui.state.session import Session

NAMELESS = "What you paint is saved at once. Save a project to choose its folder and name."


class ProjectPanel(Panel):
    """Saving, opening and recovery of projects, and reports."""

    def __init__(self, session: Session, restore: ProjectRestore, saving: ProjectSaving) -> None:
        super().__init__("", session)
        self._restore, self._saving = restore, saving
        self.where = hint(NAMELESS)
        self.save = QPushButton("Save project…")
        self.save.setToolTip("Choose a folder for labels, corrections, models and settings.")
        self.save.clicked.connect(self._on_save_pressed)
        self.open = QToolButton()
        self.open.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.open.setText("Open project…")
        self.open.setToolTip("Open a project and continue where you left it.")
        self.open.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)
        self.open.clicked.connect(self._on_open_pressed)
        self.recent = QMenu(self.open)
        self.recent.aboutToShow.connect(self._on_recent_shown)
        self.open.setMenu(self.recent)
        self.report = QPushButton("Report…")
        self.report.setToolTip(
            "Write a page with methods, scores, curves and pictures, for a paper."
        )
        self.report.clicked.connect(self._on_report_pressed)
        self.fold = folded("Project", self.where, self.save, self.open, self.report)
        self.column.addWidget(self.fold)

        self.left = hint()
        self.recover = QPushButton("Recover")
        self.recover.setProperty("role", "primary")
        self.recover.setToolTip("Open it here, with all annotations.")
        self.recover.clicked.connect(self._on_recover_pressed)
        self.discard = QPushButton("Discard…")
        self.discard.setToolTip("Delete it, after a confirmation.")
        self.discard.clicked.connect(self._on_discard_pressed)
        self._offer = QWidget()
        self._offer.setLayout(row(self.recover, self.discard, None))
        self.column.addWidget(self.left)
        self.column.addWidget(self._offer)
        self.lost = hint()
        self.locate = QPushButton("Find image…")
        self.locate.setToolTip("Choose the file of an image that was moved.")
        self.locate.clicked.connect(self._on_find_pressed)
        self.column.addWidget(self.lost)
        self.column.addWidget(self.locate)
        self.follow("project", "recoveries", "missing", call=self._on_project)
        self._on_project()

    def _on_project(self) -> None:
        folder, session = self.session.project, self.session
        self.where.setText(f"Everything is saved in {folder}." if folder else NAMELESS)
        for widget in (self.left, self._offer):
            widget.setVisible(bool(session.recoveries))
        for widget in (self.lost, self.locate):
            widget.setVisible(bool(session.missing))
        self.lost.setText(f"Not found: {', '.join(session.missing)}.")
        if session.recoveries:
            first, others = session.recoveries[0], len(session.recoveries) - 1
            when = time.strftime("%d %b, %H:%M", time.localtime(first.when))
            more = f" ({others} more)" if others else ""
            names = ", ".join(first.names[:2])
            self.left.setText(f"Not saved as a project: labels of {names} from {when}{more}.")

    def _on_save_pressed(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Folder of the new project", str(Path.home() / "segmentation project")
        )
        if path:
            self._saving.save_as(Path(path))

    def _on_report_pressed(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Folder of the report", str(Path.home() / "segmentation report")
        )
        if path:
            self._saving.report(Path(path), self._on_page)

    @staticmethod
    def _on_page(page: Path) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(page)))

    def _on_open_pressed(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of a project")
        if path:
            self._restore.open(Path(path))

    def _on_find_pressed(self) -> None:
        names = ", ".join(self.session.missing)
        path, _ = QFileDialog.getOpenFileName(self, f"Where is {names}?", str(Path.home()))
        if path:
            self._restore.find(Path(path))

    def _on_recent_shown(self) -> None:
        self.recent.clear()
        for path in locations.recent():
            if (action := self.recent.addAction(str(path))) is not None:
                action.triggered.connect(partial(self._on_recent_chosen, path))
        if self.recent.isEmpty() and (none := self.recent.addAction("none yet")) is not None:
            none.setEnabled(False)

    def _on_recent_chosen(self, path: Path, _: bool = False) -> None:
        self._restore.open(path)

    def _on_recover_pressed(self) -> None:
        self._restore.recover(self.session.recoveries[0])

    def _on_discard_pressed(self) -> None:
        recovery = self.session.recoveries[0]
        question = f"Delete the labels of {', '.join(recovery.names)} for good?"
        answer = QMessageBox.question(self, "Discard", question)
        if answer == QMessageBox.StandardButton.Yes:
            self._restore.discard(recovery)
