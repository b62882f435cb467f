// gate.h - the whole of the driver's logic: what is known of each process, which one is held, and how it is decided.
//
// The system's side (wdm/ or host/) feeds notifications and requests in, waits where a Hold says so, and terminates
// what next_to_terminate names. Threads: every member may be called from any thread at PASSIVE_LEVEL or APC_LEVEL with
// no lock of the core held; each takes the gate's one lock for a short, bounded time and waits for nothing else.
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

// A process has come to be; from the creation notification, in the creator's context. Never wait there.
struct Creation {
    uint32_t pid = 0;
    uint32_t parent_pid = 0;
    uint32_t creator_pid = 0;
    uint32_t creator_tid = 0;
    int64_t created = 0;     // FILETIME; 0 = take the port's clock
    Text native_name;        // only where PsSetCreateProcessNotifyRoutineEx gives it
    Text command_line;       // the same
    uint32_t file_flags = 0; // kFlagWriteOpen, kFlagDeletePending, kFlagTransacted: what its file was like
    uint32_t signature_level = wire::kUnknownLevel;
    bool running = false;    // the initial list: it was there before us
    bool refusable = false;  // the caller can still refuse the creation
    bool pico = false;       // a process of a subsystem, without an image: it cannot be held, only refused
};

// An image of a process has been mapped; from the image notification, in the new process' own thread.
struct Image {
    uint32_t pid = 0;
    Text native_name;               // empty = the system gave none
    Text mapped_name;               // the name of the mapped file now, where `native_name` is the one of the creation
    bool own = false;               // the system shows that it is the EXE of the process: it has not run yet
    bool protected_process = false;
    bool dying = false;             // the thread has been told to end: it will run no instruction of the program
};

// A wait in progress. It lives on the stack of the thread that is held; between a begin_hold (or begin_thread) that
// answered true and end_hold the thread waits on `signal` for at most `slice_ms` and asks still_held, again and again.
constexpr uint32_t kShortSliceMs = 250;
constexpr uint32_t kLongSliceMs = 1000;  // after kShortSlicesMs: many deferred processes must not keep the CPU awake
constexpr uint32_t kShortSlicesMs = 5000;
struct Hold {
    SignalStorage signal;
    uint32_t slice_ms = kShortSliceMs;  // set anew by begin_hold and still_held: shorter when the timeout is near
    void* record = nullptr;             // the core's, and so is all that follows
    Hold* next = nullptr;               // of the same record
    bool leaves = false;                // this thread alone is over
    alignas(16) unsigned char own_record[288];  // for a process that must die and has no record for want of memory
};

// A process that must die before its hold ends. The held thread cannot leave before terminated(), so the pid is
// its own for as long as the worker works on it.
struct ToTerminate {
    uint32_t pid = 0;
    uint64_t start_key = 0;
};

// What has become of an attempt to terminate.
enum class Outcome : uint32_t {
    kFailed = 0,
    kDied = 1,
    kCritical = 2,  // not attempted: the end of that process would be the machine's
};

// Who sends a request: the open handle (its file object's address, never 0) and the process behind it. That the handle
// has the access which the request code asks for is the system's to check: the code itself says what it needs.
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
    // Refuses new holds, ends every hold with ALLOW by kByStop, closes the event. What is blocked is terminated once
    // more before its thread leaves; if that fails it runs: there is no later moment. Idempotent. PASSIVE_LEVEL.
    void stop();
    // The request QUIESCE, for the system's own use: at a shutdown of Windows. PASSIVE_LEVEL.
    void quiesce();
    // Frees everything. Only after stop(), when no notification can come and holds_in_flight() is 0. PASSIVE_LEVEL.
    void destroy();
    [[nodiscard]] uint32_t holds_in_flight() const;
    void set_features(uint32_t features);

    // The drive letters: pairs like {"\Device\HarddiskVolume2", 'c'}, built outside of callbacks (begin, add..., commit
    // replaces the old map at once). `system_directory` is the DOS path of System32, for the table in exempt.cpp.
    [[nodiscard]] Status volumes_begin();
    [[nodiscard]] Status volumes_add(Text native_prefix, char16_t drive);
    void volumes_commit();
    [[nodiscard]] Status set_system_directory(Text dos_path);

    // Notifications. on_create answers true when the creation is refused (only if it is refusable): by a rule, by the
    // limit verdict, or by the pico verdict.
    [[nodiscard]] bool on_create(const Creation& creation);
    void on_exit(uint32_t pid, uint32_t exit_status);
    // true: the thread must wait on hold->signal. false: nothing to wait for, and no end_hold.
    [[nodiscard]] bool begin_hold(Hold* hold, const Image& image);
    // The same for any thread of a process, in its own context, before it runs: it waits if its process is held, or is
    // about to be. For kernels that notify so (Windows 10). `image` without names: those of the creation count.
    [[nodiscard]] bool begin_thread(Hold* hold, const Image& image);
    // A thread came to be, in its creator's context: for older kernels, where it cannot be made to wait.
    void on_thread(uint32_t pid);
    // Looks again at verdict, timeout, controller and stop. false: end_hold now. `dying`: another process has ended the
    // thread meanwhile. If it is the last of its process, no question is asked any more, and the worker ends the rest.
    [[nodiscard]] bool still_held(Hold* hold, bool dying = false);
    // Answers the verdict of the hold: kVerdictAllow or kVerdictBlock. After this the Hold may go.
    uint32_t end_hold(Hold* hold);

    // The worker: names one process to terminate, or answers false, with *wait_ms = after how long to ask again
    // (kUnlimited: when it is woken). Each one named must be answered by terminated(). One that did not die is named
    // again: kQuickTries times after kQuickRetryMs, then every kRetryMs, until it dies or the gate stops.
    [[nodiscard]] bool next_to_terminate(ToTerminate* to_terminate, uint32_t* wait_ms);
    void terminated(const ToTerminate& to_terminate, Outcome outcome);

    // One request. Both lengths are in bytes; `output` may be the same memory as `input` (METHOD_BUFFERED).
    // *written is what the reply holds, 0 on failure. PASSIVE_LEVEL, in the caller's context.
    [[nodiscard]] Status dispatch(const Caller& caller, uint32_t code, const void* input, size_t input_bytes,
                                  void* output, size_t output_bytes, size_t* written);
    // The handle was closed. If it was the controller's, everything held gets the disconnect verdict.
    void handle_closed(uint64_t owner);

   private:
    GateState* state_ = nullptr;
};

constexpr uint32_t kQuickTries = 20;
constexpr uint32_t kQuickRetryMs = 50;
constexpr uint32_t kRetryMs = 1000;

}  // namespace procmon
