"""Names and texts of records, made harmless where they are going: a path, Markdown, CSV, a terminal.

A record may come from a stranger.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_LONGEST_SLUG = 60


def plain(text: str) -> str:
    """The text on one line, without control characters, those that turn the direction, and half a pair."""
    shown = (" " if unicodedata.category(each) in _UNSEEN else each for each in text)
    return " ".join("".join(shown).split())


_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def markdown(text: str) -> str:
    """The text as Markdown that shows it and does nothing else: no cell, tag, link, emphasis or formula.

    Other than ASCII becomes entities: a table's columns are then as wide on every machine, whatever it
    knows of wide characters.
    """
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*\[\]|~])", r"\\\1", escaped)
    # Within a word, as in fine_tuning, an underscore is only that.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    escaped = escaped.replace("$", "&#36;").replace("@", "&#64;").replace("://", "&#58;//")
    escaped = re.sub(r"(?i)\b(www)\.", r"\1&#46;", escaped)
    return "".join(each if each.isascii() else f"&#{ord(each)};" for each in escaped)


def csv_cell(text: str) -> str:
    """The text as a CSV cell that a spreadsheet shows and does not compute."""
    shown = plain(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def slug(text: str) -> str:
    """The text as part of a file name, without `--`, which stands between the parts.

    Different texts may have the same slug.
    """
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    safe = re.sub(r"\.{2,}", ".", safe).strip("-._")
    return safe[:_LONGEST_SLUG].rstrip("-._") or "unnamed"


def distinct_slug(text: str) -> str:
    """Like `slug`, and different for different texts, on file systems that ignore case too."""
    safe = slug(text)
    if safe == text and text == text.lower():
        return safe
    return f"{safe}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
