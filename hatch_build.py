"""Build hook: puts the manifest and the sample files where napari looks for them.

The one tracked manifest is `napari.yaml` beside this file, but npe2 looks for it inside the
package. A wheel gets it there as a copy; an editable install gets a link (a copy where links are
not allowed, as on Windows without developer mode: reinstall there after editing it).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "napari_unetseg"
MANIFEST = "napari.yaml"
SAMPLES = ("*.tif", "README.md")  # of sample_data/; README.md holds sources and licences


class PackageDataHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the manifest and the sample files to a wheel, the manifest to an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill `build_data` before a build starts.

        Parameters
        ----------
        version
            `"standard"`, or `"editable"` for `pip install -e`.
        build_data
            What hatchling is going to pack; `force_include` maps a file to its place.
        """
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        if version == "editable":
            link_manifest(root)
            return
        included = build_data["force_include"]
        included[str(root / MANIFEST)] = f"{PACKAGE}/{MANIFEST}"
        for pattern in SAMPLES:
            for path in sorted((root / "sample_data").glob(pattern)):
                included[str(path)] = f"{PACKAGE}/_sample/{path.name}"


def link_manifest(root: Path) -> None:
    """Make the package's manifest in `root` a link to the tracked one."""
    target = root / PACKAGE / MANIFEST
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(Path("..") / MANIFEST)
    except OSError:
        shutil.copyfile(root / MANIFEST, target)
