"""The public names: each is typed without Any, documented, and shown at work (test_docs.py runs the examples)."""

import ast
import dataclasses
import enum
import importlib
import inspect
import pickle
import pkgutil
import pydoc
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import procmon
from patience import PATIENCE

SOURCE = Path(procmon.__file__).parent


def modules() -> list[str]:
    """The names of all modules of the package."""
    found = pkgutil.walk_packages(procmon.__path__, "procmon.")
    return sorted(one.name for one in found if not one.name.endswith(".__main__"))


def public() -> Iterator[tuple[str, Any]]:
    """(name, object) of every export of `procmon` and of its public modules."""
    for name in procmon.__all__:
        thing = getattr(procmon, name)
        if isinstance(thing, types.ModuleType):
            for below in thing.__all__:
                yield f"{name}.{below}", getattr(thing, below)
        else:
            yield name, thing


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """(name, function or property) of every public member of our classes, with inherited members."""
    for name in dir(owner):
        if name.startswith("_") and name not in ("__init__", "__enter__", "__exit__", "__aenter__", "__aexit__"):
            continue
        member = inspect.getattr_static(owner, name)
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if isinstance(member, property) or inspect.isfunction(member):
            function = member.fget if isinstance(member, property) else member
            if (function.__module__ or "").startswith("procmon"):
                yield name, member


CLASSES: dict[str, Any] = {name: thing for name, thing in public() if inspect.isclass(thing)}
FUNCTIONS = {name: thing for name, thing in public() if inspect.isfunction(thing)}
MEMBERS = {f"{owner}.{name}": member for owner, thing in CLASSES.items() for name, member in members(thing)}


def unwrapped(member: Any) -> Any:
    return member.fget if isinstance(member, property) else member


def mentions_any(annotation: object) -> bool:
    if annotation is Any:
        return True
    if isinstance(annotation, list):
        return any(map(mentions_any, annotation))
    return any(mentions_any(part) for part in typing.get_args(annotation))


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    assert dir(procmon) == sorted(procmon.__all__)
    assert dir(procmon.audit) == sorted(procmon.audit.__all__)
    assert len(procmon.__all__) == len(set(procmon.__all__))
    assert not [name for name in procmon.__all__ if name.startswith("_")]


def test_a_type_checker_sees_the_names_where_they_are_found_when_asked_for() -> None:
    [checked] = [node for node in ast.parse((SOURCE / "__init__.py").read_text()).body if isinstance(node, ast.If)][:1]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom) and node.module]
    seen = {str(node.module): [alias.name for alias in node.names] for node in imports}
    assert seen == {home: names.split() for home, names in procmon._HOMES.items()}
    assert {name for names in seen.values() for name in names} | {"ALLOW", "BLOCK", "DEFER", "audit"} == set(
        procmon.__all__
    )


def modules_of(program: str) -> set[str]:
    """The modules that a program has loaded at its end."""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r})\n{program}"]
    command[-1] += "\nprint(*sorted(sys.modules))"
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.split())


def test_the_import_is_light() -> None:
    before = modules_of("import ctypes, dataclasses, enum, logging")
    loaded = {name.partition(".")[0] for name in modules_of("import procmon") - before} - {"procmon"}
    assert loaded <= set(sys.stdlib_module_names)
    assert len(loaded) <= 15, sorted(loaded)


@pytest.mark.parametrize("program", ["import procmon", "import procmon\nprocmon.Monitor(procmon.SimulatedGate())"])
def test_the_import_does_not_bring_what_a_simple_script_does_not_use(program: str) -> None:
    heavy = {"asyncio", "ssl", "socket", "tomllib", "json", "difflib", "urllib", "subprocess"}
    assert heavy & (modules_of(program) - modules_of("pass")) == set()


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_its_home_is_the_package(name: str) -> None:
    home = "procmon.audit" if name.startswith("audit.") and name != "audit.AuditLog" else "procmon"
    thing = {**CLASSES, **FUNCTIONS}[name]
    assert thing.__module__ == home
    assert pickle.loads(pickle.dumps(thing)) is thing


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'procmon' has no attribute 'Moniter'"):
        procmon.Moniter  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_it_has_a_docstring_whose_first_sentence_ends(name: str) -> None:
    thing = {**CLASSES, **FUNCTIONS}[name]
    text = inspect.getdoc(thing)
    assert thing.__doc__ and text, f"{name} has no docstring"
    assert text.split("\n\n")[0].rstrip().endswith((".", ":", "`", "::")), (
        f"{name}: {text.splitlines()[0]!r} is no sentence"
    )


@pytest.mark.parametrize(
    "name", [*(name for name, thing in CLASSES.items() if not issubclass(thing, Exception)), *FUNCTIONS]
)
def test_its_help_shows_it_at_work(name: str) -> None:
    assert ">>>" in ({**CLASSES, **FUNCTIONS}[name].__doc__ or ""), f"help({name}) has no example"


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_says_what_it_is(name: str) -> None:
    if name.rpartition(".")[2].startswith("__"):
        return  # Python documents them
    assert inspect.getdoc(MEMBERS[name]), f"{name} has no docstring"


@pytest.mark.parametrize("name", [*FUNCTIONS, *MEMBERS])
def test_every_parameter_and_result_is_typed_and_none_is_any(name: str) -> None:
    function = unwrapped({**FUNCTIONS, **MEMBERS}[name])
    if not function.__code__.co_filename.startswith(str(SOURCE)):
        return  # written by dataclasses or enum
    signature = inspect.signature(function)
    untyped = [
        one.name
        for one in signature.parameters.values()
        if one.annotation is one.empty and one.name not in ("self", "cls")
    ]
    assert untyped == []
    assert signature.return_annotation is not signature.empty, f"{name} does not say what it returns"
    hints = typing.get_type_hints(function, {**vars(typing), **function.__globals__})
    assert [one for one, hint in hints.items() if mentions_any(hint)] == []


def home_of(name: str) -> str:
    """The module in which a public class is written."""
    if name.startswith("audit."):
        return "audit"
    return next(home for home, names in procmon._HOMES.items() if name in names.split())


def definition(name: str) -> ast.ClassDef:
    """The text of a public class."""
    source = importlib.import_module(f"procmon.{home_of(name)}").__file__
    assert source is not None
    name = name.rpartition(".")[2]
    nodes = ast.parse(Path(source).read_text()).body
    [found] = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name]
    return found


@pytest.mark.parametrize("name", [name for name, thing in CLASSES.items() if hasattr(thing, "__dataclass_fields__")])
def test_every_field_of_a_record_is_explained(name: str) -> None:
    """A docstring under the field. Outside of the records, counters (``timeouts: int = 0``) need none."""
    thing = CLASSES[name]
    node = definition(name)
    explained = {
        before.target.id
        for before, after in zip(node.body, node.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    counters = {
        field.name for field in dataclasses.fields(thing) if field.default == 0 and "." + home_of(name) != ".records"
    }
    assert set(thing.__dataclass_fields__) - explained - counters == set()


@pytest.mark.parametrize("name", [name for name, thing in CLASSES.items() if issubclass(thing, enum.Enum)])
def test_members_of_enums_show_their_names(name: str) -> None:
    member = next(iter(CLASSES[name]))
    assert member.name in repr(member)


def test_every_module_imports_on_every_system() -> None:
    """A Windows-only object fails when it is created, not when its module is imported."""
    failed = []
    for name in modules():
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
    assert failed == []


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda: procmon.DebugGate(), r"DebugGate\.run\(command\)"),
        (lambda: procmon.DebugGate("cmd"), r"DebugGate\.attach\(pid\)"),
        (lambda: procmon.Policy("x.toml"), r"Policy\.load\(path, \.\.\.\)"),
        (lambda: procmon.DriverGate(["cmd"]), r"DebugGate\.run\(command\)"),  # type: ignore[arg-type]
        (lambda: procmon.DriverGate("notepad.exe"), r"DebugGate\.run\(command\)"),
        (lambda: procmon.Starts(), r"Monitor\.starts\("),
        (lambda: procmon.SimulatedGate(["cmd"]), r"start\(\) puts processes in"),  # type: ignore[arg-type]
    ],
)
def test_a_constructor_called_by_mistake_answers_with_the_one_to_use(call: Callable[[], object], answer: str) -> None:
    with pytest.raises(TypeError, match=answer):
        call()


def test_help_shows_the_public_home_and_nothing_from_inside() -> None:
    text = pydoc.plain(pydoc.render_doc(procmon.Starts))
    assert "procmon.Starts = class Starts" in text or "class Starts" in text.splitlines()[2]
    assert "Engine" not in text and "procmon.monitor" not in text


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_the_home_of_their_class(name: str) -> None:
    """Since Python 3.13 `help` names a different module: "close(self) from procmon.monitor.starts.Starts"."""
    functions = []
    for member in vars(CLASSES[name]).values():
        found = (member, getattr(member, "__func__", None), getattr(member, "fget", None))
        functions += [each for each in found if inspect.isfunction(each)]
    homes = {function.__module__ for function in functions}
    assert {home for home in homes if home.startswith("procmon")} <= {CLASSES[name].__module__}
