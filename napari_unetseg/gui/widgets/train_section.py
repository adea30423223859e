"""Training section: start and stop, limits, progress, curve, result."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QProgressBar, QPushButton, QSizePolicy

from napari_unetseg.gui.state.eta import LEAST_SECONDS
from napari_unetseg.gui.state.messages import describe_mask, duration
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind
from napari_unetseg.gui.state.user_state import user_flags
from napari_unetseg.gui.widgets.auto_settings_list import AutoSettingsList
from napari_unetseg.gui.widgets.curve_plot import CurvePlot
from napari_unetseg.gui.widgets.mode_switch import ModeSwitch
from napari_unetseg.gui.widgets.section import Panel, hint, restyle, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.training import Training
    from napari_unetseg.gui.state.session import JobState, Session

OVER_TIME = "plot_over_time"
ENDS = {"as long as it improves": None, "minutes": 5.0, "epochs": 25.0}


class TrainPanel(Panel):
    """Training, and the progress of any job."""

    def __init__(self, session: Session, training: Training) -> None:
        super().__init__("3  Train", session)
        self.button = QPushButton("Train")
        self.button.clicked.connect(training.start_or_stop)
        self.column.addWidget(self.button)

        self.end = QComboBox()
        self.end.addItems(list(ENDS))
        self.end.setToolTip("When training ends by itself. Stop keeps the model on screen.")
        self.end.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.end.activated.connect(self._on_end_chosen)
        self.amount = QDoubleSpinBox()
        self.amount.setRange(0.1, 10_000)
        self.amount.setAccessibleName("How many minutes or epochs")
        self.amount.valueChanged.connect(self._on_amount)
        self.column.addLayout(row("Train f&or", self.end, self.amount, stretch=1))

        self.modes = ModeSwitch(session)
        self.column.addWidget(self.modes)

        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(8)
        self.doing = hint()
        self.progress.setAccessibleName("Progress")
        self.plot = CurvePlot()
        self.plot.over_time.setChecked(user_flags.flag(OVER_TIME))
        self.plot.switched.connect(partial(user_flags.put, OVER_TIME))
        self.result = hint()
        self.result.setProperty("role", "result")
        self.chosen = AutoSettingsList()
        self.set_aside = _set_aside_button(training)
        for widget in (
            self.progress,
            self.doing,
            self.plot,
            self.result,
            self.set_aside,
            self.chosen,
        ):
            self.column.addWidget(widget)

        self.follow("mode", call=self.modes.show_mode)
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._on_job)
        self.follow("job", "mask_changed", call=self._on_job)
        self.follow("set_aside", call=self._on_set_aside)
        self.follow("curve", "marks", "structures", call=self._on_curve)
        self.follow("result", call=self._on_result)
        self.follow("choices", call=self._on_choices)
        self.follow("settings", call=self._on_settings)
        for show in (
            self._on_job,
            self._on_set_aside,
            self._on_curve,
            self._on_result,
            self._on_choices,
        ):
            show()
        self._on_settings()

    def show_theme(self, theme: str) -> None:
        """Set the colours of a napari theme."""
        self.plot.show_theme(theme)

    def _on_job(self) -> None:
        job = self.session.job
        running = job is not None
        stopping = job is not None and job.stopping
        self.button.setText("Stopping…" if stopping else "Stop" if running else "Train")
        self.button.setEnabled(not stopping)
        self.button.setToolTip(
            "Stops after the current step; what was learned or predicted is kept."
            if running
            else "Train the network on all labels, in the background: you can paint meanwhile."
        )
        role = "stop" if running else "primary"
        if self.button.property("role") != role:
            restyle(self.button, role=role)
        self.progress.setVisible(running)
        self.doing.setVisible(running)
        if job is None:
            self._clock.stop()
            return
        if not self._clock.isActive():
            self._clock.start()
        self.progress.setRange(0, 0 if job.fraction is None else 1000)
        self.progress.setValue(round(1000 * (job.fraction or 0)))
        self.doing.setText(job.text + self._how_long(job))

    def _how_long(self, job: JobState) -> str:
        """Remaining time, or how the mask changes while training has no set end; or time so far."""
        settings = self.session.settings
        limited = settings.minutes or settings.epochs or settings.steps
        if job.kind is JobKind.TRAIN and not limited and job.remaining is not None:
            return f" · {describe_mask(self.session.mask_changed)}"
        if job.remaining is not None:
            return f" · about {duration(job.remaining)} left"
        taken = time.monotonic() - job.since
        return f" · for {duration(taken)} so far" if taken > LEAST_SECONDS else ""

    def _on_set_aside(self) -> None:
        self.set_aside.setVisible(self.session.set_aside is not None)

    def _on_curve(self) -> None:
        session = self.session
        self.plot.show_curve(session.curve, session.marks, session.structures)

    def _on_result(self) -> None:
        self.result.setText(self.session.result)
        self.result.setVisible(bool(self.session.result))

    def _on_choices(self) -> None:
        self.chosen.show_choices(self.session.choices)

    def _on_settings(self) -> None:
        settings = self.session.settings
        index = 1 if settings.minutes else 2 if settings.epochs else 0
        self.end.setCurrentIndex(index)
        self.amount.setVisible(index > 0)
        amount = settings.minutes or settings.epochs
        if amount and amount != self.amount.value():
            self.amount.blockSignals(True)
            self.amount.setDecimals(1 if settings.minutes else 0)
            self.amount.setValue(amount)
            self.amount.blockSignals(False)

    def _on_end_chosen(self) -> None:
        default = ENDS[self.end.currentText()]
        self._set_end(default)

    def _on_amount(self, amount: float) -> None:
        self._set_end(amount)

    def _set_end(self, amount: float | None) -> None:
        which = self.end.currentText()
        with refusing(self.session):
            self.session.change_settings(
                steps=None,
                minutes=amount if which == "minutes" else None,
                epochs=round(amount or 0) if which == "epochs" else None,
            )


def _set_aside_button(training: Training) -> QPushButton:
    """The button that shows the model from which a training went back."""
    button = QPushButton("Show the newer model")
    button.setToolTip(
        "Its agreement with held-out labels was lower, but you judge masks better: look at it. "
        "Both models stay in the list under Model."
    )
    button.clicked.connect(training.show_set_aside)
    return button
