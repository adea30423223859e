"""The current job of a window: start, progress, pause, stop and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, OtherSpacing
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.gui.services.job_runner import Job
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.eta import EtaEstimator
from napari_unetseg.gui.state.preferences import Preferences
from napari_unetseg.gui.state.session import JobKind, JobState, Level
from napari_unetseg.jobs.window_tasks import JobProgress
from napari_unetseg.runtime.cpu import cores
from napari_unetseg.training.training_events import StepDone

if TYPE_CHECKING:
    from napari_unetseg.gui.services.job_runner import Runner, Work
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Message, Session

DOING = {
    JobKind.TRAIN: "Training",
    JobKind.PREDICT: "Predicting",
    JobKind.TIDY: "Tidying up",
    JobKind.EXPORT: "Exporting",
    JobKind.MODEL: "The model file",
    JobKind.BATCH: "The batch",
}


class JobManager:
    """Runs one job at a time, and idle work while there is none.

    A job's events are published as `AppEvents.job_event`; late events of earlier jobs are dropped.

    Parameters
    ----------
    read_preferences
        Reads the user's threads, device and folder; called before every job.

    Attributes
    ----------
    preferences
        The preferences read last.
    control
        The control of the job that was started last.
    notice_shown
        The message of the job's newest notice, if any.
    resting
        The user is idle, so that a job may use every core.
    """

    def __init__(
        self,
        session: Session,
        runner: Runner,
        events: AppEvents,
        read_preferences: Callable[[], Preferences] = Preferences,
    ) -> None:
        self._session, self._runner, self._events = session, runner, events
        self._read_preferences = read_preferences
        self.preferences = read_preferences()
        self.control, self._idle_control = JobControl(), JobControl()
        self.notice_shown: Message | None = None
        self.resting = False
        self._notices: list[Notice] = []
        self._eta = EtaEstimator()
        self._numbers = 0
        self._idle = False
        self._next: Job | None = None
        events.tick.connect(self._on_tick)
        events.closing.connect(self._on_closing)

    # -- start and end -------------------------------------------------------------------------

    def check_free(self) -> None:
        """Refuse a second job, and read the preferences.

        Raises
        ------
        UserError
            A job runs, or layers are being opened.
        """
        busy = self._runner.busy and not self._idle
        if self._session.job is not None or busy or self._session.opening:
            raise UserError(messages.BUSY)
        old, self.preferences = self.preferences, self._read_preferences()
        if old.device != self.preferences.device:
            self._session.change_settings(device=self.preferences.device)

    def start(self, kind: JobKind, text: str, work: Work, on_done: Callable[[Any], None]) -> None:
        """Start a job; call `check_free` first.

        Parameters
        ----------
        kind, text
            The kind of job, and the text shown until its first progress event.
        work
            A generator function of events.
        on_done
            Called with the result of the work, after the job has ended.
        """
        self._numbers += 1
        number = self._numbers
        self.control = JobControl(self.thread_count())
        self.clear_notices()
        self.notice_shown = None
        self._eta = EtaEstimator()
        self._session.job = JobState(number, kind, text)
        self._events.job_started.emit(kind)
        job = Job(
            work,
            partial(self._on_event, number),
            partial(self._on_done, number, on_done),
            partial(self._on_error, number),
            self.control,
        )
        if self._idle:
            self.stop_idle()
            self._next = job
        else:
            self._runner.start(job)

    def stop(self) -> None:
        """Stop the running job after its current step; the model is kept."""
        if self._session.job is not None:
            self.control.stop()
            self._session.job = replace(self._session.job, stopping=True)

    def pause(self) -> None:
        """Pause the job, where it supports that."""
        if self._session.job is not None:
            self.control.pause()
            self._session.job = replace(self._session.job, paused=self.control.paused)

    def resume(self) -> None:
        """Resume the job."""
        self.control.resume()
        if self._session.job is not None:
            self._session.job = replace(self._session.job, paused=False)

    def is_current(self, number: int) -> bool:
        """Whether an event belongs to the current job."""
        return self._session.job is not None and self._session.job.id == number

    # -- work beside the jobs ------------------------------------------------------------------

    @property
    def idle_runs(self) -> bool:
        """Whether idle work runs."""
        return self._idle

    @property
    def idle_stopped(self) -> bool:
        """Whether idle work was told to stop."""
        return self._idle_control.stopped

    @property
    def busy(self) -> bool:
        """Whether a job or idle work runs."""
        return self._runner.busy

    def start_idle(
        self, work: Work, on_done: Callable[[Any], None], on_error: Callable[[BaseException], None]
    ) -> None:
        """Run work while there is no job; its events have the kind `JobKind.LIVE`."""
        self._idle, self._idle_control = True, JobControl(self.thread_count())
        ended = partial(self._on_idle_ended, on_done), partial(self._on_idle_ended, on_error)
        self._runner.start(Job(work, self._on_idle_event, *ended, self._idle_control))

    def stop_idle(self) -> None:
        """Stop idle work."""
        self._idle_control.stop()

    def _on_idle_event(self, event: Event) -> None:
        if not self._idle_control.stopped:
            self._events.job_event.emit(JobKind.LIVE, event)

    def _on_idle_ended(self, tell: Callable[[Any], None], answer: Any) -> None:
        self._idle = False
        tell(answer)
        job, self._next = self._next, None
        if job is not None:
            self._runner.start(job)

    # -- what a job says -----------------------------------------------------------------------

    def show_progress(self, fraction: float, text: str | None = None) -> None:
        """Show the progress of the job, 0 to 1, and its current step."""
        job = self._session.job
        if job is not None:
            left = self._eta.left(fraction)
            text = job.text if text is None else text
            self._session.job = replace(job, text=text, fraction=fraction, remaining=left)

    def add_notice(self, notice: Notice) -> None:
        """Repeat a notice in the final message of the job."""
        self._notices.append(notice)

    def clear_notices(self) -> None:
        """Forget earlier notices."""
        self._notices.clear()

    def say_with_notices(self, text: str, level: Level) -> None:
        """Show the state of a job, followed by its notices."""
        if self._notices:
            warned = any(notice.warning for notice in self._notices)
            level = Level.WARNING if warned else Level.INFO
        self._session.say(" ".join([*(notice.text for notice in self._notices), text]), level)

    def thread_count(self, *, resting: bool = False) -> int:
        """Number of CPU threads for a job: all but one while the user is active."""
        fixed = self._session.settings.threads or self.preferences.threads
        return fixed or max(1, cores() - (0 if resting else 1))

    # -- answers -------------------------------------------------------------------------------

    def _on_event(self, number: int, event: Event) -> None:
        if not self.is_current(number) or self._session.job is None:
            return
        match event:
            case StepDone():
                self._on_step(event)
            case OtherSpacing():
                pass  # the user's mode decides whether it is shown
            case Notice():
                self.add_notice(event)
                self._session.say_notice(event)
                self.notice_shown = self._session.message
            case JobProgress():
                self.show_progress(event.fraction)
        self._events.job_event.emit(self._session.job.kind, event)

    def _on_step(self, event: StepDone) -> None:
        job = self._session.job
        if job is None:
            return
        fraction = None
        if event.steps:
            fraction = event.step / event.steps
        elif event.remaining is not None:
            fraction = event.seconds / max(event.seconds + event.remaining, 1e-9)
        text = f"Step {event.step}" + (f" of {event.steps}" if event.steps else "")
        self._session.job = replace(job, text=text, fraction=fraction, remaining=event.remaining)

    def _on_done(self, number: int, on_done: Callable[[Any], None], result: Any) -> None:
        if self.is_current(number):
            self._end()
            on_done(result)

    def _on_error(self, number: int, error: BaseException) -> None:
        if self.is_current(number):
            kind = self._end()
            level = Level.WARNING if isinstance(error, UserError) else Level.ERROR
            self._session.say(messages.explain(error, DOING[kind]), level)
            self._events.job_failed.emit(kind, error)

    def _end(self) -> JobKind:
        assert self._session.job is not None
        kind, self._session.job = self._session.job.kind, None
        self._events.job_ended.emit(kind)
        return kind

    # -- time ----------------------------------------------------------------------------------

    def _on_tick(self, _: float) -> None:
        self.control.threads = self.thread_count(resting=self.resting)
        self._runner.pump()

    def _on_closing(self) -> None:
        self._next = None
        self.control.stop()
        self.stop_idle()
