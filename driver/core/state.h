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

// Who may answer. owner 0 = nobody is registered.
struct Controller {
    uint64_t owner;
    uint32_t pid;
    uint32_t flags;
    uint32_t hold_timeout_ms;
    uint32_t timeout_verdict;
    uint32_t disconnect_verdict;
    void* event;
};

// A lowercase path behind it.
struct Path : Block {
    size_t length;
    Text text() { return {text_behind(this), length}; }
};

// The states of a record, and who moves it from one to the next:
//
//   from       to         by
//   -          New        on_create
//   -          Named      on_create (running before us), begin_hold (its creation was missed)
//   -          Exiting    on_create (a rule refused it: it never started)
//   New        Named      begin_hold: exempt, nobody to ask, allowed by a rule, or no memory for its name
//   New        Held       begin_hold
//   New        Answered   begin_hold: blocked by a rule, or ended by somebody else
//   Held       Released   decide ALLOW: request, timeout, disconnect, stop
//   Held       Answered   decide BLOCK: the same; still_held: ended by somebody else, without a verdict
//   Answered   Released   terminated: it died, or would not after kTerminateTries
//   any        Exiting    retire: on_exit, or on_create of another process with its pid
constexpr uint32_t state_bit(uint32_t state) { return 1u << state; }
constexpr uint32_t kTransitions[] = {
    /* -        */ state_bit(wire::kStateNew) | state_bit(wire::kStateNamed) | state_bit(wire::kStateExiting),
    /* New      */ state_bit(wire::kStateNamed) | state_bit(wire::kStateHeld) | state_bit(wire::kStateAnswered) |
        state_bit(wire::kStateExiting),
    /* Named    */ state_bit(wire::kStateExiting),
    /* Held     */ state_bit(wire::kStateReleased) | state_bit(wire::kStateAnswered) | state_bit(wire::kStateExiting),
    /* Answered */ state_bit(wire::kStateReleased) | state_bit(wire::kStateExiting),
    /* Released */ state_bit(wire::kStateExiting),
    /* Exiting  */ 0,
};

inline void move_to(Record* record, uint32_t state) {
    PROCMON_CHECK(kTransitions[record->state] & state_bit(state));
    record->state = state;
}

class DeferredFree;

struct GateState : Block {
    Port port;
    LockStorage lock;

    Table table;
    List<Record, &Record::unseen> unseen;        // for FETCH; empty while no controller is registered
    List<Record, &Record::held> held;            // state Held
    List<Record, &Record::exited> exited;        // state Exiting, not yet freed; oldest first
    List<Record, &Record::condemned> condemned;  // to be named by next_condemned
    List<Record, &Record::condemned> in_worker;  // named, and not yet terminated()

    Controller controller;
    Rules* rules;           // nullptr = none
    VolumeMap volumes;      // in force
    VolumeMap new_volumes;  // between volumes_begin and volumes_commit
    Path* system_directory;
    wire::Counters counters;
    uint64_t last_key;
    uint64_t memory_bytes;
    uint32_t registrations;  // so far; the present controller's number
    uint32_t holds;          // begun and not ended
    uint32_t held_count;
    uint32_t features;
    bool stopping;

    [[nodiscard]] Text system_directory_text() { return system_directory ? system_directory->text() : Text{}; }
    [[nodiscard]] bool is_controller(const Caller& caller) const {
        return caller.owner && caller.owner == controller.owner;
    }
    [[nodiscard]] bool is_critical(Names* names);
    [[nodiscard]] const Rule* rule_for(Names* names);
    // Did the controller start it? Looks at the marks of what lives, and up the parents of what is not marked.
    [[nodiscard]] bool descends(uint32_t pid, uint64_t younger_key) const;

    // A block is now part of the gate, or is no longer.
    void keep(Block* block) { memory_bytes += block->bytes; }
    void drop(Block* block, DeferredFree& deferred);
    void drop_volumes(VolumeMap& map, DeferredFree& deferred);

    // Room for one more record; gives up the oldest exit record for it if it must.
    [[nodiscard]] bool make_room(DeferredFree& deferred);
    void add_record(Record* record, uint32_t state, Names* names);
    void set_names(Record* record, Names* names, DeferredFree& deferred);
    // FETCH shall give it (again).
    void queue_for_fetch(Record* record);
    void hold(Record* record, Hold* hold, uint32_t state);
    [[nodiscard]] uint32_t waited_ms(const Record* record) const;  // since it began to be held
    [[nodiscard]] uint32_t slice_ms(const Record* record) const;   // until its thread must look again
    void decide(Record* record, uint32_t verdict, uint32_t decided_by);
    void leave_held(Record* record);  // its state is the caller's to change
    void queue_terminate(Record* record);
    void release(Record* record);
    void retire(Record* record, uint32_t exit_status, DeferredFree& deferred);
    // Frees an exited record that nobody needs any more.
    void drop_if_done(Record* record, DeferredFree& deferred);
    // Ends every hold with this verdict and forgets the controller, its rules and what it had not fetched.
    void end_controller(uint32_t verdict, uint32_t decided_by, DeferredFree& deferred);

    // Gives the table the segment it wants. WITHOUT the lock.
    void grow_table();
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

// Blocks, and an event, that are given back at the end of the scope. Declare it before the Locked.
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
[[nodiscard]] Names* make_names(const Port& port, Text native_name, const DosHead& head);

// requests.cpp
[[nodiscard]] Status dispatch_request(GateState& state, const Caller& caller, uint32_t code, const void* input,
                                      size_t input_bytes, void* output, size_t output_bytes, size_t* written);

}  // namespace procmon
