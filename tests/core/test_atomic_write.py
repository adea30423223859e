"""A file is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from helpers import random_model

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.models.model import load_model

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and limits")
no_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere"
)


def test_a_new_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_old_file_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, GeneratorExit])
@pytest.mark.parametrize("old", [True, False])
def test_a_failure_leaves_no_trace(tmp_path: Path, error: type[BaseException], old: bool) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] * old
    if old:
        assert path.read_text() == "old"


@pytest.mark.parametrize("old", [True, False])
def test_an_os_error_becomes_a_sentence(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text("old")
    with pytest.raises(UserError) as error, atomic_path(path):
        raise OSError(28, "No space left on device")
    sentence = str(error.value)
    assert "disk is full" in sentence
    assert ("the old file is unchanged" in sentence) == old
    assert isinstance(error.value.__cause__, OSError)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] * old


@posix
def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    mask = os.umask(0o027)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
        assert path.stat().st_mode & 0o777 == 0o640  # as for any other new file
        for mode in (0o600, 0o444, 0o664):
            path.chmod(mode)
            with atomic_path(path) as temporary:
                temporary.write_text("newer")
            assert path.stat().st_mode & 0o777 == mode
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere" / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_folder_or_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="could not be saved"), atomic_path(tmp_path / "folder"):
        pass
    (tmp_path / "file").write_text("x")
    inside = tmp_path / "file" / "a.txt"
    with pytest.raises(UserError, match="could not be saved"), atomic_path(inside):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@posix
def test_a_name_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be saved"), atomic_path(tmp_path / ("a" * 300)):
        pass
    assert list(tmp_path.iterdir()) == []
    with atomic_path(tmp_path / ("ä" * 120 + ".txt")) as temporary:
        temporary.write_text("a long name that is allowed")


def test_a_file_system_that_refuses_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(UserError, match=r"read-only file system.*choose a folder"):
        random_model(depth=1, width=1).save(tmp_path / "a.safetensors")


@no_root
def test_a_read_only_folder_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UserError, match="permission denied"), atomic_path(path):
            pass
    finally:
        tmp_path.chmod(0o755)
    assert path.read_text() == "old"


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [str(n) * 50_000 for n in range(6)]
    errors: list[BaseException] = []

    def write(text: str) -> None:
        try:
            for _ in range(10):
                with atomic_path(path) as temporary:
                    temporary.write_text(text)
                assert path.read_text() in texts
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, signal, sys
from napari_unetseg.core.errors import UserError
from napari_unetseg.models.model import load_model

model = load_model(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    model.save(sys.argv[2])
except UserError as error:
    print(error)
"""


@posix
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_model(tmp_path: Path, old: bool) -> None:
    source = random_model(1, depth=2, width=4).save(tmp_path / "source.safetensors")
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "model.safetensors"
    before = random_model(2, depth=1, width=1)
    if old:
        before.save(target)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(source), str(target)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    sentence = done.stdout.strip()
    assert "the disk is full" in sentence
    assert "\n" not in sentence
    assert ("the old file is unchanged" in sentence) == old
    assert [p.name for p in folder.iterdir()] == ["model.safetensors"] * old
    if old:
        assert load_model(target).id == before.id
