#!/usr/bin/env python3
"""Breaks the core on purpose, one line at a time, in a copy of the tree, and sees whether the tests notice.

    python3 tests/core/breaks.py [NAME ...]

    the verdict for one pid reaches the next   test_handshake.py -k does_not_reach     red, as it should be
    ...

Exit status 0 only if every break was seen by every test that should see it, and the tests are green without one. It
takes some minutes. docs/testing.md has the table. test_breaks.py, which is quick, checks that each still fits.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
NEEDED = ("driver", "src", "tests/core", "pyproject.toml")

HANDSHAKE = "test_handshake.py"  # points 1 to 7
HANDSHAKE_ENDS = "test_handshake_ends.py"  # points 8 to 13
DEVICE = "test_handshake_ends.py -k Device"  # point 12
MODEL = "test_model.py"
MEMORY = "test_memory.py"
THREADS = "test_proofs.py -k many_threads"
RACES = "test_proofs.py -k (many_threads and not address)"
ADDRESSES = "test_proofs.py -k (many_threads and address)"
FUZZER = "test_proofs.py -k any_bytes"
ORDERS = "test_proofs.py -k every_order"
KERNEL = "test_kernel_side.py -k address"
SCALING = "test_scaling.py"


@dataclass(frozen=True)
class Break:
    """`old` becomes `new` in one file; each of `seen_by` (arguments of pytest) must then fail."""

    name: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]


BREAKS = (
    Break(
        "the verdict for one process reaches the next of its pid",
        "driver/core/requests.cpp",
        "if (record->start_key != target.start_key) {",
        "if (!record->start_key) {",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "a record that does not fit is lost",
        "driver/core/requests.cpp",
        "            more = record && add_record(request, &header, *record);\n            if (!more) break;\n"
        "            state.unseen.remove(record);",
        "            if (record) state.unseen.remove(record);\n"
        "            more = record && add_record(request, &header, *record);\n            if (!more) break;",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "a timeout comes one tick late",
        "driver/core/gate.cpp",
        "state.waited_ms(record) >= state.controller.hold_timeout_ms",
        "state.waited_ms(record) > state.controller.hold_timeout_ms",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "a controller that had fetched a process is not told of its timeout",
        "driver/core/gate.cpp",
        "if (record->fetched) state.queue_for_fetch(record);",
        "if (record->fetched) return false;",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "HarddiskVolume1 is taken for a prefix of HarddiskVolume11",
        "driver/core/volumes.cpp",
        "name.length > prefix.length && name.data[prefix.length] == u'\\\\' &&",
        "name.length > prefix.length &&",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "the event is not set for what is to be fetched",
        "driver/core/state.cpp",
        "unseen.append(record);\n    port.user_event_set(port.context, controller.event);",
        "unseen.append(record);",
        (HANDSHAKE, MODEL, THREADS),
    ),
    Break(
        "the table of pids does not grow",
        "driver/core/table.cpp",
        "    for (uint32_t i = 0; i < kSteps && is_tight() && buckets_ < allocated_; ++i) split();\n",
        "",
        (SCALING,),
    ),
    Break(
        "names leak when there is no memory for the record",
        "driver/core/gate.cpp",
        "        deferred.add(record);\n        deferred.add(names);\n        return refused;",
        "        deferred.add(record);\n        return refused;",
        (MEMORY,),
    ),
    Break(
        "a record without memory is used",
        "driver/core/gate.cpp",
        "    if (!record) return nullptr;\n    record->pid = creation.pid;",
        "    record->pid = creation.pid;",
        (MEMORY, FUZZER),
    ),
    Break(
        "memory is given back under the lock",
        "driver/core/gate.cpp",
        "    DeferredFree deferred(state.port);\n    Locked locked(state);\n"
        "    if (state.controller.owner && state.controller.pid == pid)",
        "    Locked locked(state);\n    DeferredFree deferred(state.port);\n"
        "    if (state.controller.owner && state.controller.pid == pid)",
        (HANDSHAKE, MODEL, THREADS),
    ),
    Break(
        "a held thread looks without the lock",
        "driver/core/gate.cpp",
        "    Locked locked(state);\n    Record* record = static_cast<Record*>(hold->record);\n"
        "    if (record->state == kStateHeld &&",
        "    Record* record = static_cast<Record*>(hold->record);\n    if (record->state == kStateHeld &&",
        (RACES,),
    ),
    Break(
        "INFO reads without the lock",
        "driver/core/requests.cpp",
        "    {\n        Locked locked(state);\n        info.size = sizeof info;",
        "    {\n        info.size = sizeof info;",
        (RACES,),
    ),
    Break(
        "a released thread is not woken",
        "driver/core/state.cpp",
        "    record->done = true;\n    port.signal_set(port.context, &record->hold->signal);",
        "    record->done = true;",
        (HANDSHAKE, MODEL, THREADS),
    ),
    Break(
        "a process that exits is freed while its thread is in its hold",
        "driver/core/state.cpp",
        "record->state != kStateExiting || record->hold || unseen.contains(record)",
        "record->state != kStateExiting || unseen.contains(record)",
        (ADDRESSES, FUZZER),
    ),
    Break(
        "a thread leaves while the worker has its pid in hand",
        "driver/core/state.cpp",
        "if (record->hold && !record->in_worker && !record->done) release(record);",
        "if (record->hold && !record->done) release(record);",
        (HANDSHAKE, MODEL, THREADS),
    ),
    Break(
        "more results are written than there is room for",
        "driver/core/requests.cpp",
        "    if (request.output_bytes < count * sizeof(uint32_t)) return kBufferTooSmall;\n",
        "",
        (DEVICE, FUZZER),
    ),
    Break(
        "a rule may be longer than the request",
        "driver/core/rules.cpp",
        " && header.size <= left;",
        ";",
        (FUZZER,),
    ),
    Break(
        "a half-known name is read past its end",
        "driver/core/volumes.cpp",
        "if (rest.length > 2 && rest.data[1] == u':' && rest.data[2] == u'\\\\')",
        "if (rest.data[1] == u':' && rest.data[2] == u'\\\\')",
        (FUZZER,),
    ),
    Break(
        "model: a verdict is for the pid alone",
        "driver/model/handshake.pml",
        "    :: found[slot] != key + 1                                    /* unknown, or stale */\n"
        "    :: found[slot] == key + 1 && state[found[slot] - 1] != Held   /* late */\n"
        "    :: found[slot] == key + 1 && state[found[slot] - 1] == Held ->",
        "    :: found[slot] == 0\n"
        "    :: found[slot] && state[found[slot] - 1] != Held\n"
        "    :: found[slot] && state[found[slot] - 1] == Held ->",
        (ORDERS,),
    ),
    Break(
        "model: the event is not set",
        "driver/model/handshake.pml",
        ":: owner -> unseen[p] = true; event = true",
        ":: owner -> unseen[p] = true",
        (ORDERS,),
    ),
    Break(
        "model: a controller goes and what it held stays",
        "driver/model/handshake.pml",
        "        :: owner == me -> end_controller(Block)",
        "        :: owner == me -> owner = 0",
        (ORDERS,),
    ),
    Break(
        "model: a thread leaves while the worker has its pid in hand",
        "driver/model/handshake.pml",
        ":: in_hold[p] && !in_worker[p] -> release(p)",
        ":: in_hold[p] -> release(p)",
        (ORDERS,),
    ),
    Break(
        "model: between looking for a stop and holding there is a gap",
        "driver/model/handshake.pml",
        "        :: else -> state[me] = Held; in_hold[me] = true; tell(me)\n        fi\n    }",
        "        :: else -> goto gap\n        fi;\n        goto wait\n    };\n"
        "gap:\n    atomic { state[me] = Held; in_hold[me] = true; tell(me) };\nwait:",
        (ORDERS,),
    ),
    Break(
        "model: a blocked process is released before it is dead",
        "driver/model/handshake.pml",
        ":: v == Block -> state[p] = Answered; condemned ! p",
        ":: v == Block -> state[p] = Answered; condemned ! p; release(p)",
        (ORDERS,),
    ),
    Break(
        "kernel side: a wait is not a wait",
        "driver/wdm/notify.cpp",
        "    } while (gate.still_held(hold, is_dying()));",
        "    } while (false);\n    while (gate.still_held(hold, is_dying())) {\n    }",
        (KERNEL,),
    ),
    Break(
        "kernel side: a held thread does not see that it was told to end",
        "driver/wdm/notify.cpp",
        "gate.still_held(hold, is_dying())",
        "gate.still_held(hold)",
        (KERNEL,),
    ),
    Break(
        "kernel side: whoever is on its way out is held like any other",
        "driver/wdm/notify.cpp",
        "    image.dying = is_dying();\n",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: a held thread can be suspended inside the driver",
        "driver/wdm/notify.cpp",
        "CriticalRegion() { KeEnterCriticalRegion(); }\n        ~CriticalRegion() { KeLeaveCriticalRegion(); }",
        "CriticalRegion() {}\n        ~CriticalRegion() {}",
        (KERNEL,),
    ),
    Break(
        "kernel side: the time for an answer passes while the machine sleeps",
        "driver/wdm/core_port.cpp",
        "unbiased_time != nullptr ? unbiased_time() : KeQueryInterruptTime()",
        "KeQueryInterruptTime()",
        (KERNEL,),
    ),
    Break(
        "kernel side: another letter of the system volume comes first",
        "driver/wdm/drive_letters.cpp",
        "add_drive(static_cast<WCHAR>(system_root[0] & ~0x20))",
        "add_drive(static_cast<WCHAR>(system_root[0] == 0))",
        (KERNEL,),
    ),
    Break(
        "kernel side: processes without an image are listed",
        "driver/wdm/running.cpp",
        " || has_image(running->pid))",
        " || has_image(running->pid) || true)",
        (KERNEL,),
    ),
    Break(
        "a process that others end while it is held is released before all of it ends",
        "driver/core/gate.cpp",
        "        state.leave_held(record);\n        state.queue_terminate(record);\n    } else",
        "        state.decide(record, kVerdictAllow, kByNoController);\n    } else",
        (HANDSHAKE_ENDS, MODEL),
    ),
    Break(
        "kernel side: any image of a process is taken for its first",
        "driver/wdm/notify.cpp",
        "    if (section_base != nullptr && section_base(process) != info->ImageBase) return;\n",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: a parent is held for what it maps into its child",
        "driver/wdm/notify.cpp",
        " || process_id != PsGetCurrentProcessId()",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: the creator is not told that a rule refuses",
        "driver/wdm/notify.cpp",
        "info->CreationStatus = static_cast<NTSTATUS>(wire::kStatusBlocked)",
        "static_cast<void>(0)",
        (KERNEL,),
    ),
    Break(
        "kernel side: the code goes while a callback is in it",
        "driver/wdm/notify.cpp",
        "    callbacks.close();\n",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: unload waits for the holds instead of ending them",
        "driver/wdm/driver.cpp",
        "void holds_stop() { gate.stop(); }",
        "void holds_stop() {}",
        (KERNEL,),
    ),
    Break(
        "kernel side: a start that fails half way leaves the first half behind",
        "driver/wdm/driver.cpp",
        "            stop_steps(i);\n",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: the worker does not pause when a process would not die",
        "driver/wdm/worker.cpp",
        "        if (!died) return false;\n",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: Administrators are left out of the access list",
        "driver/wdm/security.cpp",
        "FILE_ALL_ACCESS, &administrators);",
        "FILE_ALL_ACCESS, &system), static_cast<void>(administrators);",
        (KERNEL,),
    ),
    Break(
        "kernel side: any handle will do for an event",
        "driver/wdm/native.cpp",
        "EVENT_MODIFY_STATE, *type, UserMode",
        "EVENT_MODIFY_STATE, nullptr, UserMode",
        (KERNEL,),
    ),
    Break(
        "kernel side: the controller's handle is closed and nobody is told",
        "driver/wdm/device.cpp",
        "if (inside) gate.handle_closed(owner_of(IoGetCurrentIrpStackLocation(irp)));",
        "static_cast<void>(inside);",
        (KERNEL,),
    ),
    Break(
        "kernel side: who ended while the running were listed stays for ever",
        "driver/wdm/running.cpp",
        "if (has_exited(running.pid))",
        "if (has_exited(running.pid) && false)",
        (KERNEL,),
    ),
)


def broken(item: Break, text: str) -> str:
    """The file's text with the break in it. Raises: ValueError when it does not fit any more."""
    if text.count(item.old) != 1:
        raise ValueError(f"{item.file} has {text.count(item.old)} places for the break {item.name!r}; it needs one")
    return text.replace(item.old, item.new)


def is_green(copy: Path, test: str) -> bool:
    """Does this test pass in the copy?"""
    file, *options = test.split(" ", 2)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/core/{file}", *options],
        cwd=copy, capture_output=True, text=True, env=os.environ | {"PROCMON_SHRINK": "0"},
    )  # fmt: skip
    if result.returncode not in (0, 1, -4, -5, -6, -11):  # red is an ordinary failure, or a crash in the library
        raise RuntimeError(f"{test}: pytest ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def main(names: list[str]) -> int:
    chosen = [item for item in BREAKS if not names or any(name in item.name for name in names)]
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            else:
                shutil.copy2(source, copy / name)
        for test in sorted({test for item in chosen for test in item.seen_by}):
            if not is_green(copy, test):
                print(f"{test} is red without a break: repair that first", file=sys.stderr)
                return 2
        for item in chosen:
            path = copy / item.file
            text = path.read_text("utf-8")
            path.write_text(broken(item, text), "utf-8")
            for test in item.seen_by:
                green = is_green(copy, test)
                unseen += green
                print(f"{item.name:68} {test:54} {'GREEN: NOT SEEN' if green else 'red, as it should be'}", flush=True)
            path.write_text(text, "utf-8")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
