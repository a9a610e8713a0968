"""Checks names that become parts of paths, so that nothing is written outside its folder."""

from __future__ import annotations


def unsafe(name: str, *, parts: bool = False, longest: int = 100) -> str | None:
    """Says why a name cannot be that of a file or folder.

    Args:
        name: the name.
        longest: the largest number of bytes. File systems allow about 255, and a file's name is often made of
            two names and a hash.
        parts: True if the name may have several parts with `/` between them, as that of a Hub model.

    Returns:
        What is wanted instead; None if the name is safe.
    """
    for part in name.split("/") if parts else [name]:
        if not part.strip(". "):
            return "a name with letters or digits"
        if "/" in part or "\\" in part or not part.isprintable():
            return "a name without slashes, backslashes and control characters"
    if len(name.encode("utf-8", "surrogatepass")) > longest:
        return f"a name of at most {longest} bytes"
    return None
