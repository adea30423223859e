"""Write the table of pictures in docs/model-card.md anew from the provenance of the weights.

python docs/model_card.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("model-card.md")
PROVENANCE = PAGE.parents[1] / "napari_unetseg" / "models" / "body.json"
BLOCK = re.compile(r"(<!-- pictures -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """The page with the table of the present weights."""
    return BLOCK.sub(lambda m: "\n".join([m[1].rstrip(), *_table(), m[2]]), page)


def _table() -> Iterator[str]:
    yield "| set | pictures | origin | licence, as stated there |"
    yield "|---|---|---|---|"
    for one in json.loads(PROVENANCE.read_text(encoding="utf-8"))["sets"]:
        yield f"| {one['name']} | {one['pictures']} | {one['origin']} | {one['licence']} |"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
