"""Write the tables of settings in docs/cli.md anew from the settings' docstrings.

python docs/option_tables.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from napari_unetseg.cli.options import Prediction
from napari_unetseg.cli.settings_options import options_of
from napari_unetseg.cli.train_command import Training
from napari_unetseg.core.settings import AugmentSettings, description_of

PAGE = Path(__file__).with_name("cli.md")
TABLES = {"train": Training, "predict": Prediction}
BLOCK = re.compile(r"(<!-- settings: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """The page with the tables that the settings make now."""
    return BLOCK.sub(lambda m: "\n".join([m[1].rstrip(), *_table(m[2]), m[3]]), page)


def _table(name: str) -> Iterator[str]:
    if name == "augment":
        rows = [
            (f"`{n}`", description_of(f), f.default)
            for n, f in AugmentSettings.model_fields.items()
        ]
        yield "| `--augment` | | default |"
    else:
        rows = [
            (", ".join(f"`{n}`" for n in option.names), option.description, option.default)
            for option in options_of(*get_args(TABLES[name]))
        ]
        yield "| option | | default |"
    yield "|---|---|---|"
    yield from (f"| {names} | {text} | {default} |" for names, text, default in rows)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
