"""Annotation section: annotation layer, existing layers or folders; structures and brushes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QColorDialog,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QInputDialog,
    QMenu,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.gui.features.class_editor import balance
from napari_unetseg.gui.services.label_problems import check_label_folder
from napari_unetseg.gui.widgets.alignment_notice import AlignmentNotice
from napari_unetseg.gui.widgets.class_brushes import BrushList
from napari_unetseg.gui.widgets.section import Panel, hint, layer_combo, row, show_choice

if TYPE_CHECKING:
    from napari_unetseg.gui.features.class_editor import ClassEditor
    from napari_unetseg.gui.features.label_conversion import LabelConversion
    from napari_unetseg.gui.features.structures import Structures
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.label_problems import Conversion
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.state.session import ImageSource, Session

KINDS = {
    LabelKind.STROKES: ("strokes", "0 is not labelled, 255 is background."),
    LabelKind.FULL: ("full mask", "0 is background, every other number a structure."),
    LabelKind.INSTANCES: ("objects", "0 is background, every other number one object."),
    LabelKind.FINISHED: ("finished objects", "0 is not labelled, every other number one object."),
}

MOST_ROWS = 5


def kind_combo() -> QComboBox:
    """A combo box of the kinds of labels."""
    combo = QComboBox()
    for kind, (name, tip) in KINDS.items():
        combo.addItem(name, kind)
        combo.setItemData(combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
    combo.setToolTip(
        "What 0 means in these labels.\n"
        + "\n".join(f"{name}: {tip}" for name, tip in KINDS.values())
    )
    return combo


class AnnotatePanel(Panel):
    """Source of the labels, structures and brushes."""

    def __init__(
        self,
        session: Session,
        sources: ImageSources,
        structures: Structures,
        classes: ClassEditor,
        conversion: LabelConversion,
        alignment: LayerAlignment,
    ) -> None:
        super().__init__("2  Annotate", session)
        self._sources, self._structures, self._classes, self._conversion = (
            sources,
            structures,
            classes,
            conversion,
        )
        self.labels = layer_combo(
            sources.labels_candidates,
            "The Labels layer that holds the labels of this image.",
        )
        self.labels.changed.connect(self._on_labels_chosen)
        self.new = QPushButton("&New layer")
        self.new.setToolTip("Make an empty layer over the image and select the first brush.")
        self.new.clicked.connect(self._on_new_pressed)
        self.column.addLayout(row("L&abels", self.labels.native, self.new, stretch=1))

        self.alignment_notice = AlignmentNotice(session, alignment, of_channels=False)
        self.column.addWidget(self.alignment_notice)
        self.kind = kind_combo()
        self.kind.activated.connect(self._on_kind_chosen)
        self._kind_row = QWidget()
        self._kind_row.setLayout(row("They a&re", self.kind, stretch=1))
        self.column.addWidget(self._kind_row)
        self._conversions = QHBoxLayout()
        self._conversions.setContentsMargins(0, 0, 0, 0)
        self.column.addLayout(self._conversions)
        self.conversions: dict[str, QPushButton] = {}

        self.brushes = BrushList()
        self.brushes.chosen.connect(structures.choose_brush)
        self.brushes.renamed.connect(structures.rename)
        self.brushes.menu_requested.connect(self._on_menu_requested)
        self.column.addWidget(self.brushes)
        self.balance = hint()
        self.column.addWidget(self.balance)

        self.add = QPushButton("+ Str&ucture")
        self.add.setToolTip("Add a structure with the next free number and colour.")
        self.add.clicked.connect(self._on_add_pressed)
        self.folders = QPushButton("Add fol&ders…")
        self.folders.setToolTip(
            "Also train on a folder of images and a folder of masks; files are paired by name."
        )
        self.folders.clicked.connect(self._on_folders_pressed)
        self.column.addLayout(row(self.add, self.folders, None))
        self._add_table()

        self.follow("image", "sources", call=self.refresh)
        self.follow("structures", "counts", "brush", "scores", call=self._on_brushes)
        self.refresh()

    def release(self) -> None:
        """Disconnect from all events before the widget is deleted."""
        self.alignment_notice.release()
        super().release()

    def _add_table(self) -> None:
        self.table = QTreeWidget()
        self.table.setHeaderLabels(["Trains on", "Labels", "Kind"])
        self.table.setRootIsDecorated(False)
        self.table.setToolTip("Checked images are trained on together.")
        self.table.setAccessibleName("Training data")
        self.table.itemChanged.connect(self._on_checked)
        self.remove = QPushButton("Remove")
        self.remove.setToolTip(
            "Remove the selected image from the training data; nothing is deleted."
        )
        self.remove.clicked.connect(self._on_remove_pressed)
        self.column.addWidget(self.table)
        self.column.addLayout(row(None, self.remove))

    def refresh(self) -> None:
        """Update the Labels layers to choose from."""
        source = self.session.source()
        show_choice(self.labels, source.labels if source else None)
        has_labels = source is not None and source.labels is not None
        self._kind_row.setVisible(has_labels)
        if source is not None:
            self.kind.setCurrentIndex(list(KINDS).index(source.kind))
        self._show_table()
        self._on_brushes()

    def _show_conversions(self) -> None:
        offered = {conversion.text: conversion for conversion in self._conversion.offered()}
        if list(offered) == list(self.conversions):
            return
        for button in self.conversions.values():
            self._conversions.removeWidget(button)
            button.hide()  # Qt deletes it later, and would draw it over others until then
            button.deleteLater()
        self.conversions = {text: QPushButton(text) for text in offered}
        for text, button in self.conversions.items():
            button.setToolTip(offered[text].tip)
            button.clicked.connect(partial(self._on_conversion_pressed, offered[text]))
            self._conversions.addWidget(button)

    def _on_conversion_pressed(self, conversion: Conversion, _checked: bool = False) -> None:
        self._conversion.use(conversion)

    def _show_table(self) -> None:
        sources = [s for s in self.session.sources if s.labels is not None]
        self.table.blockSignals(True)
        self.table.clear()
        for source in sources:
            item = QTreeWidgetItem([source.image.name, source.labels.name, KINDS[source.kind][0]])
            item.setCheckState(0, Qt.CheckState.Checked if source.used else Qt.CheckState.Unchecked)
            item.setData(0, Qt.ItemDataRole.UserRole, QtValue(source))
            if source.on_disk:
                item.setToolTip(0, str(source.image))
                item.setToolTip(1, str(source.labels))
            self.table.addTopLevelItem(item)
        self.table.resizeColumnToContents(0)
        rows = min(max(len(sources), 2), MOST_ROWS)
        height = self.table.fontMetrics().lineSpacing() + 5
        self.table.setFixedHeight(height * (rows + 1) + 12)
        self.table.blockSignals(False)
        several = len(sources) > 1 or any(s.on_disk for s in sources)
        self.table.setVisible(several)
        self.remove.setVisible(several)

    def _on_brushes(self) -> None:
        self._show_conversions()
        self.brushes.show_structures(self.session.structures)
        self.brushes.show_counts(dict(self.session.counts))
        self.brushes.show_scores(self.session.scores)
        self.brushes.show_chosen(self.session.brush)
        source = self.session.source()
        strokes = source is not None and source.kind is LabelKind.STROKES
        text = balance(self.session.counts, self.session.structures) if strokes else ""
        self.balance.setText(text)
        self.balance.setVisible(bool(text))

    def _on_labels_chosen(self) -> None:
        self._sources.choose_labels(self.labels.value)

    def _on_new_pressed(self) -> None:
        self._sources.new_annotation()

    def _on_kind_chosen(self) -> None:
        self._sources.choose_kind(LabelKind(self.kind.currentData()))

    def menu_of(self, number: int) -> QMenu:
        """The context menu of a structure."""
        menu, classes = QMenu(self), self._classes
        names = {s.number: s.name for s in self.session.structures}
        _act(menu, "Colour…", partial(self._on_recolor, number))
        objects = next(s.objects for s in self.session.structures if s.number == number)
        switch = partial(classes.consist_of_objects, number, not objects)
        _act(menu, "Consists of objects", switch, checked=objects)
        if (merge := menu.addMenu("Merge into")) is not None:
            for other, name in {**names, BACKGROUND_LABEL: "background"}.items():
                if other != number:
                    _act(merge, name, partial(classes.merge, number, other))
        _act(menu, "Delete, with its labels", partial(classes.delete, number))
        return menu

    def _on_menu_requested(self, number: int) -> None:
        button = self.brushes.row_of(number).more
        self.menu_of(number).popup(button.mapToGlobal(button.rect().bottomLeft()))

    def _on_recolor(self, number: int) -> None:
        old = next(s.color for s in self.session.structures if s.number == number)
        color = QColorDialog.getColor(QColor(old), self, "Colour of the structure")
        if color.isValid():
            self._classes.recolor(number, color.name())

    def _on_add_pressed(self) -> None:
        self._structures.add()

    def _on_folders_pressed(self) -> None:
        images = QFileDialog.getExistingDirectory(self, "Folder of images")
        masks = images and QFileDialog.getExistingDirectory(self, "Folder of their masks", images)
        answer = self._ask_kind(Path(masks)) if masks else None
        if answer is not None:
            self._sources.add_folders(Path(images), Path(masks), *answer)

    def _ask_kind(self, masks: Path) -> tuple[LabelKind, float | None] | None:
        """Ask for the kind of labels in a folder; None if the user cancels."""
        likely, why, threshold = check_label_folder(masks)
        choices: dict[str, tuple[LabelKind, float | None]]
        choices = {f"{name}: {tip}": (kind, None) for kind, (name, tip) in KINDS.items()}
        most_likely = list(KINDS).index(likely)
        if threshold is not None:
            most_likely = len(choices)
            text = f"blurred mask: values above {threshold:g} are structure 1."
            choices[text] = (LabelKind.FULL, threshold)
        answer, agreed = QInputDialog.getItem(
            self,
            "Kind of labels",
            f"The files in this folder are{f' ({why})' if why else ''}",
            list(choices),
            most_likely,
            False,
        )
        return choices[answer] if agreed else None

    def _on_checked(self, item: QTreeWidgetItem) -> None:
        used = item.checkState(0) == Qt.CheckState.Checked
        self._sources.use_source(_source_of(item), used)

    def _on_remove_pressed(self) -> None:
        item = self.table.currentItem()
        if item is not None:
            self._sources.remove_source(_source_of(item))


def _act(menu: QMenu, text: str, call: Callable[[], None], *, checked: bool | None = None) -> None:
    action = menu.addAction(text)
    if action is not None:
        action.setCheckable(checked is not None)
        action.setChecked(bool(checked))
        action.triggered.connect(lambda _=False: call())


class QtValue:
    """Wraps a value so that Qt does not convert it."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _source_of(item: QTreeWidgetItem) -> ImageSource:
    box: QtValue = item.data(0, Qt.ItemDataRole.UserRole)
    source: ImageSource = box.value
    return source
