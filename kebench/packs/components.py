"""Groups items that are linked, directly or through other items (union-find)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Components(Generic[T]):
    """Items, and the groups made by the links added so far."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._parent: dict[T, T] = {item: item for item in items}

    def root(self, item: T) -> T:
        """Returns the item that represents the group of `item`. An unknown item becomes its own group."""
        parent = self._parent
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # path halving keeps the chains short
            item = parent[item]
        return item

    def link(self, one: T, other: T) -> None:
        """Joins the groups of two items."""
        self._parent[self.root(one)] = self.root(other)

    def groups(self) -> list[list[T]]:
        """Returns all groups; the items of a group are in the order in which they were added."""
        found: dict[T, list[T]] = {}
        for item in list(self._parent):
            found.setdefault(self.root(item), []).append(item)
        return list(found.values())
