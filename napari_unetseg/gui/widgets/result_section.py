"""Result section: predict, post-process, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QPushButton

from napari_unetseg.core.errors import UserError
from napari_unetseg.data.mask_cleanup import TidySettings
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.widgets.forms import Form
from napari_unetseg.gui.widgets.section import Panel, folded, hint, layer_combo, row, show_choice
from napari_unetseg.io.outline_formats import OUTLINE_FORMATS
from napari_unetseg.io.write_masks import FORMATS

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.gui.features.export import Export
    from napari_unetseg.gui.features.postprocess import Postprocess
    from napari_unetseg.gui.features.prediction import MaskPrediction
    from napari_unetseg.gui.features.voxel_size import VoxelSize
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import Session

MASKS = {f.title: (f.suffix, f.help) for f in FORMATS.values() if not f.by_chunks}
OUTLINES = {f"{f.title} (outlines)": (f.suffixes[0], f.help) for f in OUTLINE_FORMATS}
WRITABLE = MASKS | OUTLINES


class ResultPanel(Panel):
    """Prediction, post-processing and export."""

    batch_wanted = Signal()

    def __init__(
        self,
        session: Session,
        sources: ImageSources,
        masks: MaskLayers,
        prediction: MaskPrediction,
        voxel_size: VoxelSize,
        postprocess: Postprocess,
        export: Export,
    ) -> None:
        super().__init__("5  Result", session)
        self._sources, self._masks, self._postprocess, self._export = (
            sources,
            masks,
            postprocess,
            export,
        )
        self.plane = QPushButton("Predict this plane")
        self.plane.setToolTip("Predict what is on screen.")
        self.plane.clicked.connect(prediction.predict_plane)
        self.whole = QPushButton("Predict whole stack")
        self.whole.setToolTip("Predict every plane, what is on screen first. Stop ends it.")
        self.whole.clicked.connect(prediction.predict_stack)
        buttons = row(self.plane, self.whole)
        buttons.setStretch(0, 1)
        buttons.setStretch(1, 1)
        self.column.addLayout(buttons)

        self.sizes = hint()
        self.match = QCheckBox("Predict at the model's pixel size")
        self.match.setToolTip(
            "Resample the image to the pixel size that the model was trained at, and the mask "
            "back to the image's."
        )
        self.match.toggled.connect(voxel_size.choose)
        self.column.addWidget(self.sizes)
        self.column.addWidget(self.match)

        self.batch = QPushButton("Many images…")
        self.batch.setToolTip("Open the batch panel: predict a list of files.")
        self.batch.clicked.connect(lambda _=False: self.batch_wanted.emit())
        self.column.addWidget(self.batch)
        self._tidy, self.tidy_up = self._build_tidy()
        self._export_form, self.write = self._build_export()
        self.follow("entry", "settings", "sources", call=self._on_state)
        self.follow("image", call=self.refresh)
        self.follow("sizes", "match_spacing", call=self._on_sizes)
        self.follow_running(self._on_state)
        self.refresh()
        self._on_sizes()

    # -- forms ---------------------------------------------------------------------------------

    def _build_tidy(self) -> tuple[Form, QPushButton]:
        self.smallest = FloatSpinBox(
            value=0.0, max=1e9, step=1.0, name="smallest", label="Smallest"
        )
        self.smallest.tooltip = "Remove objects smaller than this; 0 keeps all."
        fill = CheckBox(value=True, name="fill_holes", label="Fill holes")
        fill.tooltip = "Fill background enclosed by a structure."
        split = CheckBox(name="split", label="Split touching objects")
        split.tooltip = "Split touching objects (watershed) and number them."
        objects = CheckBox(name="objects", label="Number the objects")
        objects.tooltip = "Give every object its own number instead of its structure's."
        form = Form([fill, self.smallest, split, objects])
        button = QPushButton("Tidy up into a new layer")
        button.setToolTip("The prediction itself is not changed.")
        button.clicked.connect(self._on_tidy_pressed)
        self.column.addWidget(folded("Tidy up", form, button))
        return form, button

    def _build_export(self) -> tuple[Form, QPushButton]:
        self.layer = layer_combo(self._sources.mask_candidates, "The mask or the objects to write.")
        self.layer.label, self.layer.name = "Layer", "layer"
        self.format = ComboBox(choices=list(WRITABLE), name="format", label="Format")
        self.format.tooltip = "\n".join(f"{title}: {text}" for title, (_, text) in WRITABLE.items())
        form = Form([self.layer, self.format])
        button = QPushButton("E&xport…")
        button.setToolTip("Write the mask with its pixel size, or outlines of its objects.")
        button.clicked.connect(self._on_export_pressed)
        self.column.addWidget(folded("Export", form, button))
        return form, button

    # -- showing -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Update the masks to choose from, the newest prediction first."""
        prediction = self._masks.current
        latest = prediction.layer if prediction and prediction.alive else None
        chosen = self.layer.value if self.layer.value in self._sources.mask_candidates() else latest
        show_choice(self.layer, chosen)
        self._on_state()

    def _on_sizes(self) -> None:
        sizes = self.session.sizes
        self.sizes.setVisible(sizes is not None)
        self.match.setVisible(sizes is not None and sizes.possible)
        self.match.setChecked(bool(self.session.match_spacing))
        if sizes is not None:
            self.sizes.setText(sizes.text)
            self.match.setText(f"Predict at the model's {sizes.what} size")

    def _stack(self) -> Stack | None:
        try:
            return self._sources.stack()
        except UserError:
            return None

    def _on_state(self) -> None:
        stack, dims = self._stack(), self.session.settings.dims
        free = self.session.job is None
        ready = self.session.entry is not None and stack is not None and free
        several = stack is not None and len(stack.leading_shape(dims)) > 0
        what = "plane" if dims == 2 else "volume"
        self.plane.setText(f"Predict this {what}" if several else "Predict")
        self.plane.setEnabled(ready)
        self.whole.setVisible(several)
        self.whole.setEnabled(ready)
        for button in (self.tidy_up, self.write):
            button.setEnabled(free)
        unit = "px"
        if stack is not None and stack.grid_units[-1] != "pixel":
            unit = stack.grid_units[-1].replace("um", "µm")
        label = f"Smallest ({unit}{'²' if dims == 2 else '³'})"
        self._tidy.labels["smallest"].setText(label)

    # -- announcing ----------------------------------------------------------------------------

    def _on_tidy_pressed(self) -> None:
        values = self._tidy.values.asdict()
        with refusing(self.session):
            settings = TidySettings(
                fill_holes=values["fill_holes"],
                smallest=values["smallest"],
                split=values["split"],
                objects=values["objects"],
            )
            self._postprocess.run(settings)

    def _on_export_pressed(self) -> None:
        layer, suffix = self.layer.value, WRITABLE[self.format.value][0]
        if layer is None:
            self._export.write(None, Path())
            return
        name = layer.name.replace(" · ", "_").replace("/", "-") + suffix
        what = "Outlines" if self.format.value in OUTLINES else "Mask"
        path, _ = QFileDialog.getSaveFileName(self, "Export", name, f"{what} (*{suffix})")
        if path:
            written = path if path.endswith(suffix) else path + suffix
            self._export.write(layer, Path(written))
