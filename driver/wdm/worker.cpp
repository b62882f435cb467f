// worker.cpp - one system thread that terminates the processes which the gate has condemned.
//
// Not in the callback that holds the process: there the process would have to end itself while the kernel is in the
// middle of starting its first thread.

#include "driver.h"

namespace procmon::kernel {
namespace {

constexpr uint32_t kRetryMs = 20;

KEVENT wake;              // set: look for condemned processes, or stop
volatile LONG stopping;
PKTHREAD thread;          // referenced

// PASSIVE_LEVEL, no lock. true: nobody is left over for a later try.
bool terminate_condemned() {
    bool all_died = true;
    for (Condemned condemned; gate.next_condemned(&condemned);) {
        const bool died = build::terminate(condemned);
        gate.terminated(condemned, died);
        if (!died) {
            all_died = false;
            break;  // the gate may name the same one again at once; let some time pass
        }
    }
    return all_died;
}

// PASSIVE_LEVEL. It ends only when it is told to and no hold is left that could need it.
void NTAPI work(void*) {
    LARGE_INTEGER retry = milliseconds(kRetryMs);
    for (bool done = true;;) {
        KeWaitForSingleObject(&wake, Executive, KernelMode, FALSE, done ? nullptr : &retry);
        done = terminate_condemned();
        if (done && stopping) break;
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

}  // namespace

NTSTATUS worker_start(DRIVER_OBJECT*) {
    KeInitializeEvent(&wake, SynchronizationEvent, FALSE);
    stopping = FALSE;
    Handle handle;
    NTSTATUS status =
        PsCreateSystemThread(handle.put(), THREAD_ALL_ACCESS, nullptr, nullptr, nullptr, work, nullptr);
    if (!NT_SUCCESS(status)) return status;
    status = ObReferenceObjectByHandle(handle.get(), SYNCHRONIZE, nullptr, KernelMode,
                                       reinterpret_cast<void**>(&thread), nullptr);
    if (NT_SUCCESS(status)) return status;
    // Without an object there is nothing to join; the handle's own wait does as well.
    InterlockedExchange(&stopping, TRUE);
    worker_wake();
    ZwWaitForSingleObject(handle.get(), FALSE, nullptr);
    return status;
}

void worker_stop() {
    InterlockedExchange(&stopping, TRUE);
    worker_wake();
    KeWaitForSingleObject(thread, Executive, KernelMode, FALSE, nullptr);
    ObDereferenceObject(thread);
    thread = nullptr;
}

void worker_wake() { KeSetEvent(&wake, EVENT_INCREMENT, FALSE); }

}  // namespace procmon::kernel
