"""What a message must hold: values, flags and names, in any order. Its words are free to change."""

from __future__ import annotations

import re


def pattern_of(fact: object) -> str:
    """Return a pattern of one fact as a word of its own: 0 is not in 10, 1.0 or x0, nor `layers` in `pixel_layers`.

    A range, as `2 … 255`, may be written in any way, and a field with the names of those it is in.
    """
    before = r"(?<![\w.])" if str(fact)[:1].isdigit() else r"(?<!\w)"
    words = re.escape(str(fact)).replace(r"\ …\ ", r"\b[^0-9]{1,9}")
    return rf"{before}{words}(?!\w|\.\d)"


def facts(*wanted: object) -> str:
    """Return a pattern, for `match=`, of messages that hold all of these facts."""
    return r"(?s)\A" + "".join(f"(?=.*{pattern_of(fact)})" for fact in wanted)


def missing(text: str, *wanted: object) -> list[object]:
    """Return those of the facts that are not in a text."""
    return [fact for fact in wanted if not re.search(pattern_of(fact), text)]
