// gate.h - all of the driver's logic: the record of each process, which processes are held, and how each is decided.
//
// The system's side (wdm/ or host/) passes in notifications and requests, waits on each Hold, and terminates the
// processes that next_to_terminate names. Thread-safe: every member may be called from any thread at PASSIVE_LEVEL or
// APC_LEVEL, with no lock of the core held. Each acquires the gate's one lock for a short, bounded time and waits for
// nothing else.
#pragma once

#include "../protocol.h"
#include "port.h"

namespace procmon {

using Status = uint32_t;  // an NTSTATUS
constexpr Status kSuccess = 0;
constexpr Status kInfoLengthMismatch = 0xC0000004;
constexpr Status kInvalidHandle = 0xC0000008;
constexpr Status kInvalidParameter = 0xC000000D;
constexpr Status kInvalidDeviceRequest = 0xC0000010;
constexpr Status kBufferTooSmall = 0xC0000023;
constexpr Status kSharingViolation = 0xC0000043;
constexpr Status kRevisionMismatch = 0xC0000059;
constexpr Status kInsufficientResources = 0xC000009A;
constexpr Status kDeviceNotReady = 0xC00000A3;
constexpr Status kInvalidDeviceState = 0xC0000184;

// UTF-16, not terminated. The callee copies what it keeps.
struct Text {
    const char16_t* data = nullptr;
    size_t length = 0;  // in code units
};

// A new process, from the creation notification, in the creator's context. That callback must not wait.
struct Creation {
    uint32_t pid = 0;
    uint32_t parent_pid = 0;
    uint32_t creator_pid = 0;
    uint32_t creator_tid = 0;
    int64_t created = 0;     // FILETIME; 0 = take the port's clock
    Text native_name;        // where the system keeps it: Windows Vista and later
    Text command_line;       // only where PsSetCreateProcessNotifyRoutineEx gives it
    uint32_t file_flags = 0; // kFlagWriteOpen, kFlagDeletePending, kFlagTransacted: the state of its file
    uint32_t signature_level = wire::kUnknownLevel;
    bool running = false;    // from the initial list: it was running before the driver was loaded
    bool refusable = false;  // the caller can still refuse the creation
    bool pico = false;       // a process of a subsystem, without an image: it cannot be held, only refused
};

// A mapped image of a process, from the image notification, in the new process' own thread.
struct Image {
    uint32_t pid = 0;
    Text native_name;               // empty = the system gave none
    Text mapped_name;               // the mapped file's current name, where `native_name` is the name at creation
    bool own = false;               // this image is known to be the process' EXE: the process has not run yet
    bool protected_process = false;
    bool dying = false;             // the thread is terminating: it will run no instruction of the program
};

// A wait in progress, on the stack of the held thread. After begin_hold or begin_thread has returned true, the thread
// waits on `signal` for at most `slice_ms` and calls still_held, in a loop until still_held returns false. Then it
// calls end_hold.
constexpr uint32_t kShortSliceMs = 250;
constexpr uint32_t kLongSliceMs = 1000;  // after kShortSlicesMs: many long holds must not keep the CPU awake
constexpr uint32_t kShortSlicesMs = 5000;
struct Hold {
    SignalStorage signal;
    uint32_t slice_ms = kShortSliceMs;  // updated by begin_hold and still_held: shorter when the timeout is near
    void* record = nullptr;             // this and the members below belong to the core
    Hold* next = nullptr;               // of the same record
    bool leaves = false;                // only this thread leaves: others of its process stay held
    alignas(16) unsigned char own_record[288];  // for a process that must die, when there is no memory for its record
};

// A process that must die before its hold ends. The held thread cannot leave before terminated(), so the pid cannot be
// reused while the worker terminates the process.
struct ToTerminate {
    uint32_t pid = 0;
    uint64_t start_key = 0;
};

// The result of an attempt to terminate.
enum class Outcome : uint32_t {
    kFailed = 0,
    kDied = 1,
    kCritical = 2,  // not attempted: the end of a critical process is a bugcheck
};

// The sender of a request: the open handle (its file object's address, never 0) and its process. The system has checked
// the handle's access against the access bits of the request code.
struct Caller {
    uint64_t owner = 0;
    uint32_t pid = 0;
};

struct GateState;  // state.h

class Gate {
   public:
    Gate() = default;
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

    // Allocates; on failure nothing is left behind. `features` are kFeature... bits for INFO. PASSIVE_LEVEL.
    [[nodiscard]] Status start(const Port& port, uint32_t features);
    // Refuses new holds, ends every hold with ALLOW by kByStop, closes the event. A blocked process gets one last
    // attempt to terminate it before its thread leaves; if that fails it runs, because the driver goes away.
    // Idempotent. PASSIVE_LEVEL.
    void stop();
    // The QUIESCE request, for the system's side: at a shutdown of Windows. PASSIVE_LEVEL.
    void quiesce();
    // Frees everything. Only after stop(), when no notification can arrive and holds_in_flight() is 0. PASSIVE_LEVEL.
    void destroy();
    [[nodiscard]] uint32_t holds_in_flight() const;
    void set_features(uint32_t features);

    // The drive letters: pairs like {"\Device\HarddiskVolume2", 'c'}, added outside of callbacks. volumes_commit
    // replaces the old map atomically. `dos_path` is the path of System32, for the table in exempt.cpp.
    [[nodiscard]] Status volumes_begin();
    [[nodiscard]] Status volumes_add(Text native_prefix, char16_t drive);
    void volumes_commit();
    [[nodiscard]] Status set_system_directory(Text dos_path);

    // Notifications. on_create returns true when the creation is refused (only if it is refusable): by a rule, by the
    // limit verdict, or by the pico verdict.
    [[nodiscard]] bool on_create(const Creation& creation);
    void on_exit(uint32_t pid, uint32_t exit_status);
    // true: the thread must wait on hold->signal. false: it must not wait, and must not call end_hold.
    [[nodiscard]] bool begin_hold(Hold* hold, const Image& image);
    // The same for any thread of a process, in the thread's own context, before it runs: it waits if its process is
    // held, or must be held now. For kernels with such a notification (Windows 10). `image` has no names: before
    // begin_hold has shown the current one, no rule allows the process, and for a second no question is asked.
    [[nodiscard]] bool begin_thread(Hold* hold, const Image& image);
    // A new thread, in its creator's context: for older kernels, where the new thread cannot be made to wait.
    void on_thread(uint32_t pid);
    // Checks verdict, timeout, controller and stop again. false: call end_hold now. `dying`: another process has
    // terminated the thread. If no other thread of the process waits, the process gets no verdict any more, and the
    // worker terminates it.
    [[nodiscard]] bool still_held(Hold* hold, bool dying = false);
    // Returns the verdict: kVerdictAllow or kVerdictBlock. Afterwards the Hold may be destroyed.
    uint32_t end_hold(Hold* hold);

    // For the worker. next_to_terminate names one process to terminate, or returns false and sets *wait_ms to the time
    // until the next call (kUnlimited: until worker_wake). The worker must report each named process with terminated().
    // A process that did not die is named again: kQuickTries times after kQuickRetryMs, then every kRetryMs, until it
    // dies or the gate stops.
    [[nodiscard]] bool next_to_terminate(ToTerminate* to_terminate, uint32_t* wait_ms);
    void terminated(const ToTerminate& to_terminate, Outcome outcome);

    // One request. Both lengths are in bytes; `output` may be the same memory as `input` (METHOD_BUFFERED).
    // *written is the length of the reply, 0 on failure. PASSIVE_LEVEL, in the caller's context.
    [[nodiscard]] Status dispatch(const Caller& caller, uint32_t code, const void* input, size_t input_bytes,
                                  void* output, size_t output_bytes, size_t* written);
    // The handle was closed. If it was the controller's, all held processes get the disconnect verdict.
    void handle_closed(uint64_t owner);

   private:
    GateState* state_ = nullptr;
};

constexpr uint32_t kQuickTries = 20;
constexpr uint32_t kQuickRetryMs = 50;
constexpr uint32_t kRetryMs = 1000;

}  // namespace procmon
