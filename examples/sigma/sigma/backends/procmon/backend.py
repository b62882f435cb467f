"""Converts pySigma's parsed rules to the text of a policy; each rule that a policy cannot express is one error."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any as Anything
from typing import ClassVar, NoReturn

from sigma.collection import SigmaCollection
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.conversion.base import Backend
from sigma.conversion.state import ConversionState
from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaConfigurationError, SigmaError, SigmaFeatureNotSupportedByBackendError
from sigma.filters import SigmaFilter
from sigma.processing.pipeline import ProcessingPipeline
from sigma.rule import SigmaLevel, SigmaRule
from sigma.rule.base import SigmaRuleBase
from sigma.types import (
    CompareOperators,
    SigmaCasedString,
    SigmaCompareExpression,
    SigmaExpansion,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
)

from . import fields, toml
from .conditions import All, Any, Condition, Not, Scalar, depth, simplified, table
from .modifiers import wrong_value
from .source import repeated_key

DEEPEST = 16
"""Levels to which a policy's tables may be nested."""

REGULAR_EXPRESSION = "a regular expression, which a policy does not have: write contains, or * and ?"

HEADER = """\
# Sigma rules as a policy of procmon-gate. The rules' authors are named in their messages.
# Rules of SigmaHQ are under the Detection Rule License 1.1, which asks for that:
# https://github.com/SigmaHQ/Detection-Rule-License"""


@dataclass(frozen=True)
class Converted:
    """One condition of a rule; a rule can have several."""

    rule: SigmaRule
    condition: Condition


class ProcmonBackend(Backend):
    """Converts Sigma rules for Windows process creations to a policy.

    Options: ``block`` and ``ask``, each a level. Rules of the level ``block`` and above block. Other rules of the level
    ``ask`` and above ask. The rest only log what they would block.
    """

    name: ClassVar[str] = "procmon-gate policy"
    identifier: ClassVar[str] = "procmon"
    formats: ClassVar[dict[str, str]] = {"default": "a policy for procmon-gate, a TOML file"}
    requires_pipeline: ClassVar[bool] = False

    def __init__(
        self,
        processing_pipeline: ProcessingPipeline | None = None,
        collect_errors: bool = False,
        block: str = "",
        ask: str = "",
        **backend_options: Anything,
    ) -> None:
        if backend_options:
            raise TypeError(f"there is no option '{min(backend_options)}'; there are block=LEVEL and ask=LEVEL")
        super().__init__(processing_pipeline, collect_errors)
        self._enforced = {"block": block, "ask": ask}
        self.counts: dict[str, int] = {}
        """The numbers of rules of the last policy that block, ask, and only log."""

    # -------------------------------------------------------------------------------------------------- whole rules

    def convert(self, rule_collection: SigmaCollection, *arguments: Anything, **options: Anything) -> Anything:
        """Return the text of the policy; a filter without effect is among the errors, too: its rules block more."""
        for each in rule_collection.filters:
            if each.errors:
                self._left_out(each, _unsupported(f"this filter has no effect: {_reason(each.errors[0])}"))
            elif self.collect_errors:  # to convert some rules of a folder, with all filters, is no error
                for missing in _without_rule(each, rule_collection):
                    self._left_out(each, _unsupported(f"this filter has no effect on {missing}"))
        return super().convert(rule_collection, *arguments, **options)

    def convert_rule(self, rule: SigmaRule, *arguments: Anything, **options: Anything) -> list[Anything]:
        """Return the conditions of a rule, or none, with an error in `errors`."""
        try:
            if rule.errors:
                raise _advised(rule.errors[0])
            _check_log_source(rule)
            if rule.source is not None and (key := repeated_key(rule.source.path)):
                raise _unsupported(
                    f"{key} stands twice in one map, of which YAML keeps the last: write a list of values"
                )
            if reason := wrong_value(rule):
                raise _unsupported(reason)
        except SigmaError as error:
            self._left_out(rule, error)
            return []
        try:
            return super().convert_rule(rule, *arguments, **options)
        except RecursionError:
            self._left_out(rule, _unsupported(f"its conditions are nested too deep; a policy takes {DEEPEST} levels"))
            return []

    def convert_correlation_rule(
        self, rule: SigmaCorrelationRule, *arguments: Anything, **options: Anything
    ) -> list[Anything]:
        """Return nothing, and add an error: a policy decides about one process creation, and counts no others."""
        advice = "" if rule.generate else ": with generate: true in it the rules that it names are converted"
        self._left_out(rule, _unsupported(f"it correlates several events; a policy decides about one{advice}"))
        return []

    convert_correlation_event_count_rule = convert_correlation_rule
    convert_correlation_value_count_rule = convert_correlation_rule
    convert_correlation_value_sum_rule = convert_correlation_rule
    convert_correlation_value_avg_rule = convert_correlation_rule
    convert_correlation_value_median_rule = convert_correlation_rule
    convert_correlation_value_percentile_rule = convert_correlation_rule
    convert_correlation_temporal_rule = convert_correlation_rule
    convert_correlation_temporal_ordered_rule = convert_correlation_rule
    convert_correlation_extended_temporal_rule = convert_correlation_rule
    convert_correlation_extended_temporal_ordered_rule = convert_correlation_rule

    def finish_query(
        self, rule: SigmaRule | SigmaCorrelationRule, query: Condition, state: ConversionState
    ) -> Converted:
        """Check that a policy can express the condition as a whole."""
        assert isinstance(rule, SigmaRule)
        return Converted(rule, _expressible(query))

    def finalize_output_default(self, queries: list[Converted]) -> str:
        """Return the text of the policy: rules that block, then rules that ask, then rules that only log.

        Each of the three begins with the highest level. A rule of a low level that matches much would otherwise hide
        rules of higher levels from the log, and what they would block.
        """
        levels = {verdict: _level(verdict, level) for verdict, level in self._enforced.items()}
        rules: dict[int, list[Converted]] = {}
        for query in sorted(queries, key=lambda query: -_rank(query.rule)):
            rules.setdefault(id(query.rule), []).append(query)
        texts: dict[str, list[str]] = {"block": [], "ask": [], "audit": []}
        named: dict[str, list[Condition]] = {}
        for queries_of_rule in rules.values():
            rule = queries_of_rule[0].rule
            try:
                condition = _expressible(Any(tuple(query.condition for query in queries_of_rule)))
            except SigmaError as error:
                self._left_out(rule, error)
                continue
            earlier = named.setdefault(_name(rule), [])
            if condition in earlier:
                self._left_out(rule, _unsupported("a rule with its title, identifier and condition is there already"))
                continue
            earlier.append(condition)
            name = _name(rule) if len(earlier) == 1 else f"{_name(rule)}, part {len(earlier)}"
            verdict = _verdict(rule, levels)
            texts[verdict].append(_rule_text(rule, name, verdict, condition))
        self.counts = {verdict: len(text) for verdict, text in texts.items()}
        blocked, asked, audited = self.counts.values()
        count = f"{blocked + asked + audited} rules: {blocked} block, {asked} ask, {audited} only log what they would"
        left_out = [toml.comment(f"left out: {_name(rule)}: {_reason(error)}") for rule, error in self.errors]
        parts = [f"{HEADER}\n# {count} block.", *(text for each in texts.values() for text in each)]
        return "\n\n".join([*parts, *(["\n".join(left_out)] if left_out else [])]) + "\n"

    def _left_out(self, rule: SigmaRuleBase, error: SigmaError) -> None:
        if not self.collect_errors:
            raise error
        self.errors.append((rule, error))  # type: ignore[arg-type]  # correlations are among the errors, too

    # --------------------------------------------------------------------------------------------------- conditions

    def convert_condition(
        self,
        cond: ConditionItem | ConditionFieldEqualsValueExpression | ConditionValueExpression | None,
        state: ConversionState,
    ) -> Anything:
        if cond is None:
            raise _unsupported("a part of its condition, as 1 of filter_*, names no selection that it has: write one")
        return super().convert_condition(cond, state)

    def convert_condition_or(self, cond: ConditionOR, state: ConversionState) -> Condition:
        return Any(self._parts(cond, state))

    def convert_condition_and(self, cond: ConditionAND, state: ConversionState) -> Condition:
        return All(self._parts(cond, state))

    def convert_condition_not(self, cond: ConditionNOT, state: ConversionState) -> Condition:
        (part,) = self._parts(cond, state)
        return Not(part)

    def _parts(self, cond: ConditionItem, state: ConversionState) -> tuple[Condition, ...]:
        return tuple(self.convert_condition(part, state) for part in cond.args)

    def convert_condition_as_in_expression(self, cond: ConditionOR | ConditionAND, state: ConversionState) -> NoReturn:
        raise AssertionError("this backend joins lists itself")

    def convert_condition_field_eq_val_str(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        assert isinstance(cond.value, SigmaString)
        with _reasons():
            return fields.compared(cond.field, cond.value, case_sensitive=False)

    def convert_condition_field_eq_val_str_case_sensitive(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        assert isinstance(cond.value, SigmaCasedString)
        with _reasons():
            return fields.compared(cond.field, cond.value, case_sensitive=True)

    def convert_condition_field_eq_val_num(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        assert isinstance(cond.value, SigmaNumber)
        with _reasons():
            return fields.number(cond.field, cond.value.number)

    def convert_condition_field_eq_val_null(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        with _reasons():
            return fields.known(cond.field, False)

    def convert_condition_field_exists(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        with _reasons():
            return fields.known(cond.field, True)

    def convert_condition_field_not_exists(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        with _reasons():
            return fields.known(cond.field, False)

    def convert_condition_field_compare_op_val(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Condition:
        assert isinstance(cond.value, SigmaCompareExpression)
        number = cond.value.number.number
        operator, bound = {
            CompareOperators.GTE: ("at_least", number),
            CompareOperators.GT: ("at_least", number + 1),
            CompareOperators.LTE: ("at_most", number),
            CompareOperators.LT: ("at_most", number - 1),
        }[cond.value.op]
        with _reasons():
            return fields.bounded(cond.field, operator, bound)

    def convert_condition_val(self, cond: ConditionValueExpression, state: ConversionState) -> Anything:
        match cond.value:
            case SigmaExpansion(values):
                each = (ConditionValueExpression(value) for value in values)
                return Any(tuple(self.convert_condition_val(value, state) for value in each))
            case SigmaCasedString():
                raise _unsupported("letter case counts in a value without a field: write the field")
            case SigmaString() | SigmaNumber() | SigmaRegularExpression() if not isinstance(
                cond.value, SigmaTimestampPart
            ):
                return super().convert_condition_val(cond, state)
        raise _unsupported("a value without a field is no text and no number: write the field")

    def convert_condition_val_str(self, cond: ConditionValueExpression, state: ConversionState) -> Condition:
        assert isinstance(cond.value, SigmaString)
        with _reasons():
            return fields.keyword(cond.value)

    def convert_condition_val_num(self, cond: ConditionValueExpression, state: ConversionState) -> Condition:
        with _reasons():
            return fields.keyword(SigmaString(str(cond.value)))

    # ----------------------------------------------------------------------------------- what a policy does not have

    def convert_condition_field_eq_val_bool(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> NoReturn:
        raise _unsupported(f"the field {cond.field} is compared with true or false; no fact of a policy is either")

    def convert_condition_field_eq_val_re(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> NoReturn:
        raise _unsupported(REGULAR_EXPRESSION)

    def convert_condition_val_re(self, cond: ConditionValueExpression, state: ConversionState) -> NoReturn:
        raise _unsupported(REGULAR_EXPRESSION)

    def convert_condition_field_eq_val_cidr(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> NoReturn:
        raise _unsupported(f"the field {cond.field} is compared with a network; no fact of a policy is an address")

    def convert_condition_field_eq_field(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> NoReturn:
        raise _unsupported(f"the field {cond.field} is compared with another field; a policy compares with texts only")

    def convert_condition_field_eq_query_expr(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> NoReturn:
        raise _unsupported("a query in another language")

    def convert_condition_query_expr(self, cond: ConditionValueExpression, state: ConversionState) -> NoReturn:
        raise _unsupported("a query in another language")

    def convert_condition_field_eq_val_timestamp_part(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> NoReturn:
        raise _unsupported(f"a part of the time in the field {cond.field}; a policy does not know the time of day")


@contextmanager
def _reasons() -> Iterator[None]:
    """Pass on what a policy cannot say as pySigma's error."""
    try:
        yield
    except fields.CannotSay as error:
        raise _unsupported(str(error)) from error


def _unsupported(reason: str) -> SigmaFeatureNotSupportedByBackendError:
    return SigmaFeatureNotSupportedByBackendError(reason)


def _reason(error: SigmaError) -> str:
    """The reason without the path of the rule's file, which pySigma adds."""
    return str(error.args[0]) if error.args else str(error)


def _advised(error: SigmaError) -> SigmaError:
    """The error, with what to write where pySigma lacks a modifier of the specification."""
    reason = _reason(error)
    return _unsupported(f"{reason}: write wide") if reason == "Unknown modifier 'utf16le'" else error


def _check_log_source(rule: SigmaRule) -> None:
    source = rule.logsource
    if source.category is None or source.category.lower() != "process_creation":
        about = ", ".join(filter(None, (source.product, source.category, source.service)))
        raise _unsupported(f"its events are of {about or 'no known kind'}, not process creations")
    if source.product is not None and source.product.lower() != "windows":
        raise _unsupported(f"it is for {source.product}, not Windows")
    if source.service is not None:
        raise _unsupported(f"its events are those of the service {source.service}")


def _level(verdict: str, name: str) -> SigmaLevel | None:
    """The lowest level that gets an enforced verdict."""
    if not name:
        return None
    levels = [level.name.lower() for level in SigmaLevel]
    if not isinstance(name, str) or name.lower() not in levels:
        raise SigmaConfigurationError(f"{verdict}={name}: there is no such level; the levels are {', '.join(levels)}")
    return SigmaLevel[name.upper()]


def _verdict(rule: SigmaRule, levels: dict[str, SigmaLevel | None]) -> str:
    for verdict, lowest in levels.items():
        if lowest is not None and rule.level is not None and rule.level >= lowest:
            return verdict
    return "audit"


def _expressible(condition: Condition) -> Condition:
    """The condition, simplified, if a policy can express it as a whole."""
    condition = simplified(condition)
    if (levels := depth(table(condition))) > DEEPEST:
        raise _unsupported(f"its conditions are nested {levels} deep; a policy takes {DEEPEST}: write several rules")
    return condition


def _rank(rule: SigmaRule) -> int:
    return 0 if rule.level is None else list(SigmaLevel).index(rule.level) + 1


def _without_rule(of: SigmaFilter, rules: SigmaCollection) -> Iterator[str]:
    """What the filter names, and does not apply to."""
    wanted = of.filter.rules
    same_source = [rule for rule in rules.rules if isinstance(rule, SigmaRule) and rule.logsource in of.logsource]
    if isinstance(wanted, str):
        if not same_source:
            yield "any rule: none has its log source"
        return
    for reference in (each.reference for each in wanted):
        if not any(reference in (str(rule.id), rule.name) for rule in same_source):
            yield f"{reference}: no rule of its log source has this id or name"


def _name(rule: SigmaRuleBase) -> str:
    title = " ".join(str(rule.title or "").split()) or "untitled"
    return f"{title} ({rule.id})" if rule.id else f"{title} (no identifier)"


def _rule_text(rule: SigmaRule, name: str, verdict: str, condition: Condition) -> str:
    """One ``[[rule]]``."""
    level = rule.level.name.lower() if rule.level is not None else "none"
    author = " ".join(rule.author.split()) if rule.author else "an author that the rule does not name"
    references = [str(each) for each in rule.references if each and str(each).strip()]
    attributes: list[tuple[str, Scalar]] = [("name", name)]
    attributes += [("verdict", "ask" if verdict == "ask" else "block")]
    attributes += [("audit", True)] if verdict == "audit" else []
    attributes += [("message", f"Sigma rule of level {level} by {author}")]
    attributes += [("reference", references[0])] if references else []
    lines = ["[[rule]]", *(f"{key} = {toml.value(content)}" for key, content in attributes)]
    if rule.tags:
        lines.append(f"tags = [{', '.join(toml.value(str(tag)) for tag in rule.tags)}]")
    return "\n".join([*lines, *toml.lines(table(condition))])
