"""Groups of things that are linked, directly or through others (union-find)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Components(Generic[T]):
    """Items grouped by the links drawn between them so far."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._parent: dict[T, T] = {item: item for item in items}

    def root(self, item: T) -> T:
        """The item that stands for `item`'s group; an unknown item is a group of its own."""
        parent = self._parent
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # halves the path, so that chains stay short
            item = parent[item]
        return item

    def link(self, one: T, other: T) -> None:
        """Makes one group of the two items' groups."""
        self._parent[self.root(one)] = self.root(other)

    def groups(self) -> list[list[T]]:
        """Every group, its members in the order they were first seen."""
        found: dict[T, list[T]] = {}
        for item in list(self._parent):
            found.setdefault(self.root(item), []).append(item)
        return list(found.values())
