"""Collapsed form of all other training settings, from `TrainSettings`."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from magicgui.widgets import create_widget
from qtpy.QtWidgets import QAbstractSpinBox

from napari_unetseg.core.settings import AugmentSettings, TrainSettings, description_of
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.widgets.computer_chooser import ComputerPanel
from napari_unetseg.gui.widgets.forms import Form
from napari_unetseg.gui.widgets.section import Panel, folded

if TYPE_CHECKING:
    from magicgui.widgets.bases import ValueWidget
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from napari_unetseg.gui.features.remote_computer import RemoteComputer
    from napari_unetseg.gui.state.session import Session

ELSEWHERE = ("dims", "epochs", "steps", "minutes", "augment")
"""Settings with a widget in another panel, or in a form of their own."""


class AdvancedPanel(Panel):
    """The other training settings, whose defaults need no change."""

    def __init__(self, session: Session, computers: RemoteComputer) -> None:
        super().__init__("", session)
        self.form = form_of(TrainSettings, self.session.settings)
        self.augment = form_of(AugmentSettings, self.session.settings.augment)
        augmentation = folded("Augmentation", self.augment)
        self.computer = ComputerPanel(session, computers)
        self.fold = folded("Advanced settings", self.computer, self.form, augmentation)
        self.column.addWidget(self.fold)
        self.form.values.changed.connect(self._on_changed)
        self.augment.values.changed.connect(self._on_changed)
        self.follow("settings", call=self._on_settings)

    def release(self) -> None:
        """Disconnect from all events before the widget is deleted."""
        super().release()
        self.computer.release()

    def _on_changed(self) -> None:
        with refusing(self.session):
            self.session.change_settings(
                **_values(self.form, TrainSettings), augment=_values(self.augment, AugmentSettings)
            )
        self._on_settings()

    def _on_settings(self) -> None:
        show_values(self.form, self.session.settings)
        show_values(self.augment, self.session.settings.augment)


def form_of(model: type[BaseModel], values: BaseModel) -> Form:
    """A form with one widget for each field of a settings model."""
    fields = {n: f for n, f in model.model_fields.items() if n not in ELSEWHERE and _simple(f)}
    return Form([_widget(n, f, getattr(values, n)) for n, f in fields.items()])


def show_values(form: Form, values: BaseModel) -> None:
    """Set the values of a form without emitting signals."""
    with form.values.changed.blocked():
        for widget in form.values:
            value = getattr(values, widget.name)
            value = _nothing(widget.value) if value is None else value
            if widget.value != value:
                with widget.changed.blocked():
                    widget.value = value


def _nothing(value: Any) -> Any:
    """The value that a widget shows for None."""
    return "" if isinstance(value, str) else 0


def _simple(field: FieldInfo) -> bool:
    """Whether one widget can show a field: a choice, or an optional number or text."""
    if get_origin(field.annotation) is Literal:
        return True
    kinds = {k for k in get_args(field.annotation) or (field.annotation,) if k is not NoneType}
    return len(kinds) == 1 and kinds <= {bool, int, float, str}


def _widget(name: str, field: FieldInfo, value: Any) -> ValueWidget[Any]:
    """A widget with the bounds of its field; None is shown as 0 or an empty text."""
    kinds = [k for k in get_args(field.annotation) if k is not NoneType]
    optional = NoneType in get_args(field.annotation)
    label = field.title or name.replace("_", " ").capitalize()
    if get_origin(field.annotation) is Literal:
        options: dict[str, Any] = {"choices": list(get_args(field.annotation))}
        kind: Any = str
    else:
        kind = kinds[0] if kinds else field.annotation
        options = {} if kind in (bool, str) else _bounds(name, field, kind, optional)
    nothing = "" if kind is str else 0
    widget = create_widget(
        value=nothing if value is None else value,
        annotation=None if "choices" in options else kind,
        name=name,
        label=label,
        options=options,
    )
    default = field.default
    if default is None:
        default = "nothing" if kind is str else "0 (automatic)"
    widget.tooltip = f"{description_of(field) or label + '.'} Default: {default}."
    if isinstance(widget.native, QAbstractSpinBox):
        widget.native.setKeyboardTracking(False)  # do not emit 1 and 12 while "128" is typed
    return widget  # type: ignore[return-value]


def _bounds(name: str, field: FieldInfo, kind: type, optional: bool) -> dict[str, Any]:
    low, high = 0.0, 1e6
    for bound in field.metadata:
        match bound:
            case Ge(ge=limit) | Gt(gt=limit):
                low = float(limit)  # type: ignore[arg-type]
            case Le(le=limit) | Lt(lt=limit):
                high = float(limit)  # type: ignore[arg-type]
    if optional:
        low = 0.0
    if kind is int:
        return {"min": int(low), "max": int(min(high, 2**31 - 1))}
    step = 0.0005 if name == "learning_rate" else 0.05 if high <= 1 else 0.5
    return {"min": low, "max": high, "step": step}


def _values(form: Form, model: type[BaseModel]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for widget in form.values:
        optional = NoneType in get_args(model.model_fields[widget.name].annotation)
        out[widget.name] = None if optional and not widget.value else widget.value
    return out
