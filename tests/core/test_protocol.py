"""driver/protocol.h and src/procmon/driver/protocol.py agree: every constant, every struct, every offset.

The names are read from the header's text; a compiler computes the values from the header.
"""

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from core.harness import PROJECT, build
from procmon.driver import protocol

HEADER = PROJECT / "driver" / "protocol.h"
TEXT = re.sub(r"//.*", "", HEADER.read_text("utf-8"))
CONSTANTS = re.findall(r"constexpr uint32_t k(\w+) =", TEXT)
STRUCTS = {
    name: re.findall(r"\w+ (\w+)(?:\[\d+\])?;", body)
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", TEXT, re.MULTILINE | re.DOTALL)
}


def wire_name(name: str) -> str:
    """``ByRule`` -> ``BY_RULE``.

    >>> wire_name("StatusBlocked"), wire_name("MaxCommandLineBytes")
    ('STATUS_BLOCKED', 'MAX_COMMAND_LINE_BYTES')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


@cache
def compiled(folder: Path) -> dict[str, dict[str, int]]:
    """The header's values from the compiler: {"constants": ..., struct name: offsets and "sizeof"}."""
    lines = [f'constant("k{name}", k{name});' for name in CONSTANTS]
    for name, fields in STRUCTS.items():
        lines.append(f'structure("{name}", sizeof({name}));')
        lines += [f'constant("{field}", offsetof({name}, {field}));' for field in fields]
    source = folder / "protocol.cpp"
    source.write_text(
        f'#include "{HEADER}"\n#include <stdio.h>\nusing namespace procmon::wire;\n'
        "static void constant(const char* name, unsigned long long value) {\n"
        '    printf(", \\"%s\\": %llu", name, value);\n}\n'
        "static void structure(const char* name, size_t size) {\n"
        '    printf("}, \\"%s\\": {\\"sizeof\\": %zu", name, size);\n}\n'
        'int main() {\nprintf("{\\"constants\\": {\\"sizeof\\": 0");\n' + "\n".join(lines) + '\nputs("}}");\n}\n'
    )
    program = folder / "protocol"
    build()._version("g++")  # its error says what to install
    subprocess.run(["g++", "-std=c++17", "-Wno-unused", str(source), "-o", str(program)], check=True)
    values: dict[str, dict[str, int]] = json.loads(subprocess.check_output([str(program)]))
    return values


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    return compiled(tmp_path_factory.mktemp("protocol"))


def test_the_header_was_read() -> None:
    assert len(CONSTANTS) > 60 and len(STRUCTS) == 14 and all(STRUCTS.values())


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant(header: dict[str, dict[str, int]], name: str) -> None:
    assert getattr(protocol, wire_name(name)) == header["constants"]["k" + name]


def test_wire_has_no_constant_that_the_header_has_not() -> None:
    names = {
        name for name, value in vars(protocol).items() if name.isupper() and isinstance(value, int) and name[0] != "_"
    }
    assert names == {wire_name(name) for name in CONSTANTS}


def test_wire_has_the_structs_of_the_header() -> None:
    assert set(protocol.LAYOUTS) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(header: dict[str, dict[str, int]], name: str) -> None:
    layout = protocol.LAYOUTS[name]
    assert {**layout.offsets, "sizeof": layout.size} == header[name]


@pytest.mark.parametrize("name", ["REGISTER", "ALLOW", "BLOCK", "RESET", "SET_RULES", "QUIESCE", "NOTE_CREATED"])
def test_a_request_that_changes_something_asks_for_write_access_in_its_code(name: str) -> None:
    """The I/O manager checks the code against the handle's access; the driver has no other check."""
    assert getattr(protocol, name) >> 14 & 3 == protocol.ACCESS_BOTH


@pytest.mark.parametrize("name", ["INFO", "FETCH", "LIST"])
def test_a_request_that_reads_asks_for_read_access_in_its_code(name: str) -> None:
    assert getattr(protocol, name) >> 14 & 3 == protocol.ACCESS_READ
