// worker.cpp - one system thread that terminates the processes that the gate names.
//
// The callback that holds the process cannot do this: the process would terminate itself while the kernel is in the
// middle of starting its first thread.

#include "driver.h"

namespace procmon::kernel {
namespace {

KEVENT wake;  // set: check for processes to terminate, or for a stop
volatile LONG stopping;
PKTHREAD thread;  // referenced

// No lock. Terminates the processes that are due. Returns the ms until the next attempt, kUnlimited = none.
_IRQL_requires_(PASSIVE_LEVEL) uint32_t terminate_all() {
    PAGED_CODE();
    uint32_t wait;
    for (ToTerminate to_terminate; gate.next_to_terminate(&to_terminate, &wait);)
        gate.terminated(to_terminate, build::terminate(to_terminate));
    return wait;
}

// Ends when `stopping` is set and no process is left to terminate.
_IRQL_requires_(PASSIVE_LEVEL) void NTAPI work(void*) {
    for (;;) {
        const uint32_t wait = terminate_all();
        const bool idle = wait == wire::kUnlimited;
        if (idle && read(&stopping)) break;
        LARGE_INTEGER pause = milliseconds(wait);
        KeWaitForSingleObject(&wake, Executive, KernelMode, FALSE, idle ? nullptr : &pause);
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

}  // namespace

NTSTATUS worker_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    KeInitializeEvent(&wake, SynchronizationEvent, FALSE);
    stopping = FALSE;
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, nullptr, OBJ_KERNEL_HANDLE, nullptr, nullptr);
    Handle handle;
    NTSTATUS status =
        PsCreateSystemThread(handle.put(), THREAD_ALL_ACCESS, &attributes, nullptr, nullptr, work, nullptr);
    if (!NT_SUCCESS(status)) return status;
    status = ObReferenceObjectByHandle(handle.get(), SYNCHRONIZE, nullptr, KernelMode,
                                       reinterpret_cast<void**>(&thread), nullptr);
    if (NT_SUCCESS(status)) return status;
    // Without the object worker_stop could not wait for the thread: stop it now and wait on the handle.
    InterlockedExchange(&stopping, TRUE);
    worker_wake();
    ZwWaitForSingleObject(handle.get(), FALSE, nullptr);
    return status;
}

void worker_stop() {
    PAGED_CODE();
    InterlockedExchange(&stopping, TRUE);
    worker_wake();
    KeWaitForSingleObject(thread, Executive, KernelMode, FALSE, nullptr);
    ObDereferenceObject(thread);
    thread = nullptr;
}

void worker_wake() { KeSetEvent(&wake, EVENT_INCREMENT, FALSE); }

}  // namespace procmon::kernel
