"""Every sentence that the program has for a user, as one golden file.

Tests of outcomes need no wording; a change of wording is seen here. After one, write the file anew:
``python tests/test_messages.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "messages.txt"
ERRORS = {"UserError", "TrainingError", "RemoteError", "CannotGoOnError"}
"""What is raised with a sentence for the user."""


def template(node: ast.expr) -> str:
    """The text of a string, with ``{}`` for what is only known when it is said."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "{}"


def is_sentence(text: str) -> bool:
    return " " in text.strip() and any(c.isalpha() for c in text) and "\n" not in text


def spoken(tree: ast.Module) -> Iterator[str]:
    """Constants that are sentences, and what errors are raised with."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = template(node.value)
            if node.targets[0].id.isupper() and is_sentence(text) and text[-1] in ".…?":
                yield text
    for call in ast.walk(tree):
        name = getattr(call.func, "id", "") if isinstance(call, ast.Call) else ""
        if name in ERRORS and call.args and is_sentence(text := template(call.args[0])):
            yield text


def sentences() -> str:
    """All of them by file, in order."""
    pages = []
    for file in sorted((ROOT / "napari_unetseg").rglob("*.py")):
        found = dict.fromkeys(spoken(ast.parse(file.read_text(encoding="utf-8"))))
        if found:
            pages += [f"# {file.relative_to(ROOT).as_posix()}", *sorted(found), ""]
    return "\n".join(pages)


def test_sentences_are_those_of_the_golden_file() -> None:
    assert sentences().splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_a_sentence_says_one_thing_to_the_user() -> None:
    told = [line for line in sentences().splitlines() if line and not line.startswith("#")]
    assert len(told) > 200
    loud = [text for text in told if "!" in text or "  " in text or text != text.strip()]
    assert not loud


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(sentences(), encoding="utf-8")
