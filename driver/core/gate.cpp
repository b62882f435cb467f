// gate.cpp - the gate's life, the notifications, the holds and the worker.

#include "gate.h"

#include "state.h"
#include "text.h"

namespace procmon {

using namespace wire;

namespace {

constexpr uint32_t kIdlePid = 0;
constexpr uint32_t kSystemPid = 4;

// The record of a creation, not yet in the table; nullptr when memory ran out.
Record* make_record(const Port& port, const Creation& creation) {
    const Text command_line = cut(creation.command_line, kMaxCommandLineBytes);
    Record* record = allocate<Record>(port, command_line.length * sizeof(char16_t));
    if (!record) return nullptr;
    record->pid = creation.pid;
    record->parent_pid = creation.parent_pid;
    record->creator_pid = creation.creator_pid;
    record->creator_tid = creation.creator_tid;
    record->created = creation.created || creation.running ? creation.created : port.filetime(port.context);
    record->command_line_length = static_cast<uint32_t>(command_line.length);
    copy_text(text_behind(record), command_line);
    if (command_line.length < creation.command_line.length) record->flags |= kFlagCommandLineTruncated;
    if (creation.running) record->flags |= kFlagRunningBefore;
    return record;
}

Names* names_of(GateState& state, Text native_name) {
    DosHead head;
    {
        Locked locked(state);
        find_dos_head(state.port, state.volumes, state.system_directory_text(), native_name, &head);
    }
    return make_names(state.port, native_name, head);
}

// The part of on_create under the lock. `record` or `names` are nullptr where memory ran out.
bool create_locked(GateState& state, const Creation& creation, Record* record, Names* names, DeferredFree& deferred) {
    Counters& counters = state.counters;
    if (!creation.running) ++counters.created;
    if (!record || (creation.native_name.length && !names)) ++counters.allocation_failures;
    if (Record* other = state.table.find(creation.pid)) {
        if (creation.running) {  // it came to be while the list of running processes was being made
            deferred.add(record);
            deferred.add(names);
            return false;
        }
        ++counters.pid_reused;
        state.retire(other, kStatusUnknown, deferred);
    }

    const uint64_t next_key = state.last_key + 1;
    const bool descendant = !creation.running && (state.descends(creation.parent_pid, next_key) ||
                                                  state.descends(creation.creator_pid, next_key));
    const bool critical = names && state.is_critical(names);
    const bool exempt = critical || (descendant && state.controller.flags & kExemptDescendants);
    const Rule* rule = creation.refusable && state.controller.owner && !exempt ? state.rule_for(names) : nullptr;
    const bool refused = rule && rule->verdict == kVerdictBlock;
    if (refused) ++counters.rule_blocked;

    if (!record || !state.make_room(deferred)) {
        deferred.add(record);
        deferred.add(names);
        return refused;
    }
    if (descendant) {
        record->flags |= kFlagControllerDescendant;
        record->descends_from = state.registrations;
    }
    if (critical) record->flags |= kFlagExempt;
    if (creation.running && !names) record->flags |= kFlagNameMissing;
    state.add_record(record, refused ? kStateExiting : creation.running ? kStateNamed : kStateNew, names);
    if (refused) {
        record->flags |= kFlagNeverStarted;
        record->verdict = kVerdictBlock;
        record->decided_by = kByRule;
        record->exit_status = kStatusBlocked;
    }
    if (refused || creation.running) state.queue_for_fetch(record);
    return refused;
}

// A process that is not held: it goes on, and FETCH shows it.
void release_unasked(GateState& state, Record* record, uint32_t decided_by) {
    record->verdict = kVerdictAllow;
    record->decided_by = decided_by;
    if (record->state == kStateNew) move_to(record, kStateNamed);
    state.queue_for_fetch(record);
}

// The first image of a process that the gate knows: true = it waits.
bool decide_first_image(GateState& state, Record* record, const Image& image, Hold* hold) {
    Counters& counters = state.counters;
    const Controller& controller = state.controller;
    if (record->names && state.is_critical(record->names)) record->flags |= kFlagExempt;
    if (image.protected_process || (controller.owner && image.pid == controller.pid)) record->flags |= kFlagExempt;
    const bool spared_descendant =
        controller.owner && controller.flags & kExemptDescendants && record->descends_from == state.registrations;
    if (record->flags & kFlagExempt || spared_descendant) {
        ++counters.exempt;
        release_unasked(state, record, kByExempt);
        return false;
    }
    if (!controller.owner) {
        release_unasked(state, record, kByNoController);
        return false;
    }
    // What cannot be named for want of memory cannot be told from a critical process; and an image without a
    // creation need not be the first one: waiting in a later one could stop a process that has been running.
    const bool unnamed = !record->names && image.native_name.length;
    if (unnamed || record->flags & kFlagCreateMissed) {
        release_unasked(state, record, kByLimit);
        return false;
    }
    if (const Rule* rule = state.rule_for(record->names)) {
        if (rule->verdict == kVerdictAllow) {
            ++counters.rule_allowed;
            release_unasked(state, record, kByRule);
            return false;
        }
        ++counters.rule_blocked;
        record->verdict = kVerdictBlock;
        record->decided_by = kByRule;
        state.hold(record, hold, kStateAnswered);
        state.queue_terminate(record);
        return true;
    }
    if (image.dying) {
        // Not let through unasked: a second thread may have been put into the process, which goes on without this one.
        ++counters.died_held;
        state.hold(record, hold, kStateAnswered);
        state.queue_terminate(record);
        return true;
    }
    state.hold(record, hold, kStateHeld);
    return true;
}

// The record of an image whose creation was missed; nullptr when there is no memory or no room for it.
Record* add_missed_create(GateState& state, Record* fresh, DeferredFree& deferred) {
    ++state.counters.image_without_create;
    if (!fresh) ++state.counters.allocation_failures;
    if (!fresh || !state.make_room(deferred)) {
        deferred.add(fresh);
        return nullptr;
    }
    fresh->flags = kFlagCreateMissed;
    state.add_record(fresh, kStateNamed, nullptr);
    return fresh;
}

// The part of begin_hold under the lock. Not `known`: `fresh` is the record for a creation that was missed.
bool image_mapped(GateState& state, const Image& image, Names* names, bool known, Record* fresh, Hold* hold,
                  DeferredFree& deferred) {
    Counters& counters = state.counters;
    Record* record = state.table.find(image.pid);
    if (!record && !known && !state.stopping) {
        record = add_missed_create(state, fresh, deferred);
    } else {
        deferred.add(fresh);
        if (state.stopping || (record && record->state != kStateNew)) record = nullptr;
    }
    if (!record) {  // nobody waits; the process may have gone meanwhile
        deferred.add(names);
        return false;
    }
    if (names)
        state.set_names(record, names, deferred);
    else if (image.native_name.length)
        ++counters.allocation_failures;
    if (!record->names) {
        record->flags |= kFlagNameMissing;
        if (!image.native_name.length) ++counters.missing_name;
    }
    return decide_first_image(state, record, image, hold);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- life

Status Gate::start(const Port& port, uint32_t features) {
    if (state_) return kInvalidDeviceState;
    GateState* state = allocate<GateState>(port);
    Table::Segment* segment = state ? allocate<Table::Segment>(port) : nullptr;
    if (!segment) {
        if (state) port.release(port.context, state);
        return kInsufficientResources;
    }
    state->port = port;
    state->features = features;
    // Keys ascend from the time of the load, so that no two loads give out the same.
    const int64_t now = port.filetime(port.context);
    state->last_key = now > 0 ? static_cast<uint64_t>(now) : 0;
    state->keep(state);
    state->keep(segment);
    state->table.open(segment);
    port.lock_create(port.context, &state->lock);
    state_ = state;
    return kSuccess;
}

void Gate::stop() {
    if (!state_) return;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->stopping = true;
    state_->end_controller(kVerdictAllow, kByStop, deferred);
}

void Gate::destroy() {
    if (!state_) return;
    stop();
    GateState* state = state_;
    const Port port = state->port;
    state_ = nullptr;
    PROCMON_CHECK(!state->holds);
    {
        DeferredFree deferred(port);
        while (Record* record = state->table.records.first) {
            state->table.records.remove(record);
            state->drop(record->names, deferred);
            state->drop(record, deferred);
        }
        state->drop_volumes(state->volumes, deferred);
        state->drop_volumes(state->new_volumes, deferred);
        state->drop(state->system_directory, deferred);
        while (Table::Segment* segment = state->table.take_any()) state->drop(segment, deferred);
        PROCMON_CHECK(state->memory_bytes == state->bytes);
        port.lock_destroy(port.context, &state->lock);
        deferred.add(state);
    }
}

uint32_t Gate::holds_in_flight() const {
    if (!state_) return 0;
    Locked locked(*state_);
    return state_->holds;
}

void Gate::set_features(uint32_t features) {
    if (!state_) return;
    Locked locked(*state_);
    state_->features = features;
}

// ------------------------------------------------------------------------------------------------------ volumes

Status Gate::volumes_begin() {
    if (!state_) return kDeviceNotReady;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->drop_volumes(state_->new_volumes, deferred);
    return kSuccess;
}

Status Gate::volumes_add(Text native_prefix, char16_t drive) {
    if (!state_) return kDeviceNotReady;
    if (!native_prefix.length || native_prefix.length > kMaxNameBytes / sizeof(char16_t)) return kInvalidParameter;
    Volume* volume = make_volume(state_->port, native_prefix, drive);
    if (!volume) return kInsufficientResources;
    Locked locked(*state_);
    state_->keep(volume);
    state_->new_volumes.append(volume);
    return kSuccess;
}

void Gate::volumes_commit() {
    if (!state_) return;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->drop_volumes(state_->volumes, deferred);
    state_->volumes = state_->new_volumes;
    state_->new_volumes = {};
}

Status Gate::set_system_directory(Text dos_path) {
    if (!state_) return kDeviceNotReady;
    while (dos_path.length && dos_path.data[dos_path.length - 1] == u'\\') --dos_path.length;
    if (!dos_path.length || dos_path.length > kMaxSystemDirectory) return kInvalidParameter;
    Path* path = allocate<Path>(state_->port, dos_path.length * sizeof(char16_t));
    if (!path) return kInsufficientResources;
    path->length = dos_path.length;
    copy_lower(state_->port, text_behind(path), dos_path);
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->keep(path);
    state_->drop(state_->system_directory, deferred);
    state_->system_directory = path;
    return kSuccess;
}

// ------------------------------------------------------------------------------------------------ notifications

bool Gate::on_create(const Creation& creation) {
    if (!state_) return false;
    GateState& state = *state_;
    Record* record = make_record(state.port, creation);
    Names* names = creation.native_name.length ? names_of(state, creation.native_name) : nullptr;
    bool refused = false;
    bool grow = false;
    {
        DeferredFree deferred(state.port);
        Locked locked(state);
        if (state.stopping) {
            deferred.add(record);
            deferred.add(names);
        } else {
            refused = create_locked(state, creation, record, names, deferred);
            grow = state.table.wants_segment();
        }
    }
    if (grow) state.grow_table();
    return refused;
}

void Gate::on_exit(uint32_t pid, uint32_t exit_status) {
    if (!state_) return;
    GateState& state = *state_;
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (state.controller.owner && state.controller.pid == pid)
        state.end_controller(state.controller.disconnect_verdict, kByDisconnect, deferred);
    Record* record = state.table.find(pid);
    if (!record) {  // what was refused at its creation ends, too, with the status that refused it
        if (exit_status != kStatusBlocked) ++state.counters.exit_without_create;
        return;
    }
    ++state.counters.exited;
    state.retire(record, exit_status, deferred);
}

// -------------------------------------------------------------------------------------------------------- holds

bool Gate::begin_hold(Hold* hold, const Image& image) {
    hold->record = nullptr;
    if (!state_ || image.pid == kIdlePid || image.pid == kSystemPid) return false;
    GateState& state = *state_;
    const Port& port = state.port;
    DosHead head;
    bool known;
    {
        Locked locked(state);
        const Record* record = state.table.find(image.pid);
        // The usual case, and the quick one: one more image of a process whose first has been seen.
        if (state.stopping || (record && record->state != kStateNew)) return false;
        if (!record && image.dying) return false;  // a creation that was refused ends so
        known = record;
        find_dos_head(port, state.volumes, state.system_directory_text(), image.native_name, &head);
    }
    Names* names = image.native_name.length ? make_names(port, image.native_name, head) : nullptr;
    Creation missed;
    missed.pid = image.pid;
    missed.running = true;  // when it was created is not known
    Record* fresh = known ? nullptr : make_record(port, missed);
    port.signal_create(port.context, &hold->signal);
    bool waits;
    bool grow;
    {
        DeferredFree deferred(port);
        Locked locked(state);
        waits = image_mapped(state, image, names, known, fresh, hold, deferred);
        grow = state.table.wants_segment();
    }
    if (!waits) port.signal_destroy(port.context, &hold->signal);
    if (grow) state.grow_table();
    return waits;
}

bool Gate::still_held(Hold* hold, bool dying) {
    GateState& state = *state_;
    Locked locked(state);
    Record* record = static_cast<Record*>(hold->record);
    if (record->state == kStateHeld && dying) {
        ++state.counters.died_held;
        state.leave_held(record);
        state.queue_terminate(record);
    } else if (record->state == kStateHeld && state.controller.hold_timeout_ms != kNoTimeout &&
        state.waited_ms(record) >= state.controller.hold_timeout_ms) {
        ++state.counters.timeouts;
        state.decide(record, state.controller.timeout_verdict, kByTimeout);
        if (record->fetched) state.queue_for_fetch(record);  // its controller thinks that it waits
    }
    hold->slice_ms = state.slice_ms(record);
    return !record->done;
}

uint32_t Gate::end_hold(Hold* hold) {
    GateState& state = *state_;
    uint32_t verdict;
    {
        DeferredFree deferred(state.port);
        Locked locked(state);
        Record* record = static_cast<Record*>(hold->record);
        PROCMON_CHECK(record->hold == hold && record->done);
        verdict = record->verdict == kVerdictBlock ? kVerdictBlock : kVerdictAllow;
        record->hold = nullptr;
        hold->record = nullptr;
        --state.holds;
        state.drop_if_done(record, deferred);
    }
    state.port.signal_destroy(state.port.context, &hold->signal);
    return verdict;
}

// ------------------------------------------------------------------------------------------------------- worker

bool Gate::next_condemned(Condemned* condemned) {
    if (!state_) return false;
    GateState& state = *state_;
    Locked locked(state);
    Record* record = state.condemned.first;
    if (!record) return false;
    state.condemned.remove(record);
    state.in_worker.append(record);
    record->in_worker = true;
    *condemned = {record->pid, record->start_key};
    return true;
}

void Gate::terminated(const Condemned& condemned, bool died) {
    if (!state_) return;
    GateState& state = *state_;
    Locked locked(state);
    Record* record = state.in_worker.first;
    while (record && record->start_key != condemned.start_key) record = state.in_worker.next(record);
    if (!record) return;
    state.in_worker.remove(record);
    record->in_worker = false;
    if (!died) {
        ++state.counters.terminate_failures;
        ++record->terminate_tries;
    }
    if (record->state == kStateExiting) {
        state.release(record);
    } else if (died || record->terminate_tries >= kTerminateTries) {
        move_to(record, kStateReleased);
        state.release(record);
    } else {
        state.condemned.append(record);  // no wake: the worker lets some time pass and asks again
    }
}

// ----------------------------------------------------------------------------------------------------- requests

Status Gate::dispatch(const Caller& caller, uint32_t code, const void* input, size_t input_bytes, void* output,
                      size_t output_bytes, size_t* written) {
    *written = 0;
    if (!state_) return kDeviceNotReady;
    return dispatch_request(*state_, caller, code, input, input_bytes, output, output_bytes, written);
}

void Gate::handle_closed(uint64_t owner) {
    if (!state_) return;
    GateState& state = *state_;
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (owner && state.controller.owner == owner)
        state.end_controller(state.controller.disconnect_verdict, kByDisconnect, deferred);
}

}  // namespace procmon
