"""Each rule of layout.py finds its violation, and nothing in a tree that follows the rule."""

import subprocess
from pathlib import Path

import pytest

import layout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project that follows every rule except `missing_files`."""
    root = tmp_path / "project"
    subprocess.run(["git", "init", "-q", root], check=True)
    _write(root, "errors", "")
    _write(root, "records", "")
    _write(root, "driver/protocol", "from ..errors import ProcmonError\nfrom ..records import Verdict\n")
    _write(root, "win32/__init__", "from .. import errors\nfrom ._bind import Library\n")
    _write(root, "win32/_bind", "import ctypes\nlibrary = ctypes.WinDLL('kernel32')\n")
    _write(root, "gates/__init__", "")
    _write(root, "gates/driver", "from ..driver import protocol\nfrom procmon.win32 import Library\n")
    _write(root, "monitor/monitor", "from ..gates.driver import DriverGate\nfrom .holds import x\n")
    _write(root, "monitor/holds", "from ..records import Verdict\n")
    _write(root, "policy/policy", "from ..records import Verdict\n")
    _write(root, "__init__", "from .monitor.monitor import Monitor\n")
    _write(root, "cli/main", "from .. import __version__\n")
    return root


def _write(root: Path, module: str, text: str) -> None:
    path = root / "src" / "procmon" / f"{module}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_tree_that_keeps_the_rules_has_no_findings(tree: Path) -> None:
    rules = [rule for rule in layout.RULES if rule is not layout.missing_files]
    assert [finding for rule in rules for finding in rule(tree)] == []


def test_files_of_the_design_are_missed_and_strangers_noticed(tree: Path) -> None:
    (tree / "notes.txt").write_text("x")
    findings = list(layout.missing_files(tree))
    assert "src/procmon/audit.py:1: is missing" in findings
    assert "notes.txt:1: has no place at the top level" in findings
    assert not any("gates" in finding for finding in findings)


@pytest.mark.parametrize(
    "statement",
    [
        "from .monitor.monitor import Monitor",
        "from .monitor import monitor",
        "import procmon.monitor.monitor",
        "from procmon.monitor import monitor",
        "def later():\n    from .monitor.monitor import Monitor",
        "from . import Monitor",
    ],
)
def test_an_import_upwards_is_found_however_it_is_written(tree: Path, statement: str) -> None:
    _write(tree, "records", statement + "\n")
    findings = list(layout.imports_upwards(tree))
    assert any(finding.startswith("src/procmon/records.py:1: imports upwards: ") for finding in findings)


def test_packages_of_one_layer_do_not_import_each_other(tree: Path) -> None:
    _write(tree, "policy/policy", "from ..monitor import holds\n")
    assert list(layout.imports_upwards(tree)) == ["src/procmon/policy/policy.py:1: imports sideways: monitor.holds"]


def test_a_module_without_a_layer_is_found(tree: Path) -> None:
    _write(tree, "helpers", "")
    (finding,) = layout.imports_upwards(tree)
    assert finding.startswith("src/procmon/helpers.py:1: stands in no layer")


def test_an_import_for_type_checking_alone_is_allowed(tree: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .monitor.monitor import Monitor\n"
    _write(tree, "records", text)
    assert list(layout.imports_upwards(tree)) == []


def test_a_circle_is_found_once(tree: Path) -> None:
    _write(tree, "records", "from . import errors\n")
    _write(tree, "errors", "from . import records\n")
    findings = list(layout.circular_imports(tree))
    assert findings == ["src/procmon/errors.py:1: imports itself: errors -> records -> errors"]


@pytest.mark.parametrize(("module", "statement", "found"), [
    ("driver/protocol", "import ctypes\nctypes.WinDLL('kernel32')", True),
    ("driver/protocol", "from ctypes import CDLL", True),
    ("driver/protocol", "import ctypes\nctypes.sizeof(ctypes.c_int)", False),
    ("win32/_bind", "import ctypes\nctypes.windll.kernel32", True),
    ("win32/_bind", "import ctypes\nctypes.WinDLL('kernel32')", False),
])  # fmt: skip
def test_a_dll_is_loaded_in_win32_alone_and_never_shared(tree: Path, module: str, statement: str, found: bool) -> None:
    _write(tree, module, statement + "\n")
    assert bool(list(layout.dll_outside_win32(tree))) is found


@pytest.mark.parametrize("line", ["int x;   ", "// " + "x" * 120])
def test_a_line_of_cpp_that_is_too_long_or_ends_in_blanks_is_found(tree: Path, line: str) -> None:
    (tree / "gate.cpp").write_text(f"\n{line}\n")
    (finding,) = layout.lines(tree)
    assert finding.startswith("gate.cpp:2: ")


@pytest.mark.parametrize("line", [f"# {word}" for word in layout.FORBIDDEN])
def test_a_line_that_breaks_a_rule_is_found(tree: Path, line: str) -> None:
    _write(tree, "driver/protocol", f"\n{line}\n")
    findings = list(layout.lines(tree))
    assert findings and all(finding.startswith("src/procmon/driver/protocol.py:2: ") for finding in findings)


def test_a_path_of_this_machine_is_found_in_code_and_in_text(tree: Path) -> None:
    (tree / "README.md").write_text(f"cd {tree / 'docs'}\n")
    _write(tree, "driver/protocol", f"# {Path.home() / 'x'}\n")
    assert len(list(layout.lines(tree))) == 2


def test_long_files_are_reported(tree: Path) -> None:
    _write(tree, "driver/protocol", "x = 1\n" * (layout.LONG_FILE + 1))
    assert layout.long_files(tree) == ["src/procmon/driver/protocol.py: 501 lines; does it do one thing?"]
