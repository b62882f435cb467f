"""Makes portable executables with the imports, version resource and signature that a test needs.

    program = executable(imports={"ws2_32.dll": [115, "send"]}, version={"OriginalFilename": "certutil.exe"})

The 64-bit ones without imports run, and end with 0. Source: "PE Format" and "VS_VERSIONINFO" of Microsoft's
documentation.
"""

import struct
from collections.abc import Mapping, Sequence

__all__ = ["executable"]

HEADERS = 0x400
CODE = b"\x31\xc0\xc3"  # xor eax, eax; ret
TEXT, IMPORTS, RESOURCES, RELOCATIONS = 0x1000, 0x4000, 0x8000, 0xE000
"""Addresses of the sections."""
SECTION_BYTES = 0x6000
LANGUAGE, CODE_PAGE = 0x0409, 0x04B0


def executable(
    *,
    imports: Mapping[str, Sequence[str | int]] | None = None,
    version: Mapping[str, str] | None = None,
    numbers: tuple[int, int, int, int] = (1, 2, 3, 4),
    wide: bool = True,
    tail: bytes = b"",
    signature: bytes = b"",
    code: bytes = CODE,
    entry: int = TEXT,
    machine: int = 0,
    relocations: Mapping[int, Sequence[int]] | None = None,
) -> bytes:
    """The bytes of a file. `imports` names functions by library, by name or number; `version` has the texts of a
    version resource; `tail` follows the last section, and `signature` follows it, as after signing. `code` begins at
    TEXT; `relocations` has, by page, the entries of a block: kind << 12 | offset; `machine`, if not 0, replaces the
    machine of the bitness."""
    sections = [(b".text", TEXT, code, 0x60000020)]
    directories = [(0, 0)] * 16
    if imports is not None:
        data = _imports(imports, wide)
        sections.append((b".idata", IMPORTS, data, 0xC0000040))
        directories[1] = (IMPORTS, len(data))
    if version is not None:
        data = _resources(_version(version, numbers))
        sections.append((b".rsrc", RESOURCES, data, 0x40000040))
        directories[2] = (RESOURCES, len(data))
    if relocations is not None:
        data = b"".join(_block_of(page, entries) for page, entries in relocations.items())
        sections.append((b".reloc", RELOCATIONS, data, 0x42000040))
        directories[5] = (RELOCATIONS, len(data))
    body, table, at = b"", b"", HEADERS
    for name, address, data, characteristics in sections:
        padded = data.ljust((len(data) + 0x1FF) & ~0x1FF, b"\0")
        sizes = (len(data), address, len(padded), at)
        table += struct.pack("<8s4IIIHHI", name, *sizes, 0, 0, 0, 0, characteristics)
        body += padded
        at += len(padded)
    if signature:
        directories[4] = (at + len(tail), len(signature))
    magic, usual, bits = (0x20B, 0x8664, "Q") if wide else (0x10B, 0x14C, "I")
    machine = machine or usual
    optional = struct.pack("<HBBIIIII", magic, 1, 0, 0x200, 0, 0, entry, TEXT) + (b"" if wide else bytes(4))
    base, image_bytes = 0x140000000 if wide else 0x400000, 0x10000
    optional += struct.pack(f"<{bits}II", base, 0x1000, 0x200) + struct.pack("<6HI", 6, 0, 0, 0, 6, 0, 0)
    optional += struct.pack("<IIIHH", image_bytes, HEADERS, 0, 3, 0x8160 if wide else 0x8140)
    optional += struct.pack(f"<4{bits}II", 0x100000, 0x1000, 0x100000, 0x1000, 0, 16)
    optional += b"".join(struct.pack("<II", *entry) for entry in directories)
    coff = struct.pack("<HHIIIHH", machine, len(sections), 0, 0, 0, len(optional), 0x22 if wide else 0x102)
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    headers = (dos + b"PE\0\0" + coff + optional + table).ljust(HEADERS, b"\0")
    return headers + body + tail + signature


def _block_of(page: int, entries: Sequence[int]) -> bytes:
    """A block of base relocations, padded to a multiple of 4 bytes."""
    padded = [*entries, *[0] * (len(entries) % 2)]
    return struct.pack(f"<II{len(padded)}H", page, 8 + 2 * len(padded), *padded)


def _imports(imports: Mapping[str, Sequence[str | int]], wide: bool) -> bytes:
    form, by_number = ("<Q", 1 << 63) if wide else ("<I", 1 << 31)
    descriptors_bytes = 20 * (len(imports) + 1)
    rest = b""
    descriptors = b""

    def place(data: bytes) -> int:
        nonlocal rest
        at = IMPORTS + descriptors_bytes + len(rest)
        rest += data.ljust((len(data) + 7) & ~7, b"\0")
        return at

    for library, functions in imports.items():
        thunks = b""
        for function in functions:
            if isinstance(function, int):
                thunks += struct.pack(form, by_number | function)
            else:
                thunks += struct.pack(form, place(b"\0\0" + function.encode() + b"\0"))
        table = place(thunks + bytes(struct.calcsize(form)))
        descriptors += struct.pack("<5I", table, 0, 0, place(library.encode() + b"\0"), table)
    return descriptors + bytes(20) + rest


def _resources(version: bytes) -> bytes:
    """Three levels with one entry each: the kind, the name, the language."""
    level = 16 + 8
    data = b""
    for depth, identifier in enumerate((16, 1, LANGUAGE)):
        below = (depth + 1) * level | (0 if depth == 2 else 0x80000000)
        data += struct.pack("<IIHHHHII", 0, 0, 0, 0, 0, 1, identifier, below)
    return data + struct.pack("<IIII", RESOURCES + len(data) + 16, len(version), 0, 0) + version


def _version(texts: Mapping[str, str], numbers: tuple[int, int, int, int]) -> bytes:
    major, minor, build, revision = numbers
    fixed = struct.pack("<4I", 0xFEEF04BD, 0x10000, major << 16 | minor, build << 16 | revision).ljust(52, b"\0")
    strings = [
        _block(key, (text + "\0").encode("utf-16-le", "surrogatepass"), is_text=True) for key, text in texts.items()
    ]
    table = _block(f"{LANGUAGE:04x}{CODE_PAGE:04x}", b"", *strings, is_text=True)
    translation = _block("Translation", struct.pack("<HH", LANGUAGE, CODE_PAGE))
    info = _block("StringFileInfo", b"", table, is_text=True), _block("VarFileInfo", b"", translation, is_text=True)
    return _block("VS_VERSION_INFO", fixed, *info)


def _block(key: str, value: bytes, *children: bytes, is_text: bool = False) -> bytes:
    head = _aligned(bytes(6) + (key + "\0").encode("utf-16-le")) + value
    for child in children:
        head = _aligned(head) + child
    return struct.pack("<HHH", len(head), len(value) // 2 if is_text else len(value), is_text) + head[6:]


def _aligned(data: bytes) -> bytes:
    return data.ljust((len(data) + 3) & ~3, b"\0")
