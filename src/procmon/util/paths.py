"""Paths as Windows compares them."""

__all__ = ["lowercase"]


def lowercase(path: str) -> str:
    """`path` in the driver's spelling: backslashes, each character lowered by itself as Windows does it."""
    path = path.replace("/", "\\")
    if path.isascii():
        return path.lower()
    return "".join(low if len(low := char.lower()) == 1 else char for char in path)
