// table.h - the records of all processes: by pid in O(1), and in the order of start keys.
#pragma once

#include "exempt.h"
#include "gate.h"
#include "list.h"
#include "memory.h"

namespace procmon {

// The names of a process in one block, paged: the image name (DOS path, lowercase), then the native name as the system
// gave it.
struct Names : Block {
    uint64_t native_hash;  // of the lowercase form
    uint64_t image_hash;
    uint32_t image_length;  // in code units, like all lengths
    uint32_t native_length;
    uint32_t map;           // GateState::map_number when they were made
    Program program;        // the row of exempt.cpp that they name
    bool image_is_native;   // no drive letter was known

    Text image() { return {text_behind(this), image_length}; }
    Text native() { return {text_behind(this) + image_length, native_length}; }
};

// A command line, paged; the text lies behind it.
struct CommandLine : Block {
    size_t length;

    Text text() { return {text_behind(this), length}; }
};

// One process.
struct Record : Block {
    // The members that find, insert and remove use come first, in one cache line.
    Record* next_in_bucket;
    uint32_t pid;
    uint32_t state;
    Link<Record> by_key;  // in Table::records
    uint64_t start_key;
    Names* names;         // nullptr = none

    Hold* holds;                // its threads that wait, nullptr = none
    Names* creation_names;      // those at creation, where they differ; nullptr = they do not
    CommandLine* command_line;  // nullptr = none
    Link<Record> unseen;        // the next FETCH returns it
    Link<Record> held;          // waits for a verdict
    Link<Record> exited;        // retired: exited, and no longer found by its pid
    Link<Record> to_terminate;  // to be terminated, or being terminated by the worker
    int64_t created;
    int64_t exited_at;
    uint64_t held_since_ms;
    uint64_t retry_at_ms;       // the worker does not retry before this time
    uint32_t parent_pid;
    uint32_t creator_pid;
    uint32_t creator_tid;
    uint32_t flags;
    uint32_t verdict;
    uint32_t decided_by;
    uint32_t exit_status;
    uint32_t held_ms;
    uint32_t signature_level;
    uint32_t descends_from;    // the registration whose controller started it, 0 = none
    uint32_t fetched_by;       // the registration whose FETCH has returned it, 0 = none
    uint32_t terminate_tries;  // failed attempts
    Program program;           // its row in exempt.cpp, if its creator is in that row, or it was listed as running
    Program creator_program;   // the same of its creator
    bool listed;               // in the initial list
    bool image_seen;           // its own image has been notified
    bool thread_seen;          // its first thread has been notified
    bool in_worker;            // named by next_to_terminate, and terminated() not called yet
    bool last_try;             // the gate is stopping: released after this attempt
    bool done;                 // the holds are over: their signals are set
    bool in_hold;              // stored in a Hold, and in no list but the worker's
};
static_assert(sizeof(Record) <= sizeof(Hold::own_record), "a Hold has room for one");

// Buckets by pid, allocated once for the limit, and a list in the order of start keys. The caller holds the lock.
//
// One bucket for each possible record: 1 MiB on a 64-bit system. Pids are multiples of four. The system assigns them
// from one table with thread ids, low ones first, so that their lower bits spread them well. A table that grew and
// shrank with the number of processes was no faster: docs/rejected.md.
class Table {
   public:
    static constexpr uint32_t kBuckets = wire::kMaxRecords;
    static_assert((kBuckets & (kBuckets - 1)) == 0, "an index is a mask");
    struct Buckets : Block {
        Record* first[kBuckets];
    };

    List<Record, &Record::by_key> records;

    void open(Buckets* buckets) { buckets_ = buckets; }
    [[nodiscard]] Buckets* buckets() { return buckets_; }

    [[nodiscard]] Record* find(uint32_t pid) const;
    [[nodiscard]] uint32_t size() const { return size_; }

    // Appends the record in key order. `findable`: find returns it for its pid, which must have no other record.
    void insert(Record* record, bool findable);
    // Makes the pid free for another record; this one stays in key order.
    void retire(Record* record);
    // Removes a retired record.
    void erase(Record* record);

    // The first record with a start key above `after_key`. Fast when `after_key` is where the last search ended.
    [[nodiscard]] Record* after(uint64_t after_key);
    void remember(Record* record) { cursor_ = record; }

   private:
    [[nodiscard]] Record** bucket(uint32_t pid) const { return &buckets_->first[pid / 4 & (kBuckets - 1)]; }

    Buckets* buckets_;
    Record* cursor_;  // where paging stopped
    uint32_t size_;
};

}  // namespace procmon
