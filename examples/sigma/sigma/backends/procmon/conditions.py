"""Boolean expressions over the facts of a process, and the equivalent tables of a policy.

`backend` makes the expressions from Sigma's conditions. For example `CommandLine|contains|all` is there an `All` of one
`Fact` for each text; here it becomes `command_line.contains_all`.

A policy's table holds if all of its facts hold, at least one table of ``any``, every table of ``all`` and no table of
``unless``. No function changes the meaning of an expression.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

__all__ = ["All", "Any", "Condition", "Fact", "Not", "Scalar", "Table", "depth", "simplified", "table"]

Scalar = str | int | bool
Operators = dict[str, Scalar | list[Scalar]]
Table = dict[str, "Operators | list[Table]"]

LISTS = frozenset({"glob", "equals", "contains", "starts_with", "ends_with"})
"""Operators that take several values, any of which is enough."""

EVERY = {"glob": "glob_all", "contains": "contains_all"}
"""Operators, and the operator that requires every one of several values."""


@dataclass(frozen=True)
class Fact:
    """One fact of the process, compared by one operator with any of the values."""

    fact: str
    operator: str
    values: tuple[Scalar, ...]
    case_sensitive: bool = False


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Any:
    """At least one part holds."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: "Condition"


Condition = Fact | All | Any | Not


def simplified(condition: Condition) -> Condition:
    """The condition with nested groups of one kind joined, and alternatives for one fact and operator in one list."""
    match condition:
        case Not(Not(part)):
            return simplified(part)
        case Not(part):
            return Not(simplified(part))
        case Any(parts):
            return _one_or(Any, _joined(list(_flat(Any, parts))))
        case All(parts):
            return _one_or(All, list(dict.fromkeys(_flat(All, parts))))
    return condition


def _flat(kind: type[All] | type[Any], parts: Iterable[Condition]) -> Iterable[Condition]:
    for part in map(simplified, parts):
        if isinstance(part, kind):
            yield from part.parts
        else:
            yield part


def _one_or(kind: type[All] | type[Any], parts: Sequence[Condition]) -> Condition:
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def _joined(parts: list[Condition]) -> list[Condition]:
    """Alternatives, with those for one fact and operator joined at the place of the first."""
    joined: dict[object, Condition] = {}
    values: dict[object, list[Scalar]] = {}
    for part in parts:
        key: object = part
        if isinstance(part, Fact) and part.operator in LISTS:
            key = part.fact, part.operator, part.case_sensitive
            values.setdefault(key, []).extend(part.values)
        joined.setdefault(key, part)
    return [
        replace(part, values=tuple(values[key])) if isinstance(part, Fact) and key in values else part
        for key, part in joined.items()
    ]


def table(condition: Condition) -> Table:
    """The table of a policy that holds exactly when a `simplified` condition does."""
    match condition:
        case Fact():
            return _facts([condition])[0]
        case Any(parts):
            return {"any": [table(part) for part in parts]}
        case Not(Any(parts)):
            return {"unless": [table(part) for part in parts]}
        case Not(part):
            return {"unless": [table(part)]}
    conjunction, *rest = _facts([part for part in condition.parts if isinstance(part, Fact)])
    unless: list[Table] = []
    choices: list[Table] = []
    for part in condition.parts:
        match part:
            case Any():
                choices.append(table(part))
            case Not():
                inner = table(part)["unless"]
                assert isinstance(inner, list)
                unless += inner
    if len(choices) == 1:
        conjunction |= choices.pop()
    if rest or choices:
        conjunction["all"] = rest + choices
    if unless:
        conjunction["unless"] = unless
    return conjunction


def _facts(facts: Sequence[Fact]) -> list[Table]:
    """Tables, usually one, that all hold exactly when every one of these facts does."""
    tables: list[Table] = [{}]
    for fact in _every(facts):
        operators = _operators(fact)
        for each in tables:
            there = each.setdefault(fact.fact, {})
            assert isinstance(there, dict)
            if not there or _fit(there, operators):
                there |= operators
                break
        else:
            tables.append({fact.fact: operators})
    return tables


def _every(facts: Sequence[Fact]) -> list[Fact]:
    """Joins conditions of one value each on one fact, such as ``contains``, to one of ``contains_all``."""
    joined: dict[object, Fact] = {}
    values: dict[object, list[Scalar]] = {}
    for fact in facts:
        key: object = fact
        if fact.operator in EVERY and len(fact.values) == 1:
            key = fact.fact, fact.operator, fact.case_sensitive
            values.setdefault(key, []).extend(fact.values)
        joined.setdefault(key, fact)
    return [
        replace(fact, operator=EVERY[fact.operator], values=tuple(values[key]))
        if len(values.get(key, ())) > 1
        else fact
        for key, fact in joined.items()
    ]


def _operators(fact: Fact) -> Operators:
    values = list(dict.fromkeys(fact.values))
    operators: Operators = {fact.operator: values[0] if len(values) == 1 else values}
    return operators | {"case_sensitive": True} if fact.case_sensitive else operators


def _fit(there: Operators, added: Operators) -> bool:
    """Both fit in one table of operators: a policy takes no ``known = false`` beside others, and no operator twice."""
    case = "case_sensitive"
    if "known" in there or "known" in added:
        return False
    return there.get(case) == added.get(case) and not (there.keys() & added.keys()) - {case}


def depth(of: Table) -> int:
    """How deep tables are nested in this one; 0 if it has no inner tables."""
    inner = [each for value in of.values() if isinstance(value, list) for each in value]
    return 1 + max(map(depth, inner)) if inner else 0
