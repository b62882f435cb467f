// wine.cpp - the Wine test build: replaces wdm/native.cpp on a kernel that sends no process notifications.
//
// A helper process (kernel.py) plays the kernel's part: it runs real processes under the debug API, reports each start
// with NOTE_CREATED and NOTE_IMAGE, and continues or terminates the real process by the verdict of NOTE_IMAGE.
// A NOTE_IMAGE stays pending while the process is held; a system thread waits for it just as the held thread waits on a
// real kernel. Everything else is the unchanged driver.

#include "../wdm/driver.h"

namespace procmon::kernel::build {

#ifdef PROCMON_DEBUG
const uint32_t features = wire::kFeatureNoteRequests | wire::kFeatureCreateEx | wire::kFeatureDebugBuild;
#else
const uint32_t features = wire::kFeatureNoteRequests | wire::kFeatureCreateEx;  // NOTE_CREATED can be refused
#endif
const bool needs_notifications = false;
const WCHAR drive_links[] = L"\\??\\A:";

namespace {

constexpr ACCESS_MASK kProcessDuplicate = 0x40;  // PROCESS_DUP_HANDLE

// A NOTE_IMAGE whose process is held.
struct Waiter {
    Waiter* next;
    IRP* irp;
    PKTHREAD thread;  // referenced by stop and reap
    uint32_t pid;
    volatile LONG cancelled;  // the helper has exited, or has cancelled the request
    volatile LONG finished;   // the thread is on its last instructions
    KEVENT cancel_done;       // the cancel routine does not use this Waiter any more
    Hold hold;
};

FAST_MUTEX waiters_lock;
Waiter* waiters;

// Reads the next text of a request, `bytes` long, and moves past it. false: the request is shorter, or `bytes` is odd.
bool take_text(const uint8_t** at, size_t* left, uint32_t bytes, Text* text) {
    if (bytes > *left || bytes % sizeof(char16_t) != 0) return false;
    *text = {reinterpret_cast<const char16_t*>(*at), bytes / sizeof(char16_t)};
    *at += bytes;
    *left -= bytes;
    return true;
}

template <typename Note>
bool take_note(const uint8_t** at, size_t* left, Note* note) {
    if (*left < sizeof *note) return false;
    RtlCopyMemory(note, *at, sizeof *note);
    *at += sizeof *note;
    *left -= sizeof *note;
    return true;
}

NTSTATUS note_created(void* buffer, size_t input_bytes, size_t output_bytes, size_t* written) {
    const auto* at = static_cast<const uint8_t*>(buffer);
    wire::NoteCreated note;
    if (!take_note(&at, &input_bytes, &note)) return STATUS_INFO_LENGTH_MISMATCH;
    if (output_bytes < sizeof(uint32_t)) return STATUS_BUFFER_TOO_SMALL;
    Creation creation;
    creation.pid = note.pid;
    creation.parent_pid = note.parent_pid;
    creation.creator_pid = note.creator_pid;
    creation.creator_tid = note.creator_tid;
    creation.created = note.created;
    creation.refusable = true;
    if (!take_text(&at, &input_bytes, note.command_line_bytes, &creation.command_line) ||
        !take_text(&at, &input_bytes, note.native_name_bytes, &creation.native_name))
        return STATUS_INFO_LENGTH_MISMATCH;
    const uint32_t refused = gate.on_create(creation);
    RtlCopyMemory(buffer, &refused, sizeof refused);
    *written = sizeof refused;
    return STATUS_SUCCESS;
}

NTSTATUS note_exited(const void* buffer, size_t input_bytes) {
    const auto* at = static_cast<const uint8_t*>(buffer);
    wire::NoteExited note;
    if (!take_note(&at, &input_bytes, &note)) return STATUS_INFO_LENGTH_MISMATCH;
    gate.on_exit(note.pid, note.exit_status);
    return STATUS_SUCCESS;
}

size_t put_verdict(void* buffer, uint32_t verdict) {
    const wire::NoteVerdict reply = {verdict, verdict == wire::kVerdictBlock ? wire::kStatusBlocked : 0};
    RtlCopyMemory(buffer, &reply, sizeof reply);
    return sizeof reply;
}

// DISPATCH_LEVEL, under the cancel spin lock. It only wakes the waiter, which then completes the request.
void NTAPI on_cancel(DEVICE_OBJECT*, IRP* irp) {
    auto* waiter = static_cast<Waiter*>(irp->Tail.Overlay.DriverContext[0]);
    IoReleaseCancelSpinLock(irp->CancelIrql);
    InterlockedExchange(&waiter->cancelled, TRUE);
    KeSetEvent(event_of(&waiter->hold.signal), EVENT_INCREMENT, FALSE);
    KeSetEvent(&waiter->cancel_done, EVENT_INCREMENT, FALSE);
}

// PASSIVE_LEVEL, no lock. Waits as a held thread does and completes the request.
void wait_and_complete(Waiter* waiter) {
    do {
        LARGE_INTEGER slice = milliseconds(waiter->hold.slice_ms);
        KeWaitForSingleObject(event_of(&waiter->hold.signal), Executive, KernelMode, FALSE, &slice);
        // The helper has exited, and its processes with it.
        if (InterlockedExchange(&waiter->cancelled, FALSE)) gate.on_exit(waiter->pid, wire::kStatusUnknown);
    } while (gate.still_held(&waiter->hold));
    const uint32_t verdict = gate.end_hold(&waiter->hold);

    IRP* irp = waiter->irp;
    if (IoSetCancelRoutine(irp, nullptr) == nullptr)
        KeWaitForSingleObject(&waiter->cancel_done, Executive, KernelMode, FALSE, nullptr);
    irp->IoStatus.Status = irp->Cancel ? STATUS_CANCELLED : STATUS_SUCCESS;
    irp->IoStatus.Information = irp->Cancel ? 0 : put_verdict(irp->AssociatedIrp.SystemBuffer, verdict);
    IoCompleteRequest(irp, IO_NO_INCREMENT);
}

void NTAPI wait_in_thread(void* context) {
    auto* waiter = static_cast<Waiter*>(context);
    wait_and_complete(waiter);
    InterlockedExchange(&waiter->finished, TRUE);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

// Joins and frees the waiters that are done; with `all`, every one of them.
void reap(bool all) {
    ExAcquireFastMutex(&waiters_lock);
    Waiter* done = nullptr;
    for (Waiter** at = &waiters; *at != nullptr;) {
        Waiter* waiter = *at;
        if (!all && !read(&waiter->finished)) {
            at = &waiter->next;
            continue;
        }
        *at = waiter->next;
        waiter->next = done;
        done = waiter;
    }
    ExReleaseFastMutex(&waiters_lock);
    while (done != nullptr) {
        Waiter* waiter = done;
        done = waiter->next;
        KeWaitForSingleObject(waiter->thread, Executive, KernelMode, FALSE, nullptr);
        ObDereferenceObject(waiter->thread);
        release(waiter);
    }
}

NTSTATUS start_thread(Waiter* waiter) {
    Handle handle;
    NTSTATUS status =
        PsCreateSystemThread(handle.put(), THREAD_ALL_ACCESS, nullptr, nullptr, nullptr, wait_in_thread, waiter);
    if (!NT_SUCCESS(status)) return status;
    status = ObReferenceObjectByHandle(handle.get(), SYNCHRONIZE, nullptr, KernelMode,
                                       reinterpret_cast<void**>(&waiter->thread), nullptr);
    if (!NT_SUCCESS(status)) {  // it cannot be joined later, so join it now; it has completed its request by then
        ZwWaitForSingleObject(handle.get(), FALSE, nullptr);
        release(waiter);
        return STATUS_SUCCESS;
    }
    ExAcquireFastMutex(&waiters_lock);
    waiter->next = waiters;
    waiters = waiter;
    ExReleaseFastMutex(&waiters_lock);
    return STATUS_SUCCESS;
}

NTSTATUS note_image(IRP* irp, void* buffer, size_t input_bytes, size_t output_bytes, size_t* written) {
    const auto* at = static_cast<const uint8_t*>(buffer);
    wire::NoteImage note;
    Image image;
    if (!take_note(&at, &input_bytes, &note) ||
        !take_text(&at, &input_bytes, note.native_name_bytes, &image.native_name))
        return STATUS_INFO_LENGTH_MISMATCH;
    if (output_bytes < sizeof(wire::NoteVerdict)) return STATUS_BUFFER_TOO_SMALL;
    image.pid = note.pid;

    reap(false);
    auto* waiter = static_cast<Waiter*>(allocate(sizeof(Waiter)));
    if (waiter == nullptr) return STATUS_INSUFFICIENT_RESOURCES;
    waiter->irp = irp;
    waiter->pid = note.pid;
    KeInitializeEvent(&waiter->cancel_done, NotificationEvent, FALSE);
    if (!gate.begin_hold(&waiter->hold, image)) {
        release(waiter);
        *written = put_verdict(buffer, wire::kVerdictAllow);
        return STATUS_SUCCESS;
    }
    IoMarkIrpPending(irp);
    irp->Tail.Overlay.DriverContext[0] = waiter;
    IoSetCancelRoutine(irp, on_cancel);
    if (irp->Cancel) InterlockedExchange(&waiter->cancelled, TRUE);
    if (!NT_SUCCESS(start_thread(waiter))) {  // then this thread waits
        wait_and_complete(waiter);
        release(waiter);
    }
    return STATUS_PENDING;
}

}  // namespace

// Wine exports routines that it does not implement; calling one ends the process.
void* newer_routine(const WCHAR*) { return nullptr; }

// Wine does not support UserMode references: the handle is duplicated into the driver's process first.
NTSTATUS reference_event(uint64_t handle, KEVENT** event) {
    auto* type = static_cast<POBJECT_TYPE*>(find_export(L"ExEventObjectType"));
    if (type == nullptr) return STATUS_NOT_SUPPORTED;
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, nullptr, OBJ_KERNEL_HANDLE, nullptr, nullptr);
    CLIENT_ID client = {PsGetCurrentProcessId(), nullptr};
    Handle process, duplicate;
    NTSTATUS status = ZwOpenProcess(process.put(), kProcessDuplicate, &attributes, &client);
    if (NT_SUCCESS(status))
        status = ZwDuplicateObject(process.get(), handle_of(handle), ZwCurrentProcess(), duplicate.put(),
                                   EVENT_MODIFY_STATE, 0, 0);
    if (!NT_SUCCESS(status)) return status;
    return ObReferenceObjectByHandle(duplicate.get(), EVENT_MODIFY_STATE, *type, KernelMode,
                                     reinterpret_cast<void**>(event), nullptr);
}

// The helper terminates the real process when it reads the verdict, before it continues it.
Outcome terminate(const ToTerminate&) { return Outcome::kDied; }

NTSTATUS control(IRP* irp, uint32_t code, void* buffer, size_t input_bytes, size_t output_bytes, size_t* written) {
    switch (code) {
        case wire::kNoteCreated: return note_created(buffer, input_bytes, output_bytes, written);
        case wire::kNoteImage: return note_image(irp, buffer, input_bytes, output_bytes, written);
        case wire::kNoteExited: return note_exited(buffer, input_bytes);
        default: return STATUS_INVALID_DEVICE_REQUEST;
    }
}

NTSTATUS start(DRIVER_OBJECT*) {
    ExInitializeFastMutex(&waiters_lock);
    return STATUS_SUCCESS;
}

void stop() { reap(true); }

}  // namespace procmon::kernel::build
