"""The version of this package, and of the driver that belongs to it."""

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
