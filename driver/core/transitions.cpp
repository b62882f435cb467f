// transitions.cpp - records from their creation to their end: each change of state, and what follows from it. The lock
// is held. A process is answered once: `answer` in requests.cpp needs the state Held, and `decide` ends that state.
// `controller_gone` is the end of a controller.

#include "state.h"

#include "exempt.h"
#include "text.h"

namespace procmon {

using namespace wire;

namespace {

constexpr int kMaxAncestry = 64;  // creators followed for one process
constexpr uint32_t kImageMs = 1000;  // an extra thread waits so long for the image of its process

}  // namespace

const Rule* GateState::rule_for(Names* names) {
    if (!rules || !names) return nullptr;
    return rules->find(port, names->native(), names->native_hash, names->image(), names->image_hash);
}

const Rule* GateState::rule_for(const Record* record) {
    const Rule* rule = rule_for(record->names);
    if (!(record->flags & kFlagNameChanged) || (rule && rule->verdict == kVerdictBlock)) return rule;
    rule = rule_for(record->creation_names);
    return rule && rule->verdict == kVerdictBlock ? rule : nullptr;
}

bool GateState::descends(uint32_t creator_pid, uint64_t younger_key) const {
    if (!controller.owner) return false;
    for (int i = 0; i < kMaxAncestry; ++i) {
        const Record* record = table.find(creator_pid);
        if (!record || record->start_key >= younger_key) return false;
        if (creator_pid == controller.pid || record->descends_from == registrations) return true;
        younger_key = record->start_key;
        creator_pid = record->creator_pid;
    }
    return false;
}

void GateState::mark_descendant(Record* record) const {
    record->flags |= kFlagControllerDescendant;
    record->descends_from = registrations;
}

void GateState::fill_record(Record* record, const Creation& creation) const {
    record->pid = creation.pid;
    record->parent_pid = creation.parent_pid;
    record->creator_pid = creation.creator_pid;
    record->creator_tid = creation.creator_tid;
    record->created = creation.created || creation.running ? creation.created : port.filetime(port.context);
    record->signature_level = creation.signature_level;
    record->flags = creation.file_flags;
    if (creation.running) record->flags |= kFlagRunningBefore;
    if (creation.creator_pid && creation.parent_pid != creation.creator_pid) record->flags |= kFlagParentClaimed;
    if (creation.pico) record->flags |= kFlagPico;
    record->listed = creation.running;
}

void GateState::add_record(Record* record, uint32_t to_state, Names* names, CommandLine* line) {
    record->start_key = ++last_key;
    record->exit_status = kStatusUnknown;
    record->names = names;
    record->command_line = line;
    keep(record);
    if (line) keep_text(line);
    if (names) {
        keep_text(names);
        if (names->image_is_native) record->flags |= kFlagNameNative;
    }
    move_to(record, to_state);
    table.insert(record, to_state != kStateExiting);
    if (to_state == kStateExiting) exited.append(record);
}

void GateState::set_names(Record* record, Names* names, DeferredFree& deferred) {
    if (record->flags & kFlagNameChanged && !record->creation_names) {
        record->creation_names = record->names;
        record->names = nullptr;
    }
    drop_text(record->names, deferred);
    record->names = names;
    keep_text(names);
    record->flags &= ~kFlagNameNative;
    if (names->image_is_native) record->flags |= kFlagNameNative;
}

void GateState::move_to(Record* record, uint32_t to_state) {
    PROCMON_CHECK(kTransitions[record->state] & state_bit(to_state));
    port.trace(port.context, {record->pid, record->start_key, record->state, to_state, record->verdict,
                              record->decided_by});
    record->state = to_state;
}

bool GateState::is_asked(const Record* record) const {
    return record->state == kStateHeld && (record->image_seen || waited_ms(record) >= kImageMs);
}

void GateState::queue_for_fetch(Record* record) {
    if (!controller.owner || record->in_hold || (record->state == kStateHeld && !is_asked(record))) return;
    if (!unseen.contains(record)) unseen.append(record);
    port.user_event_set(port.context, controller.event);
}

void GateState::queue_change(Record* record) {
    if (is_seen(record) || !unseen.contains(record)) queue_for_fetch(record);
}

void GateState::release_unasked(Record* record, uint32_t decided_by) {
    if (record->state == kStateHeld) {  // an extra thread came before the image
        decide(record, kVerdictAllow, decided_by);
    } else {
        record->verdict = kVerdictAllow;
        record->decided_by = decided_by;
        if (record->state == kStateNew) move_to(record, kStateNamed);
    }
    queue_for_fetch(record);
}

void GateState::hold(Record* record, Hold* hold, uint32_t to_state) {
    record->held_since_ms = port.monotonic_ms(port.context);
    move_to(record, to_state);
    if (to_state == kStateHeld) {
        record->fetched_by = 0;  // a process that was listed as running can have been fetched; this is a new question
        held.append(record);
        ++held_count;
        ++counters.held;
    }
    join(record, hold);
    queue_for_fetch(record);
}

void GateState::join(Record* record, Hold* hold) {
    hold->record = record;
    hold->next = record->holds;
    record->holds = hold;
    hold->slice_ms = slice_ms(record);
    ++holds;
}

void GateState::join_foreign(Record* record, Hold* hold) {
    ++counters.foreign_threads;
    record->flags |= kFlagForeignThread;
    join(record, hold);
    if (record->state == kStateHeld && is_seen(record)) queue_for_fetch(record);
}

uint32_t GateState::waited_ms(const Record* record) const {
    const uint64_t waited = port.monotonic_ms(port.context) - record->held_since_ms;
    return waited < kUnlimited ? static_cast<uint32_t>(waited) : kUnlimited;
}

uint32_t GateState::slice_ms(const Record* record) const {
    const uint32_t waited = waited_ms(record);
    const uint32_t slice = waited < kShortSlicesMs ? kShortSliceMs : kLongSliceMs;
    if (record->state != kStateHeld || controller.hold_timeout_ms == kNoTimeout) return slice;
    const uint32_t left = waited < controller.hold_timeout_ms ? controller.hold_timeout_ms - waited : 0;
    return left > slice ? slice : left ? left : 1;
}

void GateState::leave_held(Record* record) {
    held.remove(record);
    --held_count;
    record->held_ms = waited_ms(record);
}

void GateState::decide(Record* record, uint32_t verdict, uint32_t decided_by) {
    leave_held(record);
    record->verdict = verdict;
    record->decided_by = decided_by;
    if (verdict == kVerdictBlock) {
        queue_terminate(record);
    } else {
        move_to(record, kStateReleased);
        release(record);
    }
}

void GateState::queue_terminate(Record* record) {
    if (record->state != kStateAnswered) move_to(record, kStateAnswered);
    to_terminate.append(record);
    port.worker_wake(port.context);
}

void GateState::release(Record* record) {
    record->done = true;
    for (Hold* hold = record->holds; hold; hold = hold->next) port.signal_set(port.context, &hold->signal);
}

void GateState::retire(Record* record, uint32_t exit_status, DeferredFree& deferred) {
    const bool was_new = record->state == kStateNew;
    if (record->state == kStateHeld) leave_held(record);
    if (to_terminate.contains(record) && !record->in_worker) to_terminate.remove(record);
    move_to(record, kStateExiting);
    record->exit_status = exit_status;
    record->exited_at = port.filetime(port.context);
    table.retire(record);
    exited.append(record);
    // While the worker terminates the process by its pid, its threads stay, so that the pid cannot be reused.
    if (record->holds && !record->in_worker && !record->done) release(record);
    if (!was_new && controller.owner && (controller.flags & kReportExits)) queue_for_fetch(record);
    drop_if_done(record, deferred);
}

void GateState::drop_if_done(Record* record, DeferredFree& deferred) {
    if (record->state != kStateExiting || record->holds || unseen.contains(record)) return;
    exited.remove(record);
    table.erase(record);
    drop_record(record, deferred);
}

void GateState::drop_record(Record* record, DeferredFree& deferred) {
    drop_text(record->names, deferred);
    drop_text(record->creation_names, deferred);
    drop_text(record->command_line, deferred);
    drop(record, deferred);
}

void GateState::end_controller(uint32_t verdict, uint32_t decided_by, DeferredFree& deferred) {
    if (!controller.owner) return;
    while (Record* record = held.first) {
        decide(record, verdict, decided_by);
        if (decided_by == kByDisconnect) ++counters.disconnects;
    }
    while (Record* record = unseen.first) {
        unseen.remove(record);
        drop_if_done(record, deferred);
    }
    drop(rules, deferred);
    rules = nullptr;
    // The controller waits for the event. Its next FETCH fails, because it is no longer the controller.
    if (decided_by == kByStop) port.user_event_set(port.context, controller.event);
    deferred.close(controller.event);
    controller = {};
}

void GateState::controller_gone(DeferredFree& deferred) {
    end_controller(controller.disconnect_verdict, kByDisconnect, deferred);
}

void GateState::quiesce(DeferredFree& deferred) {
    quiesced = true;
    end_controller(controller.disconnect_verdict, kByStop, deferred);
}

}  // namespace procmon
