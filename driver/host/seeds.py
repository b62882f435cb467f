#!/usr/bin/env python3
"""Writes the first programs for fuzz.cpp into driver/host/corpus/: short ways through every request and notification.

    python3 driver/host/seeds.py

tests/core/test_proofs.py fails when the folder does not hold what this makes. The fuzzer goes on from here by itself.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "src"))

from procmon.driver import protocol  # noqa: E402 - the path comes first
from procmon.records import Verdict  # noqa: E402

STEPS = (
    "request", "create", "image", "exit", "look", "take", "terminated", "time", "memory", "close", "volumes", "stop",
    "thread",
)  # fmt: skip
CODES = (
    protocol.INFO,
    protocol.REGISTER,
    protocol.FETCH,
    protocol.LIST,
    protocol.ALLOW,
    protocol.BLOCK,
    protocol.RESET,
    protocol.SET_RULES,
    protocol.QUIESCE,
)
TOOL, ELSEWHERE, CRITICAL, SHARE, DOS_DEVICE, VOLUME, NOTHING = range(7)
FIRST_KEY = 1001
RUNNING, REFUSABLE, PICO = 0x10, 0x20, 0x40  # options of "create"
DYING, OWN = 0x20, 0x40  # of "image" and "thread"
DIED, CRITICAL_ONE = 0x40, 0x80  # of "terminated"
HALF_NAMES = ("\\??\\", "\\??\\C", "\\??\\C:", "\\", "\\??\\C:\\")


def step(name: str, *arguments: int) -> bytes:
    """One instruction."""
    return bytes([STEPS.index(name), *arguments])


def request(code: int, data: bytes = b"", room: int = 0, *, how: int = 1, who: int = 0) -> bytes:
    """A request; how: 1 = one buffer for input and output, 2 = with the existing event."""
    sizes = len(data).to_bytes(2, "little") + room.to_bytes(2, "little")
    return step("request", how, CODES.index(code), who, *sizes) + data


def register(*, timeout_ms: int = 0, verdict: Verdict = Verdict.ALLOW, flags: int = 3, who: int = 0) -> bytes:
    data = protocol.encode_register(
        0, hold_timeout_ms=timeout_ms, on_timeout=verdict, on_disconnect=verdict, flags=flags
    )
    return request(protocol.REGISTER, data, how=3, who=who)


def start(place: int, name: int = TOOL, *, known: bool = False) -> bytes:
    """Process 4 * place is created (5 is its parent) and its image mapped; its thread is in hold `place`."""
    created = step("create", place, 5, 5, REFUSABLE, name if known else NOTHING, NOTHING)
    return created + step("image", place, place, name, NOTHING)


def spelt(place: int, name: str) -> bytes:
    """Like `start`, with any name."""
    text = bytes([NOTHING + 1 + len(name)]) + name.encode("ascii")
    created = step("create", place, 5, 5, REFUSABLE) + text + bytes([NOTHING])
    return created + step("image", place, place) + text + bytes([NOTHING])


def answers(code: int, count: int) -> bytes:
    """ALLOW or BLOCK for the first processes."""
    targets = [(4 * place, FIRST_KEY + place - 2) for place in range(2, 2 + count)]
    return request(code, protocol.encode_targets(targets), 4 * count)


def seeds() -> dict[str, bytes]:
    """File name -> program."""
    drives = step("volumes", 7, VOLUME)
    rules = protocol.encode_rules([("h:\\a.exe", Verdict.BLOCK), ("\\device\\mup\\s\\a.exe", Verdict.ALLOW)])
    looks = b"".join(step("look", place) for place in range(8))
    work = step("take", 0) + step("terminated", DIED)
    lists = request(protocol.LIST, protocol.encode_list(), 4000)
    lists += request(protocol.LIST, protocol.encode_list(FIRST_KEY), 300)
    fetch, info = request(protocol.FETCH, room=4000), request(protocol.INFO, room=protocol.INFO_REPLY.size)
    hold = register() + start(2) + start(3)
    programs = {
        "allow": drives + hold + fetch + answers(protocol.ALLOW, 2) + looks + step("exit", 2, 7) + fetch + lists + info,
        "block": drives + hold + fetch + answers(protocol.BLOCK, 2) + work + work + looks + info,
        "block_fails": hold + answers(protocol.BLOCK, 1) + (step("take", 0) + step("terminated", 0)) * 21 + looks,
        "timeout": register(timeout_ms=100, verdict=Verdict.BLOCK) + start(2) + fetch + step("time", 10)
        + looks + work + looks + fetch,
        "disconnect": hold + step("close", 0) + looks + register(who=1) + request(protocol.FETCH, room=4000, who=1),
        "controller_exits": step("create", 3, 0, 0, RUNNING, TOOL, NOTHING) + register() + start(2)
        + step("exit", 3, 0) + looks,
        "reset": hold + request(protocol.SET_RULES, rules, 40) + request(protocol.RESET) + looks + info,
        "stop": hold + answers(protocol.BLOCK, 1) + step("stop", 255) + work + looks + info,
        "rules": drives + register() + request(protocol.SET_RULES, rules, 40) + start(2, known=True) + start(3)
        + start(4, SHARE) + looks + work + fetch,
        "names": drives + b"".join(start(place, place) for place in range(2, 7)) + lists,
        "small_fetch": hold + request(protocol.FETCH, room=16) + request(protocol.FETCH, room=200) * 3,
        "small_answers": hold
        + request(protocol.ALLOW, protocol.encode_targets([(8, FIRST_KEY)] * 3), 8, how=0) + looks,
        "half_names": drives + b"".join(spelt(place, name) for place, name in enumerate(HALF_NAMES, 2)),
        "half_rule": register() + request(protocol.SET_RULES, rules[:-8], 40)
        + request(protocol.SET_RULES, rules[:30], 40, how=0),
        "reused": hold + fetch + start(2) + looks + answers(protocol.BLOCK, 2) + fetch,
        "no_memory": register()
        + b"".join(step("memory", n) + start(2 + n) + step("exit", 2 + n, 0) for n in range(1, 5)) + fetch,
        "exits_in_hand": hold + answers(protocol.BLOCK, 2) + step("take", 0) + step("exit", 2, 0) + step("exit", 3, 0)
        + looks + step("terminated", DIED) + looks,
        "threads": hold + step("thread", 2, 4) + step("thread", 5, 5) + step("thread", 2, 0x80)
        + step("look", 2 | DYING << 1)
        + fetch + answers(protocol.ALLOW, 2) + looks,
        "suspended_before": step("create", 2, 0, 0, RUNNING, TOOL, NOTHING) + register()
        + step("image", 2, 2 | OWN, TOOL, TOOL) + fetch + looks,
        "renamed": drives + register() + step("create", 2, 5, 5, REFUSABLE, TOOL, NOTHING)
        + step("image", 2, 2 | OWN, TOOL, ELSEWHERE) + fetch + looks,
        "pico": register() + step("create", 2, 5, 5, REFUSABLE | PICO, NOTHING, NOTHING) + fetch,
        "undying": hold + answers(protocol.BLOCK, 1) + step("take", 0) + step("terminated", CRITICAL_ONE)
        + step("time", 255) + step("take", 0) + step("terminated", 0) + step("stop", 255) + work + looks,
        "quiesce": hold + request(protocol.SET_RULES, rules, 40) + step("stop", 254) + looks
        + request(protocol.QUIESCE) + fetch + info,
        "no_memory_at_all": register() + step("memory", 0x81) + start(2, known=True)
        + step("image", 3, 3 | OWN, TOOL, NOTHING) + looks,
    }  # fmt: skip
    return {name: bytes(1) + program for name, program in programs.items()}


def main() -> None:
    folder = HERE / "corpus"
    folder.mkdir(exist_ok=True)
    for name, program in seeds().items():
        (folder / name).write_bytes(program)


if __name__ == "__main__":
    main()
