// worker.cpp - one system thread that terminates the processes which the gate names.
//
// Not in the callback that holds the process: there the process would have to end itself while the kernel is in the
// middle of starting its first thread.

#include "driver.h"

namespace procmon::kernel {
namespace {

KEVENT wake;  // set: look for processes to terminate, or stop
volatile LONG stopping;
PKTHREAD thread;  // referenced

// No lock. Terminates what is due; answers after how many ms the next attempt is, kUnlimited = there is
// none.
_IRQL_requires_(PASSIVE_LEVEL) uint32_t terminate_all() {
    PAGED_CODE();
    uint32_t wait;
    for (ToTerminate to_terminate; gate.next_to_terminate(&to_terminate, &wait);)
        gate.terminated(to_terminate, build::terminate(to_terminate));
    return wait;
}

// It ends when it has to stop and there is nothing left to do.
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
    // Without an object there is nothing to join; the handle's own wait does as well.
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
