"""Tables of a policy mean the same as their source conditions."""

from collections.abc import Callable, Mapping

from hypothesis import given
from hypothesis import strategies as st
from sigma.backends.procmon.conditions import All, Any, Condition, Fact, Not, Table, depth, simplified, table

Process = Mapping[str, str | None]

OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda value, text: value == text,
    "contains": lambda value, text: text in value,
    "starts_with": lambda value, text: value.startswith(text),
    "ends_with": lambda value, text: value.endswith(text),
}

facts = st.one_of(
    st.builds(
        Fact,
        st.sampled_from(["image", "user"]),
        st.sampled_from(sorted(OPERATORS)),
        st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=3).map(tuple),
        st.booleans(),
    ),
    st.builds(Fact, st.sampled_from(["image", "user"]), st.just("known"), st.booleans().map(lambda known: (known,))),
)
conditions = st.recursive(
    facts,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(lambda each: All(tuple(each))),
        st.lists(parts, min_size=1, max_size=3).map(lambda each: Any(tuple(each))),
        parts.map(Not),
    ),
    max_leaves=12,
)
processes = st.fixed_dictionaries({name: st.none() | st.text("aAb", max_size=3) for name in ("image", "user")})


def holds(condition: Condition, process: Process) -> bool:
    """The condition, evaluated directly."""
    match condition:
        case All(parts):
            return all(holds(part, process) for part in parts)
        case Any(parts):
            return any(holds(part, process) for part in parts)
        case Not(part):
            return not holds(part, process)
    operators = {condition.operator: list(condition.values), "case_sensitive": condition.case_sensitive}
    return fact_holds(operators, process[condition.fact])


def fact_holds(operators: Mapping[str, object], value: str | None) -> bool:
    """The operators of one fact, as docs/policy.md describes them."""
    exactly = operators.get("case_sensitive") is True
    for operator, wanted in operators.items():
        texts = wanted if isinstance(wanted, list) else [wanted]
        if operator == "case_sensitive":
            continue
        if operator == "known":
            held = (value is not None) in texts
        elif value is None:
            held = False
        else:
            form = value if exactly else value.lower()
            every = operator.endswith("_all")
            compare = OPERATORS[operator.removesuffix("_all")]
            held = (all if every else any)(compare(form, str(text) if exactly else str(text).lower()) for text in texts)
        if not held:
            return False
    return True


def table_holds(of: Table, process: Process) -> bool:
    """A table of a policy, as docs/policy.md describes it."""
    for key, content in of.items():
        if isinstance(content, dict):
            if not fact_holds(content, process[key]):
                return False
        else:
            each = [table_holds(inner, process) for inner in content]
            assert each, "an empty list of tables is a mistake in a policy"
            if not {"any": any(each), "all": all(each), "unless": not any(each)}[key]:
                return False
    return True


@given(conditions, processes)
def test_a_table_holds_where_its_condition_does(condition: Condition, process: Process) -> None:
    made = table(simplified(condition))
    assert table_holds(made, process) == holds(condition, process)


@given(conditions)
def test_no_table_is_empty(condition: Condition) -> None:
    todo = [table(simplified(condition))]
    while todo:
        each = todo.pop()
        assert each
        todo += [inner for content in each.values() if isinstance(content, list) for inner in content]


def test_alternatives_for_one_fact_become_one_list() -> None:
    choice = Any((Fact("image", "contains", ("a",)), Fact("image", "contains", ("b",))))
    assert table(simplified(choice)) == {"image": {"contains": ["a", "b"]}}


def test_parts_that_must_all_be_in_one_text_become_contains_all() -> None:
    both = All((Fact("image", "contains", ("a",)), Fact("image", "contains", ("b",))))
    assert table(simplified(both)) == {"image": {"contains_all": ["a", "b"]}}


def test_two_lists_for_one_fact_and_operator_stand_in_two_tables() -> None:
    both = All((Fact("image", "contains", ("a", "b")), Fact("image", "contains", ("c", "d"))))
    assert table(simplified(both)) == {
        "image": {"contains": ["a", "b"]},
        "all": [{"image": {"contains": ["c", "d"]}}],
    }


def test_the_depth_of_a_table_counts_its_levels() -> None:
    condition: Condition = Fact("image", "equals", ("a",))
    assert depth(table(condition)) == 0
    for levels in range(1, 5):
        condition = All((Fact("user", "equals", ("a",)), Not(condition)))
        assert depth(table(simplified(condition))) == levels
