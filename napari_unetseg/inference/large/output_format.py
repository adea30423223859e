"""Output formats and paths of masks: OME-Zarr, or files exported from a hidden store."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.inference.large.object_labels import NAME
from napari_unetseg.inference.large.publishing import publish
from napari_unetseg.inference.large.work_folder import WorkFolder
from napari_unetseg.io.file_names import as_stored, same_name
from napari_unetseg.io.provenance import noted_digest, provenance
from napari_unetseg.io.write_masks import FORMATS, MaskFormat, write_mask, write_probabilities

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.inference.large.output import Output
    from napari_unetseg.inference.large.output_plan import OutputPlan, Precision


@dataclass(frozen=True, slots=True)
class Saving:
    """How the masks of images are saved."""

    folder: Path | None
    """Where; None: each inside its OME-Zarr image."""
    format: MaskFormat = FORMATS["tiff"]
    """File format; OME-Zarr where it is inside."""
    probabilities: Precision | None = None
    """Save them too, with that precision; in TIFFs float32 or float16."""
    overwrite: bool = False
    """Replace OME-Zarr masks of another model, image or setting."""
    objects: bool = True
    """Save the numbers of the objects, of a model whose structures consist of them: instead of the
    mask, in OME-Zarr beside it."""
    rim_objects: bool = True
    """Keep objects that touch the rim of the image in Y or X, among the numbers and in tables."""

    def __post_init__(self) -> None:
        chosen = self.format
        if self.probabilities is not None and self.probabilities not in chosen.precisions:
            others = " or ".join(sorted(chosen.precisions))
            raise UserError(
                f"Probabilities can be {self.probabilities} only in OME-Zarr; choose {others}."
            )
        if self.folder is None and not chosen.by_chunks:
            raise UserError(
                "Only OME-Zarr masks can be written into an image; choose a "
                f"folder for {chosen.name}."
            )

    def mask_of(self, stem: str, image: Path) -> Path:
        """Path of an image's mask."""
        if self.folder is None:
            return image / "labels" / "mask"
        return as_stored(self.folder / f"{stem}{self.format.suffix}")

    def probabilities_of(self, stem: str) -> Path | None:
        """Path of the probabilities; None if not wanted or in the mask's store."""
        if self.folder is None or self.format.by_chunks or self.probabilities is None:
            return None
        suffix = ".ome.tif" if self.probabilities == "float32" else ".tif"
        return as_stored(self.folder / f"{stem}_probabilities{suffix}")

    def table_of(self, stem: str, image: Path, suffix: str) -> Path:
        """Path of an image's object table."""
        if self.folder is None:
            return image.with_name(f"{image.name}_objects{suffix}")
        return as_stored(self.folder / f"{stem}_objects{suffix}")

    def open_mask(self, stem: str, image: Path) -> Stack:
        """Open a finished mask; raises `UserError` where it cannot be read."""
        return self.format.open(self.opened_as(stem, image))

    def open_structures(self, stem: str, image: Path) -> Stack | None:
        """Open the structures beside a finished mask of objects; None where there are none."""
        if not self.format.by_chunks:
            return None
        return self.format.open(self.zarr_of(stem, image) / "labels" / "mask")

    def opened_as(self, stem: str, image: Path) -> Path:
        """Path at which a finished mask is opened."""
        mask = self.mask_of(stem, image)
        if self.format.by_chunks:
            labels = self.zarr_of(stem, image) / "labels"
            objects = labels / NAME
            return objects if self.objects and objects.exists() else labels / "mask"
        if self.format.per_plane and not mask.exists():
            return mask.with_name(f"{stem}_*{self.format.suffix}")
        return mask

    def zarr_of(self, stem: str, image: Path) -> Path:
        """The OME-Zarr that contains an image's labels."""
        return image if self.folder is None else as_stored(self.folder / f"{stem}.zarr")

    def work_of(self, stem: str, image: Path) -> WorkFolder:
        """The work folder of an image."""
        if self.folder is None:
            return WorkFolder(image / ".mask.unetseg")
        return WorkFolder(as_stored(self.folder / f".{stem}.unetseg"))

    def exists(self, stem: str, image: Path) -> bool:
        """Whether complete outputs of an image exist; for other formats than OME-Zarr."""
        if self.folder is None or self.work_of(stem, image).unfinished():
            return False
        file, shares = self.mask_of(stem, image), self.probabilities_of(stem)
        there = file.exists()
        if self.format.per_plane and not there:
            begin, files = same_name(f"{stem}_"), self.folder.glob(f"*{self.format.suffix}")
            there = any(same_name(f.name).startswith(begin) for f in files)
        return there and (shares is None or shares.exists())

    def was_made(self, plan: OutputPlan, stem: str, image: Path, since: float) -> bool:
        """Whether complete files of a plan were written after a time of the file system."""
        mask = self.mask_of(stem, image)
        file = self.format.files(mask, plan.grid.shape, plan.stack.grid_axes)[0]
        try:
            recent = file.stat().st_mtime >= since
        except OSError:
            return False
        return recent and self.exists(stem, image) and self._digest(file) == plan.digest

    def _digest(self, file: Path) -> str:
        """The digest in a mask file; empty without one."""
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            if self.format.read_text is not None:
                return noted_digest(self.format.read_text(file))
        return ""

    def export(self, output: Output, stem: str, image: Path, scratch: Path) -> None:
        """Write an image's outputs from a finished hidden store.

        ``scratch`` is for temporary files.
        """
        if self.format.by_chunks:
            publish(output, self.zarr_of(stem, image))
            return
        plan, model = output.plan, output.plan.model
        grid: dict[str, Any] = {"axes": plan.stack.grid_axes}
        grid |= {"spacing": plan.stack.grid_spacing, "units": plan.stack.grid_units}
        grid |= {"scratch": scratch}
        names = {s.number: s.name for s in model.classes.structures if not plan.objects}
        how = {"names": names, "provenance": provenance(plan.digest, model.id), **grid}
        labels = output.mask if output.objects is None else output.objects.ids
        write_mask(self.mask_of(stem, image), labels, as_format=self.format, **how)
        shares = self.probabilities_of(stem)
        if shares is not None:
            half = self.probabilities == "float16"
            more = {"names": model.classes.names, "half": half, **grid}
            write_probabilities(shares, output.probabilities, **more)
