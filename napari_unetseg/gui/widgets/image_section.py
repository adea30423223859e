"""Image section: image, channels, planes or volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.widgets.alignment_notice import AlignmentNotice
from napari_unetseg.gui.widgets.section import Panel, hint, layer_combo, row, show_choice

if TYPE_CHECKING:
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.state.session import Session


class ImagePanel(Panel):
    """The choice of the image."""

    def __init__(self, session: Session, sources: ImageSources, alignment: LayerAlignment) -> None:
        super().__init__("1  Image", session)
        self._sources = sources
        self.image = layer_combo(sources.images, "The image layer to segment.")
        self.image.changed.connect(self._on_image_chosen)
        self.column.addLayout(row("&Image", self.image.native, stretch=1))

        self._channel_box = QWidget()
        box = QHBoxLayout(self._channel_box)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(row("Channels"))
        box.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.channels: list[tuple[QCheckBox, Any]] = []
        self._channels = QVBoxLayout()
        self._channels.setSpacing(1)
        box.addLayout(self._channels, 1)
        self._channel_box.setToolTip("Layers of the same shape to use as further channels.")
        self.column.addWidget(self._channel_box)
        self.alignment_notice = AlignmentNotice(session, alignment, of_channels=True)
        self.column.addWidget(self.alignment_notice)

        self.planes = QRadioButton("2D planes")
        self.planes.setToolTip("Segment each plane (YX) on its own: fast, and needs few strokes.")
        self.volume = QRadioButton("3D volume")
        self.volume.setToolTip(
            "Segment volumes (ZYX) in 3D, with the context of neighbouring planes. Slower."
        )
        self.planes.clicked.connect(self._on_planes_chosen)
        self.volume.clicked.connect(self._on_volume_chosen)
        self._dims = QWidget()
        self._dims.setLayout(row("Work on", self.planes, self.volume, None))
        self.column.addWidget(self._dims)
        self._about = hint()
        self.column.addWidget(self._about)

        self.follow("image", "sources", call=self.refresh)
        self.follow("settings", "misalignment", call=self._on_settings)
        self.refresh()

    def release(self) -> None:
        """Disconnect from all events before the widget is deleted."""
        self.alignment_notice.release()
        super().release()

    def refresh(self) -> None:
        """Update the image layers to choose from."""
        show_choice(self.image, self.session.image)
        self._show_channels()
        self._on_settings()

    def _show_channels(self) -> None:
        for old, _ in self.channels:
            self._channels.removeWidget(old)
            old.setParent(None)
            old.deleteLater()
        self.channels.clear()
        source = self.session.source()
        chosen = source.channels if source else ()
        candidates = self._sources.channel_candidates()
        for layer in candidates:
            box = QCheckBox(layer.name)
            box.setChecked(layer in chosen)
            box.toggled.connect(self._on_channel_toggled)
            self._channels.addWidget(box)
            self.channels.append((box, layer))
        self._channel_box.setVisible(bool(candidates))

    def _on_settings(self) -> None:
        dims = self.session.settings.dims
        self.planes.setChecked(dims == 2)
        self.volume.setChecked(dims == 3)
        try:
            stack = self._sources.stack()
        except UserError as error:
            self._dims.hide()
            found = self.session.misalignment
            # the notice above already explains it, with a button to fix it
            explained = found is not None and found.is_channel
            self._about.setText("" if explained else str(error))
            return
        self._dims.setVisible(self._sources.has_volumes() or dims == 3)
        self._about.setText(messages.describe_image(stack, dims))

    def _on_image_chosen(self) -> None:
        self._sources.choose_image(self.image.value)

    def _on_channel_toggled(self) -> None:
        chosen = [layer for box, layer in self.channels if box.isChecked()]
        self._sources.choose_channels(chosen)

    def _on_planes_chosen(self) -> None:
        self._sources.choose_dims(2)

    def _on_volume_chosen(self) -> None:
        self._sources.choose_dims(3)
