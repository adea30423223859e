"""Which computer trains and predicts: this one, or one behind an address."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import LostError, UserError
from napari_unetseg.gui.session import Level

if TYPE_CHECKING:
    from napari_unetseg.gui.controller import Controller
    from napari_unetseg.gui.session import Session

__all__ = ["THIS", "Computers"]

THIS = "this one"


class Computers:
    """Chooses the computer for the jobs that come.

    Parameters
    ----------
    controller, session
        The controller knows the runner; the session remembers the choice.
    """

    def __init__(self, controller: Controller, session: Session) -> None:
        self._controller, self._session = controller, session

    def use(self, text: str) -> None:
        """Use this computer, or a worker; ask beside the window if it is there.

        Parameters
        ----------
        text
            `THIS`, an address, or an address and a key, which is kept for this address.
        """
        from napari_unetseg.jobs.remote.connection import address_of, device_at
        from napari_unetseg.jobs.remote.worker_key import save_key

        with self._controller.refusing():
            place, *key = ("",) if text.strip() in ("", THIS) else text.split()
            address = address_of(place) if place else ""
            if key:
                save_key(address, " ".join(key))
            elif address == self._session.computer:
                return
            self._session.computer = address
            self._controller.looking.try_again()
            if not address:
                self._session.say("This computer trains and predicts.")
                return
            self._session.say(f"Asking {address}…")

            def ask() -> tuple[str, Level]:
                try:
                    device = device_at(address)
                except UserError as error:
                    return str(error), Level.WARNING
                return f"{address} is connected: {device}. New jobs run there.", Level.DONE

            self._controller.runner.query(ask, partial(self._on_answer, address), about="computer")

    def _on_answer(self, address: str, answer: tuple[str, Level]) -> None:
        if address == self._session.computer:
            self._session.say(*answer)

    def on_error(self, error: BaseException) -> bool:
        """Go on here where the other computer went away; whether it did."""
        lost = isinstance(error, LostError)
        if lost:
            self.leave()
        return lost

    def leave(self) -> None:
        """The other computer went away."""
        self._session.computer = ""
