"""Makes names and texts from records safe to show in Markdown, CSV and a terminal, and to use in a path.

A record may come from a stranger.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_LONGEST_SLUG = 60


def plain(text: str) -> str:
    """The text on one line, without control characters, direction marks and lone surrogates."""
    shown = (" " if unicodedata.category(each) in _UNSEEN else each for each in text)
    return " ".join("".join(shown).split())


_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def markdown(text: str) -> str:
    """The text as Markdown that only shows it, without making a cell, tag, link, emphasis or formula.

    Characters outside ASCII become entities, so that a table's columns have the same width on every machine,
    whether or not it knows which characters are wide.
    """
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*\[\]|~])", r"\\\1", escaped)
    # An underscore within a word, as in fine_tuning, has no meaning in Markdown.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    escaped = escaped.replace("$", "&#36;").replace("@", "&#64;").replace("://", "&#58;//")
    escaped = re.sub(r"(?i)\b(www)\.", r"\1&#46;", escaped)
    return "".join(each if each.isascii() else f"&#{ord(each)};" for each in escaped)


def csv_cell(text: str) -> str:
    """The text as a CSV cell that a spreadsheet shows and does not take for a formula."""
    shown = plain(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def slug(text: str) -> str:
    """The text as part of a file name, without `--`, which separates the parts.

    Different texts may have the same slug.
    """
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    safe = re.sub(r"\.{2,}", ".", safe).strip("-._")
    return safe[:_LONGEST_SLUG].rstrip("-._") or "unnamed"


def distinct_slug(text: str) -> str:
    """Like `slug`, but different for different texts, even on file systems that ignore case."""
    safe = slug(text)
    if safe == text and text == text.lower():
        return safe
    return f"{safe}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
