"""Every setting can be given on the command line, and its docs and tooltips say the same."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field

from napari_unetseg.cli.exit_codes import WrongUsageError
from napari_unetseg.cli.options import Prediction
from napari_unetseg.cli.settings_options import OptionsOf, options_of, with_settings
from napari_unetseg.core.settings import (
    AugmentSettings,
    PredictSettings,
    TrainSettings,
    description_of,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
OLD_NAMES = {
    "balance": "class_weighting",
    "borders": "edge_loss_weight",
    "hold": "distillation_weight",
    "average": "ema",
    "anneal": "cosine_schedule",
    "validation": "validation_fraction",
}


class Fruit(BaseModel):
    """Settings of every kind."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    size: int = Field(3, ge=1, le=9)
    """Its diameter."""
    ripe: bool = True
    """Ripe ones."""
    peeled: bool = False
    """Peel it."""
    name: str | None = None
    """What it is called."""
    rest: AugmentSettings = AugmentSettings()
    """The rest."""


def given(*arguments: str) -> Fruit:
    """What a command gets that is called so."""
    seen: list[Fruit] = []

    @with_settings
    def eat(fruit: Annotated[Fruit, OptionsOf("Fruit", common=("size",))]) -> None:
        """Eat."""
        seen.append(fruit)

    app = typer.Typer()
    app.command()(eat)
    app(arguments, standalone_mode=False)
    return seen[0]


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ("", {}),
        ("--size 4", {"size": 4}),
        ("--no-ripe --peeled", {"ripe": False, "peeled": True}),
        ("--name --x", {"name": "--x"}),
        (
            "--rest flips=false --rest quarter-turns=0 --rest rotation=2.5",
            {"rest": {"flips": False, "quarter_turns": False, "rotation": 2.5}},
        ),
    ],
)
def test_a_command_gets_the_settings_that_its_options_name(
    arguments: str, changed: dict[str, Any]
) -> None:
    fruit = given(*arguments.split())
    assert fruit == Fruit.model_validate(changed)
    assert fruit.model_fields_set == set(changed)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--size 99", "--size cannot be 99: input should be less than or equal to 9."),
        ("--rest rotation=200", "--rest rotation cannot be 200: input should be less than or"),
        ("--rest colour=2", "--rest knows no colour; see --help."),
        ("--rest flips", "--rest needs NAME=VALUE, not flips."),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_its_option(arguments: str, sentence: str) -> None:
    with pytest.raises(WrongUsageError) as error:
        given(*arguments.split())
    assert str(error.value).startswith(sentence)


def test_common_options_are_listed_before_the_others() -> None:
    how = OptionsOf("Fruit", common=("name",), leave_out=("rest",))
    headings = {o.field: o.heading for o in options_of(Fruit, how)}
    assert headings == {
        "size": "Fruit, advanced",
        "ripe": "Fruit, advanced",
        "peeled": "Fruit, advanced",
        "name": "Fruit",
    }


@pytest.mark.parametrize("command", ["train", "predict"])
def test_the_help_lists_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from napari_unetseg.cli import main

    model: type[BaseModel] = TrainSettings if command == "train" else PredictSettings
    options = options_of(model, OptionsOf("", leave_out=("probabilities", "object_maps")))
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in options:
        assert option.names[0] in shown, option


def test_the_tables_of_the_docs_follow_from_the_settings() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(DOCS / "option_tables.py"))["rendered"]
    assert page.count("<!-- settings: ") == 3
    assert rendered(page) == page, "run 'python docs/option_tables.py'"


@pytest.mark.parametrize("model", [TrainSettings, AugmentSettings, PredictSettings])
def test_every_setting_says_what_it_is(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        said = description_of(field)
        assert said.endswith("."), name
        assert "None" not in said, f"{name}: the help of a command knows no None"


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_earlier_names_are_read(old: str, new: str) -> None:
    default = getattr(TrainSettings(), new)
    other = not default if isinstance(default, bool) else default / 2
    settings = TrainSettings.model_validate({old: other})
    assert getattr(settings, new) == other
    assert old not in settings.model_dump()
    assert TrainSettings.classic(**{old: other}).model_dump()[new] == other


def test_a_help_of_predict_leaves_out_what_another_option_says() -> None:
    fields = {o.field for o in options_of(PredictSettings, Prediction.__metadata__[0])}
    assert fields == set(PredictSettings.model_fields) - {"probabilities", "object_maps"}
