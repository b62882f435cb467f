// protocol.h - the bytes between a controller (user mode) and the driver.
//
// The definition for both sides: src/procmon/driver/protocol.py mirrors it, and tests/core/test_protocol.py compares
// the two, constant by constant and offset by offset. docs/protocol.md explains it in prose.
//
// Everything is little endian, fixed width and naturally aligned; there is no pointer, bit-field, enum or
// architecture-dependent size, so a 32-bit controller and a 64-bit kernel speak the same bytes. Every request is
// METHOD_BUFFERED. Texts are UTF-16 without a terminator, their lengths in bytes. Reserved fields are zero.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace procmon::wire {

// Major changes break the other side and are refused at REGISTER; minor changes only add.
constexpr uint32_t kVersionMajor = 2;
constexpr uint32_t kVersionMinor = 0;
constexpr uint32_t kVersion = kVersionMajor << 16 | kVersionMinor;

constexpr uint32_t kDeviceType = 0x8350;  // 0x8000 and above are free for vendors
constexpr uint32_t kAccessRead = 1;       // FILE_READ_ACCESS
constexpr uint32_t kAccessWrite = 2;      // FILE_WRITE_ACCESS
constexpr uint32_t kAccessBoth = 3;

constexpr uint32_t request_code(uint32_t function, uint32_t access) {
    return kDeviceType << 16 | access << 14 | function << 2;  // CTL_CODE, METHOD_BUFFERED = 0
}

// ---------------------------------------------------------------------------------------------------- requests
//
// Errors common to all: INVALID_DEVICE_REQUEST (no such code), INFO_LENGTH_MISMATCH (input shorter than the
// request needs), BUFFER_TOO_SMALL (output shorter than the fixed part of the reply), DEVICE_NOT_READY (the driver
// stops; after QUIESCE: every request but INFO, LIST and QUIESCE). "Controller only" adds INVALID_DEVICE_STATE: this
// handle has not registered an event.

// INFO     in: -                 out: Info           any handle
constexpr uint32_t kInfo = request_code(0x800, kAccessRead);
// REGISTER in: RegisterRequest   out: -              any handle; the caller's handle becomes the controller
//   SHARING_VIOLATION another controller is registered; REVISION_MISMATCH wrong major version;
//   INVALID_PARAMETER unknown flag or verdict; INVALID_HANDLE / OBJECT_TYPE_MISMATCH the event is not an event.
//   Again from the same handle: the new event and options replace the old ones, and nothing that is held is released.
constexpr uint32_t kRegister = request_code(0x801, kAccessBoth);
// FETCH    in: -                 out: RecordsHeader + records   controller only; marks what it gives as seen
constexpr uint32_t kFetch = request_code(0x802, kAccessRead);
// LIST     in: ListRequest       out: RecordsHeader + records   any handle; marks nothing
constexpr uint32_t kList = request_code(0x803, kAccessRead);
// ALLOW    in: Target[n]         out: uint32 result[n]          controller only
constexpr uint32_t kAllow = request_code(0x804, kAccessBoth);
// BLOCK    in: Target[n]         out: uint32 result[n]          controller only
constexpr uint32_t kBlock = request_code(0x805, kAccessBoth);
// RESET    in: -                 out: -              controller only; back to the state after load: what is held
//   gets the disconnect verdict, the event, the rules, the seen marks and the counters are dropped.
constexpr uint32_t kReset = request_code(0x806, kAccessBoth);
// SET_RULES in: RulesHeader + rules   out: RulesReply + uint32 index[listed]   controller only; replaces all rules at
//   once, or none of them. The reply names the rules that can never act.
//   INVALID_PARAMETER malformed; INSUFFICIENT_RESOURCES no memory (the old rules stay).
constexpr uint32_t kSetRules = request_code(0x807, kAccessBoth);
// QUIESCE  in: -                 out: -              any handle; the first half of a stop. What is held gets the
//   disconnect verdict, the controller is dropped and its event set; no new hold, no new controller until the driver is
//   loaded again. A second QUIESCE succeeds and changes nothing.
constexpr uint32_t kQuiesce = request_code(0x808, kAccessBoth);

// Only in the Wine test build, whose kernel gives no process notifications: they are put in by request.
// NOTE_CREATED in: NoteCreated + command line   out: uint32 1 = the creation is refused by a rule, 0 = it goes on
constexpr uint32_t kNoteCreated = request_code(0x900, kAccessBoth);
// NOTE_IMAGE   in: NoteImage + native name      out: NoteVerdict; pended for as long as the process is held
constexpr uint32_t kNoteImage = request_code(0x901, kAccessBoth);
// NOTE_EXITED  in: NoteExited                   out: -
constexpr uint32_t kNoteExited = request_code(0x902, kAccessBoth);

// ------------------------------------------------------------------------------------------------------ values

constexpr uint32_t kVerdictNone = 0;
constexpr uint32_t kVerdictAllow = 1;
constexpr uint32_t kVerdictBlock = 2;

// Who decided.
constexpr uint32_t kByNone = 0;        // not decided
constexpr uint32_t kByController = 1;  // ALLOW or BLOCK
constexpr uint32_t kByRule = 2;        // SET_RULES
constexpr uint32_t kByTimeout = 3;     // the hold timeout passed
constexpr uint32_t kByDisconnect = 4;  // the controller went away, or sent RESET
constexpr uint32_t kByStop = 5;        // the driver was stopped, or QUIESCE was sent
constexpr uint32_t kByExempt = 6;      // never held: needed by Windows, protected, the controller or its descendant
constexpr uint32_t kByLimit = 7;       // the process table was full or memory ran out: RegisterRequest::limit_verdict
constexpr uint32_t kByNoController = 8;      // no controller was registered
constexpr uint32_t kByTamper = 9;      // a foreign thread was put into it before it ran: tamper_verdict
constexpr uint32_t kByPico = 10;       // a WSL 1 process, which cannot be held: pico_verdict

// States of a record. docs/design.md has the table of transitions.
constexpr uint32_t kStateNew = 1;       // created, its image not yet mapped
constexpr uint32_t kStateNamed = 2;     // image known, never held (exempt, ruled on, or no controller)
constexpr uint32_t kStateHeld = 3;      // waits for a verdict
constexpr uint32_t kStateAnswered = 4;  // blocked, about to be terminated; its thread still waits
constexpr uint32_t kStateReleased = 5;  // was held, and goes on (or dies, if it was blocked)
constexpr uint32_t kStateExiting = 6;   // gone; the record lives until it has been fetched

constexpr uint32_t kFlagRunningBefore = 0x1;         // was running before the driver or the controller came
constexpr uint32_t kFlagNameMissing = 0x2;           // the system gave no image name
constexpr uint32_t kFlagNameNative = 0x4;            // no drive letter is known: image_name is the native name
constexpr uint32_t kFlagSeen = 0x8;                  // an earlier FETCH has given this record
constexpr uint32_t kFlagExempt = 0x10;               // on the list of processes that are never held
constexpr uint32_t kFlagControllerDescendant = 0x20; // started by the controller, directly or not
constexpr uint32_t kFlagCommandLineTruncated = 0x40; // longer than kMaxCommandLineBytes
constexpr uint32_t kFlagCreateMissed = 0x80;         // its image was seen without its creation
constexpr uint32_t kFlagNeverStarted = 0x100;        // the creation was refused: no process came to be
constexpr uint32_t kFlagForeignThread = 0x200;       // another process put a thread into it before it ran
constexpr uint32_t kFlagParentClaimed = 0x400;       // the parent is not the creator
constexpr uint32_t kFlagTerminateFailed = 0x800;     // blocked, and could not be terminated yet: it stays held
constexpr uint32_t kFlagTampered = 0x1000;           // set by the library alone: its memory differs from its image
constexpr uint32_t kFlagWriteOpen = 0x2000;          // its file was open for writing when it was created
constexpr uint32_t kFlagDeletePending = 0x4000;      // its file was about to be deleted
constexpr uint32_t kFlagTransacted = 0x8000;         // its file was opened in a transaction
constexpr uint32_t kFlagNameChanged = 0x10000;       // the name at creation (creation_name) was another
constexpr uint32_t kFlagPico = 0x20000;              // of a subsystem (WSL 1): it has no image and is never held

// Results of ALLOW and BLOCK, one for each target.
constexpr uint32_t kResultDone = 0;
constexpr uint32_t kResultUnknown = 1;   // no such pid
constexpr uint32_t kResultStale = 2;     // the pid now belongs to another process
constexpr uint32_t kResultAnswered = 3;  // it had its verdict before
constexpr uint32_t kResultNotHeld = 4;   // it runs, or has not got as far as being held

// RegisterRequest::flags
constexpr uint32_t kExemptDescendants = 0x1;  // never hold what the controller starts, at any depth
constexpr uint32_t kReportExits = 0x2;        // FETCH gives a record once more when its process has exited
constexpr uint32_t kRegisterFlags = 0x3;

// Info::features
constexpr uint32_t kFeatureCreateEx = 0x1;  // PsSetCreateProcessNotifyRoutineEx is registered: rules refuse creation
constexpr uint32_t kFeatureNoteRequests = 0x2;  // the Wine test build
constexpr uint32_t kFeatureDebugBuild = 0x4;
constexpr uint32_t kFeatureThreadHold = 0x8;     // an extra thread of a held process is held, too (Windows 10)
constexpr uint32_t kFeatureThreadNotify = 0x10;  // such a thread is noticed, and tamper_verdict decides (older)
constexpr uint32_t kFeatureSubsystems = 0x20;    // processes of WSL 1 are listed, and pico_verdict decides
constexpr uint32_t kFeatureSignatureLevel = 0x40;

constexpr uint32_t kStatusBlocked = 0xC0000364;  // STATUS_ACCESS_DISABLED_BY_POLICY_OTHER: the exit of the blocked
constexpr uint32_t kStatusUnknown = 0x103;       // RecordHeader::exit_status while it runs or when it is not known

constexpr uint32_t kNoTimeout = 0;                   // RegisterRequest::hold_timeout_ms: hold for ever
constexpr uint32_t kUnlimited = 0xFFFFFFFF;          // RecordHeader::hold_left_ms: no timeout
constexpr uint32_t kUnknownLevel = 0xFFFFFFFF;       // RecordHeader::signature_level: the kernel does not tell
constexpr uint32_t kMaxRecords = 131072;             // records of processes, at any time
constexpr uint32_t kMaxTextBytes = 64 * 1024 * 1024; // of all their names and command lines
constexpr uint32_t kReserveRecords = 256;            // set aside for when memory has run out
constexpr uint32_t kReserveNameUnits = 1024;         // of each of the two names of such a record
constexpr uint32_t kMaxNameBytes = 65534;            // of a UNICODE_STRING
constexpr uint32_t kMaxCommandLineBytes = 8192;      // longer ones are cut, and flagged
constexpr uint32_t kMaxTargets = 4096;               // in one ALLOW or BLOCK
constexpr uint32_t kMaxRules = 65536;                // in one SET_RULES
constexpr uint32_t kMaxRulesBytes = 16 * 1024 * 1024;

// ----------------------------------------------------------------------------------------------------- structs

struct RegisterRequest {
    uint32_t version;             // kVersion of the controller
    uint32_t flags;
    uint64_t event;               // handle of an event, in the caller's process
    uint32_t hold_timeout_ms;     // kNoTimeout = for ever
    uint32_t timeout_verdict;     // kVerdictAllow or kVerdictBlock
    uint32_t disconnect_verdict;  // kVerdictAllow or kVerdictBlock
    uint32_t limit_verdict;       // the same: for what cannot be recorded or named for want of memory
    uint32_t tamper_verdict;      // kVerdictBlock, or kVerdictAllow: a foreign thread is only marked
    uint32_t pico_verdict;        // kVerdictAllow or kVerdictBlock: the creation of WSL 1 processes
};
static_assert(sizeof(RegisterRequest) == 40);
static_assert(offsetof(RegisterRequest, event) == 8);
static_assert(offsetof(RegisterRequest, disconnect_verdict) == 24);

struct ListRequest {
    uint64_t after_key;  // 0 = from the start, else the next_key of the reply before
};
static_assert(sizeof(ListRequest) == 8);

// Heads the reply of FETCH and LIST. Records that do not fit stay for the next request.
struct RecordsHeader {
    uint32_t count;         // records that follow
    uint32_t needed_bytes;  // size of the first record that did not fit; 0 = there was none
    uint64_t next_key;      // LIST: give this as after_key to go on; 0 = this was the end. FETCH: 0
};
static_assert(sizeof(RecordsHeader) == 16);

// One process. Four texts follow: image name, native name, command line, creation name; then zeros up to a multiple of
// 8.
struct RecordHeader {
    uint32_t size;                // of all of it, texts and padding too
    uint32_t pid;
    uint64_t start_key;           // given out by the driver, ascending, never 0: with pid the identity of a process
    int64_t created;              // 100 ns since 1601-01-01 UTC; 0 = not known
    uint32_t parent_pid;
    uint32_t creator_pid;         // who called the system; 0 = not known
    uint32_t creator_tid;         // 0 = not known
    uint32_t state;
    uint32_t flags;
    uint32_t verdict;
    uint32_t decided_by;
    uint32_t exit_status;
    uint32_t held_ms;             // how long it has been, or was, held
    uint32_t hold_left_ms;        // until the timeout verdict; kUnlimited = no timeout; 0 = not held
    uint32_t image_name_bytes;    // DOS path, lowercase
    uint32_t native_name_bytes;   // \Device\... as the system gave it
    uint32_t command_line_bytes;  // 0 = not known
    uint32_t creation_name_bytes; // native name at creation, where it differs from native_name; else 0
    uint32_t signature_level;     // SE_SIGNING_LEVEL_...; kUnknownLevel = the kernel does not tell
    uint32_t reserved;
    int64_t exited;               // 100 ns since 1601-01-01 UTC; 0 = it runs, or never started
};
static_assert(sizeof(RecordHeader) == 96);
static_assert(offsetof(RecordHeader, created) == 16);
static_assert(offsetof(RecordHeader, flags) == 40);
static_assert(offsetof(RecordHeader, image_name_bytes) == 64);

struct Target {
    uint32_t pid;
    uint32_t reserved;
    uint64_t start_key;
};
static_assert(sizeof(Target) == 16);

struct RulesHeader {
    uint32_t count;
    uint32_t reserved;
};
static_assert(sizeof(RulesHeader) == 8);

// One exact-path rule; the path follows, then zeros up to a multiple of 8. Of two rules for one path the first wins.
struct RuleHeader {
    uint32_t size;        // of all of it
    uint32_t verdict;     // kVerdictAllow or kVerdictBlock
    uint32_t path_bytes;  // native or DOS path, lowercase
    uint32_t reserved;
};
static_assert(sizeof(RuleHeader) == 16);

// The reply of SET_RULES. A rule can never act when its path is one that is never held whatever created it, or when an
// earlier rule has the same path.
struct RulesReply {
    uint32_t count;   // of rules that can never act
    uint32_t listed;  // indices that follow, ascending: all of them, or as many as the buffer has room for
};
static_assert(sizeof(RulesReply) == 8);

// Counters since load or RESET.
struct Counters {
    uint64_t created;
    uint64_t exited;
    uint64_t held;
    uint64_t allowed;               // by the controller
    uint64_t blocked;               // by the controller
    uint64_t timeouts;
    uint64_t disconnects;           // held processes that were released because the controller went
    uint64_t rule_allowed;
    uint64_t rule_blocked;
    uint64_t exempt;
    uint64_t missing_name;
    uint64_t image_without_create;
    uint64_t exit_without_create;
    uint64_t pid_reused;            // created again without an exit between
    uint64_t allocation_failures;
    uint64_t table_full;
    uint64_t unknown_verdicts;
    uint64_t stale_verdicts;
    uint64_t late_verdicts;         // already answered, or not held
    uint64_t terminate_failures;    // attempts to terminate a blocked process that failed
    uint64_t exits_lost;            // exit records dropped, unfetched, to make room
    uint64_t died_held;             // ended by others while they were held, or just before
    uint64_t limit_allowed;         // let run without a question, for want of memory or room
    uint64_t limit_blocked;         // refused or terminated for the same reason
    uint64_t reserve_used;          // records that came from the reserve
    uint64_t foreign_threads;       // threads that others put into a process before it ran
    uint64_t critical_refused;      // attempts to terminate that were not made: its end would be the machine's
    uint64_t pico_blocked;          // creations of WSL 1 processes that were refused
    uint64_t reserved[4];
};
static_assert(sizeof(Counters) == 32 * 8);

struct Info {
    uint32_t size;             // of this struct
    uint32_t version;          // kVersion of the driver
    uint32_t features;
    uint32_t controller_pid;   // 0 = none is registered
    uint32_t record_count;
    uint32_t record_limit;
    uint32_t held_count;
    uint32_t rule_count;
    uint64_t memory_bytes;     // held by the core at this moment
    uint32_t hold_timeout_ms;  // this and the verdicts: the controller's, 0 where there is none
    uint32_t timeout_verdict;
    uint32_t disconnect_verdict;
    uint32_t limit_verdict;
    uint32_t tamper_verdict;
    uint32_t pico_verdict;
    uint32_t register_flags;  // kExemptDescendants, kReportExits
    uint32_t quiesced;        // 1 = QUIESCE was sent: nothing is held until the driver is loaded again
    uint32_t text_bytes;      // of names and command lines, of memory_bytes
    uint32_t text_limit;      // kMaxTextBytes
    Counters counters;
};
static_assert(sizeof(Info) == 80 + sizeof(Counters));
static_assert(offsetof(Info, memory_bytes) == 32);

struct NoteCreated {
    uint32_t pid;
    uint32_t parent_pid;
    uint32_t creator_pid;
    uint32_t creator_tid;
    int64_t created;
    uint32_t command_line_bytes;
    uint32_t native_name_bytes;  // follows the command line; 0 = not known: then no rule can refuse the creation
};
static_assert(sizeof(NoteCreated) == 32);

struct NoteImage {
    uint32_t pid;
    uint32_t native_name_bytes;
};
static_assert(sizeof(NoteImage) == 8);

struct NoteVerdict {
    uint32_t verdict;      // kVerdictBlock: the kernel would have terminated it by now
    uint32_t exit_status;  // kStatusBlocked with it, else 0
};
static_assert(sizeof(NoteVerdict) == 8);

struct NoteExited {
    uint32_t pid;
    uint32_t exit_status;
};
static_assert(sizeof(NoteExited) == 8);

}  // namespace procmon::wire
