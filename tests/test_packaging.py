"""The wheel, the sdist and an editable install all yield a plugin that napari lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hatchling", reason="building needs hatchling: pip install -e .[dev]")

ROOT = Path(__file__).resolve().parents[1]
NAME = "napari-unetseg"
PACKAGE = "napari_unetseg"

# Run inside each installation: what napari would see, as JSON.
LOOK = f"""
import importlib, importlib.metadata, importlib.util, json
from pathlib import Path
from npe2 import PluginManager

manager = PluginManager()
manager.discover()
manifest = manager.get_manifest({NAME!r})
resolved = {{}}
for command in manifest.contributions.commands:
    name = command.python_name
    module, _, attribute = name.partition(":")
    try:
        resolved[name] = callable(getattr(importlib.import_module(module), attribute))
    except Exception as error:
        resolved[name] = repr(error)
folder = Path(importlib.util.find_spec({PACKAGE!r}).origin).parent
print(json.dumps({{
    "display_name": manifest.display_name,
    "version": manifest.package_version,
    "extras": importlib.metadata.metadata({NAME!r}).get_all("Provides-Extra"),
    "requires": importlib.metadata.requires({NAME!r}),
    "folder": str(folder),
    "files": sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()),
    "resolved": resolved,
    "widgets": [widget.display_name for widget in manifest.contributions.widgets],
    "menus": sorted(manifest.contributions.menus),
    "samples": [sample.key for sample in manifest.contributions.sample_data],
    "settings": {{
        key: sorted(group.properties)
        for key, group in manifest.contributions.configurations.items()
    }},
}}))
"""


@dataclass(frozen=True)
class Built:
    """What came out of a build of this checkout."""

    wheel: Path
    sdist: Path
    unpacked: Path  # the sdist, unpacked: a clean copy of the project


@dataclass(frozen=True)
class Installed:
    """One installation in an environment of its own."""

    kind: str
    python: Path
    look: dict[str, Any]


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command and return its output; fail with its errors."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the wheel and the sdist of this checkout, without network."""
    out = tmp_path_factory.mktemp("dist")
    for target in ("--wheel", "--sdist"):
        call(sys.executable, "-m", "build", "--no-isolation", target, "-o", out, ROOT, cwd=out)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    call(sys.executable, "-m", "tarfile", "-e", sdist, out, cwd=out)
    return Built(wheel, sdist, out / sdist.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def installed(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """Install the project in an environment that sees this one's packages."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    python = make_environment(folder / "env")
    what = {
        "wheel": [built.wheel],
        "sdist": [built.sdist],
        "editable": ["--editable", built.unpacked],
    }[kind]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    call(*pip, *options, *what, cwd=folder)
    look = json.loads(call(python, "-c", LOOK, cwd=folder).splitlines()[-1])
    return Installed(kind, python, look)


def make_environment(folder: Path) -> Path:
    """Make an empty virtual environment that falls back on the packages of this one."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    windows = sys.platform == "win32"
    site = folder / ("Lib/site-packages" if windows else f"lib/{python_folder()}/site-packages")
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "_this_environment.pth").write_text("\n".join(sorted(paths)) + "\n")
    return folder / ("Scripts/python.exe" if windows else "bin/python")


def python_folder() -> str:
    """Return the name of Python's folder in an environment, like python3.11."""
    return "python{}.{}".format(*sys.version_info[:2])


def test_napari_lists_the_plugin(installed: Installed) -> None:
    look = installed.look
    assert look["display_name"] == "U-Net segmentation"
    assert look["widgets"] == ["U-Net segmentation", "U-Net batch"]
    assert look["menus"] == ["napari/layers/annotate", "napari/layers/segment"]
    samples = ["nuclei2d", "two_structures", "nuclei2d_objects", "two_kinds"]
    assert look["samples"] == [*samples, "cell", "immunohistochemistry"]
    assert set(look["settings"]) == {"computing", "storage", "shortcuts"}
    assert look["settings"]["computing"] == ["device", "threads"]
    assert look["settings"]["storage"] == ["models_dir"]


def test_the_package_comes_from_this_installation(installed: Installed, built: Built) -> None:
    home = built.unpacked if installed.kind == "editable" else installed.python.parents[1]
    assert Path(installed.look["folder"]).resolve().is_relative_to(home.resolve())


def test_every_command_of_the_manifest_can_be_called(installed: Installed) -> None:
    broken = {
        name: found for name, found in installed.look["resolved"].items() if found is not True
    }
    assert not broken


def test_npe2_accepts_the_manifest(installed: Installed, tmp_path: Path) -> None:
    output = call(installed.python, "-m", "npe2", "validate", NAME, cwd=tmp_path)
    assert "valid" in output


def test_the_command_line_is_installed(installed: Installed, tmp_path: Path) -> None:
    suffix = ".exe" if sys.platform == "win32" else ""
    assert "train" in call(installed.python.with_name(f"unetseg{suffix}"), "--help", cwd=tmp_path)


def test_the_base_requires_no_qt_binding(installed: Installed) -> None:
    base = [line.lower() for line in installed.look["requires"] if "extra ==" not in line]
    assert base
    assert not [line for line in base if line.startswith(("pyqt5", "pyqt6", "pyside"))]
    assert not [line for line in base if "napari[" in line]
    assert {"pyqt5", "pyqt6", "pyside6", "all", "dev"} <= set(installed.look["extras"])


def test_the_wheel_carries_the_samples_and_no_tests(built: Built) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    assert not [name for name in names if name.startswith(("tests", "sample_data", "benchmarks"))]
    assert names.count(f"{PACKAGE}/napari.yaml") == 1
    packed = {name for name in names if name.startswith(f"{PACKAGE}/_sample/")}
    tracked = {f"{PACKAGE}/_sample/{file.name}" for file in (ROOT / "sample_data").glob("*.tif")}
    assert tracked
    assert packed == {*tracked, f"{PACKAGE}/_sample/README.md"}


def test_wheels_from_checkout_and_sdist_hold_the_same_files(built: Built, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", tmp_path]
    call(*build, built.unpacked, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(wheel).namelist()) == sorted(
        zipfile.ZipFile(built.wheel).namelist()
    )


@pytest.mark.parametrize("installed", ["editable"], indirect=True)
def test_an_edit_of_the_root_manifest_is_live_in_an_editable_install(
    installed: Installed, built: Built
) -> None:
    inner = built.unpacked / PACKAGE / "napari.yaml"
    if inner.is_symlink():  # a copy on systems that refuse links
        assert inner.samefile(built.unpacked / "napari.yaml")
    assert inner.read_bytes() == (ROOT / "napari.yaml").read_bytes()
