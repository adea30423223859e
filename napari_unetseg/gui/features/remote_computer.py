"""Choice of a remote computer for training and prediction."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.jobs.tasks import RemoteDisconnected

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

THIS = "this one"


class RemoteComputer:
    """Chooses the computer of later jobs."""

    def __init__(self, session: Session, runner: Runner, events: AppEvents) -> None:
        self._session, self._runner, self._events = session, runner, events
        events.job_event.connect(self._on_event)
        events.job_failed.connect(self._on_failed)

    def use(self, text: str) -> None:
        """Use this computer or a remote worker; the connection is checked in the background.

        Parameters
        ----------
        text
            `THIS`, an address, or an address and a key, which is stored for that address.
        """
        from napari_unetseg.jobs.remote.connection import address_of, device_at
        from napari_unetseg.jobs.remote.worker_key import save_key

        with refusing(self._session):
            place, *key = ("",) if text.strip() in ("", THIS) else text.split()
            address = address_of(place) if place else ""
            if key:
                save_key(address, " ".join(key))
            elif address == self._session.computer:
                return
            self._session.computer = address
            self._events.computer_chosen.emit()
            if not address:
                self._session.say("This computer trains and predicts.")
                return
            self._session.say(f"Asking {address}…")

            def check() -> tuple[str, Level]:
                try:
                    device = device_at(address)
                except UserError as error:
                    return str(error), Level.WARNING
                return f"{address} is connected: {device}. New jobs run there.", Level.DONE

            self._runner.query(check, partial(self._on_checked, address), about="computer")

    def _on_checked(self, address: str, result: tuple[str, Level]) -> None:
        if address == self._session.computer:
            self._session.say(*result)

    def _on_event(self, _: JobKind, event: Event) -> None:
        if isinstance(event, RemoteDisconnected):
            self._session.computer = ""

    def _on_failed(self, _: JobKind, error: BaseException) -> None:
        """Fall back to this computer when the remote one is lost."""
        if isinstance(error, LostError):
            self._session.computer = ""
