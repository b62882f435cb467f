"""The version of this package, and of the driver that belongs to it."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
