"""Settings of the interpreter hold while a job runs, and are undone with the last one."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING
from weakref import ref

import pytest

from napari_unetseg.runtime.interpreter import HAND_OVER, responsive_window

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def usual() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield sys.getswitchinterval()
    sys.setswitchinterval(before)


def test_the_last_of_several_jobs_undoes_it(usual: float) -> None:
    with responsive_window():
        with responsive_window():
            pass
        assert sys.getswitchinterval() == pytest.approx(HAND_OVER, rel=0.01)
        assert gc.get_freeze_count() > 0
    assert sys.getswitchinterval() == usual
    assert gc.get_freeze_count() == 0


def test_a_job_that_fails_undoes_it_too(usual: float) -> None:
    with pytest.raises(RuntimeError), responsive_window():
        raise RuntimeError
    assert (sys.getswitchinterval(), gc.get_freeze_count()) == (usual, 0)


def test_a_shorter_interval_of_the_users_own_stays(usual: float) -> None:
    sys.setswitchinterval(HAND_OVER / 5)
    with responsive_window():
        assert sys.getswitchinterval() == pytest.approx(HAND_OVER / 5, rel=0.1)


def test_what_was_dropped_while_a_job_ran_is_freed_after_it() -> None:
    class Layer:
        def __init__(self) -> None:
            self.itself = self

    layer = Layer()
    alive = ref(layer)
    with responsive_window():
        del layer
        gc.collect()
        assert alive() is not None
    gc.collect()
    assert alive() is None
