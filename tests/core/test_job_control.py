"""What a running job may be told, whatever another thread says at the same moment."""

from __future__ import annotations

import threading

import pytest

from napari_unetseg.core.job_control import JobControl

PATIENCE = 5.0


class StoppedMeanwhile(JobControl):
    """Another thread asks for a stop right after somebody has looked whether there was one."""

    @property
    def stopped(self) -> bool:
        """As it was a moment ago."""
        before = super().stopped
        if not before:
            other = threading.Thread(target=self.stop)
            other.start()
            other.join(PATIENCE)
            assert not other.is_alive()
        return before


def job_of(control: JobControl) -> threading.Thread:
    """A job that waits if it is told to."""
    job = threading.Thread(target=control.wait, daemon=True)
    job.start()
    return job


def ends(job: threading.Thread) -> bool:
    """Whether a job goes on."""
    job.join(PATIENCE)
    return not job.is_alive()


def test_a_stop_while_a_pause_is_asked_for_ends_the_wait() -> None:
    control = StoppedMeanwhile()
    control.pause()
    assert not control.paused
    assert ends(job_of(control))


@pytest.mark.parametrize("stop_first", [False, True])
def test_a_job_that_is_stopped_never_waits(stop_first: bool) -> None:
    control = JobControl()
    for tell in (control.stop, control.pause) if stop_first else (control.pause, control.stop):
        tell()
    assert (control.stopped, control.paused) == (True, False)
    assert ends(job_of(control))


def test_a_paused_job_waits_until_it_may_go_on() -> None:
    control = JobControl()
    control.pause()
    job = job_of(control)
    assert control.paused
    assert job.is_alive()
    control.resume()
    assert ends(job)
