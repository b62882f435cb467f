"""The rules of `dev.py check` for the tree: its files, the imports between modules, the loading of DLLs.

Each rule is a function that takes the project's root and returns its findings as ``path:line: what is wrong``, so that
an editor can jump to them. tests/unit/test_layout.py breaks every rule once.
"""

import ast
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_COLUMNS = 120
LONG_FILE = 500  # lines; a longer file is reported, not forbidden

TOP_LEVEL = {
    "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "dev.py", ".gitignore",
    ".ci", ".github", "src", "driver", "examples", "tests", "docs",
}  # fmt: skip

EXPECTED = [
    "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "dev.py", ".ci/run",
    "driver/protocol.h", "driver/build.py", "driver/README.md",
    *(f"src/procmon/{name}.py" for name in ("__init__", "__main__", "audit", "errors", "records")),
    *(f"src/procmon/{name}/__init__.py" for name in (
        "cli", "monitor", "policy", "gates", "system", "driver", "win32", "util",
    )),
    "src/procmon/py.typed",
    "examples/main_job.py", "docs/design.md", "docs/CONTRIBUTING.md", "docs/protocol.md",
]  # fmt: skip

# The layers, from the top. A module imports from its own package and from packages of lower layers; packages in one
# layer do not import each other. Every module is in one layer.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"__init__"},  # the public names; cli gets its version from it
    {"audit"},
    {"monitor", "policy"},
    {"gates"},
    {"system"},
    {"driver"},
    {"win32"},
    {"util"},
    {"errors"},
    {"records"},
]

# Written in two halves, so that this file does not hold them itself.
FORBIDDEN = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "pytest." + "skip(", "mark." + "skip", "mark." + "xfail",
             "importor" + "skip", "raise NotImplemented" + "Error\n", "assert " + "True"]  # fmt: skip

# A process has one of each: a prototype that one module sets applies to all modules.
SHARED_LOADERS = {"windll", "oledll", "cdll", "pydll"}
LOADERS = SHARED_LOADERS | {"WinDLL", "OleDLL", "CDLL", "PyDLL", "LoadLibrary"}


def findings(root: Path) -> list[str]:
    """All findings in the tree below `root`."""
    return [finding for rule in RULES for finding in rule(root)]


def listed(root: Path, folder: str, *suffixes: str) -> list[str]:
    """The files of a folder that git tracks or would add, as paths from the root, with these suffixes."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder]
    names = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return sorted(name for name in set(names) if (not suffixes or name.endswith(suffixes)) and (root / name).is_file())


def long_files(root: Path) -> list[str]:
    """A line for each source file longer than LONG_FILE: it may do more than one thing."""
    lengths = {name: len(_text(root, name).splitlines()) for name in listed(root, ".", ".py", ".cpp", ".h")}
    return [f"{name}: {length} lines; does it do one thing?" for name, length in lengths.items() if length > LONG_FILE]


# ------------------------------------------------------------------------------------------------------- rules


def missing_files(root: Path) -> Iterator[str]:
    """The files of the design exist, and the top level has no others."""
    for name in EXPECTED:
        if not (root / name).is_file():
            yield f"{name}:1: is missing"
    for name in sorted({path.partition("/")[0] for path in listed(root, ".")} - TOP_LEVEL):
        yield f"{name}:1: has no place at the top level"


def imports_upwards(root: Path) -> Iterator[str]:
    """A module is in a layer, and imports nothing from a higher layer, nor from another package of its layer."""
    for module in _modules(root):
        layer, package = _layer(module), module.partition(".")[0]
        if layer is None:
            yield f"{_path(root, module)}:1: stands in no layer: tests/layout.py has the table"
            continue
        for imported in sorted(set(_imports(root, module))):
            other = _layer(imported)
            if other is not None and other < layer:
                yield f"{_path(root, module)}:1: imports upwards: {imported}"
            elif other == layer and imported.partition(".")[0] != package:
                yield f"{_path(root, module)}:1: imports sideways: {imported}"


def circular_imports(root: Path) -> Iterator[str]:
    """No module imports itself through others."""
    imports = {module: set(_imports(root, module)) for module in _modules(root)}
    for module in imports:
        for first in imports[module]:
            way = _reach(imports, first).get(module) if first != module else [module]
            if way and module == min([module, *way]):  # each cycle once
                yield f"{_path(root, module)}:1: imports itself: {' -> '.join([module, *way])}"


def dll_outside_win32(root: Path) -> Iterator[str]:
    """Only procmon.win32 loads a DLL, and no module uses a shared loader, such as ctypes.windll."""
    for name in listed(root, "src/procmon", ".py"):
        inside = name.startswith("src/procmon/win32/")
        for node in ast.walk(ast.parse(_text(root, name))):
            if isinstance(node, ast.Attribute):
                used = {node.attr}
            elif isinstance(node, ast.ImportFrom) and node.module == "ctypes":
                used = {alias.name for alias in node.names}
            else:
                continue
            for loader in used & (SHARED_LOADERS if inside else LOADERS):
                yield f"{name}:{node.lineno}: {loader}: DLLs are loaded in procmon.win32 alone, by a WinDLL of our own"


def lines(root: Path) -> Iterator[str]:
    """No line has a to-do, a skip or a path of this machine, and no C++ line, which ruff ignores, is too long."""
    here = [f"{folder}{os.sep}" for folder in (root, Path.home()) if len(folder.parts) > 1]
    forbidden = FORBIDDEN + here
    for name in listed(root, ".", ".py", ".cpp", ".h", ".md", ".toml", ".txt", ".cmake", ".pml", ".ci/run"):
        code, cpp = not name.endswith((".md", ".txt")), name.endswith((".cpp", ".h"))
        for number, line in enumerate(_text(root, name).splitlines(), 1):
            if cpp and len(line) > MAX_COLUMNS:
                yield f"{name}:{number}: {len(line)} columns; the limit is {MAX_COLUMNS}"
            if cpp and line != line.rstrip():
                yield f"{name}:{number}: ends in blanks"
            for word in forbidden if code else here:
                if word in f"{line}\n":
                    yield f"{name}:{number}: holds {word.strip()!r}"


RULES: list[Callable[[Path], Iterator[str]]] = [
    missing_files, imports_upwards, circular_imports, dll_outside_win32, lines,
]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- modules


def _text(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="utf-8")


def _modules(root: Path) -> dict[str, Path]:
    """Each module below procmon by its dotted name without "procmon."; packages by their folder's."""
    package = root / "src" / "procmon"
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def _path(root: Path, module: str) -> str:
    return _modules(root)[module].relative_to(root).as_posix()


def _layer(module: str) -> int | None:
    """The number of a module's layer, from the top; None if it is in no layer."""
    return next((number for number, layer in enumerate(LAYERS) if module.partition(".")[0] in layer), None)


def _imports(root: Path, module: str) -> Iterator[str]:
    """The modules of procmon that a module imports at run time, without imports for type checking only."""
    modules = _modules(root)
    is_package = modules[module].name == "__init__.py"
    parts = module.split(".") if module != "__init__" else []
    package = parts if is_package else parts[:-1]
    for node in _at_run_time(ast.parse(modules[module].read_text(encoding="utf-8"))):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name.partition(".")[0] == "procmon"]
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] == "procmon"):
            base = ["procmon", *package[: len(package) + 1 - node.level]] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            targets = [f"{origin}.{alias.name}" for alias in node.names]
        for target in targets:
            names = target.split(".")[1:]
            while names and ".".join(names) not in modules:
                names.pop()
            yield ".".join(names) or "__init__"


def _at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _at_run_time(other)
        else:
            yield child
            yield from _at_run_time(child)


def _reach(imports: dict[str, set[str]], start: str) -> dict[str, list[str]]:
    """Every module that `start` reaches, each with a shortest path to it."""
    ways = {start: [start]}
    queue = [start]
    for module in queue:
        for target in sorted(imports.get(module, ())):
            if target not in ways:
                ways[target] = [*ways[module], target]
                queue.append(target)
    return ways
