"""The latest values by key, in bounded memory."""

from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The latest values by key: at least `limit` of them unless some were discarded, at most twice as many.

    There are two dictionaries. When the newer one is full, the older one is dropped. A single dict would be slower: to
    find its first key, Python skips the gaps of removed keys, and the dict grows for these gaps.

    >>> recent = Recent[str, int](2)
    >>> for number, letter in enumerate("abcde"):
    ...     recent[letter] = number
    >>> [recent.get(letter, -1) for letter in "abcde"]
    [-1, -1, 2, 3, 4]
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newer: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def __setitem__(self, key: K, value: V) -> None:
        if len(self._newer) >= self._limit:
            self._older, self._newer = self._newer, {}
        self._newer[key] = value

    def __contains__(self, key: K) -> bool:
        return key in self._newer or key in self._older

    def get(self, key: K, default: V) -> V:
        """The value of the key; the default where it has none."""
        return self._newer[key] if key in self._newer else self._older.get(key, default)

    def discard(self, key: K) -> None:
        """Remove the key, if it is there."""
        self._newer.pop(key, None)
        self._older.pop(key, None)
