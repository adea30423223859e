"""Set the project up and run it, with nothing but Python and pip.

    python3 run.py demo             napari with the sample, trained in front of you
    python3 run.py demo --headless  the same without a screen; results in demo/
    python3 run.py test             lint, types, import contracts and all tests

Everything is installed into .venv beside this file; a second call finds it ready.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "run-stamp.json"
WINDOWS = sys.platform == "win32"
LINUX = sys.platform.startswith("linux")
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")

STAGES = ("lint", "types", "imports", "tests", "gui")
SHOWS = ("gui",)  # stages with windows: they run beside the others
BINDINGS = {"pyqt6": "PyQt6", "pyside6": "PySide6", "pyqt5": "PyQt5"}  # the first is the default
# What is installed: the module that shows it is there, MB to download, MB on disk.
PARTS = {
    "torch": ("torch", 3000, 5300) if LINUX else ("torch", 250, 1000),
    "napari": ("napari", 180, 900),
    "dev": ("pytest", 95, 290),
    "pyqt5": ("PyQt5", 70, 200),
    "pyqt6": ("PyQt6", 95, 260),
    "pyside6": ("PySide6", 265, 670),
}
QT_PACKAGES = (  # of Debian and Ubuntu
    "libgl1 libegl1 libglib2.0-0 libdbus-1-3 libfontconfig1 libxkbcommon-x11-0 libxcb-cursor0 "
    "libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 libxcb-xinerama0"
).split()
XVFB_PACKAGES = ["xvfb", "xauth"]
XVFB = ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24"]
CONTRACTS = "from importlinter.cli import lint_imports as f; raise SystemExit(f(no_logo=True))"


class Stage(NamedTuple):
    """A part of `test`: its name, the Qt binding it runs on, commands for Python."""

    name: str
    qt: str | None
    commands: list[list[str]]

    @property
    def title(self) -> str:
        """The name and, where it matters, the binding."""
        return f"{self.name} ({BINDINGS[self.qt]})" if self.qt else self.name


Result = tuple[str, bool, float]  # a stage's title, whether it passed, seconds


class SetupError(Exception):
    """Something is missing; the text says what to do about it."""


def main(argv: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 not set up."""
    options = parse(argv)
    try:
        check_python(options.command)
        if LINUX and options.only in (None, "tests", "gui"):
            install_system_packages(need_xvfb=without_screen(options))
        bindings = prepare(options)
        return demo(options, bindings[0]) if options.command == "demo" else test(options, bindings)
    except SetupError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; what stands after `--` is handed on in `extra`."""
    extra = argv[argv.index("--") + 1 :] if "--" in argv else []
    argv = argv[: argv.index("--")] if "--" in argv else argv
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--qt", choices=list(BINDINGS), help="the Qt binding (default: pyqt6)")
    help_ = "open napari with the sample, train, show the mask"
    command = commands.add_parser("demo", parents=[shared], help=help_, description=help_)
    command.add_argument(
        "--headless", action="store_true", help="show no window; leave the results in demo/"
    )
    help_ = "lint, type check, import contracts and all tests"
    command = commands.add_parser(
        "test",
        parents=[shared],
        help=help_,
        description=help_,
        epilog="What stands after -- goes to pytest.",
    )
    command.add_argument("--only", choices=STAGES, help="run this stage alone")
    return parser.parse_args(argv, argparse.Namespace(headless=False, only=None, extra=extra))


def check_python(command: str) -> None:
    """Refuse a Python that is too old."""
    if sys.version_info < (3, 11):  # noqa: UP036  (this file must say so itself)
        raise SetupError(
            "napari-unetseg needs Python 3.11 or newer and this is {}.{}: run it with a newer one, "
            "for example `python3.12 run.py {}`.".format(*sys.version_info[:2], command)
        )


def without_screen(options: argparse.Namespace) -> bool:
    """Tell whether windows must go to a virtual screen."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return LINUX and (options.headless or not screen)


# ------------------------------------------------------------------------------ setting up
def install_system_packages(*, need_xvfb: bool) -> None:
    """Install the Qt, GL and Xvfb packages that a Debian-like system lacks, or name them."""
    missing = missing_packages(QT_PACKAGES + XVFB_PACKAGES * need_xvfb)
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {' '.join(missing)} (up to 100 MB to download).", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], env=environment, check=False)
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if subprocess.run(command, env=environment, check=False).returncode:
            raise SetupError(f"`{' '.join(command)}` failed: see above, then run it yourself.")
    elif missing:
        print(
            "napari needs system packages that seem to be missing; if no window opens, run: "
            f"sudo apt-get install {' '.join(missing)}"
        )
    if need_xvfb and not shutil.which("xvfb-run"):
        raise SetupError(
            "There is no screen and no xvfb-run: install Xvfb (on Debian and Ubuntu: "
            "`sudo apt-get install xvfb xauth`) or run this on a desktop."
        )


def missing_packages(wanted: list[str]) -> list[str]:
    """Return those of the wanted Debian packages that neither stand nor are provided here."""
    if not shutil.which("dpkg-query"):
        return []
    show = ["dpkg-query", "-W", "-f", "${db:Status-Status}|${Package}, ${Provides}\\n"]
    lines = subprocess.run(show, capture_output=True, text=True, check=False).stdout.splitlines()
    here: set[str] = set()
    for line in lines:
        status, _, names = line.partition("|")
        if status == "installed":
            here.update(name.split()[0] for name in names.split(",") if name.strip())
    return [name for name in wanted if name not in here]


def prepare(options: argparse.Namespace) -> list[str]:
    """Make .venv hold what the command needs; return the Qt bindings to use, the first first."""
    dev = ["dev"] if options.command == "test" else []
    stamp = read_stamp()
    first, *others = choose_bindings(options)
    bindings = [first, *(name for name in others if name not in stamp.get("without", []))]
    if stamp and {*bindings, *dev} <= set(stamp["extras"]):
        return bindings
    make_venv()
    without = [name for name in others if not has_wheel(BINDINGS[name])]
    bindings = [first, *(name for name in others if name not in without)]
    extras = sorted({*bindings, *dev, *stamp.get("extras", [])})
    install(extras)
    write_stamp(extras, without)
    return bindings


def choose_bindings(options: argparse.Namespace) -> list[str]:
    """Return the Qt bindings that a command runs on; all but the first may be missing."""
    if options.qt:
        return [options.qt]
    return list(BINDINGS)[: None if options.command == "test" else 1]


def has_wheel(module: str) -> bool:
    """Tell whether pip has a ready-made wheel of a module for this machine."""
    command = [*pip(), "install", "--quiet", "--dry-run", "--only-binary=:all:", module]
    return is_importable(module) or works(*command)


def read_stamp() -> dict[str, Any]:
    """Return what an earlier call installed, or nothing if anything has changed since."""
    try:
        stamp: dict[str, Any] = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    valid = stamp["key"] == stamp_key() and works(PYTHON, "-P", "-c", "import napari_unetseg")
    return stamp if valid else {}


def write_stamp(extras: list[str], without: list[str]) -> None:
    """Note what was installed, and the Qt bindings that pip has not for this machine."""
    stamp = {"key": stamp_key(), "extras": extras, "without": without}
    STAMP.write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def stamp_key() -> str:
    """Return a hash of all that decides what an installation holds."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "hatch_build.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    """Make .venv unless there is a working one, without ensurepip where that is missing."""
    if works(PYTHON, "-c", ""):
        return
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    if not has_ensurepip and importlib.util.find_spec("pip") is None:
        raise SetupError(
            "This Python has neither pip nor ensurepip: install pip "
            "(on Debian and Ubuntu: `sudo apt-get install python3-pip`)."
        )
    print(f"Making {VENV}.", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if not has_ensurepip:
        command.insert(-1, "--without-pip")
    if subprocess.run(command, check=False).returncode:
        raise SetupError(f"The virtual environment {VENV} could not be made: see above.")


def install(extras: list[str]) -> None:
    """Install the project in editable mode, with the extras."""
    announce(extras)
    command = [*pip(), "install", "--editable", f"{ROOT}[{','.join(extras)}]"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SetupError("pip could not install what is needed: see its last lines above.")


def announce(extras: list[str]) -> None:
    """Say how much is going to be downloaded."""
    parts = [PARTS[name] for name in ("torch", "napari", *extras)]
    missing = [part for part in parts if not is_importable(part[0])]
    if missing:
        modules, downloads, disks = zip(*missing, strict=True)
        print(
            f"Installing {', '.join(modules)} into .venv: about {sum(downloads) / 1000:.1f} GB "
            f"to download, {sum(disks) / 1000:.1f} GB on disk, once.",
            flush=True,
        )
    else:
        print("Bringing .venv up to date: next to nothing to download.", flush=True)


def pip() -> list[str]:
    """Return the pip command that installs into .venv: its own pip, or this Python's."""
    if is_importable("pip"):
        return [str(PYTHON), "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(PYTHON)]


def is_importable(module: str) -> bool:
    """Tell whether .venv has a module, without importing it."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return works(PYTHON, "-c", code)


def works(*command: str | Path) -> bool:
    """Tell whether a command starts and ends well; its output is dropped."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


# ------------------------------------------------------------------------------ running
def run_python(
    arguments: list[str],
    *,
    qt: str | None = None,
    virtual_screen: bool = False,
    output: IO[str] | None = None,
) -> int:
    """Run .venv's Python in the project's folder and return its exit code."""
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    command = [str(PYTHON), *arguments]
    if qt:
        environment.update(QT_API=qt, PYTEST_QT_API=qt)
    if virtual_screen:
        environment.update(LIBGL_ALWAYS_SOFTWARE="1", QT_QPA_PLATFORM="xcb")
        environment.pop("WAYLAND_DISPLAY", None)
        command = XVFB + command
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=False, stdout=output, stderr=output
    ).returncode


def demo(options: argparse.Namespace, binding: str) -> int:
    """Open napari with the sample and train; without a screen, leave the results in demo/."""
    virtual = without_screen(options)
    arguments = ["-m", "napari_unetseg.gui.demo"]
    if virtual or options.headless:
        print("Running without a window; the results go to demo/.", flush=True)
        arguments += ["--headless", "--out", "demo"]
    return int(run_python(arguments + options.extra, qt=binding, virtual_screen=virtual) != 0)


def test(options: argparse.Namespace, bindings: list[str]) -> int:
    """Run the stages and print a summary; 1 if any of them failed.

    The stages with windows wait more than they compute, so they run beside the others: those of
    the first binding, and those of the rest. What they print comes when they end.
    """
    stages = planned(options, bindings)
    windows = [stage for stage in stages if stage.name in SHOWS]
    others = [stage for stage in stages if stage not in windows]
    virtual = without_screen(options)
    with ThreadPoolExecutor(2) as beside:
        if others:
            groups = (windows[:1], windows[1:])
            later = [beside.submit(all_kept, group, virtual=virtual) for group in groups]
            results = [shown(stage, virtual=virtual) for stage in others]
            results += [result for group in later for result in group.result()]
        else:
            results = [shown(stage, virtual=virtual) for stage in windows]
    print("\n=== summary")
    for title, passed, seconds in results:
        print(f"{'passed' if passed else 'FAILED'}  {title:<16} {seconds:6.1f} s")
    for name in choose_bindings(options):
        if name not in bindings:
            print(f"skipped gui ({BINDINGS[name]}): pip has no {BINDINGS[name]} for this machine")
    failed = [title for title, passed, _ in results if not passed]
    print(f"FAILED: {', '.join(failed)}" if failed else "All passed.")
    return 1 if failed else 0


def all_kept(stages: list[Stage], *, virtual: bool) -> list[Result]:
    """Run stages one after another, each as `kept` does."""
    return [kept(stage, virtual=virtual) for stage in stages]


def kept(stage: Stage, *, virtual: bool) -> Result:
    """Run a stage, then print all that it said."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        result = run_stage(stage, virtual=virtual, output=output)
        output.seek(0)
        print(f"\n=== {stage.title}\n{output.read()}", flush=True)
    return result


def shown(stage: Stage, *, virtual: bool) -> Result:
    """Run a stage whose output is seen at once."""
    print(f"\n=== {stage.title}", flush=True)
    return run_stage(stage, virtual=virtual)


def run_stage(stage: Stage, *, virtual: bool, output: IO[str] | None = None) -> Result:
    """Run the commands of a stage: title, whether all passed, seconds."""
    start = time.monotonic()
    screen = virtual and stage.qt is not None
    codes = [
        run_python(c, qt=stage.qt, virtual_screen=screen, output=output) for c in stage.commands
    ]
    return stage.title, not any(codes), time.monotonic() - start


def planned(options: argparse.Namespace, bindings: list[str]) -> list[Stage]:
    """Return the stages to run, in order; what shows no window needs one binding alone."""
    pytest = ["-m", "pytest", *options.extra]
    stages = [
        Stage("lint", None, [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"]]),
        Stage("types", None, [["-m", "mypy"]]),
        Stage("imports", None, [["-c", CONTRACTS]]),
        Stage("tests", None, [[*pytest, "--ignore=tests/gui"]]),
        Stage("gui", bindings[0], [[*pytest, "tests/gui"]]),
        *(Stage("gui", name, [[*pytest, "tests/gui", "-m", "bindings"]]) for name in bindings[1:]),
    ]
    return [stage for stage in stages if options.only in (None, stage.name)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
