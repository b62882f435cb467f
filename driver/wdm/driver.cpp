// driver.cpp - DriverEntry and unload: one table of steps, taken in order and undone in reverse.

#include "driver.h"

namespace procmon::kernel {

Gate gate;

namespace {

_IRQL_requires_(PASSIVE_LEVEL) NTSTATUS gate_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    return static_cast<NTSTATUS>(gate.start(port(), build::features));
}

// When this returns, every wait of a hold is over or ends within a slice. Then the notify routines can be removed.
NTSTATUS holds_start(DRIVER_OBJECT*) { return STATUS_SUCCESS; }
_IRQL_requires_(PASSIVE_LEVEL) void holds_stop() { gate.stop(); }

_IRQL_requires_(PASSIVE_LEVEL) void gate_stop() {
    PAGED_CODE();
    while (gate.holds_in_flight() != 0) wait_ms(1);  // none, unless a kernel removes routines without waiting
    gate.destroy();
}

struct Step {
    const char* name;
    NTSTATUS (*start)(DRIVER_OBJECT*);
    void (*stop)();  // nullptr: nothing to undo
};

// The order matters both ways. Start, downwards: state, device and its security, notifications, the initial list, and
// the link last, so that no request arrives before the driver can answer it. Images and threads before creations: a
// process whose creation was notified but whose image was missed would seem not to have run yet, and an extra thread
// would pass for the first if that was missed. Stop, upwards: the link; then the holds, while the worker still runs (a
// blocked process must die before its thread goes on); then the notify routines; then requests and the worker; and only
// then the device and the state.
constexpr Step kSteps[] = {
    {"port", port_start, port_stop},  // finds the pool routine: before any step that allocates
    {"gate", gate_start, gate_stop},
    {"device", device_start, device_stop},
    {"volumes", volumes_start, nullptr},
    {"worker", worker_start, worker_stop},
    {"build", build::start, build::stop},
    {"requests", requests_start, requests_stop},
    {"callbacks", callbacks_start, callbacks_stop},
    {"image notifications", image_notify_start, image_notify_stop},
    {"thread notifications", thread_notify_start, thread_notify_stop},
    {"create notifications", create_notify_start, create_notify_stop},
    {"holds", holds_start, holds_stop},
    {"running processes", list_running, nullptr},
    {"link", link_start, link_stop},
};

void stop_steps(size_t count) {
    PAGED_CODE();
    while (count-- > 0)
        if (kSteps[count].stop != nullptr) kSteps[count].stop();
}

// A system thread. The I/O manager calls it when the last handle to the device is closed.
_IRQL_requires_(PASSIVE_LEVEL) void NTAPI unload(DRIVER_OBJECT*) { stop_steps(ARRAYSIZE(kSteps)); }

}  // namespace
}  // namespace procmon::kernel

// A system thread. Until it returns the device cannot be opened (DO_DEVICE_INITIALIZING).
extern "C" _IRQL_requires_(PASSIVE_LEVEL) NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT* driver, UNICODE_STRING*) {
    PAGED_CODE();
    using namespace procmon::kernel;
    for (size_t i = 0; i < ARRAYSIZE(kSteps); ++i) {
        const NTSTATUS status = kSteps[i].start(driver);
        if (!NT_SUCCESS(status)) {
            DbgPrint("procmon: %s: 0x%08lx, not loaded\n", kSteps[i].name, status);
            stop_steps(i);
            return status;
        }
    }
    driver->DriverUnload = unload;
    return STATUS_SUCCESS;
}
