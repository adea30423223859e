"""run.py, driven from outside on a tiny project that stands in for this one.

The stand-in has the same extras, but none of them needs anything, and a build backend of its own,
so that real environments are made and real pip runs, without network.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses shell scripts as stand-ins")

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "napari-unetseg"
version = "0"
"""

# A build backend: an editable wheel that adds the folder `modules` to the path.
BACKEND = """
import pathlib, zipfile
INFO = "napari_unetseg-0.dist-info/"
METADATA = "Metadata-Version: 2.1\\nName: napari-unetseg\\nVersion: 0\\n" + "".join(
    f"Provides-Extra: {extra}\\n" for extra in ("dev", "pyqt5", "pyqt6", "pyside6")
)

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "napari_unetseg-0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr("here.pth", str(pathlib.Path("modules").resolve()))
        wheel.writestr(INFO + "METADATA", METADATA)
        wheel.writestr(INFO + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n")
        wheel.writestr(INFO + "RECORD", "")
    return name
"""

# Every tool and the demo: append what they were called with, and fail where FAIL names them.
TOOL = """
import json, os, sys
name = {name!r}
def record(*arguments):
    environment = {{key: os.environ.get(key) for key in ("QT_API", "PYTEST_QT_API")}}
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps([name, list(arguments), environment]) + "\\n")
    return int(name in os.environ.get("FAIL", "").split())
"""
AS_MAIN = 'if __name__ == "__main__":\n    sys.exit(record(*sys.argv[1:]))\n'
AS_LINTER = "def lint_imports(**options):\n    return record()\n"


# Scripts that stand in for the system's: they say so in CALLS, and xvfb-run goes on.
SCRIPT = """#!/bin/sh
printf '["%s", "%s", {{}}]\\n' "{name}" "$*" >> "$CALLS"
{then}
"""
Call = tuple[str, list[str], dict[str, str]]


@dataclass(frozen=True)
class Project:
    """The stand-in, with run.py in it, on a machine of its own making."""

    root: Path
    run: ModuleType
    bin: Path  # all that PATH holds
    wheels: Path  # all that pip finds
    calls_file: Path

    def main(self, *arguments: str) -> int:
        """Run run.py's main in this process; what it starts are real processes."""
        return int(self.run.main(list(arguments)))

    def calls(self) -> list[Call]:
        """Return what was started since the last look: name, arguments, environment."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [tuple(json.loads(line)) for line in lines]

    def script(self, name: str, then: str = "") -> None:
        """Put a script on PATH."""
        file = self.bin / name
        file.write_text(SCRIPT.format(name=name, then=then))
        file.chmod(0o755)

    def debian(self, *packages: str) -> None:
        """Make the machine a Debian on which these packages are installed."""
        lines = "\n".join(f"echo 'installed|{name}, '" for name in packages)
        self.script("dpkg-query", f"{lines}\necho 'not-installed|xauth, '")
        self.script("apt-get")


def load_run(path: Path) -> ModuleType:
    """Import a run.py as a module of its own."""
    spec = importlib.util.spec_from_file_location("run_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_under_test"] = module  # typing looks there for the names of annotations
    spec.loader.exec_module(module)
    return module


def write_modules(folder: Path) -> None:
    """Write the tools and the demo that record how they were called."""
    mains = ("ruff", "mypy", "pytest", "napari_unetseg/gui/demo")
    for name, code in [*((name, AS_MAIN) for name in mains), ("importlinter/cli", AS_LINTER)]:
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TOOL.format(name=file.stem) + code)


def write_wheel(folder: Path, name: str) -> None:
    """Write an empty wheel that pip can install."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-99-py3-none-any.whl", "w") as wheel:
        info = f"{name}-99.dist-info/"
        wheel.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(info + "RECORD", "")


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a project in a folder, on a machine with a screen and without ensurepip."""
    root, bin_, wheels = (folder / name for name in ("project", "bin", "wheels"))
    shutil.rmtree(bin_, ignore_errors=True)
    bin_.mkdir()
    (folder / "calls").unlink(missing_ok=True)
    write_modules(root / "modules")
    for name in ("PyQt5", "PySide6"):
        write_wheel(wheels, name)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    for name in ("hatch_build.py", "run.py"):
        shutil.copy(ROOT / name, root)
    (bin_ / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    for key, value in {"CALLS": folder / "calls", "PATH": bin_, "DISPLAY": ":0"}.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    for name in ("FAIL", "WAYLAND_DISPLAY", "QT_API", "PYTEST_QT_API"):
        monkeypatch.delenv(name, raising=False)
    hide_modules(monkeypatch, "ensurepip")
    project = Project(root, load_run(root / "run.py"), bin_, wheels, folder / "calls")
    project.script("xvfb-run", 'shift 3\nexec "$@"')
    return project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project that was never run."""
    return stand_in(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def ready_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project in which everything is installed."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = stand_in(folder, monkeypatch)
        assert project.main("demo", "--qt", "pyside6") == 0
        assert project.main("test", "--only", "types") == 0
        project.calls()
    return folder


@pytest.fixture
def ready(ready_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project in which everything is installed."""
    return stand_in(ready_folder, monkeypatch)


def hide_modules(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let run.py find that this Python lacks some modules."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in names else find(name, *rest),
    )


# ------------------------------------------------------------------------------ setting up
def test_demo_makes_an_environment_without_ensurepip_and_a_second_call_uses_it(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert project.main("demo") == 0
    assert "GB to download" in capfd.readouterr().out
    (call,) = project.calls()
    assert call == ("demo", [], {"QT_API": "pyqt6", "PYTEST_QT_API": "pyqt6"})
    assert not (project.root / ".venv" / "bin" / "pip").exists()

    (project.root / "backend.py").unlink()  # whoever installs again will fail
    assert project.main("demo") == 0
    assert capfd.readouterr().out == ""
    assert project.calls() == [call]


def test_an_environment_with_ensurepip_has_its_own_pip(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    if importlib.util.find_spec("ensurepip") is None:
        pytest.skip("this Python has no ensurepip")
    project.run.make_venv()
    assert project.run.pip() == [str(project.root / ".venv" / "bin" / "python"), "-m", "pip"]


def test_without_pip_and_ensurepip_one_sentence_says_what_to_install(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hide_modules(monkeypatch, "ensurepip", "pip")
    assert project.main("demo") == 2
    assert "python3-pip" in capfd.readouterr().err
    assert project.calls() == []


def test_a_changed_pyproject_is_installed_again_and_a_failure_is_not_taken_for_done(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert project.main("demo", "--qt", "pyqt5") == 0
    capfd.readouterr()
    with (project.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    (project.root / "backend.py").write_text("raise RuntimeError('broken')")
    assert project.main("demo", "--qt", "pyqt5") == 2
    assert "pip could not install" in capfd.readouterr().err
    (project.root / "backend.py").write_text(BACKEND)
    assert project.main("demo", "--qt", "pyqt5") == 0
    assert "Installing" in capfd.readouterr().out
    assert [call[0] for call in project.calls()] == ["demo", "demo"]


def test_a_broken_environment_is_made_anew(project: Project) -> None:
    assert project.main("demo", "--qt", "pyqt5") == 0
    (project.root / ".venv" / "bin" / "python").unlink()
    (project.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    assert project.main("demo", "--qt", "pyqt5") == 0
    assert [call[0] for call in project.calls()] == ["demo", "demo"]


def test_an_old_python_is_told_so_in_one_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 9, 2))
        code = project.main("test")
    assert code == 2
    assert capfd.readouterr().err.count("\n") == 1
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))


# ------------------------------------------------------------------------------ the machine
def test_on_debian_root_installs_what_is_missing(
    ready: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = ready.run.QT_PACKAGES
    ready.debian(*(name for name in wanted if name != "libegl1"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ready.main("demo") == 0
    commands = [arguments for name, arguments, _ in ready.calls() if name == "apt-get"]
    assert commands == ["update", "install -y --no-install-recommends libegl1"]
    assert "MB to download" in capfd.readouterr().out


def test_on_debian_others_are_told_what_is_missing(
    ready: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ready.debian(*ready.run.QT_PACKAGES)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ready.main("demo", "--headless") == 0
    assert "sudo apt-get install xvfb xauth" in capfd.readouterr().out
    assert not [call for call in ready.calls() if call[0] == "apt-get"]


def test_a_package_that_provides_another_counts(ready: Project) -> None:
    ready.debian("libglib2.0-0t64, libglib2.0-0 (= 2.80.0-6)", "libgl1")
    assert ready.run.missing_packages(["libglib2.0-0", "libgl1", "xauth"]) == ["xauth"]


def test_apt_that_fails_ends_in_a_sentence(
    ready: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ready.debian()
    ready.script("apt-get", "exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ready.main("demo") == 2
    assert "libgl1" in capfd.readouterr().err


def test_without_screen_and_xvfb_one_sentence_says_what_to_install(
    ready: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY")
    (ready.bin / "xvfb-run").unlink()
    assert ready.main("demo") == 2
    assert "xvfb" in capfd.readouterr().err


# ------------------------------------------------------------------------------ demo
@pytest.mark.parametrize("arguments", [["--headless"], []])
def test_demo_without_a_window_runs_under_xvfb(
    ready: Project, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    if not arguments:
        monkeypatch.delenv("DISPLAY")
    assert ready.main("demo", "--qt", "pyqt6", *arguments) == 0
    xvfb, demo = ready.calls()
    assert xvfb[1].startswith("-a -s -screen 0 1600x1000x24")
    assert demo[:2] == ("demo", ["--headless", "--out", "demo"])
    assert demo[2]["QT_API"] == "pyqt6"


def test_demo_fails_when_the_demo_fails(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "demo")
    assert ready.main("demo") == 1


# ------------------------------------------------------------------------------ test
def test_test_runs_every_stage_and_the_gui_on_all_bindings(
    ready: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ready.main("test", "--", "-k", "x") == 0
    started = [(name, arguments, each.get("QT_API")) for name, arguments, each in ready.calls()]
    windows = {binding: arguments for _, arguments, binding in started if binding}
    assert windows == {  # side by side
        "pyqt6": ["-k", "x", "tests/gui"],
        "pyside6": ["-k", "x", "tests/gui", "-m", "bindings"],
        "pyqt5": ["-k", "x", "tests/gui", "-m", "bindings"],
    }
    assert [call for call in started if not call[2]] == [  # beside the windows
        ("ruff", ["check"], None),
        ("ruff", ["format", "--check"], None),
        ("mypy", [], None),
        ("cli", [], None),
        ("pytest", ["-k", "x", "--ignore=tests/gui"], None),
    ]
    out = capfd.readouterr().out
    assert out.count("=== gui (Py") == 3
    assert out.rstrip().endswith("All passed.")


def test_what_a_stage_with_windows_said_is_printed(
    ready: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    (ready.root / "modules" / "pytest.py").write_text(
        "import os, sys\nprint('said on', os.environ.get('QT_API'))\nsys.exit('and failed')\n"
    )
    assert ready.main("test") == 1
    out = capfd.readouterr().out
    for title, name in (("PyQt6", "pyqt6"), ("PySide6", "pyside6"), ("PyQt5", "pyqt5")):
        assert f"=== gui ({title})\nsaid on {name}\n" in out
    assert out.rstrip().endswith("FAILED: tests, gui (PyQt6), gui (PySide6), gui (PyQt5)")
    write_modules(ready.root / "modules")


def test_one_failed_stage_fails_the_whole_and_is_named(
    ready: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIL", "mypy cli")
    assert ready.main("test") == 1
    assert capfd.readouterr().out.rstrip().endswith("FAILED: types, imports")
    assert len(ready.calls()) == 8


def test_one_stage_alone(ready: Project) -> None:
    assert ready.main("test", "--only", "types") == 0
    assert [call[0] for call in ready.calls()] == ["mypy"]
    assert ready.main("test", "--only", "gui", "--qt", "pyside6") == 0
    assert [(call[1], call[2]["QT_API"]) for call in ready.calls()] == [(["tests/gui"], "pyside6")]


def test_a_demo_on_pyqt6_does_not_make_test_forget_the_other_bindings(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert project.main("demo", "--qt", "pyqt6") == 0
    assert project.main("test", "--only", "gui") == 0
    used = [environment["QT_API"] for _, _, environment in project.calls()]
    assert used == ["pyqt6", "pyqt6", "pyside6", "pyqt5"]
    assert "skipped" not in capfd.readouterr().out


@pytest.mark.parametrize("lacking", ["PyQt5", "PySide6"])
def test_a_binding_that_pip_has_not_is_skipped_by_name_also_the_next_time(
    project: Project, capfd: pytest.CaptureFixture[str], lacking: str
) -> None:
    (project.wheels / f"{lacking}-99-py3-none-any.whl").unlink()
    for _ in range(2):
        assert project.main("test", "--only", "gui") == 0
        used = [environment["QT_API"] for _, _, environment in project.calls()]
        assert used == [name for name in ("pyqt6", "pyside6", "pyqt5") if name != lacking.lower()]
        said = f"skipped gui ({lacking}): pip has no {lacking} for this machine"
        assert said in capfd.readouterr().out
    assert project.main("demo", "--qt", lacking.lower()) == 0  # who asks for it has it tried


def test_ci_runs_exactly_this() -> None:
    script = ROOT / ".ci" / "run"
    if not script.is_file():
        pytest.skip("an sdist carries no .ci")
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec python3 run.py test"
