// notifications.cpp - processes, images and threads: which process is held, and how a hold ends.

#include "gate.h"
#include "state.h"
#include "text.h"

namespace procmon {

using namespace wire;

namespace {

constexpr uint32_t kIdlePid = 0;
constexpr uint32_t kSystemPid = 4;

// What the pool gave for a process, before the lock is taken; each is nullptr where memory ran out, or there is nothing
// to keep.
struct Prepared {
    DosHead head;
    Record* record = nullptr;
    Names* names = nullptr;
    CommandLine* line = nullptr;

    // Of those of `creation`: did memory run out for one?
    [[nodiscard]] bool lacks(const Creation& creation) const {
        return !record || (creation.native_name.length && !names) || (creation.command_line.length && !line);
    }
    void give_back(GateState& state, DeferredFree& deferred) {
        state.give_back(record, deferred);
        state.give_back(names, deferred);
        state.give_back(line, deferred);
    }
};

// WITHOUT the lock.
void prepare(GateState& state, const Creation& creation, Prepared* prepared) {
    const Port& port = state.port;
    prepared->record = allocate<Record>(port);
    if (creation.command_line.length) prepared->line = make_command_line(port, creation.command_line);
    if (creation.native_name.length) prepared->names = make_names(port, creation.native_name, prepared->head);
}

void fill_record(GateState& state, Record* record, const Creation& creation) {
    record->pid = creation.pid;
    record->parent_pid = creation.parent_pid;
    record->creator_pid = creation.creator_pid;
    record->creator_tid = creation.creator_tid;
    record->created =
        creation.created || creation.running ? creation.created : state.port.filetime(state.port.context);
    record->signature_level = creation.signature_level;
    record->flags = creation.file_flags;
    if (creation.running) record->flags |= kFlagRunningBefore;
    if (creation.creator_pid && creation.parent_pid != creation.creator_pid) record->flags |= kFlagParentClaimed;
    if (creation.pico) record->flags |= kFlagPico;
    record->listed = creation.running;
}

// A process that is not held: it goes on, and FETCH shows it.
void release_unasked(GateState& state, Record* record, uint32_t decided_by) {
    record->verdict = kVerdictAllow;
    record->decided_by = decided_by;
    if (record->state == kStateNew) state.move_to(record, kStateNamed);
    state.queue_for_fetch(record);
}

// A process that must die before its thread goes on. No verdict: another process has ended it.
void block_unasked(GateState& state, Record* record, Hold* hold, uint32_t verdict, uint32_t decided_by) {
    record->verdict = verdict;
    record->decided_by = decided_by;
    state.hold(record, hold, kStateAnswered);
    state.queue_terminate(record);
}

// The part of on_create under the lock. true: the creation is refused.
bool create_locked(GateState& state, const Creation& creation, Prepared& prepared, DeferredFree& deferred) {
    Counters& counters = state.counters;
    const Controller& controller = state.controller;
    if (!creation.running) ++counters.created;
    if (prepared.lacks(creation)) ++counters.allocation_failures;
    if (!creation.running && controller.owner && controller.pid == creation.pid) state.controller_gone(deferred);
    if (Record* other = state.table.find(creation.pid)) {
        if (creation.running) {  // it came to be while the list of running processes was being made
            prepared.give_back(state, deferred);
            return false;
        }
        ++counters.pid_reused;
        state.retire(other, kStatusUnknown, deferred);
    }

    // The creator calls us: the record of its pid, if there is one, is its own.
    const Record* creator = creation.running ? nullptr : state.table.find(creation.creator_pid);
    const Program creator_program = creator ? creator->program : kNoProgram;
    const Program program = state.program_of(prepared.head, creation.native_name);
    const bool exempt = creation.running ? program != kNoProgram : is_exempt(program, creator_program);
    const bool descendant = !creation.running && state.descends(creation.creator_pid, state.last_key + 1);
    const bool spared = exempt || (descendant && state.spares_descendants());

    Record* record = prepared.record;
    if (!record && (record = state.reserve->take_record()) != nullptr) ++counters.reserve_used;
    Names* names = state.fit_names(prepared.names, prepared.head, creation.native_name, deferred);
    CommandLine* line = state.fit_command_line(prepared.line, deferred);
    prepared.record = nullptr;
    prepared.names = nullptr;
    prepared.line = nullptr;
    const bool has_room = record && state.make_room(deferred);
    if (record && !has_room) ++counters.table_full;

    bool refused = false;
    uint32_t decided_by = kByNone;
    if (creation.refusable && controller.owner && !spared) {
        const Rule* rule = state.rule_for(names);
        if (rule && rule->verdict == kVerdictBlock) {
            ++counters.rule_blocked;
            decided_by = kByRule;
        } else if (creation.pico && controller.pico_verdict == kVerdictBlock) {
            ++counters.pico_blocked;
            decided_by = kByPico;
        } else if (!has_room && controller.limit_verdict == kVerdictBlock) {
            ++counters.limit_blocked;
            decided_by = kByLimit;
        }
        refused = decided_by != kByNone;
    }
    if (!has_room) {
        state.give_back(record, deferred);
        state.give_back(names, deferred);
        state.give_back(line, deferred);
        return refused;
    }

    fill_record(state, record, creation);
    const size_t kept_units = line ? line->length : 0;
    if (kept_units < creation.command_line.length) record->flags |= kFlagCommandLineTruncated;
    if (descendant) {
        record->flags |= kFlagControllerDescendant;
        record->descends_from = state.registrations;
    }
    if (exempt) {
        record->flags |= kFlagExempt;
        record->program = program;
    }
    record->creator_program = creator_program;
    if (creation.running && !names) record->flags |= kFlagNameMissing;
    const bool named = creation.running || creation.pico;
    state.add_record(record, refused ? kStateExiting : named ? kStateNamed : kStateNew, names, line);
    if (refused) {
        record->flags |= kFlagNeverStarted;
        record->verdict = kVerdictBlock;
        record->decided_by = decided_by;
        record->exit_status = kStatusBlocked;
        state.queue_for_fetch(record);
    } else if (creation.pico) {
        release_unasked(state, record, !controller.owner ? kByNoController : spared ? kByExempt : kByPico);
    } else if (creation.running) {
        state.queue_for_fetch(record);
    }
    return refused;
}

// A process that has no record, and no room or memory for one: true = it waits until it has been terminated.
bool decide_without_record(GateState& state, const Image& image, Program program, Hold* hold) {
    const Controller& controller = state.controller;
    if (!controller.owner || is_always_exempt(program) || image.protected_process || image.pid == controller.pid)
        return false;
    // Only what shows to be new may be ended: an image without a creation can be a later one of what runs.
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

// The first image of a process that the gate knows: true = it waits. `program`: the row that its name is.
bool decide_first_image(GateState& state, Record* record, const Image& image, Program program, Hold* hold) {
    Counters& counters = state.counters;
    const Controller& controller = state.controller;
    const Program creator = record->listed ? kNoProgram : record->creator_program;
    record->program = is_exempt(program, creator) ? program : kNoProgram;
    record->flags &= ~kFlagExempt;
    if (record->program || image.protected_process || (controller.owner && image.pid == controller.pid))
        record->flags |= kFlagExempt;
    const bool spared = state.spares_descendants() && record->descends_from == state.registrations;
    if (record->flags & kFlagExempt || spared) {
        ++counters.exempt;
        release_unasked(state, record, kByExempt);
        return false;
    }
    if (!controller.owner) {
        release_unasked(state, record, kByNoController);
        return false;
    }
    // An image without a creation need not be the first one: to wait in a later one would stop a process that runs.
    const bool may_run = record->flags & kFlagCreateMissed && !image.own;
    // No rule and no callback can judge what has no name. What the system itself gave none is asked about all the same.
    const bool unnamed = !record->names && image.native_name.length;
    if (may_run || (unnamed && controller.limit_verdict == kVerdictAllow)) {
        ++counters.limit_allowed;
        release_unasked(state, record, kByLimit);
        return false;
    }
    if (unnamed) {
        ++counters.limit_blocked;
        block_unasked(state, record, hold, kVerdictBlock, kByLimit);
        return true;
    }
    if (const Rule* rule = state.rule_for(record->names, record->creation_names)) {
        if (rule->verdict == kVerdictAllow) {
            ++counters.rule_allowed;
            release_unasked(state, record, kByRule);
            return false;
        }
        ++counters.rule_blocked;
        block_unasked(state, record, hold, kVerdictBlock, kByRule);
        return true;
    }
    if (image.dying) {
        // Not released: a second thread may have been put into the process, which goes on without this one.
        ++counters.died_held;
        block_unasked(state, record, hold, kVerdictNone, kByNone);
        return true;
    }
    // Where an extra thread cannot be held, it may run by now.
    const bool tampered = record->flags & kFlagForeignThread && !(state.features & kFeatureThreadHold);
    if (tampered && controller.tamper_verdict == kVerdictBlock) {
        block_unasked(state, record, hold, kVerdictBlock, kByTamper);
        return true;
    }
    state.hold(record, hold, kStateHeld);
    return true;
}

// Is this image the first that is notified of the process, so that it can be held there? What was listed as running has
// not run if its own image comes only now: it was created suspended before.
bool awaits_image(const Record* record, const Image& image) {
    return record->state == kStateNew ||
           (record->state == kStateNamed && record->listed && !record->image_seen && image.own);
}

// Is the process held, so that one more of its threads has to wait?
bool is_held(const Record* record) { return record->holds && !record->done; }

// Do other threads of its process wait on when this one leaves? One that is about to leave does not: of two that are
// ended at once the second must stay, or the process would be held by none of them.
bool others_wait(const Record* record, const Hold* hold) {
    for (const Hold* other = record->holds; other; other = other->next)
        if (other != hold && !other->leaves) return true;
    return false;
}

// The record of an image whose creation was missed; nullptr when there is no memory or no room for it.
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
    fill_record(state, record, missed);
    record->listed = false;
    record->flags = kFlagCreateMissed;
    state.add_record(record, kStateNamed, nullptr, nullptr);
    return record;
}

// Is the name that is mapped another than the one of the creation? Only native names of devices are compared, for the
// system abbreviates in more than one way.
bool is_renamed(const Port& port, const Image& image) {
    const Text device = literal(u"\\device\\");
    if (!starts_with_lowered(port, image.native_name, device) || !starts_with_lowered(port, image.mapped_name, device))
        return false;
    if (image.native_name.length != image.mapped_name.length) return true;
    for (size_t i = 0; i < image.native_name.length; ++i)
        if (lower(port, image.native_name.data[i]) != lower(port, image.mapped_name.data[i])) return true;
    return false;
}

// The name that an image has.
struct ImageName {
    Text text;
    bool is_changed;  // since the creation
    Program program;  // by the name of the creation, which the system keeps: it cannot be changed by renaming the file
};

// The part of begin_hold under the lock. `was_known`: without one, `prepared.record` is for a creation that was missed.
bool image_mapped(GateState& state, const Image& image, const ImageName& name, bool was_known, Prepared& prepared,
                  Hold* hold, DeferredFree& deferred) {
    Counters& counters = state.counters;
    Record* record = state.table.find(image.pid);
    const bool missed = !record && !was_known && !state.stopping;
    if (state.stopping || (!record && !missed) || (record && !awaits_image(record, image))) {
        // Nothing to decide; the process may have gone meanwhile, or another thread may have brought it here first.
        prepared.give_back(state, deferred);
        if (state.stopping || !record || !image.own || !is_held(record) || image.dying) return false;
        state.join_foreign(record, hold);
        return true;
    }
    Program program = name.program;
    if (!image.native_name.length && record && record->names)
        program = program_of(state.port, state.system_directory_text(), {}, record->names->image());
    if (missed) {
        record = add_missed_create(state, image, prepared.record, deferred);
    } else {
        state.give_back(prepared.record, deferred);
    }
    prepared.record = nullptr;
    if (!record) {
        prepared.give_back(state, deferred);
        return decide_without_record(state, image, program, hold);
    }
    record->image_seen = true;
    if (name.text.length && !prepared.names) ++counters.allocation_failures;
    Names* names = state.fit_names(prepared.names, prepared.head, name.text, deferred);
    if (names) {
        if (name.is_changed && record->names) record->flags |= kFlagNameChanged;
        state.set_names(record, names, deferred);
    }
    if (!record->names) {
        record->flags |= kFlagNameMissing;
        if (!name.text.length) ++counters.missing_name;
    }
    return decide_first_image(state, record, image, program, hold);
}

}  // namespace

// ------------------------------------------------------------------------------------------- creation and exit

bool Gate::on_create(const Creation& creation) {
    if (!state_) return false;
    GateState& state = *state_;
    Prepared prepared;
    if (creation.native_name.length) {
        Locked locked(state);
        find_dos_head(state.port, state.volumes, state.system_directory_text(), creation.native_name, &prepared.head);
    }
    prepare(state, creation, &prepared);
    bool refused = false;
    bool grow = false;
    {
        DeferredFree deferred(state.port);
        Locked locked(state);
        if (state.stopping) {
            prepared.give_back(state, deferred);
        } else {
            refused = create_locked(state, creation, prepared, deferred);
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
    if (state.controller.owner && state.controller.pid == pid) state.controller_gone(deferred);
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
    const bool renamed = is_renamed(port, image);
    ImageName name = {renamed ? image.mapped_name : image.native_name, renamed, kNoProgram};
    Prepared prepared;
    bool known;
    {
        Locked locked(state);
        const Record* record = state.table.find(image.pid);
        // The usual case, and the quick one: one more image of a process whose first has been seen.
        if (state.stopping) return false;
        if (record && !awaits_image(record, image) && !(image.own && is_held(record))) return false;
        if (!record && image.dying) return false;  // a creation that was refused ends so
        known = record;
        const Text system_directory = state.system_directory_text();
        find_dos_head(port, state.volumes, system_directory, image.native_name, &prepared.head);
        name.program = state.program_of(prepared.head, image.native_name);
        if (renamed) find_dos_head(port, state.volumes, system_directory, name.text, &prepared.head);
    }
    if (name.text.length) prepared.names = make_names(port, name.text, prepared.head);
    if (!known) prepared.record = allocate<Record>(port);
    port.signal_create(port.context, &hold->signal);
    bool waits;
    bool grow;
    {
        DeferredFree deferred(port);
        Locked locked(state);
        waits = image_mapped(state, image, name, known, prepared, hold, deferred);
        grow = state.table.wants_segment();
    }
    if (!waits) port.signal_destroy(port.context, &hold->signal);
    if (grow) state.grow_table();
    return waits;
}

bool Gate::begin_thread(Hold* hold, const Image& image) {
    hold->record = nullptr;
    if (!state_ || image.dying) return false;
    GateState& state = *state_;
    const Port& port = state.port;
    {
        Locked locked(state);
        const Record* record = state.table.find(image.pid);
        if (state.stopping || !record || !(record->state == kStateNew || is_held(record))) return false;
    }
    port.signal_create(port.context, &hold->signal);
    bool waits = false;
    {
        Locked locked(state);
        Record* record = state.table.find(image.pid);
        if (!state.stopping && record && (record->state == kStateNew || is_held(record))) {
            waits = true;
            if (record->state != kStateNew) {
                state.join_foreign(record, hold);
            } else {  // it comes before the image notification, if there is one
                const Text name = record->names ? record->names->image() : Text{};
                if (!record->names) record->flags |= kFlagNameMissing;
                const Program program = program_of(port, state.system_directory_text(), {}, name);
                record->image_seen = true;
                waits = decide_first_image(state, record, image, program, hold);
            }
        }
    }
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
    if (record->state != kStateHeld) return;  // if it is new: when its image comes
    if (state.controller.tamper_verdict == kVerdictBlock) state.decide(record, kVerdictBlock, kByTamper);
    if (record->fetched) state.queue_for_fetch(record);
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
        if (record->fetched) state.queue_for_fetch(record);  // its controller believes that it waits
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
