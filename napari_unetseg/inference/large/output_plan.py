"""Plan of an output: all that determines its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from napari_unetseg.core.errors import UserError
from napari_unetseg.inference.large import ome_metadata

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.inference.large.chunk_grid import Grid
    from napari_unetseg.models.model import Model

OURS = "napari-unetseg"
SCHEMA = "napari-unetseg/mask/1"
Precision = Literal["float32", "float16", "uint8"]
"""Precision of stored probabilities; with uint8 255 stands for 1."""
METHOD = 1
"""Version of scaling, resampling and tiling; outputs of another one are not resumed."""

OBJECT_METHOD = 1
"""Version of how objects are found."""


@dataclass(frozen=True, eq=False)
class OutputPlan:
    """All that determines the bytes of an output."""

    model: Model
    stack: Stack
    grid: Grid
    """The model, the image and its chunks."""
    probabilities: Precision | None = None
    """Store them too, with that precision."""
    ome: bool = True
    """Write OME-Zarr metadata and smaller levels; without them the axes may be any, and it is for
    this program alone."""
    name: str = "mask"
    """Of the labels."""
    inside: bool = False
    """They will lie in the image itself, and say so."""
    objects: bool = False
    """Number the objects too."""
    rim_objects: bool = True
    """Number those that touch the rim in Y or X as well."""

    @property
    def maps(self) -> bool:
        """Whether the objects are found in object maps; otherwise at necks of the mask."""
        model = self.model
        return self.objects and model.net.object_maps and model.object_settings is not None

    @property
    def steps(self) -> int:
        """Chunks in all stages, for progress."""
        return len(self.grid) * (4 if self.objects else 1)

    @cached_property
    def digest(self) -> str:
        """Hash of the state; equal digests give equal chunks."""
        text = json.dumps(self.state, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def state(self) -> dict[str, Any]:
        """The state that is stored and compared."""
        description = self.model.description()
        said = {k: description[k] for k in ("net", "classes", "channels", "normalization")}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return {
            "schema": SCHEMA,
            "method": METHOD,
            "model": self.model.id,
            "description": digest[:12],
            "image": self.stack.fingerprint(),
            "axes": self.stack.grid_axes,
            "shape": list(self.grid.shape),
            "spacing": [float(s) for s in self.stack.grid_spacing],
            "units": list(self.stack.grid_units),
            **self.grid.facts(),
            "probabilities": self.probabilities,
            **self._object_state,
        }

    @property
    def _object_state(self) -> dict[str, Any]:
        if not self.objects:
            return {}
        how = self.model.object_settings
        said: dict[str, Any] = {"method": OBJECT_METHOD}
        said["settings"] = None if how is None else how.model_dump()
        return {"objects": said if self.rim_objects else {**said, "rim": False}}

    @property
    def class_axis(self) -> int:
        """Place of the classes among the axes of probabilities: in OME-Zarr before Z, Y, X."""
        if not self.ome:
            return 0
        return sum(n not in "zyx" for n in ome_metadata.axis_names(self.stack))


def same(found: dict[str, Any], state: dict[str, Any]) -> bool:
    """Whether a stored state is of the same plan."""
    return {k: v for k, v in found.items() if k != "finished"} == state


def compare(found: dict[str, Any], state: dict[str, Any], where: str) -> None:
    """Refuse to resume an output of another plan."""
    if same(found, state):
        return
    if found.get("model") != state["model"]:
        what = f"another model ({found.get('model')})"
    elif any(found.get(key) != state[key] for key in ("description", "method")):
        what = (
            "the same model with other names or intensity ranges, or by another version of this "
            "program"
        )
    elif (found.get("image"), found.get("shape")) != (state["image"], state["shape"]):
        what = "another image"
    else:
        what = "the same image with other settings"
    raise UserError(
        f"{where} holds a mask of {what}; write to another place, or replace it with --overwrite."
    )
