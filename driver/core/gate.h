// gate.h - the whole of the driver's logic: what is known of each process, who is held, who decides.
//
// The system's side (wdm/ or host/) feeds notifications and requests in, waits where a Hold says so, and terminates
// what next_condemned names. Threads: every member may be called from any thread at PASSIVE_LEVEL or APC_LEVEL with
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
constexpr Status kAccessDenied = 0xC0000022;
constexpr Status kBufferTooSmall = 0xC0000023;
constexpr Status kSharingViolation = 0xC0000043;
constexpr Status kRevisionMismatch = 0xC0000059;
constexpr Status kInsufficientResources = 0xC000009A;
constexpr Status kDeviceNotReady = 0xC00000A3;
constexpr Status kInvalidDeviceState = 0xC0000184;

// UTF-16, not terminated. Whoever is handed one copies what it keeps.
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
    int64_t created = 0;   // FILETIME; 0 = take the port's clock
    Text native_name;      // only where PsSetCreateProcessNotifyRoutineEx gives it
    Text command_line;     // the same
    bool running = false;  // the initial list: it was there before us, and is never held
    bool refusable = false;// the caller can still refuse the creation
};

// The first image of a process has been mapped; from the image notification, in the new process' own thread.
struct Image {
    uint32_t pid = 0;
    Text native_name;             // empty = the system gave none
    bool protected_process = false;
    bool dying = false;           // the thread has been told to end: it will run no instruction of the program
};

// A wait in progress. It lives on the stack of the thread that is held; between a begin_hold that answered true and
// end_hold the thread waits on `signal` for at most `slice_ms` and asks still_held, again and again.
constexpr uint32_t kHoldSliceMs = 250;
struct Hold {
    SignalStorage signal;
    uint32_t slice_ms = kHoldSliceMs;  // set anew by begin_hold and still_held: shorter when the timeout is near
    void* record = nullptr;            // the core's
};

// A process that must die before its hold ends. The held thread cannot leave before terminated(), so the pid is
// its own for as long as the worker works on it.
struct Condemned {
    uint32_t pid = 0;
    uint64_t start_key = 0;
};

// Who sends a request: the open handle (its file object's address, never 0) and the process behind it.
struct Caller {
    uint64_t owner = 0;
    uint32_t pid = 0;
    uint32_t access = 0;  // kAccessRead | kAccessWrite as granted at open
};

struct GateState;  // gate.cpp

class Gate {
   public:
    Gate() = default;
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

    // Allocates; on failure nothing is left behind. `features` are kFeature... bits for INFO. PASSIVE_LEVEL.
    [[nodiscard]] Status start(const Port& port, uint32_t features);
    // Refuses new holds, ends every hold with ALLOW by kByStop (what is already condemned still dies first), closes
    // the event. Idempotent. PASSIVE_LEVEL.
    void stop();
    // Frees everything. Only after stop(), when no notification can come and holds_in_flight() is 0. PASSIVE_LEVEL.
    void destroy();
    [[nodiscard]] uint32_t holds_in_flight() const;
    void set_features(uint32_t features);

    // The drive letters: pairs like {"\Device\HarddiskVolume2", 'c'}, built outside of callbacks (begin, add..., commit
    // replaces the old map at once). `system_directory` is the DOS path of System32, for the exempt list.
    [[nodiscard]] Status volumes_begin();
    [[nodiscard]] Status volumes_add(Text native_prefix, char16_t drive);
    void volumes_commit();
    [[nodiscard]] Status set_system_directory(Text dos_path);

    // Notifications. on_create answers true when a rule refuses the creation (only if it is refusable).
    [[nodiscard]] bool on_create(const Creation& creation);
    void on_exit(uint32_t pid, uint32_t exit_status);
    // true: the thread must wait on hold->signal. false: nothing to wait for, and no end_hold.
    [[nodiscard]] bool begin_hold(Hold* hold, const Image& image);
    // Looks again at verdict, timeout, controller and stop. false: end_hold now. `dying`: somebody else has ended the
    // thread meanwhile; then nobody is asked any more, and the worker sees to it that the whole process ends.
    [[nodiscard]] bool still_held(Hold* hold, bool dying = false);
    // Answers the verdict of the hold: kVerdictAllow or kVerdictBlock. After this the Hold may go.
    uint32_t end_hold(Hold* hold);

    // The worker: names one process to terminate, or answers false. Each one named must be answered by terminated();
    // died = false is counted, and tried again by a later next_condemned, at most kTerminateTries times.
    [[nodiscard]] bool next_condemned(Condemned* condemned);
    void terminated(const Condemned& condemned, bool died);

    // One request. Both lengths are in bytes; `output` may be the same memory as `input` (METHOD_BUFFERED).
    // *written is what the reply holds, 0 on failure. PASSIVE_LEVEL, in the caller's context.
    [[nodiscard]] Status dispatch(const Caller& caller, uint32_t code, const void* input, size_t input_bytes,
                                  void* output, size_t output_bytes, size_t* written);
    // The handle was closed. If it was the controller's, everything held gets the disconnect verdict.
    void handle_closed(uint64_t owner);

   private:
    GateState* state_ = nullptr;
};

constexpr uint32_t kTerminateTries = 20;

}  // namespace procmon
