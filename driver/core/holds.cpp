// holds.cpp - images and threads: whether the file was renamed since the creation, which process is held, and how a
// hold ends.

#include "gate.h"
#include "state.h"

namespace procmon {

using namespace wire;

namespace {

constexpr uint32_t kIdlePid = 0;
constexpr uint32_t kSystemPid = 4;

// Holds a process that must die before its thread goes on. kVerdictNone: another process has ended it.
void block_unasked(GateState& state, Record* record, Hold* hold, uint32_t verdict, uint32_t decided_by) {
    if (record->state == kStateHeld) state.leave_held(record);
    record->verdict = verdict;
    record->decided_by = decided_by;
    state.hold(record, hold, kStateAnswered);
    state.queue_terminate(record);
}

// Decides a process without a record, for which there is no room or memory. true: it waits until it is terminated.
bool decide_without_record(GateState& state, const Image& image, Program program, Hold* hold) {
    const Controller& controller = state.controller;
    if (!controller.owner || is_always_exempt(program) || image.protected_process || image.pid == controller.pid)
        return false;
    // Only a process known to be new may be terminated: an image without a creation can be a later image of a process
    // that runs.
    if (!image.own || controller.limit_verdict == kVerdictAllow) {
        ++state.counters.limit_allowed;
        return false;
    }
    ++state.counters.limit_blocked;
    auto* record = reinterpret_cast<Record*>(hold->own_record);
    memset(static_cast<void*>(record), 0, sizeof *record);
    record->pid = image.pid;
    record->start_key = ++state.last_key;
    record->in_hold = true;
    state.move_to(record, kStateNew);
    block_unasked(state, record, hold, kVerdictBlock, kByLimit);
    return true;
}

// Decides a recorded process at its first image, or at an extra thread that comes before it: true, the thread waits.
// `program`: the row of exempt.cpp for its name.
bool decide_first_image(GateState& state, Record* record, const Image& image, Program program, Hold* hold) {
    Counters& counters = state.counters;
    const Controller& controller = state.controller;
    const Program creator = record->listed ? kNoProgram : record->creator_program;
    record->program = is_exempt(program, creator) ? program : kNoProgram;
    record->flags &= ~kFlagExempt;
    if (record->program || image.protected_process || (controller.owner && image.pid == controller.pid))
        record->flags |= kFlagExempt;
    // The controller can have started it before it registered.
    if (!record->listed && state.descends(record->creator_pid, record->start_key)) state.mark_descendant(record);
    const bool spared = state.spares_descendants() && record->descends_from == state.registrations;
    if (record->flags & kFlagExempt || spared) {
        ++counters.exempt;
        state.release_unasked(record, kByExempt);
        return false;
    }
    if (!controller.owner) {
        state.release_unasked(record, kByNoController);
        return false;
    }
    // Where the creation was missed, this image may be a library of a process that runs. Then nothing may wait here.
    const bool may_run = record->flags & kFlagCreateMissed && !image.own;
    // No rule and no callback can judge a process whose name was lost. When the system gave no name, the callbacks are
    // asked all the same.
    const bool unnamed = record->flags & kFlagNameMissing && image.native_name.length;
    if (may_run || (unnamed && controller.limit_verdict == kVerdictAllow)) {
        ++counters.limit_allowed;
        state.release_unasked(record, kByLimit);
        return false;
    }
    if (unnamed) {
        ++counters.limit_blocked;
        block_unasked(state, record, hold, kVerdictBlock, kByLimit);
        return true;
    }
    // Where the kernel cannot hold an extra thread, that thread may be running by now.
    const bool tampered = record->flags & kFlagForeignThread && !(state.features & kFeatureThreadHold) &&
                          controller.tamper_verdict == kVerdictBlock;
    const Rule* rule = state.rule_for(record);
    if (rule && rule->verdict == kVerdictAllow && record->image_seen && !tampered) {
        ++counters.rule_allowed;
        state.release_unasked(record, kByRule);
        return false;
    }
    if (rule && rule->verdict == kVerdictBlock) {
        ++counters.rule_blocked;
        block_unasked(state, record, hold, kVerdictBlock, kByRule);
        return true;
    }
    const bool extra_waits = record->state == kStateHeld;  // it came before the image
    if (image.dying && !extra_waits) {
        // Not released: another process may have created a second thread in it, which would run without this one.
        ++counters.died_held;
        block_unasked(state, record, hold, kVerdictNone, kByNone);
        return true;
    }
    if (tampered) {
        block_unasked(state, record, hold, kVerdictBlock, kByTamper);
        return true;
    }
    if (extra_waits) {
        state.join_foreign(record, hold);
        state.queue_for_fetch(record);
    } else {
        state.hold(record, hold, kStateHeld);
    }
    return true;
}

// Is this the first notified image of the process, so that it can be held here? A process that was listed as running
// has not run if its own image arrives only now: it was created suspended before the load.
bool awaits_image(const Record* record, const Image& image) {
    return record->state == kStateNew || (record->state == kStateHeld && !record->image_seen) ||
           (record->state == kStateNamed && record->listed && !record->image_seen && image.own);
}

// Is the process held, so that an extra thread of it must wait?
bool is_held(const Record* record) { return record->holds && !record->done; }

// Do other threads of the process still wait when this one leaves? A thread that is about to leave does not count: when
// two are ended at once, the second must stay, or no thread would hold the process.
bool others_wait(const Record* record, const Hold* hold) {
    for (const Hold* other = record->holds; other; other = other->next)
        if (other != hold && !other->leaves) return true;
    return false;
}

// Adds the record of a process whose creation was missed; nullptr when there is no memory or no room.
Record* add_missed_create(GateState& state, const Image& image, Record* record, DeferredFree& deferred) {
    ++state.counters.image_without_create;
    if (!record) {
        ++state.counters.allocation_failures;
        if (!(record = state.reserve->take_record())) return nullptr;
        ++state.counters.reserve_used;
    }
    if (!state.make_room(deferred)) {
        ++state.counters.table_full;
        state.give_back(record, deferred);
        return nullptr;
    }
    Creation missed;
    missed.pid = image.pid;
    missed.running = true;  // when it was created is not known
    state.fill_record(record, missed);
    record->listed = false;
    record->flags = kFlagCreateMissed;
    state.add_record(record, kStateNamed, nullptr, nullptr);
    return record;
}

// Does the name of the mapped file differ from the name at creation? Only \Device\... names are compared, because the
// system abbreviates others in more than one way.
bool is_renamed(const Port& port, Text created, Text mapped) {
    if (equal(created, mapped)) return false;
    const Text device = literal(u"\\device\\");
    if (!starts_with_lowered(port, created, device) || !starts_with_lowered(port, mapped, device)) return false;
    if (created.length != mapped.length) return true;
    for (size_t i = 0; i < created.length; ++i)
        if (lower(port, created.data[i]) != lower(port, mapped.data[i])) return true;
    return false;
}

// Another thread of the process arrived first: this one waits if that one does.
bool join_if_held(GateState& state, Record* record, const Image& image, Hold* hold) {
    if (!image.own || !is_held(record) || image.dying) return false;
    state.join_foreign(record, hold);
    return true;
}

// The name to store, and the program that the process is. The program goes by the name at creation: the system keeps
// that name, and renaming the file does not change it.
struct ImageName {
    Text text;
    Text created;     // at creation; valid under the lock in which it was found
    bool is_changed;  // since the creation
    bool was_known;   // a record existed; otherwise the prepared record is for a missed creation
    Program program;
};

ImageName name_of(const GateState& state, const Image& image, Record* record) {
    // The system may lack the memory to give the name at creation once more. Then the one in the record counts.
    const bool lost = !image.mapped_name.length && record && record->names;
    const Text created = lost ? record->names->native() : image.native_name;
    const Text mapped = lost ? image.native_name : image.mapped_name;
    if (is_renamed(state.port, created, mapped)) return {mapped, created, true, record != nullptr, kNoProgram};
    return {image.native_name, image.native_name, false, record != nullptr, kNoProgram};
}

// Decides a new image without allocating. true: decided, and *waits is set. false: memory must be prepared first, and
// *name is set.
bool decide_at_once(GateState& state, const Image& image, ImageName* name, Hold* hold, bool* waits) {
    *waits = false;
    Record* record = state.table.find(image.pid);
    if (state.stopping || (!record && image.dying)) return true;  // `dying`: the thread of a refused creation
    if (record && !awaits_image(record, image)) {  // the usual case: one more image of one whose first has been seen
        *waits = join_if_held(state, record, image, hold);
        return true;
    }
    *name = name_of(state, image, record);
    Names* names = record ? record->names : nullptr;  // those from the creation are kept if new ones would be the same
    if (name->is_changed || !names || names->map != state.map_number) return false;
    if (!equal(names->native(), image.native_name)) return false;
    record->image_seen = true;
    *waits = decide_first_image(state, record, image, names->program, hold);
    return true;
}

// Decides with the memory that was prepared without the lock. Meanwhile the record may have been replaced or freed.
bool decide_prepared(GateState& state, const Image& image, const ImageName& name, Prepared& prepared, Hold* hold,
                     DeferredFree& deferred) {
    Counters& counters = state.counters;
    Record* record = state.table.find(image.pid);
    const bool missed = !record && !name.was_known;
    if (state.stopping || (record ? !awaits_image(record, image) : !missed)) {
        state.give_back(prepared, deferred);
        return !state.stopping && record && join_if_held(state, record, image, hold);
    }
    Program program = name.program;
    if (!image.native_name.length && record && record->names) program = record->names->program;
    if (missed) {
        record = add_missed_create(state, image, prepared.record, deferred);
    } else {
        state.give_back(prepared.record, deferred);
    }
    prepared.record = nullptr;
    if (!record) {
        state.give_back(prepared, deferred);
        return decide_without_record(state, image, program, hold);
    }
    record->image_seen = true;
    if (name.text.length && !prepared.names) ++counters.allocation_failures;
    Names* names = state.fit_names(prepared.names, prepared.head, name.text, deferred);
    if (names) {
        if (name.is_changed) record->flags |= kFlagNameChanged;
        state.set_names(record, names, deferred);
    }
    record->flags &= ~kFlagNameMissing;
    // Without memory for the current name the record has no name: the name at creation must decide nothing.
    if (!record->names || (name.is_changed && !names)) record->flags |= kFlagNameMissing;
    if (!record->names && !name.text.length) ++counters.missing_name;
    return decide_first_image(state, record, image, program, hold);
}

// The body of begin_hold, while the hold's signal exists.
bool image_comes(GateState& state, const Image& image, Hold* hold) {
    const Port& port = state.port;
    ImageName name = {};
    Prepared prepared;
    {
        Locked locked(state);
        bool waits;
        if (decide_at_once(state, image, &name, hold, &waits)) return waits;
        state.find_head(name.created, &prepared.head);
        name.program = prepared.head.program;
        if (name.is_changed) state.find_head(name.text, &prepared.head);
    }
    if (name.text.length) prepared.names = make_names(port, name.text, prepared.head);
    if (!name.was_known) prepared.record = allocate<Record>(port);
    DeferredFree deferred(port);
    Locked locked(state);
    return decide_prepared(state, image, name, prepared, hold, deferred);
}

// The body of begin_thread.
bool thread_comes(GateState& state, const Image& image, Hold* hold) {
    Locked locked(state);
    Record* record = state.table.find(image.pid);
    if (state.stopping || !record) return false;
    if (is_held(record)) {
        state.join_foreign(record, hold);
        return true;
    }
    if (record->state != kStateNew) return false;
    // The image notification is under way in another thread, if there is one. It shows the current name.
    if (!record->names) record->flags |= kFlagNameMissing;
    return decide_first_image(state, record, image, record->names ? record->names->program : kNoProgram, hold);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------ the gate's

bool Gate::begin_hold(Hold* hold, const Image& image) {
    hold->record = nullptr;
    if (!state_ || image.pid == kIdlePid || image.pid == kSystemPid) return false;
    const Port& port = state_->port;
    port.signal_create(port.context, &hold->signal);
    const bool waits = image_comes(*state_, image, hold);
    if (!waits) port.signal_destroy(port.context, &hold->signal);
    return waits;
}

bool Gate::begin_thread(Hold* hold, const Image& image) {
    hold->record = nullptr;
    if (!state_ || image.dying) return false;
    const Port& port = state_->port;
    port.signal_create(port.context, &hold->signal);
    const bool waits = thread_comes(*state_, image, hold);
    if (!waits) port.signal_destroy(port.context, &hold->signal);
    return waits;
}

void Gate::on_thread(uint32_t pid) {
    if (!state_) return;
    GateState& state = *state_;
    Locked locked(state);
    Record* record = state.table.find(pid);
    if (state.stopping || !record || !(record->state == kStateNew || is_held(record))) return;
    if (record->state == kStateNew && !record->thread_seen) {
        record->thread_seen = true;
        return;
    }
    ++state.counters.foreign_threads;
    record->flags |= kFlagForeignThread;
    if (record->state != kStateHeld) return;  // New: decided when its image arrives
    if (state.controller.tamper_verdict == kVerdictBlock) state.decide(record, kVerdictBlock, kByTamper);
    state.queue_change(record);
}

bool Gate::still_held(Hold* hold, bool dying) {
    GateState& state = *state_;
    Locked locked(state);
    Record* record = static_cast<Record*>(hold->record);
    if (dying && !record->done && others_wait(record, hold)) {
        hold->leaves = true;
        return false;
    }
    if (record->state == kStateHeld && dying) {
        ++state.counters.died_held;
        state.leave_held(record);
        state.queue_terminate(record);
    } else if (record->state == kStateHeld && state.controller.hold_timeout_ms != kNoTimeout &&
               state.waited_ms(record) >= state.controller.hold_timeout_ms) {
        ++state.counters.timeouts;
        state.decide(record, state.controller.timeout_verdict, kByTimeout);
        state.queue_change(record);
    } else if (record->state == kStateHeld && !record->image_seen && !state.is_seen(record)) {
        state.queue_for_fetch(record);
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
        PROCMON_CHECK(record->done || hold->leaves);
        verdict = record->verdict == kVerdictBlock ? kVerdictBlock : kVerdictAllow;
        Hold** place = &record->holds;
        while (*place != hold) place = &(*place)->next;
        *place = hold->next;
        hold->record = nullptr;
        --state.holds;
        state.drop_if_done(record, deferred);
    }
    state.port.signal_destroy(state.port.context, &hold->signal);
    return verdict;
}

}  // namespace procmon
