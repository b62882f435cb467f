#include "state.h"

#include "exempt.h"
#include "text.h"

namespace procmon {

using namespace wire;

namespace {

constexpr int kMaxAncestry = 64;  // parents looked at for one process

}  // namespace

DeferredFree::~DeferredFree() {
    while (Block* block = blocks_) {
        blocks_ = block->next_deferred;
        port_.release(port_.context, block);
    }
    if (event_) port_.user_event_close(port_.context, event_);
}

Names* make_names(const Port& port, Text native_name, const DosHead& head) {
    const Text native = cut(native_name, kMaxNameBytes);
    const Text tail = cut({native.data + head.consumed, native.length - head.consumed},
                          kMaxNameBytes - head.length * sizeof(char16_t));
    const size_t image_length = head.length + tail.length;
    Names* names = allocate<Names>(port, (image_length + native.length) * sizeof(char16_t));
    if (!names) return nullptr;
    names->image_length = static_cast<uint32_t>(image_length);
    names->native_length = static_cast<uint32_t>(native.length);
    names->image_is_native = !head.consumed;
    char16_t* text = text_behind(names);
    copy_text(text, {head.text, head.length});
    copy_lower(port, text + head.length, tail);
    copy_text(text + image_length, native);
    names->image_hash = hash_lowered(port, names->image());
    names->native_hash = names->image_is_native ? names->image_hash : hash_lowered(port, native);
    return names;
}

bool GateState::is_critical(Names* names) { return is_critical_image(system_directory_text(), names->image()); }

const Rule* GateState::rule_for(Names* names) {
    if (!rules || !names) return nullptr;
    return rules->find(port, names->native(), names->native_hash, names->image(), names->image_hash);
}

bool GateState::descends(uint32_t pid, uint64_t younger_key) const {
    if (!controller.owner) return false;
    for (int i = 0; i < kMaxAncestry; ++i) {
        if (pid == controller.pid) return true;
        const Record* record = table.find(pid);
        // A parent is older than its child; a younger one has the pid of a parent that is gone.
        if (!record || record->start_key >= younger_key) return false;
        if (record->descends_from == registrations) return true;
        younger_key = record->start_key;
        pid = record->parent_pid;
    }
    return false;
}

void GateState::drop(Block* block, DeferredFree& deferred) {
    if (!block) return;
    memory_bytes -= block->bytes;
    deferred.add(block);
}

void GateState::drop_volumes(VolumeMap& map, DeferredFree& deferred) {
    while (Volume* volume = map.first) {
        map.remove(volume);
        drop(volume, deferred);
    }
}

bool GateState::make_room(DeferredFree& deferred) {
    if (table.size() < kMaxRecords) return true;
    for (Record* record = exited.first; record; record = exited.next(record)) {
        if (record->hold) continue;
        ++counters.exits_lost;
        unseen.remove(record);
        drop_if_done(record, deferred);
        return true;
    }
    ++counters.table_full;
    return false;
}

void GateState::add_record(Record* record, uint32_t to_state, Names* names) {
    record->start_key = ++last_key;
    record->exit_status = kStatusUnknown;
    record->names = names;
    keep(record);
    if (names) {
        keep(names);
        if (names->image_is_native) record->flags |= kFlagNameNative;
    }
    move_to(record, to_state);
    table.insert(record, to_state != kStateExiting);
    if (to_state == kStateExiting) exited.append(record);
}

void GateState::set_names(Record* record, Names* names, DeferredFree& deferred) {
    drop(record->names, deferred);
    record->names = names;
    keep(names);
    record->flags &= ~kFlagNameNative;
    if (names->image_is_native) record->flags |= kFlagNameNative;
}

void GateState::queue_for_fetch(Record* record) {
    if (!controller.owner) return;
    if (!unseen.contains(record)) unseen.append(record);
    port.user_event_set(port.context, controller.event);
}

void GateState::hold(Record* record, Hold* hold, uint32_t to_state) {
    hold->record = record;
    record->hold = hold;
    record->held_since_ms = port.monotonic_ms(port.context);
    ++holds;
    move_to(record, to_state);
    if (to_state == kStateHeld) {
        held.append(record);
        ++held_count;
        ++counters.held;
    }
    hold->slice_ms = slice_ms(record);
    queue_for_fetch(record);
}

uint32_t GateState::waited_ms(const Record* record) const {
    const uint64_t waited = port.monotonic_ms(port.context) - record->held_since_ms;
    return waited < kUnlimited ? static_cast<uint32_t>(waited) : kUnlimited;
}

uint32_t GateState::slice_ms(const Record* record) const {
    if (record->state != kStateHeld || controller.hold_timeout_ms == kNoTimeout) return kHoldSliceMs;
    const uint32_t waited = waited_ms(record);
    const uint32_t left = waited < controller.hold_timeout_ms ? controller.hold_timeout_ms - waited : 0;
    return left > kHoldSliceMs ? kHoldSliceMs : left ? left : 1;
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
    condemned.append(record);
    port.worker_wake(port.context);
}

void GateState::release(Record* record) {
    record->done = true;
    port.signal_set(port.context, &record->hold->signal);
}

void GateState::retire(Record* record, uint32_t exit_status, DeferredFree& deferred) {
    const bool was_new = record->state == kStateNew;
    if (record->state == kStateHeld) leave_held(record);
    if (condemned.contains(record) && !record->in_worker) condemned.remove(record);
    move_to(record, kStateExiting);
    record->exit_status = exit_status;
    table.retire(record);
    drop(table.take_spare(), deferred);
    exited.append(record);
    // While the worker has its pid in hand the thread stays, so that the pid cannot become another process'.
    if (record->hold && !record->in_worker && !record->done) release(record);
    if (!was_new && controller.owner && (controller.flags & kReportExits)) queue_for_fetch(record);
    drop_if_done(record, deferred);
}

void GateState::drop_if_done(Record* record, DeferredFree& deferred) {
    if (record->state != kStateExiting || record->hold || unseen.contains(record)) return;
    exited.remove(record);
    table.erase(record);
    drop(record->names, deferred);
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
    deferred.close(controller.event);
    controller = {};
}

void GateState::grow_table() {
    Table::Segment* segment = allocate<Table::Segment>(port);
    DeferredFree deferred(port);
    Locked locked(*this);
    if (!segment) {
        ++counters.allocation_failures;
        return;
    }
    keep(segment);
    drop(table.add(segment), deferred);
}

}  // namespace procmon
