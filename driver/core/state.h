// state.h - the state of a gate, and the steps that change it. Only the core includes this header.
//
// One lock guards all of it. The members of GateState are called with the lock held, except where noted. They put
// freed blocks into a DeferredFree, which releases them after the lock has been released.
#pragma once

#include "gate.h"
#include "rules.h"
#include "table.h"
#include "volumes.h"

namespace procmon {

// The registered controller; owner 0 = none.
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

// A lowercase path, paged; the text lies behind it.
struct Path : Block {
    size_t length;
    Text text() { return {text_behind(this), length}; }
};

// Preallocated records and names for when the pool is empty: a process can then still be recorded, named and held. One
// block, allocated at the start. Free items are in chains; an item is zeroed when it is taken. Under the lock.
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
    // false: the block is not from the reserve.
    [[nodiscard]] bool give_back(Block* block);
};

// The states of a record, and the calls that change them:
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
//   Held       Released   decide ALLOW: request, timeout, disconnect, stop; begin_hold after
//                         begin_thread: as New to Named
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

// Memory for a process, allocated before the lock is acquired. A member is nullptr when memory ran out or there is
// nothing to store.
struct Prepared {
    NameHead head;
    Record* record = nullptr;
    Names* names = nullptr;
    CommandLine* line = nullptr;

    // Did memory run out for a part of `creation`?
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
    uint32_t map_number;     // version of `volumes` and the system directory: names made with an older one may differ
    uint32_t registrations;  // so far; also the number of the current controller
    uint32_t holds;          // begun and not ended
    uint32_t held_count;
    uint32_t features;
    bool stopping;
    bool quiesced;  // no controller until the gate is started again

    [[nodiscard]] Text system_directory_text() const { return system_directory ? system_directory->text() : Text{}; }
    [[nodiscard]] bool is_controller(const Caller& caller) const {
        return caller.owner && caller.owner == controller.owner;
    }
    // The head of a name's DOS path, and the program that the path names. Without a known drive letter the native name
    // is the path.
    void find_head(Text native_name, NameHead* head) const;
    [[nodiscard]] const Rule* rule_for(Names* names);
    // The rule that decides a process. When its name has changed since the creation, no allowing rule applies, and a
    // blocking rule applies if it matches either name.
    [[nodiscard]] const Rule* rule_for(const Record* record);
    // Did the controller start it, directly or not? Follows the creators, because a parent can be claimed. Each creator
    // must have a record that is older than its child's; otherwise the creator's pid has been reused.
    [[nodiscard]] bool descends(uint32_t creator_pid, uint64_t younger_key) const;
    void mark_descendant(Record* record) const;
    // Has a FETCH of the current controller returned it? If it is held: since it is held?
    [[nodiscard]] bool is_seen(const Record* record) const {
        return controller.owner && record->fetched_by == registrations;
    }
    [[nodiscard]] bool spares_descendants() const {
        return controller.owner && controller.flags & wire::kExemptDescendants;
    }

    // Counts a block that becomes part of the gate, or no longer is.
    void keep(Block* block) { memory_bytes += block->bytes; }
    void keep_text(Block* block);
    void drop(Block* block, DeferredFree& deferred);
    void drop_text(Block* block, DeferredFree& deferred);
    // For a block that never became part of the gate.
    void give_back(Block* block, DeferredFree& deferred);
    void give_back(Prepared& prepared, DeferredFree& deferred);
    void drop_volumes(VolumeMap& map, DeferredFree& deferred);

    // Returns the names or the command line if there is room for the text; otherwise gives them back, and takes short
    // names from the reserve. A record is kept without them, too.
    [[nodiscard]] Names* fit_names(Names* names, const NameHead& head, Text native_name, DeferredFree& deferred);
    [[nodiscard]] CommandLine* fit_command_line(CommandLine* line, DeferredFree& deferred);
    // Makes room for one more record, or for `more_bytes` of text; drops the oldest exit records if necessary.
    [[nodiscard]] bool make_room(DeferredFree& deferred);
    [[nodiscard]] bool make_text_room(size_t more_bytes, DeferredFree& deferred);
    [[nodiscard]] bool give_up_exit(DeferredFree& deferred);  // false: there is none to drop
    void fill_record(Record* record, const Creation& creation) const;
    void add_record(Record* record, uint32_t state, Names* names, CommandLine* line);
    void set_names(Record* record, Names* names, DeferredFree& deferred);
    void move_to(Record* record, uint32_t to_state);
    // Is it held, and its controller asked? Not before its image has shown its current name, unless none comes.
    [[nodiscard]] bool is_asked(const Record* record) const;
    // The next FETCH returns the record (again).
    void queue_for_fetch(Record* record);
    // The same after a change that is not a new question: a record that the next FETCH returns anyway sets no event.
    void queue_change(Record* record);
    // Lets a process run without a hold; FETCH returns its record.
    void release_unasked(Record* record, uint32_t decided_by);
    void hold(Record* record, Hold* hold, uint32_t state);
    void join(Record* record, Hold* hold);
    // An extra thread of a held process: it waits on the same record, which is flagged.
    void join_foreign(Record* record, Hold* hold);
    [[nodiscard]] uint32_t waited_ms(const Record* record) const;  // since it began to be held
    [[nodiscard]] uint32_t slice_ms(const Record* record) const;   // until its threads must check again
    void decide(Record* record, uint32_t verdict, uint32_t decided_by);
    void leave_held(Record* record);  // the caller changes its state
    void queue_terminate(Record* record);
    void release(Record* record);
    void retire(Record* record, uint32_t exit_status, DeferredFree& deferred);
    // Frees the record of an exited process when no hold and no FETCH needs it.
    void drop_if_done(Record* record, DeferredFree& deferred);
    void drop_record(Record* record, DeferredFree& deferred);  // that is in no list
    // Decides every held process by this verdict and drops the controller, its rules, and its list of records to fetch.
    // A process that is blocked already stays held until it has been terminated.
    void end_controller(uint32_t verdict, uint32_t decided_by, DeferredFree& deferred);
    void controller_gone(DeferredFree& deferred);  // the same with its disconnect verdict
    void quiesce(DeferredFree& deferred);
};

// Holds the lock for a scope.
class Locked {
   public:
    explicit Locked(GateState& state) : state_(state) { state.port.lock_acquire(state.port.context, &state.lock); }
    ~Locked() { state_.port.lock_release(state_.port.context, &state_.lock); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

   private:
    GateState& state_;
};

// Frees blocks and closes an event at the end of its scope. Declare it before the Locked: the lock is released first.
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

// Makes the names of a process from its native name. `head` was found under the lock; this runs WITHOUT it. nullptr
// when memory ran out.
[[nodiscard]] Names* make_names(const Port& port, Text native_name, const NameHead& head);
[[nodiscard]] CommandLine* make_command_line(const Port& port, Text text);

// requests.cpp
[[nodiscard]] Status dispatch_request(GateState& state, const Caller& caller, uint32_t code, const void* input,
                                      size_t input_bytes, void* output, size_t output_bytes, size_t* written);

}  // namespace procmon
