#!/usr/bin/env python3
"""Breaks the core on purpose, one line at a time, in a copy of the tree, and sees whether the tests notice.

    python3 tests/core/breaks.py [NAME ...]

    the verdict for one pid reaches the next   test_handshake.py -k does_not_reach     red, as it should be
    ...

Exit status 0 only if every break was seen by every test that should see it, and the tests are green without one. It
takes some minutes. test_breaks.py, which is quick, checks that each break still fits the sources.
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
WAYS = "test_ways_around.py"
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
        "driver/core/holds.cpp",
        "state.waited_ms(record) >= state.controller.hold_timeout_ms",
        "state.waited_ms(record) > state.controller.hold_timeout_ms",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "a controller that had fetched a process is not told of its timeout",
        "driver/core/holds.cpp",
        "if (record->fetched) state.queue_for_fetch(record);  // its controller",
        "if (record->fetched) return false;  // its controller",
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
        "the redirector in the name of a file on a share is taken for its server",
        "driver/core/volumes.cpp",
        "name.data[at + 1] == u';'",
        "name.data[at + 1] == u'?'",
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
        "all processes share a few buckets",
        "driver/core/table.h",
        "pid / 4 & (kBuckets - 1)",
        "pid / 4 & 15",
        (SCALING,),
    ),
    Break(
        "names leak when there is no memory for the record",
        "driver/core/creations.cpp",
        "        state.give_back(names, deferred);\n        state.give_back(line, deferred);\n    }\n    return refuser",
        "        state.give_back(line, deferred);\n    }\n    return refuser",
        (HANDSHAKE_ENDS,),
    ),
    Break(
        "a record without memory is used",
        "driver/core/creations.cpp",
        "    const bool has_room = record && state.make_room(deferred);",
        "    const bool has_room = state.make_room(deferred);",
        (HANDSHAKE_ENDS,),
    ),
    Break(
        "memory is given back under the lock",
        "driver/core/creations.cpp",
        "    DeferredFree deferred(state.port);\n    Locked locked(state);\n"
        "    if (state.controller.owner && state.controller.pid == pid)",
        "    Locked locked(state);\n    DeferredFree deferred(state.port);\n"
        "    if (state.controller.owner && state.controller.pid == pid)",
        (HANDSHAKE, MODEL, THREADS),
    ),
    Break(
        "a held thread looks without the lock",
        "driver/core/holds.cpp",
        "    Locked locked(state);\n    Record* record = static_cast<Record*>(hold->record);\n    if (dying",
        "    Record* record = static_cast<Record*>(hold->record);\n    if (dying",
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
        "    for (Hold* hold = record->holds; hold; hold = hold->next) port.signal_set(port.context, &hold->signal);\n",
        "",
        (HANDSHAKE, MODEL, THREADS),
    ),
    Break(
        "a process that exits is freed while its thread is in its hold",
        "driver/core/state.cpp",
        "record->state != kStateExiting || record->holds || unseen.contains(record)",
        "record->state != kStateExiting || unseen.contains(record)",
        (ADDRESSES, FUZZER),
    ),
    Break(
        "a thread leaves while the worker terminates by its pid",
        "driver/core/state.cpp",
        "if (record->holds && !record->in_worker && !record->done) release(record);",
        "if (record->holds && !record->done) release(record);",
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
        ":: is_held(p) && !in_worker[p] -> release(p)",
        ":: is_held(p) -> release(p)",
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
        ":: v == Block -> state[p] = Answered; to_terminate ! p",
        ":: v == Block -> state[p] = Answered; to_terminate ! p; release(p)",
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
        "kernel side: a process that was ended before it ran is held like any other",
        "driver/wdm/notify.cpp",
        "    image.dying = is_dying();\n    const LocatedName",
        "    const LocatedName",
        (KERNEL,),
    ),
    Break(
        "kernel side: the system's case table is asked under the lock",
        "driver/wdm/core_port.cpp",
        "    port.lock_release = [](void*, LockStorage* lock) {",
        "    port.lock_release = [](void*, LockStorage* lock) {\n        (void)make_case_table();",
        (KERNEL,),
    ),
    Break(
        "kernel side: letters beyond ASCII stay capitals",
        "driver/wdm/core_port.cpp",
        "        status = RtlDowncaseUnicodeString(&part, &part, FALSE);  // in place",
        "        if (unit > 0) break;\n        status = RtlDowncaseUnicodeString(&part, &part, FALSE);",
        (KERNEL,),
    ),
    Break(
        "a name is made anew for the image",
        "driver/core/holds.cpp",
        "|| !equal(names->native(), image.native_name)) return false;",
        "|| equal(names->native(), image.native_name)) return false;",
        (MEMORY,),
    ),
    Break(
        "a name stays although the drive letters have changed",
        "driver/core/gate.cpp",
        "    state_->new_volumes = {};\n    ++state_->map_number;\n",
        "    state_->new_volumes = {};\n",
        (MEMORY, MODEL),
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
        "kernel side: what starts during the load is taken for suspended",
        "driver/wdm/driver.cpp",
        '    {"image notifications", image_notify_start, image_notify_stop},\n'
        '    {"create notifications", create_notify_start, create_notify_stop},\n',
        '    {"create notifications", create_notify_start, create_notify_stop},\n'
        '    {"image notifications", image_notify_start, image_notify_stop},\n',
        (KERNEL,),
    ),
    Break(
        "kernel side: processes without an image are listed",
        "driver/wdm/running.cpp",
        "if (id_of(running.pid) != kSystemPid && !has_image(process.get())) return;",
        "",
        (KERNEL,),
    ),
    Break(
        "a process that another ends while it is held is released before all of it ends",
        "driver/core/holds.cpp",
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
        "void callbacks_stop() { callbacks.close(); }",
        "void callbacks_stop() {}",
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
        "the worker does not pause when a process would not die",
        "driver/core/gate.cpp",
        "if (record->retry_at_ms > now && !state.stopping) {",
        "if (record->retry_at_ms > now + 10000 && !state.stopping) {",
        (HANDSHAKE, MODEL, KERNEL),
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
        "if (exit_called != nullptr && exit_called(process.get()))",
        "if (exit_called == nullptr)",
        (KERNEL,),
    ),
    # ------------------------------------------------------------------------------------- ways around the gate
    Break(
        "an extra thread runs while the first is held",
        "driver/core/holds.cpp",
        "    if (is_held(record)) {\n        state.join_foreign(record, hold);\n        return true;\n    }\n    if (record->state",
        "    if (record->state",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "an extra thread that comes first runs",
        "driver/core/holds.cpp",
        "    if (record->state != kStateNew) return false;\n    // It comes before",
        "    if (record->state == kStateNew || record->state != kStateNew) return false;\n    // It comes before",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "an extra thread on an older kernel is not noticed while the first is held",
        "driver/core/holds.cpp",
        "if (state.controller.tamper_verdict == kVerdictBlock) state.decide(record, kVerdictBlock, kByTamper);",
        "",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "an extra thread on an older kernel is not noticed before the first image",
        "driver/core/holds.cpp",
        "    if (tampered && controller.tamper_verdict == kVerdictBlock) {",
        "    if (tampered && controller.tamper_verdict == kVerdictNone) {",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "one thread that is ended takes the question of its process with it",
        "driver/core/holds.cpp",
        "if (dying && !record->done && others_wait(record, hold)) {",
        "if (dying && record->done && others_wait(record, hold)) {",
        (WAYS, MODEL),
    ),
    Break(
        "of two threads that are ended at once both leave",
        "driver/core/holds.cpp",
        "if (other != hold && !other->leaves) return true;",
        "if (other != hold) return true;",
        (WAYS, MODEL),
    ),
    Break(
        "descent goes by a pid that another process had",
        "driver/core/state.cpp",
        "        if (!record || record->start_key >= younger_key) return false;\n"
        "        if (creator_pid == controller.pid ||",
        "        if (creator_pid == controller.pid) return true;\n"
        "        if (!record || record->start_key >= younger_key) return false;\n"
        "        if (creator_pid == controller.pid ||",
        (HANDSHAKE_ENDS, MODEL),
    ),
    Break(
        "descent goes by a creator that is younger",
        "driver/core/state.cpp",
        "if (!record || record->start_key >= younger_key) return false;",
        "if (!record) return false;",
        (HANDSHAKE_ENDS, MODEL),
    ),
    Break(
        "descent goes by the claimed parent",
        "driver/core/creations.cpp",
        "state.descends(creation.creator_pid, state.last_key + 1)",
        "(state.descends(creation.creator_pid, state.last_key + 1) ||\n"
        "                             state.descends(creation.parent_pid, state.last_key + 1))",
        (HANDSHAKE_ENDS, MODEL),
    ),
    Break(
        "a claimed parent is not marked",
        "driver/core/state.cpp",
        "creation.parent_pid != creation.creator_pid) record->flags |= kFlagParentClaimed;",
        "creation.parent_pid != creation.creator_pid) record->flags |= 0;",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "a program that is never held is a launch pad for any creator",
        "driver/core/exempt.cpp",
        "(program && creator && kTable[program].creators & below(creator));",
        "program;",
        (HANDSHAKE_ENDS, MODEL),
    ),
    Break(
        "a creator that is not genuine itself spares what it starts",
        "driver/core/creations.cpp",
        "    if (origin.exempt) {\n        record->flags |= kFlagExempt;\n        record->program = origin.program;\n    }",
        "    if (origin.exempt) record->flags |= kFlagExempt;\n    record->program = origin.program;",
        (MODEL,),
    ),
    Break(
        "a rule that can never act is not named",
        "driver/core/requests.cpp",
        "if (is_always_exempt(head.program)) rule.is_inert = true;",
        "",
        (HANDSHAKE_ENDS,),
    ),
    Break(
        "a process that would not die is released and runs",
        "driver/core/gate.cpp",
        "} else if (outcome == Outcome::kDied || record->last_try) {",
        "} else if (outcome == Outcome::kDied || record->last_try || ++record->terminate_tries >= 2 * kQuickTries) {",
        (HANDSHAKE,),
    ),
    Break(
        "the stop does not wait for a last attempt",
        "driver/core/gate.cpp",
        "record->last_try = state.stopping;",
        "record->last_try = true;",
        (HANDSHAKE, MODEL),
    ),
    Break(
        "at a limit a process runs unasked although it shall not",
        "driver/core/creations.cpp",
        "if (!has_room && controller.limit_verdict == kVerdictBlock) {",
        "if (!has_room && controller.limit_verdict == kVerdictNone) {",
        (HANDSHAKE_ENDS,),
    ),
    Break(
        "the reserve is not given back",
        "driver/core/state.cpp",
        "    if (block && !reserve->give_back(block)) deferred.add(block);",
        "    if (block && block->bytes) deferred.add(block);",
        (HANDSHAKE_ENDS,),
    ),
    Break(
        "there is no reserve",
        "driver/core/creations.cpp",
        "    if (!record && (record = state.reserve->take_record()) != nullptr) ++counters.reserve_used;\n",
        "",
        (HANDSHAKE_ENDS, MODEL),
    ),
    Break(
        "what was suspended before the load is never held",
        "driver/core/holds.cpp",
        "record->listed && !record->image_seen && image.own);",
        "record->listed && !record->image_seen && image.own && record->fetched && !record->fetched);",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "WSL 1 processes are created although they shall not",
        "driver/core/creations.cpp",
        "if (creation.pico && controller.pico_verdict == kVerdictBlock) {",
        "if (creation.pico && controller.pico_verdict == kVerdictNone) {",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "kernel side: a critical process is terminated",
        "driver/wdm/native.cpp",
        "    if (is_critical(handle.get())) return Outcome::kCritical;\n",
        "",
        (KERNEL,),
    ),
    Break(
        "kernel side: a file that can still be written is not told",
        "driver/wdm/notify.cpp",
        "if (file->WriteAccess || is_mapped_for_writing)",
        "if (is_mapped_for_writing)",
        (KERNEL,),
    ),
    Break(
        "a file that is renamed before it runs is not told, and an allowing rule lets it pass",
        "driver/core/holds.cpp",
        "    const bool renamed = is_renamed(port, image);",
        "    const bool renamed = is_renamed(port, image) && image.dying;",
        (WAYS, MODEL, KERNEL),
    ),
    Break(
        "texts grow without a limit",
        "driver/core/state.cpp",
        "while (text_bytes + more_bytes > kMaxTextBytes)",
        "while (text_bytes + more_bytes > 1000u * kMaxTextBytes)",
        (MEMORY,),
    ),
    Break(
        "QUIESCE lets a new controller in",
        "driver/core/requests.cpp",
        "if (state.stopping || (state.quiesced && entry.who != kAnyHandle)) return kDeviceNotReady;",
        "if (state.stopping) return kDeviceNotReady;",
        (HANDSHAKE_ENDS, MODEL, KERNEL),
    ),
    Break(
        "QUIESCE does not wake the controller",
        "driver/core/state.cpp",
        "    if (decided_by == kByStop) port.user_event_set(port.context, controller.event);\n",
        "",
        (HANDSHAKE_ENDS, KERNEL),
    ),
    Break(
        "kernel side: a shutdown of Windows waits for the held",
        "driver/wdm/device.cpp",
        "    if (inside) gate.quiesce();",
        "    static_cast<void>(inside);",
        (KERNEL,),
    ),
    Break(
        "model: an extra thread does not look whether its process is held",
        "driver/model/handshake.pml",
        "        :: found[0] == 1 && is_held(0) -> extra_in_hold = true\n",
        "",
        (ORDERS,),
    ),
    Break(
        "model: a process that would not die is released",
        "driver/model/handshake.pml",
        "(killed[now] || last_try[now]) -> state[now] = Released",
        "(killed[now] || last_try[now] || tries[now]) -> state[now] = Released",
        (ORDERS,),
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
