"""The public names: each is typed without Any, documented, and shown at work (test_docs.py runs the examples)."""

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import procmon

SOURCE = Path(procmon.__file__).parent


def modules() -> list[str]:
    """The names of all modules of the package."""
    found = pkgutil.walk_packages(procmon.__path__, "procmon.")
    return sorted(one.name for one in found if not one.name.endswith(".__main__"))


def public() -> Iterator[tuple[str, Any]]:
    """(name, object) of everything that `procmon` exports, and below it of what its public modules export."""
    for name in procmon.__all__:
        thing = getattr(procmon, name)
        if isinstance(thing, types.ModuleType):
            for below in thing.__all__:
                yield f"{name}.{below}", getattr(thing, below)
        else:
            yield name, thing


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """(name, function or property) of everything public that a class of ours has, inherited things too."""
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
    assert len(procmon.__all__) == len(set(procmon.__all__))
    assert not [name for name in procmon.__all__ if name.startswith("_")]


def test_everything_that_the_package_imports_for_its_users_is_public() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported - {name for name in imported if name.startswith("_")} <= set(procmon.__all__)


def test_the_import_loads_no_module_beyond_the_package_and_the_standard_library() -> None:
    program = "import sys; before = set(sys.modules); import procmon; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SOURCE.parent, capture_output=True, text=True, check=True, timeout=30
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - {"procmon"}
    assert loaded <= set(sys.stdlib_module_names)


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
        return  # what they are for, Python says
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
    owner = inspect.getmodule(function)
    hints = typing.get_type_hints(function, {**vars(typing), **vars(owner)})
    assert [one for one, hint in hints.items() if mentions_any(hint)] == []


@pytest.mark.parametrize("name", [name for name, thing in CLASSES.items() if hasattr(thing, "__dataclass_fields__")])
def test_every_field_of_a_record_is_explained(name: str) -> None:
    """A docstring under the field. Elsewhere than in the records, counters (``timeouts: int = 0``) may do without."""
    thing = CLASSES[name]
    [node] = ast.parse(inspect.getsource(thing)).body
    assert isinstance(node, ast.ClassDef)
    explained = {
        before.target.id
        for before, after in zip(node.body, node.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    counters = {
        field.name
        for field in dataclasses.fields(thing)
        if field.default == 0 and thing.__module__ != "procmon.records"
    }
    assert set(thing.__dataclass_fields__) - explained - counters == set()


@pytest.mark.parametrize("name", [name for name, thing in CLASSES.items() if issubclass(thing, enum.Enum)])
def test_members_of_enums_show_their_names(name: str) -> None:
    member = next(iter(CLASSES[name]))
    assert member.name in repr(member)


def test_every_module_imports_on_every_system() -> None:
    """A Windows-only object says so when it is made, not when its module is imported."""
    failed = []
    for name in modules():
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
    assert failed == []
