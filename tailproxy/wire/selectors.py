"""Selectors of list requests: field and label selectors as the API server parses them."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_KEY = rf"(?:[a-z0-9.-]{{1,253}}/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
_BLANK = r"[ \t\r\n]*+"
_LABEL_TERM = re.compile(
    rf"{_BLANK}(?:"
    rf"!{_BLANK}{_KEY}"
    rf"|{_KEY}{_BLANK}(?:==|=|!=){_BLANK}{_VALUE}"
    rf"|{_KEY}{_BLANK}[<>]{_BLANK}[0-9]{{1,19}}"
    rf"|{_KEY}[ \t\r\n]++(?:in|notin){_BLANK}"
    rf"\((?!{_BLANK}\)){_BLANK}{_VALUE}{_BLANK}(?:,{_BLANK}{_VALUE}{_BLANK})*+\)"
    rf"|{_KEY}"
    rf"){_BLANK}(?:,(?=.)|\Z)",
    re.ASCII | re.DOTALL,
)
_FIELD_PIECE = re.compile(r"\\.|!=|==|[=,]|[^\\!=,]+|!|\\", re.DOTALL)


class SelectorError(ValueError):
    """An option of a list request cannot be read."""


def integer(text: str) -> int:
    """Read a 64-bit integer.

    :raises SelectorError: for anything else.
    """
    if not _INTEGER.fullmatch(text) or not -(1 << 63) <= int(text) < 1 << 63:
        raise SelectorError("no 64-bit integer")
    return int(text)


def check_labels(text: str) -> None:
    """Check the form of a label selector such as ``app=web,tier in (a,b),!old``.

    :raises SelectorError: if it cannot be read.
    """
    if not text.strip():
        return
    at = 0
    while at < len(text):
        term = _LABEL_TERM.match(text, at)
        if term is None:
            raise SelectorError("no label selector")
        at = term.end()


def fields(text: str) -> list[tuple[str, bool, str]]:
    """Read a field selector such as ``metadata.name=web,status.phase!=Running``.

    :return: per term its field, whether it demands equality, and the value.
    :raises SelectorError: if it cannot be read.
    """
    terms = []
    field = ""
    sign = ""
    value = ""
    for piece in [*_FIELD_PIECE.findall(text), ","]:
        if piece == ",":
            if sign:
                terms.append((field, sign != "!=", value))
            elif field:
                raise SelectorError("a term without a sign")
            field = sign = value = ""
        elif not sign:
            if piece in {"!=", "==", "="}:
                sign = piece
            else:
                field += piece
        elif piece in {"\\\\", "\\,", "\\="}:
            value += piece[1]
        elif piece.startswith("\\") or piece in {"!=", "==", "="}:
            raise SelectorError("a value with a bare sign or a bad escape")
        else:
            value += piece
    return terms
