// driver.h - the parts of the kernel side, in the order in which DriverEntry starts them.
//
// Each part is a pair of functions: start answers an NTSTATUS and leaves nothing behind when it fails; stop undoes it
// and cannot fail. All of them run at PASSIVE_LEVEL, in a system thread, with no lock held. README.md is the map.
#pragma once

#include "kernel.h"

namespace procmon::kernel {

extern Gate gate;  // the one gate: every notification and request goes to it

// core_port.cpp: what the core asks of the system.
void port_start();  // finds the pool; before anything that allocates
Port port();
inline KEVENT* event_of(SignalStorage* storage) { return reinterpret_cast<KEVENT*>(storage); }

// device.cpp: \Device\ProcMonGate, its security, its requests; the link \DosDevices\ProcMonGate.
NTSTATUS device_start(DRIVER_OBJECT* driver);
void device_stop();
NTSTATUS requests_start(DRIVER_OBJECT* driver);
void requests_stop();  // waits for those under way
NTSTATUS link_start(DRIVER_OBJECT* driver);
void link_stop();

// security.cpp: SYSTEM and Administrators only.
[[nodiscard]] NTSTATUS secure_device(DEVICE_OBJECT* device);

// worker.cpp: the thread that terminates to_terminate processes.
NTSTATUS worker_start(DRIVER_OBJECT* driver);
void worker_stop();
void worker_wake();  // <= DISPATCH_LEVEL

// notify.cpp: the kernel's notifications of processes, threads and images.
NTSTATUS create_notify_start(DRIVER_OBJECT* driver);
void create_notify_stop();
NTSTATUS image_notify_start(DRIVER_OBJECT* driver);
void image_notify_stop();
NTSTATUS thread_notify_start(DRIVER_OBJECT* driver);
void thread_notify_stop();

// running.cpp: those that run already.
NTSTATUS list_running(DRIVER_OBJECT* driver);

// drive_letters.cpp: drive letters and the system directory, for the core's names.
NTSTATUS volumes_start(DRIVER_OBJECT* driver);
[[nodiscard]] NTSTATUS volumes_refresh();

// Where the two kernels that this driver is built for differ: native.cpp for NT, ../wine/ for the Wine test build.
namespace build {
extern const uint32_t features;        // kFeature... bits of this build
extern const bool needs_notifications; // without notify routines there is no point in loading
extern const WCHAR drive_links[];      // where the whole machine's drive letters are, with letter A
// The address of a routine that not every supported kernel has, or nullptr.
[[nodiscard]] void* newer_routine(const WCHAR* name);
// An event's object for a handle of the calling process, referenced. In the caller's context.
[[nodiscard]] NTSTATUS reference_event(uint64_t handle, KEVENT** event);
// Ends a process that is held. kDied: it will not run another instruction of its own.
[[nodiscard]] Outcome terminate(const ToTerminate& to_terminate);
// A request that only this build has. STATUS_INVALID_DEVICE_REQUEST: not one of them, the core is to be asked;
// STATUS_PENDING: it is completed later. Otherwise as IRP_MJ_DEVICE_CONTROL, *written being the reply's length.
[[nodiscard]] NTSTATUS control(IRP* irp, uint32_t code, void* buffer, size_t input_bytes, size_t output_bytes,
                               size_t* written);
NTSTATUS start(DRIVER_OBJECT* driver);
void stop();  // after the gate and the requests: waits for what control left pending
}  // namespace build

template <typename Routine>
void find_newer(Routine* routine, const WCHAR* name) {
    *routine = reinterpret_cast<Routine>(reinterpret_cast<uintptr_t>(build::newer_routine(name)));
}

}  // namespace procmon::kernel
