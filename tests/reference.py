#!/usr/bin/env python3
"""Make docs/reference.md, the page of the public names, from the docstrings and signatures in the sources.

    python3 tests/reference.py

tests/unit/test_reference.py fails while the page is outdated. This script reads the sources, not the objects, so that
every Python and every system makes the same page.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import made_page

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

import procmon  # noqa: E402 - found on the path that is set above

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "reference.md"

HEAD = """\
# Reference

Every public name, with its docstring: the exports of `procmon`, and `procmon.audit`.
`python3 tests/reference.py` makes this page from the sources; edit the docstrings, not the page.
`help(procmon.Monitor)` shows the same text.

"""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

KINDS = (
    "Run, guard, monitor", "Gates", "Records", "Policies", "Audit logs", "Running processes", "Driver", "Errors",
    "Types for annotations",
)  # fmt: skip
PACKAGES = {
    "monitor": 0, "gates": 1, "records": 2, "policy": 3, "audit": 4, "system": 5, "driver": 6, "errors": 7,
}  # fmt: skip


def page() -> str:
    """The page."""
    sections: list[list[str]] = [[] for _ in KINDS]
    for name in sorted(set(procmon.__all__) - {"audit"}, key=str.lower):
        sections[_kind(name)].append(_entry(name, f"procmon.{name}"))
    for name in procmon.audit.__all__:
        if name not in procmon.__all__:
            sections[KINDS.index("Audit logs")].append(_entry(name, f"procmon.audit.{name}"))
    parts = [HEAD, *(f"- [{kind}](#{_anchor(kind)})\n" for kind in KINDS)]
    for kind, entries in zip(KINDS, sections, strict=True):
        parts += [f"\n## {kind}\n", *entries]
    return "".join(parts)


def _kind(name: str) -> int:
    module = _module_of(name)
    if module is None or name in ("Decider", "Sink", "Callback", "ExitCallback", "Match"):
        return KINDS.index("Types for annotations") if name not in procmon.Verdict.__members__ else 2
    package = module.partition(".")[0]
    return 7 if package == "errors" else PACKAGES.get(package, len(KINDS) - 1)


def _module_of(name: str) -> str | None:
    """The module below procmon that defines a public name, from the imports of the package."""
    for found in _imports():
        if name == found[1]:
            return found[0]
    return "audit" if name in procmon.audit.__all__ else None


def _imports() -> Iterator[tuple[str, str]]:
    for node in ast.walk(_tree("__init__")):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            for alias in node.names:
                yield node.module, alias.asname or alias.name


def _tree(module: str) -> ast.Module:
    path = ROOT / "src" / "procmon" / (module.replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------- one name


def _entry(name: str, public: str) -> str:
    module = _module_of(name)
    nodes = [each for each in _tree(module).body if _defines(each, name)] if module else []
    node = nodes[-1] if nodes else None  # after the overloads, which have no docstring
    if isinstance(node, ast.ClassDef):
        return _class(node, public)
    if isinstance(node, ast.FunctionDef):
        return f"\n### {public}\n{_signatures(node, public)}{_text(ast.get_docstring(node))}"
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return f"\n### {public}\n{_code(ast.unparse(node))}"
    member = getattr(procmon, name)
    return f"\n### {public}\n\n`procmon.{type(member).__name__}.{member.name}`\n"


def _defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and node.target.id == name
    return isinstance(node, Definition) and node.name == name


def _class(node: ast.ClassDef, public: str) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [f"\n### {public}\n"]
    first = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
    is_exception = isinstance(getattr(procmon, node.name, None), type) and issubclass(
        getattr(procmon, node.name), Exception
    )
    if first is not None and not is_exception and not _is_made_elsewhere(node):
        parts.append(_signatures(first, public, drop_first=True, no_return=True))
    elif bases not in ("", "AnswersHeard"):  # AnswersHeard is not public
        parts.append(f"\n{_bases(bases)}\n")
    parts.append(_text(ast.get_docstring(node)))
    rows = list(_fields(node))
    if rows:
        parts.append("\n| | |\n|---|---|\n" + "".join(f"| `{name}` | {text} |\n" for name, text in rows))
    methods = [each for each in node.body if isinstance(each, Definition) and not each.name.startswith("_")]
    for name in dict.fromkeys(each.name for each in methods):
        same = [each for each in methods if each.name == name]
        if not isinstance(same[-1], ast.ClassDef) and "setter" not in _decorators(same[-1]):
            parts.append(_method(same[-1], public))
    return "".join(parts)


def _is_made_elsewhere(node: ast.ClassDef) -> bool:
    """Is the class made by a function or another class, so that its constructor is not public?"""
    return node.name in ("Starts", "Subscription", "DebugGate", "Policy", "AuditReader")


def _bases(bases: str) -> str:
    if bases.startswith("Generic["):
        return f"Generic in `{bases[8:-1]}`."
    bases = bases.replace("_ShortEnum", "enum.Enum")  # _ShortEnum only changes the repr
    return f"A kind of `{bases}`." if bases != "Protocol" else "A protocol: any object with these members is one."


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef, public: str) -> str:
    name = f"{public.rpartition('.')[2]}.{node.name}"
    decorators = _decorators(node)
    if "property" in decorators:
        returns = f" (`{ast.unparse(node.returns)}`)" if node.returns else ""
        return f"\n#### {name}{returns}\n{_text(ast.get_docstring(node))}"
    return f"\n#### {name}\n{_signatures(node, name, drop_first='staticmethod' not in decorators)}" + _text(
        ast.get_docstring(node)
    )


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}


def _signatures(
    node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, *, drop_first: bool = False, no_return: bool = False
) -> str:
    given = list(_arguments(node.args))
    if drop_first:
        del given[0]
        if given[:1] == ["/"]:
            del given[0]
    prefix = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None and not no_return else ""
    line = f"{prefix}{name}({', '.join(given)}){returns}"
    if len(line) > 96:
        line = f"{prefix}{name}(\n" + "".join(f"    {each},\n" for each in given) + f"){returns}"
    return _code(line)


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    """Each argument as in the source, with ``/`` and ``*`` between them."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    for number, (argument, default) in enumerate(zip(positional, defaults, strict=True), 1):
        yield _argument(argument, default)
        if number == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg:
        yield f"*{_argument(arguments.vararg, None)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(argument, default)
    if arguments.kwarg:
        yield f"**{_argument(arguments.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation is not None else f"{text}={ast.unparse(default)}"


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The fields or members of a class, each with its docstring."""
    is_record = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    is_enum = any("Enum" in ast.unparse(base) or "IntFlag" in ast.unparse(base) for base in node.bases)
    for before, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = " ".join(inspect.cleandoc(after.value.value).split())
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            if not before.target.id.startswith("_") and (is_record or text):
                yield f"{before.target.id}: {ast.unparse(before.annotation)}".replace("|", "\\|"), _cell(text)
        elif is_enum and isinstance(before, ast.Assign) and isinstance(before.targets[0], ast.Name):
            yield f"{before.targets[0].id} = {_value(before.value)}", _cell(text)


def _value(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return hex(node.value)
    return ast.unparse(node).replace("'", '"')


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")


# ---------------------------------------------------------------------------------------------------- docstrings


def _code(text: str) -> str:
    return f"\n```\n{text}\n```\n"


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: paragraphs, lists of ``name: text``, examples and indented blocks as code."""
    if not docstring:
        return ""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.split("\n")
        example = next((number for number, line in enumerate(lines) if line.startswith(">>>")), None)
        if example is not None:
            prose, code = lines[:example], lines[example:]
            shown = "\n".join(re.sub(r"\s+# doctest: \S+$", "", line) for line in code)
            parts.append((_prose(prose) if prose else "") + f"\n```py\n{shown}\n```\n")
        elif lines[0].startswith("    "):
            parts.append(_code(textwrap.dedent(paragraph)))
        else:
            parts.append(_prose(lines))
    return "".join(parts)


def _prose(lines: list[str]) -> str:
    items = [bool(re.match(r"[`\w*]+(, [`\w*]+)*:\s", line)) for line in lines]
    if (sum(items) > 1 and items[0]) or lines[0].startswith("- "):
        joined: list[str] = []
        for line, is_item in zip(lines, items, strict=True):
            if line.startswith("- ") or (is_item and not lines[0].startswith("- ")):
                joined.append(line.removeprefix("- "))
            else:
                joined[-1] += f" {line.strip()}"
        return "\n" + "".join(f"{_fold('- ' + _inline(line), '  ')}\n" for line in joined)
    return "\n" + _fold(_inline("\n".join(lines))) + "\n"


def _fold(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _inline(text: str) -> str:
    """``code`` and `name` of docstrings as Markdown; a public name becomes a link to its place here."""
    text = re.sub(r"::(?=\s*$)", ":", text)
    pieces = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.DOTALL)
    for index, piece in enumerate(pieces):
        if piece.startswith("``"):
            pieces[index] = f"`{piece[2:-2]}`"
        elif piece.startswith("`"):
            name = piece[1:-1].removeprefix("procmon.")
            is_public = name in procmon.__all__ and name != "audit"
            pieces[index] = f"[`{name}`](#{_anchor(f'procmon.{name}')})" if is_public else piece
        else:
            pieces[index] = re.sub(r"([<*_])", r"\\\1", piece)
    return "".join(pieces)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    sys.exit(made_page.main(__file__, PAGE, page()))
