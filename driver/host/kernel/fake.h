// fake.h - the made-up kernel as tests see it: its features, the calls it refuses, and the record of its calls.
#pragma once

#include <stdint.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

extern "C" {
#include <ntifs.h>
}

namespace fake {

// Kinds of kernels.
struct Kernel {
    std::vector<std::string> absent;  // missing exports
    bool refuses_ex = false;          // PsSetCreateProcessNotifyRoutineEx, Ex2: the image is not signed for it
    bool removal_waits = true;        // removing a notify routine waits for callbacks in progress (since Windows XP)
    ULONG major = 10, minor = 0;
    std::atomic<bool> terminate_fails{false};
};
extern Kernel kernel;

// The n-th fallible call from now fails, 0 = none. `failed` names it.
void fail_call(uint64_t n);
extern std::string failed;

// The driver's calls, in order: "device", "security", "create routine", "-link", "terminate 5000"...
std::vector<std::string> trace();
std::string trace_text();

// Called after each of these calls, by the calling thread; for registrations of routines, without a lock.
extern std::function<void(const std::string& done)> after;

// Resources that the driver has not freed: "" = none.
std::string leftovers();

struct Ace {
    uint32_t access;
    std::vector<uint32_t> sid;  // sub-authorities
};
extern std::vector<Ace> device_acl;
extern ULONG device_flags;
extern uint64_t pool_bytes_nx, pool_bytes_executable, pool_bytes_paged;
extern std::vector<std::string> debug_output;  // of DbgPrintEx, which is not shown by default
extern std::atomic<uint64_t> locks_taken;  // of fast mutexes, so far

// --- events of the system ---

// Adds a process without any notification.
void add_process(uint32_t pid, uint32_t parent, const char16_t* path);
void set_exiting(uint32_t pid);  // PsGetProcessExitProcessCalled
void end_process(uint32_t pid, NTSTATUS status);  // by another process: its threads see it at their next check
void set_critical(uint32_t pid, bool critical);   // ProcessBreakOnTermination
// Runs `what` while the calling thread belongs to the process.
void as_process(uint32_t pid, uint32_t tid, const std::function<void()>& what);

// The calls that a real kernel would make. create_process returns the CreationStatus. All run in the caller's thread,
// which belongs to the creator.
struct NewFile {  // the file of the process
    bool write_access = false, delete_pending = false, transacted = false;
    uint32_t writable_references = 0;
    bool subsystem = false;  // a process of WSL 1: no file, no image
};
NTSTATUS create_process(uint32_t pid, uint32_t parent, const char16_t* path, const char16_t* command_line,
                        const NewFile& file = {});
struct Mapping {
    uint32_t mapped_by = 0;  // the current process of the call; 0 = the process itself
    bool system_image = false;
    bool executable = true;  // at the section base of the process
    bool emulated = false;   // for another processor
    const char16_t* name = nullptr;  // FullImageName
};
// Followed by the thread's own notification, where the kernel has one.
void map_image(uint32_t pid, const Mapping& mapping);
// An extra thread of a process, created by the caller: returns when the thread may run. Another thread has got the
// image notification.
void start_thread(uint32_t pid, uint32_t tid);
void exit_process(uint32_t pid, NTSTATUS status);
void add_link(const char16_t* name, const char16_t* target);
void stop_clock();            // only the next two functions move the clock now; waits still end by real time
void pass_time(uint32_t ms);
void sleep_machine(uint32_t ms);  // the machine sleeps for `ms`
void set_system_time(int64_t ahead_ms);  // the date is set: so far ahead of the real one, or behind it
void end_all_processes();  // at the very end, without notifications
bool terminated(uint32_t pid, NTSTATUS* status);

// --- the driver ---

NTSTATUS load();    // DriverEntry
void unload();      // as Wine does: even while a file is open
void stop();        // as NT does: while a file is open, the unload waits until the last one is closed
void shutdown();    // Windows shuts down
bool is_loaded();

struct File {
    FILE_OBJECT object = {};
    bool opened = false;
};
NTSTATUS open(File* file, const char16_t* name = u"");
void cleanup(File* file);
void close(File* file);  // cleanup and close
NTSTATUS control(File* file, uint32_t code, const void* input, size_t input_bytes, std::vector<uint8_t>* output);

uint64_t new_event();      // a handle in the test's process
uint64_t new_non_event();
bool event_was_set(uint64_t handle, uint32_t wait_ms);
void close_handle(uint64_t handle);

}  // namespace fake
