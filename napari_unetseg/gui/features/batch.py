"""Batch prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import ChunkPredicted, Event
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.batch_rows import BatchRow, RowState
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.jobs.window_tasks import BatchWork

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.inference.large.output_format import Saving
    from napari_unetseg.inference.large.predict_files import FileBegun, FileDone

STATES = {"done": RowState.DONE, "skipped": RowState.KEPT, "failed": RowState.FAILED}


class BatchPrediction:
    """The list of images and the batch job over it."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        masks: MaskLayers,
        events: AppEvents,
        predict: Callable[[], None],
    ) -> None:
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._sources, self._masks, self._predict = sources, masks, predict
        events.job_event.connect(self._on_event)
        events.job_ended.connect(self._on_ended)
        self._saving: Saving | None = None
        self._model_key = ""
        self._file_number = self._file_count = 1

    # -- the list ------------------------------------------------------------------------------

    def add(self, paths: Sequence[Path]) -> None:
        """Add files, folders of files, and OME-Zarr images."""
        from napari_unetseg.inference.large.find_images import find_images

        with refusing(self._session):
            self._check_idle()
            found = find_images([str(path) for path in paths])
            known = {row.path.resolve() for row in self._session.batch}
            new = [BatchRow(n, p) for n, p in found.items() if p.resolve() not in known]
            self._check_names([*self._session.batch, *new])
            self._session.batch = (*self._session.batch, *new)

    def add_open(self) -> None:
        """Add all open images, except those used as further channels of another one."""
        with refusing(self._session):
            self._check_idle()
            sources = self._session.sources
            channels = {id(layer) for source in sources for layer in source.channels}
            known = {id(row.layer) for row in self._session.batch}
            new = [
                BatchRow(image.name.replace("/", "-"), Path(image.name), image)
                for image in self._sources.images()
                if id(image) not in channels | known
            ]
            self._check_names([*self._session.batch, *new])
            self._session.batch = (*self._session.batch, *new)

    def remove(self, rows: Sequence[BatchRow]) -> None:
        """Remove images from the list; written masks are kept."""
        with refusing(self._session):
            self._check_idle()
            self._session.batch = tuple(r for r in self._session.batch if r not in rows)

    def _check_names(self, rows: Sequence[BatchRow]) -> None:
        names = [row.name for row in rows]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(
                f"Two images are called {twice}, so their masks would replace each other; "
                "predict them separately, into different folders."
            )

    def _check_idle(self) -> None:
        job = self._session.job
        if job is not None and job.kind is JobKind.BATCH:
            raise UserError(messages.BUSY)

    # -- doing it ------------------------------------------------------------------------------

    def run(self, how: Saving, *, measure: bool, keep: bool = False) -> None:
        """Predict the images that this model has not done; if there are none, all of them again.

        ``keep``: skip images with a mask in the folder, whichever model made it.
        """
        from napari_unetseg.inference.large.find_images import check_outputs

        session = self._session
        with refusing(self._session):
            self._jobs.check_free()
            if session.entry is None:
                raise UserError(messages.NO_MODEL)
            if not session.batch:
                raise UserError(messages.NO_BATCH)
            model = session.entry.model
            made_by = f"{model.id} {session.match_spacing}"
            left = [
                r for r in session.batch if r.state is not RowState.DONE or r.made_by != made_by
            ]
            rows = left or list(session.batch)
            check_outputs({r.name: file for r in rows if (file := _file(r)) is not None}, how)
            session.batch = tuple(
                replace(r, state=RowState.WAITING, error="") if r in rows else r
                for r in session.batch
            )
            names = {row.name for row in rows}
            rows = [row for row in session.batch if row.name in names]
            stacks = {row.path: self._stack(row.layer) for row in rows if row.layer is not None}
            work = BatchWork(
                model,
                {row.name: row.path for row in rows},
                stacks,
                how,
                measure,
                session.settings.device,
                keep,
                session.match_spacing,
            )
            self._saving, self._model_key = how, made_by
            self._jobs.start(JobKind.BATCH, "Batch", work, partial(self._on_done, len(rows)))

    def _stack(self, layer: Image) -> Stack:
        source = self._session.source(layer)
        return napari_layers.stack_of(layer, source.channels if source else ())

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if kind is not JobKind.BATCH:
            return
        from napari_unetseg.inference.large.predict_files import FileBegun, FileDone

        match event:
            case FileBegun():
                self._on_begun(event)
            case ChunkPredicted():
                self._jobs.show_progress(self._done(event.done / event.total))
            case FileDone():
                self._on_file(event)

    def _on_begun(self, event: FileBegun) -> None:
        self._change(event.name, state=RowState.RUNNING)
        self._file_number, self._file_count = event.number, event.total
        text = f"{event.name} ({event.number} of {event.total})"
        self._jobs.show_progress(self._done(0.0), text)

    def _done(self, part: float) -> float:
        return (self._file_number - 1 + part) / self._file_count

    def _on_file(self, event: FileDone) -> None:
        how, failed = self._saving, event.status == "failed"
        self._change(
            event.name,
            state=STATES[event.status],
            seconds=event.seconds,
            voxels=event.voxels,
            objects=event.objects,
            unsure=event.unsure,
            notices=event.notices,
            error=event.error,
            open_mask=None
            if failed or how is None
            else partial(how.open_mask, event.name, event.image),
            made_by=self._model_key,
        )

    def _change(self, name: str, **changes: Any) -> None:
        self._session.batch = tuple(
            replace(row, **changes) if row.name == name else row for row in self._session.batch
        )

    def _on_ended(self, _: JobKind) -> None:
        """Reset the state after the job ended, however it ended."""
        for row in self._session.batch:
            if row.state is RowState.RUNNING:
                self._change(row.name, state=RowState.WAITING)

    def _on_done(self, wanted: int, results: list[FileDone]) -> None:
        failed = sum(result.status == "failed" for result in results)
        kept = sum(result.status == "skipped" for result in results)
        done = len(results) - failed
        if len(results) < wanted:
            text = f"Stopped: {done} of {wanted} images done. 'Predict all' continues where it was."
            self._session.say(text)
        elif failed:
            text = f"{done} of {wanted} images done; {failed} failed, see the list for the reasons."
            self._session.say(text, Level.WARNING)
        else:
            there = f" {kept} had a mask already." if kept else ""
            self._session.say(f"All {wanted} images done.{there}", Level.DONE)

    def pause(self) -> None:
        """Pause after the current chunk."""
        self._jobs.pause()

    def resume(self) -> None:
        """Resume a paused batch."""
        self._jobs.resume()

    # -- looking at it -------------------------------------------------------------------------

    def show(self, row: BatchRow) -> Image | None:
        """Open an image with its mask; return the image layer."""
        image: Image | None = None
        with refusing(self._session):
            image = self._open(row)
            mask = () if row.open_mask is None else (self._show_mask(image, row.open_mask()),)
            self._show_alone(image, *mask)
        return image

    def _show_alone(self, image: Image, *masks: Any) -> None:
        """Show an image with its labels, its further channels and the given layers alone."""
        viewer, source = self._viewer, self._session.source(image)
        mine = [*(source.layers if source is not None else (image,)), *masks]
        others = [layer for layer in viewer.layers if layer not in mine]
        napari_layers.bring_to_front(viewer, mine, others)
        plane = napari_layers.plane_on_screen(viewer, image, 2)
        napari_layers.center_on(viewer, image, plane, napari_layers.stack_of(image).whole(2))

    def _open(self, row: BatchRow) -> Image:
        """Return the layer of an image; open it if needed."""
        viewer = self._viewer
        if row.layer is None or row.layer not in viewer.layers:
            if not row.path.exists():
                raise UserError(f"{row.path} is not open any more; open it again.")
            with self._sources.opening():
                opened = napari_layers.open_images(viewer, row.path, "napari-unetseg")
                if not opened:
                    raise UserError(f"{row.path} cannot be opened in napari.")
                self._change(row.name, layer=opened[0])
                self._sources.choose_image(opened[0])
                if len(opened) > 1:
                    self._sources.choose_channels(opened[1:])
            return opened[0]
        self._sources.choose_image(row.layer)
        layer: Image = row.layer
        return layer

    def _show_mask(self, image: Image, mask: Stack) -> Any:
        model = self._session.entry.model if self._session.entry is not None else None
        structures = model.classes.structures if model else self._session.structures
        if any(structure.objects for structure in structures):
            structures = ()
        viewer = self._viewer
        return napari_layers.add_mask(viewer, image, mask, structures)

    def worst(self, count: int) -> list[BatchRow]:
        """Images with the highest uncertainty, the worst first."""
        rows = [row for row in self._session.batch if row.unsure is not None]
        return sorted(rows, key=lambda row: -(row.unsure or 0.0))[:count]

    def annotate_worst(self, count: int) -> None:
        """Open the most uncertain images, each with an annotation layer."""
        with refusing(self._session):
            self._jobs.check_free()
            if not (rows := self.worst(count)):
                raise UserError(messages.NO_WORST)
            images = []
            for row in rows:
                images.append(self._open(row))
                source = self._session.source()
                if source is None or source.labels is None:
                    self._sources.new_annotation()
            self._sources.choose_image(images[0])
            source, mask = self._session.source(images[0]), self._masks.predictions.get(images[0])
            self._show_alone(images[0], mask and mask.layer)
            if source is not None and source.labels is not None:
                napari_layers.activate_brush(self._viewer, source.labels, self._session.brush)
            self._predict()
            names = ", ".join(image.name for image in images)
            self._session.say(
                f"{names}: open with annotation layers. Paint where the mask is wrong, then Train."
            )


def _file(row: BatchRow) -> Path | None:
    """The image's own file, which a mask must not overwrite; None if it is in memory."""
    return row.path if row.layer is None else napari_layers.path_of(row.layer)
