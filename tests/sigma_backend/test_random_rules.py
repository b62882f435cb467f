"""Random Sigma rules and processes: the imported policy decides as Sigma defines.

This evaluation of Sigma is independent of the backend's: each value becomes a regular expression, each condition is
evaluated as pySigma parsed it.
"""

import re
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sigma.backends.procmon import ProcmonBackend
from sigma.collection import SigmaCollection
from sigma.conditions import ConditionAND, ConditionFieldEqualsValueExpression, ConditionItem, ConditionNOT, ConditionOR
from sigma.rule import SigmaRule
from sigma.types import SigmaCasedString, SigmaExists, SigmaNull, SigmaString, SpecialChars

from procmon import DecidedBy, Policy, ProcessHelper

pytestmark = pytest.mark.filterwarnings("ignore::procmon.errors.PolicyWarning")  # of what rules hardly mean

PATHS = ["Image", "ParentImage", "CurrentDirectory", "User"]
TEXTS = ["CommandLine", "ParentCommandLine", "OriginalFileName", "Product", "FileVersion", "LogonId"]
ATTRIBUTES = {
    "ParentImage": "parent",
    "CurrentDirectory": "current_directory",
    "User": "user",
    "ParentCommandLine": "parent_command_line",
    "OriginalFileName": "original_file_name",
    "Product": "product",
    "FileVersion": "file_version",
    "LogonId": "logon_id",
}

characters = st.sampled_from("aAb.\\ -'\"[]\t")
values = st.text(st.one_of(characters, st.sampled_from("*?\\")), max_size=6)
items = st.tuples(
    st.sampled_from([*PATHS, *TEXTS]),
    st.sampled_from(["", "|contains", "|startswith", "|endswith", "|contains|all", "|cased", "|contains|cased"]),
    st.one_of(st.none(), values, st.lists(st.one_of(values), min_size=1, max_size=3)),
)
selections = st.lists(items, min_size=1, max_size=3)
CONDITIONS = ["a", "a and not b", "a or b", "not a", "1 of *", "all of *", "a and (b or not c)", "not (a and b) or c"]

processes = st.fixed_dictionaries(
    {
        "Image": st.text(characters, max_size=6).map(lambda rest: f"C:\\{rest}"),
        "ParentImage": st.none() | st.text(characters, min_size=1, max_size=8),  # an image without a name is not known
        **{field: st.none() | st.text(characters, max_size=8) for field in [*PATHS[2:], *TEXTS]},
    }
)


def detection(named: dict[str, list[tuple[str, str, object]]], condition: str) -> dict[str, object]:
    """The detection of a rule; a ``null`` has no modifier."""
    made: dict[str, object] = {"condition": condition}
    for name, chosen in named.items():
        made[name] = {field + ("" if value is None else modifier): value for field, modifier, value in chosen}
    return made


def holds(condition: object, event: dict[str, str | None]) -> bool:
    match condition:
        case ConditionAND(args):
            return all(holds(part, event) for part in args)
        case ConditionOR(args):
            return any(holds(part, event) for part in args)
        case ConditionNOT(args):
            return not holds(args[0], event)
        case ConditionFieldEqualsValueExpression(field, value):
            return meets(event[field], value)
    raise AssertionError(condition)


def meets(text: str | None, value: object) -> bool:
    if isinstance(value, SigmaNull):
        return text is None
    if isinstance(value, SigmaExists):
        return (text is not None) == bool(value)
    assert isinstance(value, SigmaString)
    if text is None:
        return False
    wild = {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}
    pattern = "".join(re.escape(part) if isinstance(part, str) else wild[part] for part in value.s)  # type: ignore[index]
    flags = re.DOTALL if isinstance(value, SigmaCasedString) else re.DOTALL | re.IGNORECASE
    return re.fullmatch(pattern, text, flags) is not None


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys("abc", selections)),
    st.sampled_from(CONDITIONS),
    st.lists(processes, min_size=3, max_size=3),
)
def test_a_random_rule_decides_as_sigma_says(
    named: dict[str, list[tuple[str, str, object]]], condition: str, events: list[dict[str, str | None]]
) -> None:
    source = {"category": "process_creation", "product": "windows"}
    made = detection(named, condition)
    rule = SigmaRule.from_dict({"title": "A rule", "logsource": source, "detection": made})
    backend = ProcmonBackend(collect_errors=True)
    text = backend.convert(SigmaCollection([rule]))
    assume(not backend.errors)  # left-out rules have other tests
    parsed: ConditionItem | object = rule.detection.parsed_condition[0].parsed
    now = SimpleNamespace()
    policy = Policy.parse(text, lookup=lambda _: None, details=lambda _: now)
    for number, event in enumerate(events):
        now = SimpleNamespace(**{name: event[field] for field, name in ATTRIBUTES.items()})
        process = ProcessHelper(
            pid=1000 + 4 * number,
            parent_pid=4,
            image_name=str(event["Image"]).lower(),
            command_line=event["CommandLine"],
            start_key=number + 1,
        )
        matched = policy.decide(process).by is DecidedBy.RULE
        assert matched == holds(parsed, event), (text, event)
