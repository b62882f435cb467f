"""The contents of a portable executable (.exe): version resource, imports, exports, code, the bytes that are signed.

Pure and bounded: it reads files on every system, checks every offset against the file, and follows no loops, so a
malicious file causes a ValueError at most.

Sources: "PE Format" (https://learn.microsoft.com/windows/win32/debug/pe-format), "VS_VERSIONINFO"
(https://learn.microsoft.com/windows/win32/menurc/vs-versioninfo), and Microsoft's "Windows Authenticode Portable
Executable Signature Format".
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct, error
from typing import BinaryIO, NamedTuple

__all__ = ["EntryCode", "PortableExecutable", "VersionInfo"]

_MAX_RESOURCE_ENTRIES = 4096
_MAX_IMPORTED_LIBRARIES = 4096
_MAX_IMPORTS = 65_536
_MAX_EXPORTS = 65_536
_MAX_NAME_BYTES = 4096
_MAX_VERSION_BYTES = 1 << 20
_MAX_RELOCATION_BYTES = 1 << 24
_CHUNK_BYTES = 1 << 20

_EXPORT_DIRECTORY, _IMPORT_DIRECTORY, _RESOURCE_DIRECTORY, _SECURITY_DIRECTORY = 0, 1, 2, 4
_RELOCATION_DIRECTORY = 5
_RT_VERSION = 16
_FIXED_SIGNATURE = 0xFEEF04BD
_PAGE_BYTES = 4096
_ARM64 = 0xAA64
_RELOCATED_BYTES = {3: 4, 10: 8}
"""By kind of a base relocation: IMAGE_REL_BASED_HIGHLOW and _DIR64, all that x86 and x64 have."""
_LIBRARY_ENDINGS = (".dll", ".ocx", ".sys")

_U16, _U32, _U64, _PAIR = Struct("<H"), Struct("<I"), Struct("<Q"), Struct("<II")
_COFF = Struct("<HHIIIHH")
_SECTION = Struct("<8xIIII16x")
_IMPORT = Struct("<5I")
_EXPORT = Struct("<IIII")
_BLOCK = Struct("<HHH")
_FIXED = Struct("<IIII")


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """The texts of a version resource; None for a text that it lacks."""

    original_file_name: str | None = None
    product: str | None = None
    company: str | None = None
    description: str | None = None
    file_version: str | None = None
    """The text FileVersion; without it the four numbers of the fixed part: ``10.0.19041.1``."""


class EntryCode(NamedTuple):
    """The code around an entry point, as in memory before it runs."""

    address: int
    """Of the first byte, relative to the base of the image."""
    code: bytes


class _Section(NamedTuple):
    address: int
    size: int
    offset: int
    bytes_in_file: int
    bytes_in_memory: int


class PortableExecutable:
    """An open executable. Raises: ValueError for any other file, here or in a method."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        try:
            self._read_headers()
        except error as problem:
            raise ValueError(f"it is no portable executable: {problem}") from problem

    def _read_headers(self) -> None:
        if self._read(0, 2) != b"MZ":
            raise ValueError("it is no portable executable: it does not begin with MZ")
        at = self._unpack(_U32, 0x3C)[0]
        if self._read(at, 4) != b"PE\0\0":
            raise ValueError("it is no portable executable: it has no PE header")
        self._machine, sections, _, _, _, optional_bytes, _ = self._unpack(_COFF, at + 4)
        optional = at + 4 + _COFF.size
        magic = self._unpack(_U16, optional)[0]
        if magic not in (0x10B, 0x20B):
            raise ValueError(f"it is no portable executable: its optional header is of the unknown kind 0x{magic:x}")
        self._wide = magic == 0x20B
        self.entry = self._unpack(_U32, optional + 16)[0]
        """The entry point, relative to the base; 0 if it has no code of its own."""
        self._base = self._unpack(_U64, optional + 24)[0] if self._wide else self._unpack(_U32, optional + 28)[0]
        self._alignment = self._unpack(_U32, optional + 32)[0]
        self._checksum_at = optional + 64
        self._headers_bytes = self._unpack(_U32, optional + 60)[0]
        count_at = optional + (108 if self._wide else 92)
        count = min(self._unpack(_U32, count_at)[0], 16, max(0, optional + optional_bytes - count_at - 4) // 8)
        self._directories = [self._unpack(_PAIR, count_at + 4 + 8 * index) for index in range(count)]
        self._security_at = count_at + 4 + 8 * _SECURITY_DIRECTORY
        table = optional + optional_bytes
        self._sections = []
        for index in range(sections):
            size, address, bytes_in_file, offset = self._unpack(_SECTION, table + _SECTION.size * index)
            # The loader rounds the offset down to a sector of 512 bytes.
            mapped = (size or bytes_in_file) + _PAGE_BYTES - 1 & -_PAGE_BYTES
            whole = max(size, bytes_in_file)
            self._sections.append(_Section(address, whole, offset & ~0x1FF, bytes_in_file, mapped))
        # A file can have 65,535 sections, and many thousands of addresses are looked up in them: hence the order, in
        # which Windows requires them anyway.
        self._sections.sort(key=lambda section: section.address)
        self._section_addresses = [section.address for section in self._sections]

    # ------------------------------------------------------------------------------------------------- version

    def version(self) -> VersionInfo:
        """Read its version resource; all texts are None without such a resource."""
        found = self._resource(_RT_VERSION)
        return VersionInfo() if found is None else _read_version(found)

    def _resource(self, kind: int) -> bytes | None:
        """The first resource of that kind, in the first language."""
        base, size = self._directory(_RESOURCE_DIRECTORY)
        if not size:
            return None
        at = next((at for name, at in self._entries(base) if name == kind), None)
        for _ in range(2):  # names of the resource, then languages
            if at is None or not at & 0x80000000:
                return None
            at = next((below for _, below in self._entries(base + (at & 0x7FFFFFFF))), None)
        if at is None or at & 0x80000000:
            return None
        address, length = self._unpack(_PAIR, self._offset(base + at))
        return self._read(self._offset(address), min(length, _MAX_VERSION_BYTES))

    def _entries(self, address: int) -> Iterator[tuple[int, int]]:
        at = self._offset(address)
        named, numbered = self._unpack(Struct("<12xHH"), at)
        for index in range(min(named + numbered, _MAX_RESOURCE_ENTRIES)):
            name, below = self._unpack(_PAIR, at + 16 + 8 * index)
            yield name, below

    # ------------------------------------------------------------------------------------------------- imports

    def imphash(self) -> str | None:
        """The MD5 of the names of its imports, in their order, as pefile and Sysmon compute it; None without imports.

        Source: https://cloud.google.com/blog/topics/threat-intelligence/tracking-malware-import-hashing
        """
        import hashlib  # here, since `import procmon` needs none of it

        digest = hashlib.md5(usedforsecurity=False)
        comma = b""
        for name in self._imports():  # all names together can be long: 65,536 of 4,095 bytes
            digest.update(comma + name.encode("utf-8", "surrogateescape"))
            comma = b","
        return digest.hexdigest() if comma else None

    def _imports(self) -> Iterator[str]:
        from .import_ordinals import name_of

        address, size = self._directory(_IMPORT_DIRECTORY)
        left = _MAX_IMPORTS
        for index in range(_MAX_IMPORTED_LIBRARIES if size else 0):
            names_at, _, _, library_at, addresses_at = self._unpack(_IMPORT, self._offset(address + 20 * index))
            if not library_at or not (names_at or addresses_at):
                return
            library = self._name(library_at)
            stem = library[:-4] if library.endswith(_LIBRARY_ENDINGS) else library
            for ordinal, name in self._thunks(names_at or addresses_at):
                left -= 1
                if left < 0:
                    raise ValueError(f"it imports more than {_MAX_IMPORTS} functions")
                yield f"{stem}.{name_of(library, ordinal) if name is None else name}"

    def _thunks(self, address: int) -> Iterator[tuple[int, str | None]]:
        form, by_ordinal = (_U64, 1 << 63) if self._wide else (_U32, 1 << 31)
        while value := self._unpack(form, self._offset(address))[0]:
            yield (value & 0xFFFF, None) if value & by_ordinal else (0, self._name((value & 0x7FFFFFFF) + 2))
            address += form.size

    def _name(self, address: int) -> str:
        """A text that ends in NUL, lowercase."""
        at = self._offset(address)
        self._file.seek(at)
        text, found, _ = self._file.read(_MAX_NAME_BYTES).partition(b"\0")
        if not found:
            raise ValueError(f"the name at byte {at} does not end")
        return text.decode("utf-8", "surrogateescape").lower()

    # ------------------------------------------------------------------------------------------------- exports

    def export(self, name: str) -> int | None:
        """The address of the export of that name, relative to the base; None if there is none."""
        address, size = self._directory(_EXPORT_DIRECTORY)
        if not size:
            return None
        count, functions, names, ordinals = self._unpack(_EXPORT, self._offset(address) + 24)
        for index in range(min(count, _MAX_EXPORTS)):
            if self._name(self._unpack(_U32, self._offset(names + 4 * index))[0]) == name.lower():
                ordinal = self._unpack(_U16, self._offset(ordinals + 2 * index))[0]
                return self._unpack(_U32, self._offset(functions + 4 * ordinal))[0]
        return None

    # ---------------------------------------------------------------------------------------------------- code

    def code_at_entry(self, base: int, pages: int = 2) -> EntryCode | None:
        """The code in memory after a load at `base`, before it runs: `pages` pages from the page of the entry point on,
        as far as the file has code there.

        None if that cannot be known: the file has no entry point, is mapped in one piece, or is for arm64, where
        Windows can translate the code to another architecture when it maps the file.
        """
        first = self.entry & -_PAGE_BYTES
        section = self._section_of(self.entry)
        if not self.entry or section is None or self._alignment < _PAGE_BYTES or self._machine == _ARM64:
            return None
        first = max(first, section.address)
        end = section.address + min(section.bytes_in_file, section.bytes_in_memory)
        size = min(first + pages * _PAGE_BYTES, end) - first
        if size <= 0:
            return None
        code = bytearray(self._read(section.offset + first - section.address, size))
        self._relocate(code, first, base - self._base)
        return EntryCode(first, bytes(code))

    def _relocate(self, code: bytearray, address: int, distance: int) -> None:
        """Add the distance between the actual and the preferred base to each address in the code."""
        for at, width in self._relocations(address, len(code)) if distance else ():
            within = range(max(0, at), min(at + width, len(code)))
            if len(within) < width:  # the address crosses the edge: its other bytes are read for the sum
                whole = self._read(self._offset(address + at), width)
            else:
                whole = bytes(code[at : at + width])
            moved = (int.from_bytes(whole, "little") + distance) % (1 << 8 * width)
            new = moved.to_bytes(width, "little")
            for index in within:
                code[index] = new[index - at]

    def _relocations(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Offset from `address` and width in bytes of each relocated address with a byte in the range."""
        table, table_bytes = self._directory(_RELOCATION_DIRECTORY)
        data = self._read(self._offset(table), min(table_bytes, _MAX_RELOCATION_BYTES)) if table_bytes else b""
        at = 0
        left = size + 2 * _PAGE_BYTES  # more than a table without repetitions has there
        while at + _PAIR.size <= len(data):
            page, block_bytes = _PAIR.unpack_from(data, at)
            if block_bytes < _PAIR.size:
                return
            if address - 2 * _PAGE_BYTES < page < address + size:
                for entry_at in range(at + _PAIR.size, min(at + block_bytes, len(data) - 1), _U16.size):
                    (entry,) = _U16.unpack_from(data, entry_at)
                    width = _RELOCATED_BYTES.get(entry >> 12, 0)
                    begin = page + (entry & 0xFFF) - address
                    if width and -width < begin < size:
                        left -= 1
                        if left < 0:
                            raise ValueError("it relocates the same addresses again and again")
                        yield begin, width
            at += block_bytes

    # ------------------------------------------------------------------------------------------------- the hash

    def authenticode_hash(self, algorithm: str = "sha256") -> str:
        """The hash that an Authenticode signature signs, and that AppLocker calls the file's hash.

        It leaves out the checksum and everything that a signature adds. A file without a signature is hashed as it
        would be signed: padded to a multiple of 8 bytes.
        """
        import hashlib

        digest = hashlib.new(algorithm, usedforsecurity=False)
        has_entry = len(self._directories) > _SECURITY_DIRECTORY
        at, size = self._directories[_SECURITY_DIRECTORY] if has_entry else (0, 0)
        if at + size > self._size or (size and at < self._security_at + 8):
            raise ValueError(f"its signature is said to be at byte {at} with {size} bytes: the file has {self._size}")
        gaps = [(self._checksum_at, 4)]
        if has_entry:
            gaps.append((self._security_at, 8))
        if size:
            gaps.append((at, size))
        begin = 0
        for gap, length in gaps:
            self._feed(digest.update, begin, gap)
            begin = gap + length
        self._feed(digest.update, begin, self._size)
        if not size:
            digest.update(bytes(-self._size % 8))
        return digest.hexdigest()

    def _feed(self, feed: Callable[[bytes], object], begin: int, end: int) -> None:
        self._file.seek(begin)
        while begin < end:
            data = self._file.read(min(_CHUNK_BYTES, end - begin))
            if not data:
                raise ValueError(f"the file ends at byte {begin}: it was cut off while it was read")
            feed(data)
            begin += len(data)

    # --------------------------------------------------------------------------------------------------- bytes

    def _directory(self, index: int) -> tuple[int, int]:
        if index >= len(self._directories):
            return (0, 0)
        address, size = self._directories[index]
        return address, size if address else 0

    def _offset(self, address: int) -> int:
        """The offset in the file of the byte that the loader puts at `address`."""
        section = self._section_of(address)
        # Behind the bytes in the file the loader fills a section with zeros.
        if section is not None and address - section.address < section.bytes_in_file:
            return section.offset + address - section.address
        if address < self._headers_bytes:
            return address
        raise ValueError(f"the address 0x{address:x} is in none of its sections")

    def _section_of(self, address: int) -> _Section | None:
        index = bisect_right(self._section_addresses, address) - 1
        if index < 0:
            return None
        section = self._sections[index]
        return section if address < section.address + section.size else None

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"the file ends at byte {offset + len(data)}, and {size} bytes were to be at {offset}")
        return data

    def _unpack(self, form: Struct, offset: int) -> tuple[int, ...]:
        return form.unpack(self._read(offset, form.size))


# ---------------------------------------------------------------------------------------------------- VS_VERSIONINFO


class _Block(NamedTuple):
    key: str
    value: bytes
    """From the value's first byte to the end of the block, because the stored length can be in bytes or characters."""
    children: bytes


def _read_version(data: bytes) -> VersionInfo:
    root = next(_blocks(data), None)
    if root is None or root.key != "VS_VERSION_INFO":
        return VersionInfo()
    tables: dict[str, dict[str, str]] = {}
    preferred = ""
    for part in _blocks(root.children):
        if part.key == "StringFileInfo":
            for table in _blocks(part.value):
                texts = {block.key.lower(): _text(block.value) for block in _blocks(table.value)}
                tables.setdefault(table.key.lower(), texts)
        elif part.key == "VarFileInfo":
            for block in _blocks(part.value):
                if block.key == "Translation" and len(block.value) >= 4:
                    language, code_page = Struct("<HH").unpack_from(block.value)
                    preferred = f"{language:04x}{code_page:04x}"
    texts = tables.get(preferred) or next(iter(tables.values()), {})
    numbers = None
    if len(root.value) >= _FIXED.size:
        signature, _, high, low = _FIXED.unpack_from(root.value)
        if signature == _FIXED_SIGNATURE:
            numbers = f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}"
    return VersionInfo(
        original_file_name=texts.get("originalfilename"),
        product=texts.get("productname"),
        company=texts.get("companyname"),
        description=texts.get("filedescription"),
        file_version=texts.get("fileversion") or numbers,
    )


def _blocks(data: bytes) -> Iterator[_Block]:
    """The consecutive blocks, each at a multiple of 4 bytes."""
    at = 0
    while at + _BLOCK.size < len(data):
        length, value_length, is_text = _BLOCK.unpack_from(data, at)
        if length <= _BLOCK.size:
            return
        block = data[at : at + length]
        end = _BLOCK.size
        while block[end : end + 2] not in (b"\0\0", b""):
            end += 2
        key = block[_BLOCK.size : end].decode("utf-16-le", "surrogatepass") if end % 2 == 0 else ""
        value_at = _aligned(end + 2)
        children_at = _aligned(value_at + value_length * (2 if is_text else 1))
        yield _Block(key, block[value_at:], block[children_at:])
        at = _aligned(at + length)


def _aligned(offset: int) -> int:
    return offset + 3 & ~3


def _text(value: bytes) -> str:
    """The text up to its NUL."""
    return value[: len(value) & ~1].decode("utf-16-le", "surrogatepass").partition("\0")[0]
