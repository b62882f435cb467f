// creations.cpp - creations and exits: records, refused creations, and which processes are exempt because of their
// creator.

#include "gate.h"
#include "state.h"

namespace procmon {

using namespace wire;

namespace {

// Allocates WITHOUT the lock; acquires it only to find the head of the name.
void prepare(GateState& state, const Creation& creation, Prepared* prepared) {
    const Port& port = state.port;
    prepared->record = allocate<Record>(port);
    if (creation.command_line.length) prepared->line = make_command_line(port, creation.command_line);
    if (!creation.native_name.length) return;
    {
        Locked locked(state);
        state.find_head(creation.native_name, &prepared->head);
    }
    prepared->names = make_names(port, creation.native_name, prepared->head);
}

// What its creator and its name show about a process.
struct Origin {
    Program program;  // its row in exempt.cpp
    Program creator_program;
    bool exempt;      // never held: because of its creator, or because it was listed as running
    bool descendant;  // of the controller
    bool spared;      // neither held nor refused
};

Origin origin_of(GateState& state, const Creation& creation, Program program) {
    Origin origin = {program, kNoProgram, creation.running && program != kNoProgram, false, false};
    if (!creation.running) {
        // The creator is alive: it makes this call. So a record of its pid is no earlier process' record.
        const Record* creator = state.table.find(creation.creator_pid);
        origin.creator_program = creator ? creator->program : kNoProgram;
        origin.exempt = is_exempt(program, origin.creator_program);
        origin.descendant = state.descends(creation.creator_pid, state.last_key + 1);
    }
    origin.spared = origin.exempt || (origin.descendant && state.spares_descendants());
    return origin;
}

// The decider that refuses the creation; kByNone = it proceeds.
uint32_t refused_by(GateState& state, const Creation& creation, Names* names, bool spared, bool has_room) {
    const Controller& controller = state.controller;
    if (!creation.refusable || !controller.owner || spared) return kByNone;
    const Rule* rule = state.rule_for(names);
    if (rule && rule->verdict == kVerdictBlock) {
        ++state.counters.rule_blocked;
        return kByRule;
    }
    if (creation.pico && controller.pico_verdict == kVerdictBlock) {
        ++state.counters.pico_blocked;
        return kByPico;
    }
    if (!has_room && controller.limit_verdict == kVerdictBlock) {
        ++state.counters.limit_blocked;
        return kByLimit;
    }
    return kByNone;
}

// Adds the record to the gate. `names` and `line` are nullptr when there was no room for them.
void record_creation(GateState& state, const Creation& creation, const Origin& origin, Record* record, Names* names,
                     CommandLine* line, uint32_t refuser) {
    state.fill_record(record, creation);
    const size_t kept_units = line ? line->length : 0;
    if (kept_units < creation.command_line.length) record->flags |= kFlagCommandLineTruncated;
    if (origin.descendant) state.mark_descendant(record);
    if (origin.exempt) {
        record->flags |= kFlagExempt;
        record->program = origin.program;
    }
    record->creator_program = origin.creator_program;
    if (creation.running && !names) record->flags |= kFlagNameMissing;
    const bool named = creation.running || creation.pico;
    state.add_record(record, refuser ? kStateExiting : named ? kStateNamed : kStateNew, names, line);
    if (refuser) {
        record->flags |= kFlagNeverStarted;
        record->verdict = kVerdictBlock;
        record->decided_by = refuser;
        record->exit_status = kStatusBlocked;
        state.queue_for_fetch(record);
    } else if (creation.pico) {
        state.release_unasked(record, !state.controller.owner ? kByNoController : origin.spared ? kByExempt : kByPico);
    } else if (creation.running) {
        state.queue_for_fetch(record);
    }
}

// The part of on_create under the lock. true: the creation is refused.
bool create_locked(GateState& state, const Creation& creation, Prepared& prepared, DeferredFree& deferred) {
    Counters& counters = state.counters;
    const Controller& controller = state.controller;
    if (!creation.running) ++counters.created;
    if (prepared.lacks(creation)) ++counters.allocation_failures;
    if (!creation.running && controller.owner && controller.pid == creation.pid) state.controller_gone(deferred);
    if (Record* other = state.table.find(creation.pid)) {
        if (creation.running) {  // it was created while the running processes were being listed
            state.give_back(prepared, deferred);
            return false;
        }
        ++counters.pid_reused;
        state.retire(other, kStatusUnknown, deferred);
    }
    const Origin origin = origin_of(state, creation, prepared.head.program);

    Record* record = prepared.record;
    if (!record && (record = state.reserve->take_record()) != nullptr) ++counters.reserve_used;
    Names* names = state.fit_names(prepared.names, prepared.head, creation.native_name, deferred);
    CommandLine* line = state.fit_command_line(prepared.line, deferred);
    const bool has_room = record && state.make_room(deferred);
    if (record && !has_room) ++counters.table_full;
    const uint32_t refuser = refused_by(state, creation, names, origin.spared, has_room);
    if (has_room) {
        record_creation(state, creation, origin, record, names, line, refuser);
    } else {
        state.give_back(record, deferred);
        state.give_back(names, deferred);
        state.give_back(line, deferred);
    }
    return refuser != kByNone;
}

}  // namespace

bool Gate::on_create(const Creation& creation) {
    if (!state_) return false;
    GateState& state = *state_;
    Prepared prepared;
    prepare(state, creation, &prepared);
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (!state.stopping) return create_locked(state, creation, prepared, deferred);
    state.give_back(prepared, deferred);
    return false;
}

void Gate::on_exit(uint32_t pid, uint32_t exit_status) {
    if (!state_) return;
    GateState& state = *state_;
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (state.controller.owner && state.controller.pid == pid) state.controller_gone(deferred);
    Record* record = state.table.find(pid);
    if (!record) {  // a refused creation also exits, with the status of the refusal
        if (exit_status != kStatusBlocked) ++state.counters.exit_without_create;
        return;
    }
    ++state.counters.exited;
    state.retire(record, exit_status, deferred);
}

}  // namespace procmon
