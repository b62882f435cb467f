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
// is stopping; after QUIESCE: every request but INFO, LIST and QUIESCE). "Controller only" adds INVALID_DEVICE_STATE:
// this handle has not registered an event.

// INFO     in: -                 out: Info           any handle
constexpr uint32_t kInfo = request_code(0x800, kAccessRead);
// REGISTER in: RegisterRequest   out: -              any handle; the caller's handle becomes the controller
//   SHARING_VIOLATION another controller is registered; REVISION_MISMATCH wrong major version;
//   INVALID_PARAMETER unknown flag or verdict; INVALID_HANDLE / OBJECT_TYPE_MISMATCH the event is not an event.
//   A second REGISTER from the same handle replaces the event and the options. Held processes stay held.
constexpr uint32_t kRegister = request_code(0x801, kAccessBoth);
// FETCH    in: -                 out: RecordsHeader + records   controller only; marks the records it returns as seen
constexpr uint32_t kFetch = request_code(0x802, kAccessRead);
// LIST     in: ListRequest       out: RecordsHeader + records   any handle; marks nothing
constexpr uint32_t kList = request_code(0x803, kAccessRead);
// ALLOW    in: Target[n]         out: uint32 result[n]          controller only
constexpr uint32_t kAllow = request_code(0x804, kAccessBoth);
// BLOCK    in: Target[n]         out: uint32 result[n]          controller only
constexpr uint32_t kBlock = request_code(0x805, kAccessBoth);
// RESET    in: -                 out: -              controller only; restores the state after load: held processes
//   get the disconnect verdict; the event, the rules, the seen marks and the counters are dropped.
constexpr uint32_t kReset = request_code(0x806, kAccessBoth);
// SET_RULES in: RulesHeader + rules   out: RulesReply + uint32 index[listed]   controller only; replaces all rules
//   atomically, or none. The reply lists the rules that can never act.
//   INVALID_PARAMETER malformed; INSUFFICIENT_RESOURCES no memory (the old rules stay).
constexpr uint32_t kSetRules = request_code(0x807, kAccessBoth);
// QUIESCE  in: -                 out: -              any handle; the first half of a stop. Held processes get the
//   disconnect verdict, the controller is dropped and its event is set. No hold and no REGISTER until the driver is
//   loaded again. Idempotent.
constexpr uint32_t kQuiesce = request_code(0x808, kAccessBoth);

// Only in the Wine test build: Wine's kernel sends no process notifications, so a helper sends them as requests.
// NOTE_CREATED in: NoteCreated + command line   out: uint32 1 = the creation is refused, 0 = it proceeds
constexpr uint32_t kNoteCreated = request_code(0x900, kAccessBoth);
// NOTE_IMAGE   in: NoteImage + native name      out: NoteVerdict; pending while the process is held
constexpr uint32_t kNoteImage = request_code(0x901, kAccessBoth);
// NOTE_EXITED  in: NoteExited                   out: -
constexpr uint32_t kNoteExited = request_code(0x902, kAccessBoth);

// ------------------------------------------------------------------------------------------------------ values

constexpr uint32_t kVerdictNone = 0;
constexpr uint32_t kVerdictAllow = 1;
constexpr uint32_t kVerdictBlock = 2;

// The decider.
constexpr uint32_t kByNone = 0;        // not decided
constexpr uint32_t kByController = 1;  // ALLOW or BLOCK
constexpr uint32_t kByRule = 2;        // SET_RULES
constexpr uint32_t kByTimeout = 3;     // the hold timeout passed
constexpr uint32_t kByDisconnect = 4;  // the controller exited, closed its handle, or sent RESET
constexpr uint32_t kByStop = 5;        // the driver was stopped, or QUIESCE was sent
constexpr uint32_t kByExempt = 6;      // never held: needed by Windows, protected, the controller or its descendant
constexpr uint32_t kByLimit = 7;       // the process table was full or memory ran out: RegisterRequest::limit_verdict
constexpr uint32_t kByNoController = 8;      // no controller was registered
constexpr uint32_t kByTamper = 9;      // another process created a thread in it before it ran: tamper_verdict
constexpr uint32_t kByPico = 10;       // a WSL 1 process, which cannot be held: pico_verdict

// States of a record. docs/design.md has the table of transitions.
constexpr uint32_t kStateNew = 1;       // created, its image not yet mapped
constexpr uint32_t kStateNamed = 2;     // image known, not held: exempt, allowed by a rule or a limit, or no controller
constexpr uint32_t kStateHeld = 3;      // waits for a verdict
constexpr uint32_t kStateAnswered = 4;  // blocked, about to be terminated; its thread still waits
constexpr uint32_t kStateReleased = 5;  // was held; runs now (or dies, if it was blocked)
constexpr uint32_t kStateExiting = 6;   // exited; the record is kept until it has been fetched

constexpr uint32_t kFlagRunningBefore = 0x1;         // was running before the load or the registration
constexpr uint32_t kFlagNameMissing = 0x2;           // the system gave no image name, or memory ran out for it
constexpr uint32_t kFlagNameNative = 0x4;            // no drive letter is known: image_name is the native name
constexpr uint32_t kFlagSeen = 0x8;                  // an earlier FETCH of this controller returned it, held if it is
constexpr uint32_t kFlagExempt = 0x10;               // on the list of processes that are never held
constexpr uint32_t kFlagControllerDescendant = 0x20; // started by the controller, directly or not
constexpr uint32_t kFlagCommandLineTruncated = 0x40; // longer than kMaxCommandLineBytes, or no memory or room for it
constexpr uint32_t kFlagCreateMissed = 0x80;         // its image was notified, but not its creation
constexpr uint32_t kFlagNeverStarted = 0x100;        // the creation was refused: it never ran
constexpr uint32_t kFlagForeignThread = 0x200;       // another process created a thread in it before it ran
constexpr uint32_t kFlagParentClaimed = 0x400;       // the parent is not the creator
constexpr uint32_t kFlagTerminateFailed = 0x800;     // blocked, and could not be terminated yet: it stays held
constexpr uint32_t kFlagTampered = 0x1000;           // set by the library alone: its memory differs from its image
constexpr uint32_t kFlagWriteOpen = 0x2000;          // its file was open for writing when it was created
constexpr uint32_t kFlagDeletePending = 0x4000;      // its file was about to be deleted
constexpr uint32_t kFlagTransacted = 0x8000;         // its file was opened in a transaction
constexpr uint32_t kFlagNameChanged = 0x10000;       // the name at creation (creation_name) differs
constexpr uint32_t kFlagPico = 0x20000;              // of a subsystem (WSL 1): it has no image and is never held

// Results of ALLOW and BLOCK, one for each target.
constexpr uint32_t kResultDone = 0;
constexpr uint32_t kResultUnknown = 1;   // no such pid
constexpr uint32_t kResultStale = 2;     // the pid now belongs to another process
constexpr uint32_t kResultAnswered = 3;  // it already has its verdict
constexpr uint32_t kResultNotHeld = 4;   // it runs already, or is not held yet

// RegisterRequest::flags
constexpr uint32_t kExemptDescendants = 0x1;  // never hold descendants of the controller, at any depth
constexpr uint32_t kReportExits = 0x2;        // FETCH returns a record again when its process has exited
constexpr uint32_t kRegisterFlags = 0x3;

// Info::features
constexpr uint32_t kFeatureCreateEx = 0x1;  // PsSetCreateProcessNotifyRoutineEx is registered: rules refuse creation
constexpr uint32_t kFeatureNoteRequests = 0x2;  // the Wine test build
constexpr uint32_t kFeatureDebugBuild = 0x4;
constexpr uint32_t kFeatureThreadHold = 0x8;     // an extra thread of a held process is held, too (Windows 10)
constexpr uint32_t kFeatureThreadNotify = 0x10;  // older kernels: it is only noticed, and tamper_verdict decides
constexpr uint32_t kFeatureSubsystems = 0x20;    // processes of WSL 1 are listed, and pico_verdict decides
constexpr uint32_t kFeatureSignatureLevel = 0x40;

constexpr uint32_t kStatusBlocked = 0xC0000364;  // STATUS_ACCESS_DISABLED_BY_POLICY_OTHER: of a blocked process
constexpr uint32_t kStatusUnknown = 0x103;       // RecordHeader::exit_status: it runs, or its status is not known

constexpr uint32_t kNoTimeout = 0;                   // RegisterRequest::hold_timeout_ms: hold for ever
constexpr uint32_t kUnlimited = 0xFFFFFFFF;          // RecordHeader::hold_left_ms: no timeout
constexpr uint32_t kUnknownLevel = 0xFFFFFFFF;       // RecordHeader::signature_level: the kernel does not report it
constexpr uint32_t kMaxRecords = 131072;             // records of processes at any one time
constexpr uint32_t kMaxTextBytes = 64 * 1024 * 1024; // names and command lines of all records
constexpr uint32_t kReserveRecords = 256;            // preallocated for when memory runs out
constexpr uint32_t kReserveNameUnits = 1024;         // for each of the two names of a reserve record
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
    uint32_t limit_verdict;       // the same: for a process that cannot be recorded or named (no room, no memory)
    uint32_t tamper_verdict;      // kVerdictBlock, or kVerdictAllow: a foreign thread is only flagged
    uint32_t pico_verdict;        // kVerdictAllow or kVerdictBlock: the creation of WSL 1 processes
};
static_assert(sizeof(RegisterRequest) == 40);
static_assert(offsetof(RegisterRequest, event) == 8);
static_assert(offsetof(RegisterRequest, disconnect_verdict) == 24);

struct ListRequest {
    uint64_t after_key;  // 0 = from the start, else next_key of the previous reply
};
static_assert(sizeof(ListRequest) == 8);

// The start of a reply to FETCH and LIST. Records that do not fit are left for the next request.
struct RecordsHeader {
    uint32_t count;         // records that follow
    uint32_t needed_bytes;  // size of the first record that did not fit; 0 = all fitted
    uint64_t next_key;      // LIST: after_key of the next request; 0 = no more records. FETCH: 0
};
static_assert(sizeof(RecordsHeader) == 16);

// One process. Four texts follow: image name, native name, command line, creation name; then zeros up to a multiple of
// 8.
struct RecordHeader {
    uint32_t size;                // of the whole record, with texts and padding
    uint32_t pid;
    uint64_t start_key;           // assigned by the driver, ascending, never 0; pid and start_key identify a process
    int64_t created;              // 100 ns since 1601-01-01 UTC; 0 = not known
    uint32_t parent_pid;
    uint32_t creator_pid;         // the process that created it; 0 = not known
    uint32_t creator_tid;         // 0 = not known
    uint32_t state;
    uint32_t flags;
    uint32_t verdict;
    uint32_t decided_by;
    uint32_t exit_status;
    uint32_t held_ms;             // time held so far, or in total
    uint32_t hold_left_ms;        // until the timeout verdict; kUnlimited = no timeout; 0 = not held
    uint32_t image_name_bytes;    // DOS path, lowercase
    uint32_t native_name_bytes;   // \Device\... as the system gave it
    uint32_t command_line_bytes;  // 0 = not known
    uint32_t creation_name_bytes; // native name at creation, where it differs from native_name; else 0
    uint32_t signature_level;     // SE_SIGNING_LEVEL_...; kUnknownLevel = not reported
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
    uint32_t size;        // of the whole rule
    uint32_t verdict;     // kVerdictAllow or kVerdictBlock
    uint32_t path_bytes;  // native or DOS path, lowercase
    uint32_t reserved;
};
static_assert(sizeof(RuleHeader) == 16);

// The reply to SET_RULES. A rule can never act when the program of its path is exempt whatever its creator, or when an
// earlier rule has the same path.
struct RulesReply {
    uint32_t count;   // of rules that can never act
    uint32_t listed;  // indices that follow, ascending; as many as fit into the buffer
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
    uint64_t disconnects;           // held processes that got the disconnect verdict because the controller went
    uint64_t rule_allowed;
    uint64_t rule_blocked;
    uint64_t exempt;
    uint64_t missing_name;
    uint64_t image_without_create;
    uint64_t exit_without_create;
    uint64_t pid_reused;            // created again without an exit in between
    uint64_t allocation_failures;
    uint64_t table_full;
    uint64_t unknown_verdicts;
    uint64_t stale_verdicts;
    uint64_t late_verdicts;         // already answered, or not held
    uint64_t terminate_failures;    // attempts to terminate a blocked process that failed
    uint64_t exits_lost;            // exit records dropped, unfetched, to make room
    uint64_t died_held;             // ended by another process while held, or just before
    uint64_t limit_allowed;         // not held, because memory or room ran out
    uint64_t limit_blocked;         // refused or terminated for the same reason
    uint64_t reserve_used;          // records that came from the reserve
    uint64_t foreign_threads;       // threads that another process created in a process before it ran
    uint64_t critical_refused;      // attempts to terminate not made: the end of a critical process is a bugcheck
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
    uint64_t memory_bytes;     // allocated by the core now
    uint32_t hold_timeout_ms;  // this and the verdicts: the controller's options; 0 = no controller
    uint32_t timeout_verdict;
    uint32_t disconnect_verdict;
    uint32_t limit_verdict;
    uint32_t tamper_verdict;
    uint32_t pico_verdict;
    uint32_t register_flags;  // kExemptDescendants, kReportExits
    uint32_t quiesced;        // 1 = QUIESCE was sent: nothing is held until the driver is loaded again
    uint32_t text_bytes;      // names and command lines; a part of memory_bytes
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
    uint32_t verdict;      // kVerdictBlock: on NT the process would be terminated by now
    uint32_t exit_status;  // kStatusBlocked with it, else 0
};
static_assert(sizeof(NoteVerdict) == 8);

struct NoteExited {
    uint32_t pid;
    uint32_t exit_status;
};
static_assert(sizeof(NoteExited) == 8);

}  // namespace procmon::wire
