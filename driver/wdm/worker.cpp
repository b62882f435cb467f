// worker.cpp - one system thread that terminates the processes which the gate has condemned.
//
// Not in the callback that holds the process: there the process would have to end itself while the kernel is in the
// middle of starting its first thread.

#include "driver.h"

namespace procmon::kernel {
namespace {

KEVENT wake;  // set: look for condemned processes, or stop
volatile LONG stopping;
PKTHREAD thread;  // referenced

// PASSIVE_LEVEL. One that would not die is queued again by its own thread's next look, a slice later.
void NTAPI work(void*) {
    for (bool last = false; !last;) {
        KeWaitForSingleObject(&wake, Executive, KernelMode, FALSE, nullptr);
        last = stopping;  // before the round: what was condemned before the stop still dies
        for (Condemned condemned; gate.next_condemned(&condemned);)
            gate.terminated(condemned, build::terminate(condemned));
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
