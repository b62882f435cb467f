"""Values that pySigma has modified otherwise than Sigma's specification says.

Such a rule would block other processes than its author means, so it is left out.
"""

from collections.abc import Iterator

from sigma.modifiers import modifier_mapping
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaRule
from sigma.types import SigmaCasedString, SigmaExpansion, SigmaString, SigmaType

__all__ = ["wrong_value"]

_DASHES = "\u2013\u2014\u2015"


def wrong_value(rule: SigmaRule) -> str | None:
    """Why a value of the rule is not what its modifiers ask for, and what to write instead; None if all are."""
    items = (item for detection in rule.detection.detections.values() for item in _items(detection))
    return next(filter(None, map(_wrong, items)), None)


def _items(detection: SigmaDetection) -> Iterator[SigmaDetectionItem]:
    for item in detection.detection_items:
        if isinstance(item, SigmaDetection):
            yield from _items(item)
        else:
            yield item


def _wrong(item: SigmaDetectionItem) -> str | None:
    modifiers = {name for name, modifier in modifier_mapping.items() if modifier in item.modifiers}
    written = ["".join(part for part in text.s if isinstance(part, str)) for text in _texts(item.original_value or [])]
    made = list(_texts(item.value))
    if modifiers & {"base64", "base64offset"}:
        if "utf16" in modifiers:
            return "pySigma encodes the byte order mark of utf16 as UTF-8: write wide"
        if any("*" in text or "?" in text for text in written):
            return r"pySigma encodes the backslash of \* and \? too: leave the literal * or ? out of the base64 text"
    if "base64offset" in modifiers:
        if not all(text.isascii() for text in written):
            return "pySigma cuts base64offset of a text that is not ASCII in the wrong place: write base64"
        if not all(any(isinstance(part, str) and part for part in text.s) for text in made):
            return "the text is too short for base64offset: at some offset no whole character depends on it alone"
    if "windash" in modifiers and any(set(text) & set(_DASHES) for text in written):
        return "windash of pySigma varies - and / only, not the dash of this text: write -"
    if "cased" in modifiers and not all(isinstance(text, SigmaCasedString) for text in made):
        return "pySigma forgets cased before another modifier: write cased as the last one"
    return None


def _texts(values: list[SigmaType]) -> Iterator[SigmaString]:
    for value in values:
        if isinstance(value, SigmaExpansion):
            yield from _texts(value.values)
        elif isinstance(value, SigmaString):
            yield value
