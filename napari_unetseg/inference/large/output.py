"""OME-Zarr 0.5 labels group with resumable chunks.

The root is the user's OME-Zarr image, or ours: empty, or the probabilities. ``labels/mask`` holds
the levels 0, 1, …; chunks of level 0 are the tasks of a prediction.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_unetseg.core.errors import UserError
from napari_unetseg.inference.large import ome_metadata
from napari_unetseg.inference.large.object_labels import NAME, ObjectLabels, remove_objects
from napari_unetseg.inference.large.output_plan import OURS, SCHEMA, OutputPlan, compare, same
from napari_unetseg.inference.large.pyramid import write_levels
from napari_unetseg.inference.large.stored_array import ReadArray, chunk_key, stored_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_unetseg.inference.large.chunk_task import Predicted


class Output:
    """An open output, which stores chunks and knows which are done.

    Parameters
    ----------
    plan
        Its plan.
    group
        The labels.
    probs
        The probabilities, (…, classes, spatial), or None.
    objects
        The numbers of its objects, or None.
    """

    def __init__(
        self, plan: OutputPlan, group: zarr.Group, probs: Any, objects: ObjectLabels | None
    ) -> None:
        self.plan, self._group, self._probs, self.objects = plan, group, probs, objects
        self._store: Any = group.store
        self.unsure: tuple[float, int] = (0.0, 0)
        """Sum of `margin_uncertainty` over newly predicted voxels, and their number."""
        self._mask = stored_array(group, "0", plan.grid.shape, plan.grid.chunks, "uint8", plan)

    @property
    def folder(self) -> Path:
        """The folder of the store; `UserError` where it is in none."""
        root = getattr(self._store, "root", None)
        if not isinstance(root, Path):
            raise UserError(
                "Several processes can write only into a folder; choose a folder as output."
            )
        return root

    @property
    def mask(self) -> Any:
        """The stored mask, read-only."""
        return ReadArray(self._mask)

    @property
    def probabilities(self) -> Any:
        """The probabilities, with classes before the spatial axes, or None."""
        return None if self._probs is None else ReadArray(self._probs)

    @property
    def finished(self) -> bool:
        """Whether it is marked as finished."""
        state: Any = self._group.attrs[OURS]
        return bool(state["finished"])

    def missing(self) -> int:
        """Number of missing chunks; some of a finished one where files were deleted."""
        return sum(not self.done(number) for number in range(len(self.plan.grid)))

    def done(self, number: int) -> bool:
        """Whether a chunk is stored, with its probabilities and objects if wanted."""
        cell = self.plan.grid.cell(number)
        if not self._store.has(chunk_key(self._mask, cell)):
            return False
        if self.objects is not None and not self.objects.has(number):
            return False
        place = self.plan.class_axis
        key = (*cell[:place], 0, *cell[place:])
        return self._probs is None or bool(self._store.has(chunk_key(self._probs, key)))

    def write(self, number: int, predicted: Predicted) -> None:
        """Store a chunk atomically."""
        plane, region = self.plan.grid.place(number)
        if self._probs is not None:
            assert predicted.probabilities is not None
            index: list[Any] = [*plane, *region]
            index.insert(self.plan.class_axis, slice(None))
            self._probs[tuple(index)] = _stored(predicted.probabilities, self._probs.dtype)
        if self.objects is not None and predicted.maps is not None:
            self.objects.write_maps(number, predicted.maps)
        self._mask[(*plane, *region)] = predicted.mask
        if predicted.unsure is not None:
            total, voxels = self.unsure
            self.unsure = total + predicted.unsure, voxels + predicted.mask.size

    def finish(self) -> Iterator[tuple[int, int]]:
        """Write pyramid and metadata; yields (done, total).

        Raises
        ------
        UserError
            Not every chunk is there.
        """
        if missing := self.missing():
            raise UserError(
                f"{missing} of {len(self.plan.grid)} chunks are missing in {self._store}; give the "
                "same command again."
            )
        levels = yield from write_levels(self._group, self.mask, self.plan)
        if self.objects is not None:
            yield from self.objects.finish()
        self._store.tidy("")
        said: Any = self._group.attrs.asdict()
        if self.plan.ome:
            said["ome"]["multiscales"] = ome_metadata.multiscales(self.plan.stack, levels)
        said[OURS]["finished"] = True
        self._group.update_attributes(said)


def open_output(store: Any, plan: OutputPlan, *, overwrite: bool = False) -> Output:
    """Create an output, or resume one of the same plan.

    Parameters
    ----------
    store
        A Zarr store with `FolderStore`'s ``has`` and ``tidy``: empty, ours, or with an OME-Zarr
        0.5 image.
    plan
        Its plan.
    overwrite
        Replace one of another plan.

    Raises
    ------
    UserError
        There are labels of that name of another model, image or setting, or somebody else's; or
        the store holds an older OME-Zarr.
    """
    if plan.ome:
        ome_metadata.multiscales(plan.stack, 1, channels=plan.probabilities is not None)
    state = plan.state
    root = open_root(store, plan)
    labels, path = root.require_group("labels"), f"labels/{plan.name}"
    found = _existing(labels, plan.name)
    if found is not None and not overwrite:
        compare(found, state, f"{store}/{path}")
    begun = found is not None and same(found, state)
    if not begun and found is not None:  # so that a partial one is never taken for complete
        zarr.open_group(store, path=path).update_attributes({OURS: {"schema": SCHEMA}})
    probs = _probs(root, plan, fresh=not begun)
    if plan.objects and found is None:
        _existing(labels, NAME)  # not somebody else's
    if not begun:
        remove_objects(root)
        for name in (plan.name, *[NAME] * plan.objects):
            list_labels(labels, name)
        said: dict[str, Any] = {"ome": _label_metadata(plan, root)} if plan.ome else {}
        said[OURS] = {**state, "finished": False}
        zarr.create_group(store, path=path, attributes=said, overwrite=True)
    else:
        store.tidy("")
    return _opened(store, plan, root, probs)


def _opened(store: Any, plan: OutputPlan, root: zarr.Group, probs: Any) -> Output:
    group = zarr.open_group(store, path=f"labels/{plan.name}", mode="r+")
    objects = ObjectLabels(plan, root, source=_inside(plan, root)) if plan.objects else None
    return Output(plan, group, probs, objects)


def attach_output(store: Any, plan: OutputPlan) -> Output:
    """Open an existing output, to write chunks concurrently.

    Raises
    ------
    UserError
        It is not there, or of another model, image or setting.
    """
    path = f"labels/{plan.name}"
    if not store.has(f"{path}/zarr.json"):
        raise UserError(f"{store}/{path} cannot be found.")
    group = zarr.open_group(store, path=path, mode="r+")
    state: Any = group.attrs.get(OURS)
    compare(state if isinstance(state, dict) else {}, plan.state, f"{store}/{path}")
    root = open_root(store, plan)
    return _opened(store, plan, root, _probs(root, plan, fresh=False))


def is_finished(store: Any) -> bool:
    """Whether a store holds labels that this program finished, of any plan."""
    if not store.has("labels/mask/zarr.json"):
        return False
    state: Any = zarr.open_group(store, path="labels/mask", mode="r").attrs.get(OURS)
    return isinstance(state, dict) and state.get("finished") is True


def finished_output(store: Any, plan: OutputPlan, *, overwrite: bool = False) -> Output | None:
    """The finished labels of a plan in a store, or None.

    Raises
    ------
    UserError
        As of `open_output`; nothing is changed.
    """
    if not store.has("zarr.json") and not store.has(".zgroup") and not store.has(".zattrs"):
        return None
    root = open_root(store, plan)
    labels = root.get("labels")
    found = _existing(labels, plan.name) if isinstance(labels, zarr.Group) else None
    if found is None:
        return None
    path = f"labels/{plan.name}"
    if not overwrite:
        compare(found, plan.state, f"{store}/{path}")
    if not same(found, plan.state):
        return None
    probs = _probs(root, plan, fresh=False)
    output = _opened(store, plan, root, probs)
    return output if output.finished and not output.missing() else None


def holds_image(store: Any) -> bool:
    """Whether a store holds an OME-Zarr image that this program did not make."""
    if not store.has("zarr.json"):
        return False
    root = zarr.open_group(store, mode="r")
    return OURS not in root.attrs and "multiscales" in _ome(root)


def open_root(store: Any, plan: OutputPlan) -> zarr.Group:
    """The root group of a store, created if missing; `UserError` as in `open_output`."""
    if store.has(".zgroup") or store.has(".zattrs"):
        raise UserError(
            f"{store} is OME-Zarr 0.4, and masks are written as 0.5; write them into a folder."
        )
    if not store.has("zarr.json"):
        zarr.create_group(store, attributes={OURS: {"schema": SCHEMA}})
    root = zarr.open_group(store, mode="r+")
    if plan.probabilities and OURS not in root.attrs:
        raise UserError(
            f"{store} is an image, so probabilities cannot be stored in it; write them into a "
            "folder."
        )
    return root


def _ome(group: zarr.Group) -> dict[str, Any]:
    found: Any = group.attrs.get("ome", {})
    return found if isinstance(found, dict) else {}


def _existing(labels: zarr.Group, name: str) -> dict[str, Any] | None:
    """The state of labels of that name; None where there are none."""
    if name not in labels:
        return None
    state: Any = labels[name].attrs.get(OURS)
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise UserError(
            f"{labels.store}/labels/{name} was not made by this program and is not replaced; "
            "choose another folder."
        )
    return state


def list_labels(labels: zarr.Group, name: str) -> None:
    """Name the labels in their group, as OME-Zarr wants it."""
    ome = _ome(labels)
    names = ome.get("labels", [])
    if name not in names:
        ome = {**ome, "version": ome_metadata.VERSION, "labels": [*names, name]}
        labels.update_attributes({"ome": ome})


def _label_metadata(plan: OutputPlan, root: zarr.Group) -> dict[str, Any]:
    return {
        "version": ome_metadata.VERSION,
        "multiscales": ome_metadata.multiscales(plan.stack, 1),
        "image-label": ome_metadata.image_label(plan.model.classes, source=_inside(plan, root)),
    }


def _inside(plan: OutputPlan, root: zarr.Group) -> bool:
    return plan.inside or "multiscales" in _ome(root)


def _probs(root: zarr.Group, plan: OutputPlan, *, fresh: bool) -> Any:
    """The array of the probabilities, an image with a channel for each class."""
    if fresh and OURS in root.attrs:
        if "0" in root:
            del root["0"]
        root.attrs.put({OURS: {"schema": SCHEMA}})
    if plan.probabilities is None:
        return None
    classes, grid, place = plan.model.classes, plan.grid, plan.class_axis
    if fresh and plan.ome:
        ome = {
            "version": ome_metadata.VERSION,
            "multiscales": ome_metadata.multiscales(plan.stack, 1, channels=True),
            "omero": ome_metadata.omero(classes, 255.0 if plan.probabilities == "uint8" else 1.0),
        }
        root.update_attributes({"ome": ome})
    n = len(classes.numbers)
    shape = (*grid.shape[:place], n, *grid.shape[place:])
    chunks = (*grid.chunks[:place], n, *grid.chunks[place:])
    return stored_array(root, "0", shape, chunks, plan.probabilities, plan)


def _stored(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    scaled = np.rint(values * 255) if dtype == np.uint8 else values
    found: np.ndarray = scaled.astype(dtype, copy=False)
    return found
