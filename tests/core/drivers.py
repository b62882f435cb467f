"""Reads a driver's file: the parts of the format that the tests of the build check."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXPORTS, IMPORTS, RESOURCES, EXCEPTIONS, RELOCATIONS, DEBUG, LOAD_CONFIG = 0, 1, 2, 3, 5, 6, 10  # data directories


@dataclass(frozen=True)
class Section:
    name: str
    address: int
    size: int
    offset: int
    flags: int


@dataclass(frozen=True)
class LoadConfig:
    """The part of IMAGE_LOAD_CONFIG_DIRECTORY that a driver has."""

    size: int
    security_cookie: int
    guard_check: int
    guard_dispatch: int
    guard_table: int
    guard_count: int
    guard_flags: int


class PortableExecutable:
    """The parts of a PE file that these tests check."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        header = self._int(0x3C)
        assert self.data[header : header + 4] == b"PE\0\0"
        self.machine, count = struct.unpack_from("<HH", self.data, header + 4)
        self.timestamp = self._int(header + 8)
        optional_size, self.characteristics = struct.unpack_from("<HH", self.data, header + 20)
        optional = header + 24
        self.is_64_bit = struct.unpack_from("<H", self.data, optional)[0] == 0x20B
        self.entry = self._int(optional + 16)
        self.width = 8 if self.is_64_bit else 4
        self.base = self.pointer(optional + (24 if self.is_64_bit else 28))
        self.section_alignment = self._int(optional + 32)
        self.system_version = struct.unpack_from("<HH", self.data, optional + 40)
        self.subsystem_version = struct.unpack_from("<HH", self.data, optional + 48)
        self.checksum = self._int(optional + 64)
        self.subsystem, self.dll_characteristics = struct.unpack_from("<HH", self.data, optional + 68)
        directories = optional + (112 if self.is_64_bit else 96)
        self.directories = [struct.unpack_from("<II", self.data, directories + 8 * i) for i in range(16)]
        self.sections = [self._section(optional + optional_size + 40 * i) for i in range(count)]

    def _int(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self.data, offset)[0])

    def _section(self, offset: int) -> Section:
        name, size, address, _, raw, flags = struct.unpack_from("<8sIIII12xI", self.data, offset)
        return Section(name.rstrip(b"\0").decode(), address, size, raw, flags)

    def pointer(self, offset: int) -> int:
        """The pointer at an offset of the file."""
        return int.from_bytes(self.data[offset : offset + self.width], "little")

    def section_of(self, address: int) -> Section:
        """The section that holds an address, relative to the image."""
        for section in self.sections:
            if section.address <= address < section.address + section.size:
                return section
        raise AssertionError(f"no section holds {address:#x}")

    def offset(self, address: int) -> int:
        """The file offset of an address relative to the image."""
        section = self.section_of(address)
        return address - section.address + section.offset

    def debug(self) -> dict[int, bytes]:
        """The data of each entry of the debug directory, by type."""
        address, size = self.directories[DEBUG]
        entries = [struct.unpack_from("<IIHHIIII", self.data, self.offset(address) + 28 * i) for i in range(size // 28)]
        return {kind: self.data[raw : raw + size] for *_, kind, size, _, raw in entries}

    def load_config(self) -> LoadConfig:
        """The load configuration."""
        at = self.offset(self.directories[LOAD_CONFIG][0])
        size = self._int(at)
        cookie = at + (0x58 if self.is_64_bit else 0x3C)
        value, _, _, check, dispatch, table, count = (self.pointer(cookie + i * self.width) for i in range(7))
        return LoadConfig(size, value, check, dispatch, table, count, self._int(cookie + 7 * self.width))

    def guarded_addresses(self) -> list[int]:
        """The functions that may be called through a pointer, by address relative to the image."""
        config = self.load_config()
        at = self.offset(config.guard_table - self.base)
        return list(struct.unpack_from(f"<{config.guard_count}I", self.data, at))

    def _string(self, address: int) -> str:
        start = self.offset(address)
        return self.data[start : self.data.index(b"\0", start)].decode()

    def imports(self) -> Iterator[tuple[str, str]]:
        """Each import as (file in lowercase, name)."""
        at = self.offset(self.directories[IMPORTS][0])
        ordinal = 1 << (8 * self.width - 1)
        while self._int(at + 12):
            file, names = self._string(self._int(at + 12)).lower(), self.offset(self._int(at))
            while thunk := self.pointer(names):
                assert not thunk & ordinal, f"{file} is asked for a number, not a name"
                yield file, self._string(thunk + 2)
                names += self.width
            at += 20

    def computed_checksum(self) -> int:
        """The checksum that the kernel's loader compares with the header."""
        words = bytearray(self.data + b"\0" * (len(self.data) % 2))
        field = self._int(0x3C) + 24 + 64
        words[field : field + 4] = b"\0\0\0\0"
        total: int = sum(struct.unpack(f"<{len(words) // 2}H", words))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return total + len(self.data)
