"""The protocol's structs and texts: to bytes, and from bytes."""

import struct

__all__ = ["Layout", "text_at", "utf16"]


class Layout:
    """One struct of the header: little endian, every field named, no hidden padding.

    >>> Layout("Target", pid="I", reserved="4x", start_key="Q").offsets
    {'pid': 0, 'reserved': 4, 'start_key': 8}
    """

    __slots__ = ("_names", "_struct", "name", "offsets", "size")

    def __init__(self, name: str, **fields: str) -> None:
        self.name = name
        """Of the C++ struct."""
        self.offsets = {
            field: struct.calcsize("<" + "".join(list(fields.values())[:index])) for index, field in enumerate(fields)
        }
        """Field name -> bytes from the start, in order."""
        self._struct = struct.Struct("<" + "".join(fields.values()))
        self._names = tuple(field for field, code in fields.items() if not code.endswith("x"))
        self.size = self._struct.size
        """Bytes."""

    def __repr__(self) -> str:
        return f"<Layout {self.name}, {self.size} bytes>"

    def pack(self, **values: int) -> bytes:
        """The bytes; reserved fields are zero. Raises: ValueError when a value does not fit its field."""
        try:
            return self._struct.pack(*(values[name] for name in self._names))
        except struct.error as error:
            raise ValueError(f"{self.name}: {error}; given {values}") from error

    def unpack(self, data: bytes, offset: int = 0) -> dict[str, int]:
        """The fields, without the reserved ones. Raises: ValueError when there are too few bytes."""
        return dict(zip(self._names, self.unpack_values(data, offset), strict=True))

    def unpack_values(self, data: bytes, offset: int = 0) -> tuple[int, ...]:
        """The values of `unpack`, in the order of the fields."""
        if len(data) - offset < self.size:
            raise ValueError(f"{self.name} needs {self.size} bytes, and {max(len(data) - offset, 0)} are there")
        return self._struct.unpack_from(data, offset)


def utf16(text: str) -> bytes:
    """The bytes of a text on the wire."""
    return text.encode("utf-16-le", "surrogatepass")  # Windows names may hold half a surrogate pair


def text_at(data: bytes, offset: int, size: int, what: str) -> str:
    """The text of `size` bytes at `offset`; `what` names it in an error. Raises: ValueError for an odd size."""
    if size % 2:
        raise ValueError(f"{what} has {size} bytes; UTF-16 has an even number")
    return data[offset : offset + size].decode("utf-16-le", "surrogatepass")
