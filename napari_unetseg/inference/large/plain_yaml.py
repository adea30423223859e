"""YAML as plain data: text, lists and mappings, with line numbers.

PyYAML's constructors are not used, so that no tag, date or number is interpreted.
"""

from __future__ import annotations

import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from napari_unetseg.core.errors import UserError

LARGEST = 2**16
"""Largest file in bytes, which takes the parser a second."""
DEEPEST = 10
"""Deepest nesting; the parser's time grows with its square."""
NOTHING = ("", "~", "null", "Null", "NULL")
REFUSED = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken)
DOWN = (
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)
UP = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)

Lines = Mapping[tuple[Any, ...], int]
"""The line of each value, from 1, by the keys and indices that lead to it."""


def read_yaml(path: Path, what: str) -> tuple[Any, Lines]:
    """Read a file; ``what`` it is to be is for sentences, such as ``batch``.

    Returns
    -------
    values
        Of text, lists and dictionaries; a key without a value is left out.
    lines
        Where each of them is.

    Raises
    ------
    UserError
        The file is missing, too large, too deep, no YAML, or more than plain data.
    """
    text = _text(path, what)
    try:
        _check(path, text, what)
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "it has characters that no text has"
        raise UserError(f"{path}{where} is no YAML: {reason}.") from error
    lines: dict[tuple[Any, ...], int] = {}
    return (None if node is None else _value(path, node, (), lines)), lines


def _text(path: Path, what: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"The {what} {path} cannot be read: it is no file.")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UserError(
                f"{path} is too large for a {what}, which has 64 KB at most; name many images by "
                "folders and patterns."
            )
        return data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"The {what} {path} cannot be read: {reason.lower()}.") from error


def _check(path: Path, text: str, what: str) -> None:
    """Refuse anything but plain data, before it is built."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.BaseLoader):
        line = token.start_mark.line + 1
        if isinstance(token, REFUSED):
            raise UserError(
                f"{path}, line {line}: a {what} is plain data; write it without anchors, aliases, "
                "tags and directives."
            )
        depth += isinstance(token, DOWN) - isinstance(token, UP)
        if depth > DEEPEST:
            raise UserError(f"{path}, line {line}: this is no {what}, its lists are too deep.")


def _value(path: Path, node: Any, at: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> Any:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(path, one, (*at, n), lines) for n, one in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(path, node, at, lines)
    text = _plain(path, node)
    return None if node.style is None and text in NOTHING else text


def _plain(path: Path, node: yaml.ScalarNode) -> str:
    """The text of a value or key, without control characters."""
    text = str(node.value)
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        line = node.start_mark.line + 1
        raise UserError(f"{path}, line {line}: this has characters that no name has; retype it.")
    return text


def _mapping(
    path: Path, node: yaml.MappingNode, at: tuple[Any, ...], lines: dict[tuple[Any, ...], int]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{path}, line {line}: a list is no name; write NAME: VALUE.")
        name = _plain(path, key)
        if name in seen:
            raise UserError(f"{path}, line {line}: {name[:60]} is there twice; keep one of them.")
        seen.add(name)
        lines[(*at, name)] = line
        inner = _value(path, value, (*at, name), lines)
        if inner is not None:
            found[name] = inner
    return found
