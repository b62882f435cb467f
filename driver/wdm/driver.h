// driver.h - the parts of the kernel side, in the order in which DriverEntry starts them.
//
// Each part is a pair of functions: start returns an NTSTATUS and leaves nothing behind when it fails; stop undoes it
// and cannot fail. All of them run in a system thread, with no lock held. README.md is the map.
#pragma once

#include "kernel.h"

namespace procmon::kernel {

extern Gate gate;  // the one gate: every notification and request goes to it

// core_port.cpp: the core's Port.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS port_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void port_stop();
Port port();
inline KEVENT* event_of(SignalStorage* storage) { return reinterpret_cast<KEVENT*>(storage); }

// device.cpp: \Device\ProcMonGate, its security, its requests; the link \DosDevices\ProcMonGate.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS device_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void device_stop();
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS requests_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void requests_stop();  // waits for requests in progress
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS link_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void link_stop();

// security.cpp: SYSTEM and Administrators only.
[[nodiscard]] _IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS secure_device(DEVICE_OBJECT* device);

// worker.cpp: the thread that terminates processes.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS worker_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void worker_stop();
_IRQL_requires_max_(DISPATCH_LEVEL) void worker_wake();

// notify.cpp: the kernel's notifications of processes, threads and images.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS callbacks_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void callbacks_stop();  // waits for callbacks in progress
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS create_notify_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void create_notify_stop();
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS image_notify_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void image_notify_stop();
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS thread_notify_start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void thread_notify_stop();

// running.cpp: the processes that run already.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS list_running(DRIVER_OBJECT* driver);

// drive_letters.cpp: drive letters and the system directory, for the core's names.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS volumes_start(DRIVER_OBJECT* driver);
[[nodiscard]] _IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS volumes_refresh();

// The differences between the two kernels of this driver: native.cpp for NT, ../wine/ for the Wine test build.
namespace build {
extern const uint32_t features;        // kFeature... bits of this build
extern const bool needs_notifications; // the load fails without notify routines
extern const WCHAR drive_links[];      // the global link of a drive letter, with letter A
// The address of a routine that not every supported kernel has, or nullptr.
[[nodiscard]] _IRQL_requires_(PASSIVE_LEVEL) void* newer_routine(const WCHAR* name);
// An event's object for a handle of the calling process, referenced. In the caller's context.
[[nodiscard]] _IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS
reference_event(uint64_t handle, KEVENT** event);
// Terminates a held process. kDied: it will not run another instruction of its own.
[[nodiscard]] _IRQL_requires_(PASSIVE_LEVEL) Outcome terminate(const ToTerminate& to_terminate);
// Handles the requests that only this build has. STATUS_INVALID_DEVICE_REQUEST: a request for the core;
// STATUS_PENDING: it is completed later. Otherwise as IRP_MJ_DEVICE_CONTROL; *written is the reply's length.
[[nodiscard]] _IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS
control(IRP* irp, uint32_t code, void* buffer, size_t input_bytes, size_t output_bytes, size_t* written);
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS start(DRIVER_OBJECT* driver);
_IRQL_requires_(PASSIVE_LEVEL) void stop();  // after the holds and the requests: waits for pending requests of control
}  // namespace build

template <typename Routine>
void find_newer(Routine* routine, const WCHAR* name) {
    *routine = reinterpret_cast<Routine>(reinterpret_cast<uintptr_t>(build::newer_routine(name)));
}

}  // namespace procmon::kernel
