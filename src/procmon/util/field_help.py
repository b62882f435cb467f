"""The docstrings below the fields of a public dataclass, for `help`."""

import sys
from contextlib import suppress

__all__ = ["FieldHelp"]


class FieldHelp(dict[str, str]):
    """The docstring below each field of a dataclass, by the name of the field; read from the source at each look-up.

    `help` takes the docstrings of attributes from ``__slots__`` if that is a dictionary.
    """

    def __init__(self, record: type) -> None:
        super().__init__(dict.fromkeys(record.__dataclass_fields__, ""))  # type: ignore[attr-defined]
        self._module, self._name = record.__module__, record.__name__

    def __getitem__(self, name: str) -> str:
        import ast  # here: `import procmon` needs neither module
        import inspect

        with suppress(OSError, SyntaxError):  # a program without its sources has no docstrings here, and works
            module = ast.parse(inspect.getsource(sys.modules[self._module]))
            [node] = [each for each in module.body if isinstance(each, ast.ClassDef) and each.name == self._name]
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and ast.unparse(before.target) == name:
                    match after:
                        case ast.Expr(value=ast.Constant(value=str(text))):
                            return inspect.cleandoc(text)
        return ""
