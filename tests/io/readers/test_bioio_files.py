"""Formats of microscope makers: read by bioio, or the package to install is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.readers import bioio_files

ZYX = np.random.default_rng(0).integers(0, 4000, (5, 20, 30)).astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("a.nd2", "bioio-nd2"),
        ("a.lif", "bioio-lif"),
        ("a.CZI", "bioio-czi"),
        ("a.dv", "bioio-dv"),
        ("a.oib", "bioio-bioformats"),
    ],
)
def test_the_package_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(bioio_files, "find_spec", lambda module: None)
    (tmp_path / name).write_bytes(b"any")
    with pytest.raises(UserError, match=f"needs the package {package}; install it"):
        open_stack(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        open_stack(tmp_path / f"other-{name}")


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_file_of_a_maker_is_read_by_bioio(tmp_path: Path) -> None:
    pytest.importorskip("bioio")
    pytest.importorskip("bioio_dv")
    importlib.import_module("mrc").imsave(tmp_path / "a.dv", ZYX, resolution=(0.1, 0.2, 0.5))
    stack = open_stack(tmp_path / "a.dv")
    assert (stack.name, stack.axes) == ("a", "ZYX")
    assert stack.spacing == pytest.approx((0.5, 0.2, 0.1))
    assert stack.units == ("um", "um", "um")
    np.testing.assert_array_equal(stack.data[...], ZYX)
    np.testing.assert_array_equal(stack.data[2, 3:9, ::2], ZYX[2, 3:9, ::2])
    (tmp_path / "a.dv").write_bytes(b"none")
    with pytest.raises(UserError, match="cannot be read"):
        open_stack(tmp_path / "a.dv")
