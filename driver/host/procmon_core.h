// procmon_core.h - the core as a library with a C interface: for tests, sanitizers and fuzzers, on any system.
//
// A host owns one gate and the small system under it. Texts are UTF-16, lengths in code units. Times are in ms, by a
// clock that only host_advance moves. Statuses are NTSTATUS values; the rest is as in driver/core/gate.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define PROCMON_API extern "C" __declspec(dllexport)
#else
#define PROCMON_API extern "C" __attribute__((visibility("default")))
#endif

namespace procmon::host {
struct Host;
struct HeldThread;
}  // namespace procmon::host
using procmon::host::HeldThread;
using procmon::host::Host;

// The system under the gate
PROCMON_API Host* host_new(int64_t filetime);
// Returns what the core left behind: blocks, signals, locks and event references together. The gate must be destroyed.
PROCMON_API uint64_t host_delete(Host*);
PROCMON_API void host_advance(Host*, uint64_t milliseconds);
// The n-th allocation from now fails (0 = none), and with `forever` every one after it.
PROCMON_API void host_fail_allocation(Host*, uint64_t n, int forever);
PROCMON_API uint64_t host_allocations(Host*);  // requested so far
PROCMON_API uint64_t host_live_bytes(Host*);
PROCMON_API uint64_t host_leftovers(Host*);    // as host_delete would return
PROCMON_API uint64_t host_worker_wakes(Host*);
PROCMON_API uint64_t host_breaches(Host*);     // calls that port.h forbids: memory or the event's object under the lock
// Not thread-safe. Returns a handle for REGISTER, 0 = there are too many. is_event = 0: a handle of another object.
PROCMON_API uint64_t host_event_new(Host*, int is_event);
PROCMON_API uint64_t host_event_sets(Host*, uint64_t handle);
PROCMON_API int host_event_wait(Host*, uint64_t handle, uint32_t real_ms);  // 1 = it was set since the last time

// The gate
PROCMON_API uint32_t gate_start(Host*, uint32_t features);
PROCMON_API void gate_stop(Host*);
PROCMON_API void gate_quiesce(Host*);
PROCMON_API void gate_destroy(Host*);
PROCMON_API uint32_t gate_holds_in_flight(Host*);
PROCMON_API void gate_set_features(Host*, uint32_t features);
PROCMON_API uint32_t gate_volumes_begin(Host*);
PROCMON_API uint32_t gate_volumes_add(Host*, const char16_t* prefix, size_t units, char16_t drive);
PROCMON_API void gate_volumes_commit(Host*);
PROCMON_API uint32_t gate_set_system_directory(Host*, const char16_t* path, size_t units);
constexpr int kRunning = 1, kRefusable = 2, kPico = 4;  // options of gate_on_create
PROCMON_API int gate_on_create(Host*, uint32_t pid, uint32_t parent_pid, uint32_t creator_pid, uint32_t creator_tid,
                               int64_t created, const char16_t* native_name, size_t native_units,
                               const char16_t* command_line, size_t command_units, uint32_t file_flags,
                               uint32_t signature_level, int options);
PROCMON_API void gate_on_thread(Host*, uint32_t pid);
PROCMON_API void gate_on_exit(Host*, uint32_t pid, uint32_t exit_status);
PROCMON_API uint32_t gate_dispatch(Host*, uint64_t owner, uint32_t pid, uint32_t code, const void* input,
                                   size_t input_bytes, void* output, size_t output_bytes, size_t* written);
PROCMON_API void gate_handle_closed(Host*, uint64_t owner);
PROCMON_API int gate_next_to_terminate(Host*, uint32_t* pid, uint64_t* start_key, uint32_t* wait_ms);
PROCMON_API void gate_terminated(Host*, uint32_t pid, uint64_t start_key, int outcome);  // an Outcome

// A hold, step by step; nullptr = the thread must not wait. hold_end frees it and returns the verdict.
constexpr int kProtected = 1, kDying = 2, kOwn = 4;  // options of hold_begin and hold_begin_thread
PROCMON_API HeldThread* hold_begin(Host*, uint32_t pid, const char16_t* native_name, size_t units,
                                   const char16_t* mapped_name, size_t mapped_units, int options);
PROCMON_API HeldThread* hold_begin_thread(Host*, uint32_t pid, int options);
PROCMON_API int hold_signaled(HeldThread*);
PROCMON_API uint32_t hold_slice_ms(HeldThread*);
PROCMON_API int hold_still_held(HeldThread*, int dying);
PROCMON_API uint32_t hold_end(HeldThread*);
// The same in one call: waits while the process is held, and calls still_held every `slice_real_ms`.
PROCMON_API uint32_t hold_through(Host*, uint32_t pid, const char16_t* native_name, size_t units,
                                  uint32_t slice_real_ms);

