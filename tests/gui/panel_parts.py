"""Sections of the dock on their own, as the dock makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetseg.gui.widgets.annotate_section import AnnotatePanel
from napari_unetseg.gui.widgets.batch_section import BatchPanel
from napari_unetseg.gui.widgets.result_section import ResultPanel

if TYPE_CHECKING:
    from napari_unetseg.gui.plugin import Plugin


def annotate_panel(plugin: Plugin) -> AnnotatePanel:
    parts = plugin.sources, plugin.structures, plugin.classes, plugin.conversion, plugin.alignment
    return AnnotatePanel(plugin.session, *parts)


def batch_panel(plugin: Plugin) -> BatchPanel:
    parts = plugin.jobs, plugin.batch, plugin.voxel_size, plugin.history
    return BatchPanel(plugin.session, *parts)


def result_panel(plugin: Plugin) -> ResultPanel:
    parts = plugin.sources, plugin.masks, plugin.prediction, plugin.voxel_size
    return ResultPanel(plugin.session, *parts, plugin.postprocess, plugin.export)
