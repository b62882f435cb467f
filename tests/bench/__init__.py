"""Benchmarks: ``python3 dev.py bench [NAME ...]``. docs/performance.md explains each row."""

from collections.abc import Sequence

__all__ = ["PLACES", "groups", "names"]

PLACES = {
    "here": ("monitor", "limits", "records", "policy", "core", "imports"),
    "sigma": ("sigma",),
    "windows": ("imports", "debug", "driver", "processes"),
}
"""The groups by the Python that measures them: this system's, the one with pySigma, the one for Windows."""


def names() -> list[str]:
    """Every group, once."""
    return list(dict.fromkeys(name for place in PLACES.values() for name in place))


def groups(place: str, wanted: Sequence[str]) -> list[str]:
    """The groups of a place that are wanted; all of them where nothing is named."""
    return [name for name in PLACES[place] if not wanted or name in wanted]
