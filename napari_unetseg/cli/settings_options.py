"""Command options generated from settings fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.cli.wrong_values import why_not_a_number
from napari_unetseg.core.settings import description_of

SHORT = {"learning_rate": "--lr"}
"""Other spellings of options."""
M = TypeVar("M", bound=BaseModel)
Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class OptionsOf:
    """Which fields of a settings model are options, and their help panel.

    ``common`` ones are under ``title``, the others under advanced; None: all are common.
    """

    title: str
    common: tuple[str, ...] | None = None
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingOption:
    """The option of one field.

    ``default`` is empty where the description has it; ``turns_off``: a flag that switches off.
    """

    field: str
    names: tuple[str, ...]
    kind: Any
    description: str
    default: str
    heading: str
    turns_off: bool = False

    def parameter(self) -> inspect.Parameter:
        """The option as a parameter that Typer reads."""
        default = f" Default {self.default}." if self.default else ""
        option = typer.Option(
            *self.names,
            help=f"{self.description}{default}",
            rich_help_panel=self.heading,
            metavar="NAME=VALUE" if self.kind == list[str] else None,
        )
        return inspect.Parameter(
            self.field,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[self.kind | None, option],
        )

    def value(self, given: Any) -> Any:
        """The field's value; raises `WrongUsageError`."""
        if self.kind == list[str]:
            return dict(_pair(self.names[0], text) for text in given)
        return not given if self.turns_off else given


def options_of(model: type[BaseModel], how: OptionsOf) -> Iterator[SettingOption]:
    """The options of a settings model, in the order of its fields."""
    for name, field in model.model_fields.items():
        if name not in how.leave_out:
            common = how.common is None or name in how.common
            yield _option(name, field, how.title if common else f"{how.title}, advanced")


def _option(name: str, field: FieldInfo, heading: str) -> SettingOption:
    kind, text, spelt = _kind(field), description_of(field), name.replace("_", "-")
    names = tuple(n for n in (SHORT.get(name), f"--{spelt}") if n)
    if kind is bool:
        if not field.default:
            return SettingOption(name, names, bool, text, "", heading)
        text = f"Do not {text[0].lower()}{text[1:]}"
        return SettingOption(name, (f"--no-{spelt}",), bool, text, "", heading, turns_off=True)
    if kind == list[str]:
        inner = field.default.model_dump()
        text += f" NAME is one of {', '.join(inner)}; may be repeated."
        return SettingOption(name, names, kind, text, "", heading)
    if choices := _choices(field):
        text += f" One of {', '.join(choices)}."
    default = "" if field.default is None else str(field.default)
    return SettingOption(name, names, kind, text, default, heading)


def _kind(field: FieldInfo) -> Any:
    """Type of an option's value; the settings validate it further."""
    given = field.annotation
    kinds = [k for k in get_args(given) or (given,) if k is not NoneType]
    if bool in kinds:
        return bool
    if get_origin(given) is Literal:
        return type(kinds[0])
    kind: Any = kinds[0]
    if issubclass(kind, BaseModel):
        return list[str]
    return str if issubclass(kind, Enum) else kind


def _choices(field: FieldInfo) -> list[str]:
    """The literal values of a field; none for numbers and text."""
    given: Any = field.annotation
    if isinstance(given, type) and issubclass(given, Enum):
        return [str(choice.value) for choice in given]
    return [c for c in get_args(given) if isinstance(c, str)]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise WrongUsageError(f"{option} needs NAME=VALUE, not {text}.")
    return name.strip().replace("-", "_"), value.strip()


def with_settings(command: Command) -> Command:
    """Give a command an option for each field of its settings.

    Its parameters that are annotated as ``Annotated[Model, OptionsOf(...)]`` become the options of
    that model, and the command is called with the models that are made of them.
    """
    signature = inspect.signature(command, eval_str=True)
    own: list[inspect.Parameter] = []
    models: dict[str, tuple[type[BaseModel], list[SettingOption]]] = {}
    for parameter in signature.parameters.values():
        model, *more = get_args(parameter.annotation)
        if isinstance(more[0], OptionsOf):
            models[parameter.name] = model, list(options_of(model, more[0]))
            own += [option.parameter() for option in models[parameter.name][1]]
        else:
            own.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> None:
        for name, (model, options) in models.items():
            values = {o: given.pop(o.field) for o in options}
            given[name] = _make(model, {o: v for o, v in values.items() if v not in (None, [])})
        command(**given)

    run.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in own}
    return run


def _make(model: type[M], given: Mapping[SettingOption, Any]) -> M:
    """Settings from options; `WrongUsageError` names an invalid one."""
    try:
        return model.model_validate({o.field: o.value(v) for o, v in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            text = re.sub(r"\b(epochs|steps|minutes)\b", r"--\1", text)
            raise WrongUsageError(f"{text[0].upper()}{text[1:]}.") from error
        field, *inner = map(str, first["loc"])
        option = next(o.names[0] for o in given if o.field == field)
        if first["type"] == "extra_forbidden":
            raise WrongUsageError(f"{option} knows no {inner[0]}; see --help.") from error
        named = " ".join([option, *inner])
        if sentence := why_not_a_number(named, error):
            raise WrongUsageError(sentence) from error
        raise WrongUsageError(
            f"{named} cannot be {first['input']}: {text[0].lower()}{text[1:]}."
        ) from error
