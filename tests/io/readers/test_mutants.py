"""Files that were damaged or that lie: an array, a model or a sentence, and nothing more."""

from __future__ import annotations

import os
from pathlib import Path

import guarded
import mutants
import pytest
from mutations import make_seeds, mutate


def test_mutated_files_end_in_an_array_or_a_sentence() -> None:
    results = mutants.run(68, seed=1, workers=1)
    assert [r.number for r in results] == list(range(68))
    assert {r.kind for r in results} == {s.kind for s in make_seeds()}
    assert {r.end for r in results} == {"opened", "refused"}
    assert {r.number: mutants.faults(r) for r in results if mutants.faults(r)} == {}


def test_the_same_number_is_the_same_case() -> None:
    import numpy as np

    one, two = make_seeds(), make_seeds()
    for seed, same in zip(one, two, strict=True):
        if seed.kind != "m.safetensors":  # it holds when it was made
            first = mutate(seed, np.random.default_rng([0, 1]))
            assert first == mutate(same, np.random.default_rng([0, 1]))


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "outside.txt").write_text("x")
    (tmp_path / "case" / "inside.txt").write_text("x")
    (tmp_path / "case" / "link").symlink_to(tmp_path / "outside.txt")
    watch = guarded.Watch()

    def seen() -> str:
        found = "; ".join(watch.seen)
        watch.seen.clear()
        return found

    watch.folder = str(tmp_path / "case")
    try:
        (tmp_path / "case" / "inside.txt").read_text()
        assert seen() == ""
        (tmp_path / "case" / "link").read_text()
        assert str(tmp_path / "outside.txt") in seen()
        (tmp_path / "case" / "inside.txt").write_text("y")
        assert "to write" in seen()
        os.system("true")
        assert "os.system" in seen()
        exec(compile("1", str(tmp_path / "case" / "inside.txt"), "exec"))
        assert "exec" in seen()
        exec("1 + 1")
        assert "exec <string>" in seen()
    finally:
        watch.folder = None


@pytest.mark.parametrize(
    ("end", "seconds", "megabytes", "seen"),
    [
        ("failed", 0.1, 1.0, ()),
        ("opened", 2.1, 1.0, ()),
        ("opened", 0.1, 257.0, ()),
        ("refused", 0.1, None, ("open /etc/passwd",)),
    ],
)
def test_what_is_a_fault(
    end: str, seconds: float, megabytes: float | None, seen: tuple[str, ...]
) -> None:
    result = guarded.Result(0, "a", end, "text", seconds, megabytes, seen)
    assert len(mutants.faults(result)) == 1
    fine = guarded.Result(0, "a", "opened", "", 1.9, 255.0)
    assert mutants.faults(fine) == []
