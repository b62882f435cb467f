"""Decisions and processes as JSON: the result of their `as_dict`, written without the dictionaries.

An audit log writes a line for each process that starts. This module takes a quarter of the time that `as_dict` and
`json` take. A test compares it with `as_dict`, field by field.
"""

import json
import math
from datetime import datetime, tzinfo
from enum import Enum
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

from ..records import Decision, ProcessFlags, ProcessHelper, flag_names

__all__ = ["decision_json", "encode", "process_json"]

encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Any value as JSON on one line, all ASCII. Raises: TypeError or ValueError for what JSON cannot hold."""

_TRUTH = ("false", "true")


def decision_json(decision: Decision) -> str:
    """A decision on one line, all ASCII. Raises: TypeError or ValueError for an invalid field."""
    if type(decision) is not Decision:
        return encode(decision.as_dict())
    note = ""
    if (rule := decision.note) is not None:
        note = "," + encode({"message": rule.message, "reference": rule.reference, "tags": list(rule.tags)})[1:-1]
    return (
        f'{{"process":{process_json(decision.process)},"verdict":{_word(decision.verdict)},"by":{_word(decision.by)}'
        f',"who":{quoted(decision.who)},"at":"{_moment(decision.at, decision.at.tzinfo)}"'
        f',"held_for":{_seconds(decision.held_for)},"audited":{_TRUTH[decision.audited]}'
        f',"result":{_word(decision.result)},"reason":{quoted(decision.reason)},"policy":{quoted(decision.policy)}'
        f',"facts":{encode(dict(decision.facts)) if decision.facts else "{}"}{note}}}'
    )


def process_json(process: ProcessHelper) -> str:
    """A process on one line, all ASCII. Raises: TypeError or ValueError for an invalid field."""
    if type(process) is not ProcessHelper:
        return encode(process.as_dict())
    return (
        f'{{"pid":{process.pid},"parent_pid":{process.parent_pid},"image_name":{quoted(process.image_name)}'
        f',"paused":{_TRUTH[process.paused]},"seen":{_TRUTH[process.seen]},"start_key":{process.start_key:d}'
        f',"created":{_time(process.created)}'
        f',"creator_pid":{_number(process.creator_pid)},"creator_tid":{_number(process.creator_tid)}'
        f',"command_line":{_text(process.command_line)},"native_name":{_text(process.native_name)}'
        f',"creation_name":{_text(process.creation_name)},"signature_level":{_number(process.signature_level)}'
        f',"flags":{_flags(process.flags) if process.flags else "[]"}'
        f',"exited":{_TRUTH[process.exited]},"exit_status":{_number(process.exit_status)}'
        f',"exited_at":{_time(process.exited_at)},"verdict":{_word(process.verdict)}'
        f',"decided_by":{_word(process.decided_by)},"hold_left":{_seconds(process.hold_left)}}}'
    )


def _text(text: str | None) -> str:
    return "null" if text is None else quoted(text)


def _number(number: int | None) -> str:
    return "null" if number is None else f"{number:d}"


def _seconds(seconds: float | None) -> str:
    return "null" if seconds is None or not math.isfinite(seconds) else repr(float(seconds))


def _word(member: Enum | None) -> str:
    return "null" if member is None else f'"{member.value}"'


def _time(at: datetime | None) -> str:
    return "null" if at is None else f'"{at.isoformat()}"'


@lru_cache(maxsize=4)
def _moment(at: datetime, zone: tzinfo | None) -> str:
    """Decisions of one batch have the same time, hence the cache. `zone` is in its key because equal times of two zones
    have different texts."""
    return at.isoformat()


@lru_cache(maxsize=1024)
def _flags(flags: ProcessFlags) -> str:
    return encode(flag_names(flags))
