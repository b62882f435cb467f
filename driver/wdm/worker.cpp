// worker.cpp - one system thread that terminates the processes which the gate has condemned.
//
// Not in the callback that holds the process: there the process would have to end itself while the kernel is in the
// middle of starting its first thread.

#include "driver.h"

namespace procmon::kernel {
namespace {

constexpr uint32_t kRetryMs = 50;

KEVENT wake;  // set: look for condemned processes, or stop
volatile LONG stopping;
PKTHREAD thread;  // referenced

// PASSIVE_LEVEL, no lock. Terminates until nobody is left, or until one would not die: the gate names that one again,
// a limited number of times, and some time should pass before. false: there is such a one.
bool terminate_condemned() {
    for (Condemned condemned; gate.next_condemned(&condemned);) {
        const bool died = build::terminate(condemned);
        gate.terminated(condemned, died);
        if (!died) return false;
    }
    return true;
}

// PASSIVE_LEVEL. It ends when it is told to and has nothing left to do.
void NTAPI work(void*) {
    LARGE_INTEGER pause = milliseconds(kRetryMs);
    for (bool idle = true; !(idle && read(&stopping));) {
        KeWaitForSingleObject(&wake, Executive, KernelMode, FALSE, idle ? nullptr : &pause);
        idle = terminate_condemned();
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

}  // namespace

NTSTATUS worker_start(DRIVER_OBJECT*) {
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
    InterlockedExchange(&stopping, TRUE);
    worker_wake();
    KeWaitForSingleObject(thread, Executive, KernelMode, FALSE, nullptr);
    ObDereferenceObject(thread);
    thread = nullptr;
}

void worker_wake() { KeSetEvent(&wake, EVENT_INCREMENT, FALSE); }

}  // namespace procmon::kernel
