"""What Sigma's specification says of rules and events, evaluated without pySigma and without the backend.

Sources: sigma-rules-specification 2.1, sigma-appendix-modifiers 2.1, sigma-filters-specification 2.0. Letter case is
that of docs/policy.md: two letters are equal if each is the only other case of the other.
"""

import base64
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

Event = Mapping[str, str | int]
Made = dict[str, Any]

ANY, ONE = object(), object()
"""The wildcards ``*`` and ``?`` of a value; its other parts are characters."""

DASHES = "-/\u2013\u2014\u2015"


def matches(document: str, event: Event) -> bool:
    """Whether a rule of the YAML text matches the event; filters of the text apply."""
    rules, filters, common = [], [], {}
    for made in yaml.safe_load_all(document):
        match made.pop("action", None):
            case "global":
                common = made
            case "reset":
                common = {}
            case _ if "filter" in made:
                filters.append(made["filter"])
            case _:
                rules.append(_merged(made, common))
    return any(
        _rule(rule["detection"], event)
        and all(_rule(each, event) for each in filters if each["rules"] == "any" or rule.get("id") in each["rules"])
        for rule in rules
    )


def _merged(made: Made, common: Made) -> Made:
    inner = {key: _merged(made.get(key, {}), value) for key, value in common.items() if isinstance(value, dict)}
    return made | common | inner


def _rule(detection: Made, event: Event) -> bool:
    conditions = detection["condition"]
    return any(
        _condition(each, detection, event) for each in ([conditions] * isinstance(conditions, str) or conditions)
    )


# ----------------------------------------------------------------------------------------------------------- conditions


def _condition(text: str, detection: Made, event: Event) -> bool:
    names = {name: _search(what, event) for name, what in detection.items() if name not in ("condition", "rules")}
    words = re.findall(r"[()]|[^\s()]+", text)

    def either() -> bool:
        held = both()
        while words[:1] == ["or"]:
            words.pop(0)
            held = both() or held
        return held

    def both() -> bool:
        held = one()
        while words[:1] == ["and"]:
            words.pop(0)
            held = one() and held
        return held

    def one() -> bool:
        word = words.pop(0)
        if word == "not":
            return not one()
        if word == "(":
            held = either()
            assert words.pop(0) == ")"
            return held
        if words[:1] == ["of"]:
            words.pop(0)
            pattern = words.pop(0)
            pattern = "[^_].*" if pattern == "them" else pattern.replace("*", ".*")
            return (all if word == "all" else any)(held for name, held in names.items() if re.fullmatch(pattern, name))
        return names[word]

    held = either()
    assert not words
    return held


def _search(what: object, event: Event) -> bool:
    if isinstance(what, Mapping):
        return all(_field(key, value, event) for key, value in what.items())
    return any(_search(each, event) if isinstance(each, Mapping) else _field("", each, event) for each in _list(what))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


# --------------------------------------------------------------------------------------------------- fields and values


def _field(key: str, value: object, event: Event) -> bool:
    field, *modifiers = key.split("|")
    found = [event.get(field)] if field else list(event.values())
    if "exists" in modifiers:
        return (field in event) is value
    each = [any(_value(one, modifiers, keyword=not field, wanted=wanted) for one in found) for wanted in _list(value)]
    held = (all if "all" in modifiers else any)(each)
    return not held if "neq" in modifiers else held


def _value(found: str | int | None, modifiers: list[str], *, keyword: bool, wanted: object) -> bool:
    if wanted is None or found is None:
        return wanted is None and found is None
    for modifier, compare in {"lt": int.__lt__, "lte": int.__le__, "gt": int.__gt__, "gte": int.__ge__}.items():
        if modifier in modifiers:
            assert isinstance(wanted, int)
            return compare(int(found), wanted)
    patterns = [_parsed(str(wanted))]
    for modifier in modifiers + ["contains"] * (keyword and "contains" not in modifiers):
        patterns = [made for pattern in patterns for made in _modified(modifier, pattern)]
    fold = str if "cased" in modifiers else _folded
    return any(_regex(pattern, fold).fullmatch(fold(str(found))) for pattern in patterns)


def _parsed(text: str) -> list[object]:
    parts: list[object] = []
    for written in re.findall(r"\\[*?\\]|.", text, re.DOTALL):
        parts.append({"*": ANY, "?": ONE}.get(written, written[-1]))
    return parts


def _modified(modifier: str, pattern: list[object]) -> Iterable[list[object]]:
    match modifier:
        case "contains":
            return [[ANY, *pattern, ANY]]
        case "startswith":
            return [[*pattern, ANY]]
        case "endswith":
            return [[ANY, *pattern]]
        case "wide":
            return [[made for part in pattern for made in ((part, "\0") if isinstance(part, str) else (part,))]]
        case "utf16be":
            return [[made for part in pattern for made in (("\0", part) if isinstance(part, str) else (part,))]]
        case "base64":
            return [list(base64.b64encode(_bytes(pattern)).decode())]
        case "base64offset":
            return [_inner(_bytes(pattern), offset) for offset in range(3)]
        case "windash":
            return [list(each) for each in itertools.product(*(DASHES if p in list("-/") else [p] for p in pattern))]
    return [pattern]


def _bytes(pattern: list[object]) -> bytes:
    return "".join(map(str, pattern)).encode()


def _inner(text: bytes, offset: int) -> list[object]:
    """The base64 characters that `text` alone decides, when `offset` other bytes precede it in its group of three."""
    bits = "".join(f"{byte:08b}" for byte in text)
    bits = bits[-8 * offset % 6 :]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return [letters[int(bits[i : i + 6], 2)] for i in range(0, len(bits) - 5, 6)]


def _regex(pattern: list[object], fold: Any) -> re.Pattern[str]:
    pieces = {ANY: ".*", ONE: "."}
    pattern = [
        part for part, before in zip(pattern, [None, *pattern], strict=False) if part is not ANY or before is not ANY
    ]
    return re.compile("".join(pieces.get(part) or re.escape(fold(part)) for part in pattern), re.DOTALL)


def _folded(text: str) -> str:
    return "".join(c.lower() if c < "\U00010000" and c.lower().upper() == c else c for c in text)
