// state.h - what a gate consists of, and the steps that change it. RundownScope the core only.
//
// One lock guards all of it. The members of GateState are called with the lock held, except where it is said.
// What they take out of use goes into a DeferredFree, which gives it back after the lock has been released.
#pragma once

#include "gate.h"
#include "rules.h"
#include "table.h"
#include "volumes.h"

namespace procmon {

// The process that answers. owner 0 = none is registered.
struct Controller {
    uint64_t owner;
    uint32_t pid;
    uint32_t flags;
    uint32_t hold_timeout_ms;
    uint32_t timeout_verdict;
    uint32_t disconnect_verdict;
    uint32_t limit_verdict;
    uint32_t tamper_verdict;
    uint32_t pico_verdict;
    void* event;
};

// A lowercase path behind it, paged.
struct Path : Block {
    size_t length;
    Text text() { return {text_behind(this), length}; }
};

// Records and names set aside for when the pool is empty: a process can then still be recorded, named and held. One
// block, made at the start. A free one is in a chain, and zeroed when it is taken. Under the lock.
struct Reserve : Block {
    struct NamesAndText {
        Names names;
        char16_t text[2 * wire::kReserveNameUnits];  // behind it, as in a block of the pool
    };
    Record records[wire::kReserveRecords];
    NamesAndText names[wire::kReserveRecords];
    Block* free_records;
    Block* free_names;

    void fill();
    [[nodiscard]] Record* take_record();
    [[nodiscard]] Names* take_names();
    // false: the block is not of the reserve.
    [[nodiscard]] bool give_back(Block* block);
};

// The states of a record, and what moves it from one to the next:
//
//   from       to         by
//   -          New        on_create
//   -          Named      on_create (running before us, or pico), begin_hold (its creation was missed)
//   -          Exiting    on_create (refused: it never started)
//   New        Named      begin_hold: exempt, no controller, allowed by a rule, or let run by the limit verdict
//   New        Held       begin_hold, begin_thread
//   New        Answered   the same: blocked by a rule, by the limit or tamper verdict, or ended by another process
//   Named      Held       begin_hold: listed as running, or its creation was missed, and the image shows that it has
//   Named      Answered     not run yet
//   Held       Released   decide ALLOW: request, timeout, disconnect, stop
//   Held       Answered   decide BLOCK: the same, tamper; still_held: ended by another process, without a verdict
//   Answered   Released   terminated: it died, or the gate stops and the last attempt has failed
//   any        Exiting    retire: on_exit, or on_create of another process with its pid
constexpr uint32_t state_bit(uint32_t state) { return 1u << state; }
constexpr uint32_t kTransitions[] = {
    /* -        */ state_bit(wire::kStateNew) | state_bit(wire::kStateNamed) | state_bit(wire::kStateExiting),
    /* New      */ state_bit(wire::kStateNamed) | state_bit(wire::kStateHeld) | state_bit(wire::kStateAnswered) |
        state_bit(wire::kStateExiting),
    /* Named    */ state_bit(wire::kStateHeld) | state_bit(wire::kStateAnswered) | state_bit(wire::kStateExiting),
    /* Held     */ state_bit(wire::kStateReleased) | state_bit(wire::kStateAnswered) | state_bit(wire::kStateExiting),
    /* Answered */ state_bit(wire::kStateReleased) | state_bit(wire::kStateExiting),
    /* Released */ state_bit(wire::kStateExiting),
    /* Exiting  */ 0,
};

class DeferredFree;

// What the pool gave for a process, before the lock is taken; each is nullptr where memory ran out, or there is nothing
// to keep.
struct Prepared {
    NameHead head;
    Record* record = nullptr;
    Names* names = nullptr;
    CommandLine* line = nullptr;

    // Of those of `creation`: did memory run out for one?
    [[nodiscard]] bool lacks(const Creation& creation) const {
        return !record || (creation.native_name.length && !names) || (creation.command_line.length && !line);
    }
};

struct GateState : Block {
    Port port;
    LockStorage lock;

    Table table;
    List<Record, &Record::unseen> unseen;        // for FETCH; empty while no controller is registered
    List<Record, &Record::held> held;            // state Held
    List<Record, &Record::exited> exited;        // state Exiting, not yet freed; oldest first
    List<Record, &Record::to_terminate> to_terminate;  // to be named by next_to_terminate
    List<Record, &Record::to_terminate> in_worker;  // named, and not yet terminated()

    Controller controller;
    Rules* rules;           // nullptr = none
    VolumeMap volumes;      // in force
    VolumeMap new_volumes;  // between volumes_begin and volumes_commit
    Path* system_directory;
    Reserve* reserve;
    wire::Counters counters;
    uint64_t last_key;
    uint64_t memory_bytes;
    uint64_t text_bytes;     // of names and command lines, in memory_bytes as well
    uint32_t map_number;     // of `volumes` and the system directory: names by an earlier one may differ
    uint32_t registrations;  // so far; the present controller's number
    uint32_t holds;          // begun and not ended
    uint32_t held_count;
    uint32_t features;
    bool stopping;
    bool quiesced;  // no controller any more, until the gate is started anew

    [[nodiscard]] Text system_directory_text() const { return system_directory ? system_directory->text() : Text{}; }
    [[nodiscard]] bool is_controller(const Caller& caller) const {
        return caller.owner && caller.owner == controller.owner;
    }
    // How a name begins, and which program it is; the native one counts only where it has no drive letter.
    void find_head(Text native_name, NameHead* head) const;
    // The rule that decides about a process of these names. Of a process whose name has changed since its creation a
    // rule that allows knows nothing, and a rule that blocks may name either.
    [[nodiscard]] const Rule* rule_for(Names* names, Names* creation_names = nullptr);
    // Did the controller start it? By its creators, for the parent can be claimed: each must have a record, older than
    // the next one, or the pid has been used again.
    [[nodiscard]] bool descends(uint32_t creator_pid, uint64_t younger_key) const;
    [[nodiscard]] bool spares_descendants() const {
        return controller.owner && controller.flags & wire::kExemptDescendants;
    }

    // A block is now part of the gate, or is no longer.
    void keep(Block* block) { memory_bytes += block->bytes; }
    void keep_text(Block* block);
    void drop(Block* block, DeferredFree& deferred);
    void drop_text(Block* block, DeferredFree& deferred);
    // One that never became a part of it.
    void give_back(Block* block, DeferredFree& deferred);
    void give_back(Prepared& prepared, DeferredFree& deferred);
    void drop_volumes(VolumeMap& map, DeferredFree& deferred);

    // Names and a command line find room, or are given back: a process without them is still a process.
    [[nodiscard]] Names* fit_names(Names* names, const NameHead& head, Text native_name, DeferredFree& deferred);
    [[nodiscard]] CommandLine* fit_command_line(CommandLine* line, DeferredFree& deferred);
    // Room for one more record, or for so much more text; gives up the oldest exit records for it if it must.
    [[nodiscard]] bool make_room(DeferredFree& deferred);
    [[nodiscard]] bool make_text_room(size_t more_bytes, DeferredFree& deferred);
    [[nodiscard]] bool give_up_exit(DeferredFree& deferred);  // false: there is none to give up
    void fill_record(Record* record, const Creation& creation) const;
    void add_record(Record* record, uint32_t state, Names* names, CommandLine* line);
    void set_names(Record* record, Names* names, DeferredFree& deferred);
    void move_to(Record* record, uint32_t to_state);
    // FETCH shall give it (again).
    void queue_for_fetch(Record* record);
    // A process that is not held: it goes on, and FETCH shows it.
    void release_unasked(Record* record, uint32_t decided_by);
    void hold(Record* record, Hold* hold, uint32_t state);
    void join(Record* record, Hold* hold);
    // One more thread of a process that is held: it waits on the same record, which says so.
    void join_foreign(Record* record, Hold* hold);
    [[nodiscard]] uint32_t waited_ms(const Record* record) const;  // since it began to be held
    [[nodiscard]] uint32_t slice_ms(const Record* record) const;   // until its threads must look again
    void decide(Record* record, uint32_t verdict, uint32_t decided_by);
    void leave_held(Record* record);  // its state is the caller's to change
    void queue_terminate(Record* record);
    void release(Record* record);
    void retire(Record* record, uint32_t exit_status, DeferredFree& deferred);
    // Frees an exited record that is not needed any more.
    void drop_if_done(Record* record, DeferredFree& deferred);
    void drop_record(Record* record, DeferredFree& deferred);  // that is in no list
    // Ends every hold with this verdict and forgets the controller, its rules and what it had not fetched. What is
    // blocked already stays held until it has been terminated.
    void end_controller(uint32_t verdict, uint32_t decided_by, DeferredFree& deferred);
    void controller_gone(DeferredFree& deferred);  // the same with its disconnect verdict
    void quiesce(DeferredFree& deferred);
};

// The lock, for a scope.
class Locked {
   public:
    explicit Locked(GateState& state) : state_(state) { state.port.lock_acquire(state.port.context, &state.lock); }
    ~Locked() { state_.port.lock_release(state_.port.context, &state_.lock); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

   private:
    GateState& state_;
};

// Blocks, and an event, that are freed at the end of the scope. Declare it before the Locked.
class DeferredFree {
   public:
    explicit DeferredFree(const Port& port) : port_(port) {}
    ~DeferredFree();
    DeferredFree(const DeferredFree&) = delete;
    DeferredFree& operator=(const DeferredFree&) = delete;

    void add(Block* block) {
        if (!block) return;
        block->next_deferred = blocks_;
        blocks_ = block;
    }
    void close(void* event) {
        PROCMON_CHECK(!event_);
        event_ = event;
    }

   private:
    const Port& port_;
    Block* blocks_ = nullptr;
    void* event_ = nullptr;
};

// The names of a process, from the native one. `head` was found under the lock; this runs WITHOUT it. nullptr when
// memory ran out.
[[nodiscard]] Names* make_names(const Port& port, Text native_name, const NameHead& head);
[[nodiscard]] CommandLine* make_command_line(const Port& port, Text text);

// requests.cpp
[[nodiscard]] Status dispatch_request(GateState& state, const Caller& caller, uint32_t code, const void* input,
                                      size_t input_bytes, void* output, size_t output_bytes, size_t* written);

}  // namespace procmon
