// notify.cpp - the kernel's notifications of processes, threads and images, passed on to the gate; and the wait of a
// held thread.
//
// Every routine here runs at PASSIVE_LEVEL, with none of our locks held; the routine for a thread's exit may run at
// APC_LEVEL. Newer kernels call the routines in a critical region, NT 5.2 does not. So each routine enters one: a held
// thread must not be suspended in the middle of its hold. No routine touches registry, files, mappings or user memory.

#include "driver.h"

namespace procmon::kernel {
namespace {

// Routines of newer kernels; each may be missing.
using SetCreateNotifyEx = NTSTATUS(NTAPI*)(PCREATE_PROCESS_NOTIFY_ROUTINE_EX, BOOLEAN remove);
using SetCreateNotifyEx2 = NTSTATUS(NTAPI*)(ULONG type, void* routine, BOOLEAN remove);
using SetImageNotifyEx = NTSTATUS(NTAPI*)(PLOAD_IMAGE_NOTIFY_ROUTINE, uintptr_t flags);
using SetThreadNotifyEx = NTSTATUS(NTAPI*)(ULONG type, void* routine);
using ThreadNotify = NTSTATUS(NTAPI*)(PCREATE_THREAD_NOTIFY_ROUTINE);
constexpr ULONG kSubsystems = 0;         // PsCreateProcessNotifySubsystems
constexpr uintptr_t kAnyArchitecture = 1; // PS_IMAGE_NOTIFY_CONFLICTING_ARCHITECTURE
constexpr ULONG kNonSystem = 0;          // PsCreateThreadNotifyNonSystem: in the new thread's own context
constexpr ULONG kIsSubsystemProcess = 2; // PS_CREATE_NOTIFY_INFO::Flags, which not every header has
NTSTATUS(NTAPI* locate_image_name)(PEPROCESS, UNICODE_STRING** name);  // SeLocateProcessImageName
BOOLEAN(NTAPI* is_protected)(PEPROCESS);                               // PsIsProtectedProcess
LONGLONG(NTAPI* create_time)(PEPROCESS);                               // PsGetProcessCreateTimeQuadPart
NTSTATUS(NTAPI* exit_status)(PEPROCESS);                               // PsGetProcessExitStatus
BOOLEAN(NTAPI* is_terminating)(PETHREAD);                              // PsIsThreadTerminating
void*(NTAPI* section_base)(PEPROCESS);                                 // PsGetProcessSectionBaseAddress
UCHAR(NTAPI* signature_level)(PEPROCESS, UCHAR* section_level);        // PsGetProcessSignatureLevel
ULONG(NTAPI* writable_references)(PSECTION_OBJECT_POINTERS);           // MmDoesFileHaveUserWritableReferences
void*(NTAPI* transaction_of)(FILE_OBJECT*);                            // IoGetTransactionParameterBlock
SetCreateNotifyEx set_create_notify_ex;                                // PsSetCreateProcessNotifyRoutineEx
SetCreateNotifyEx2 set_create_notify_ex2;                              // PsSetCreateProcessNotifyRoutineEx2
SetImageNotifyEx set_image_notify_ex;                                  // PsSetLoadImageNotifyRoutineEx
SetThreadNotifyEx set_thread_notify_ex;                                // PsSetCreateThreadNotifyRoutineEx
ThreadNotify set_thread_notify, remove_thread_notify;  // PsSet..., PsRemoveCreateThreadNotifyRoutine

enum class Registered { kNone, kPlain, kEx, kEx2 };
Registered create_routine;                          // which of the three
PCREATE_THREAD_NOTIFY_ROUTINE thread_routine;       // which of the two; nullptr = none
bool image_active;
uint32_t features;
Rundown callbacks;  // newer kernels wait for callbacks when a routine is removed; the oldest do not

// Marks a callback until the scope ends. Where the kernel enters no critical region, a suspension takes effect when the
// thread leaves ours. By then the hold is over, but the thread is still counted, so that unload waits for it.
class CallbackScope {
   public:
    CallbackScope() : inside_(callbacks), critical_() {}
    explicit operator bool() const { return static_cast<bool>(inside_); }

   private:
    struct CriticalRegion {  // no suspension, no normal kernel APC
        CriticalRegion() { KeEnterCriticalRegion(); }
        ~CriticalRegion() { KeLeaveCriticalRegion(); }
    };
    const RundownScope inside_;
    const CriticalRegion critical_;
};

// The image name that the kernel keeps for a process, for as long as this lives. No I/O.
class LocatedName {
   public:
    explicit LocatedName(PEPROCESS process) {
        if (locate_image_name == nullptr || process == nullptr) return;
        if (!NT_SUCCESS(locate_image_name(process, &name_))) name_ = nullptr;
    }
    ~LocatedName() {
        if (name_ != nullptr) ExFreePool(name_);
    }
    LocatedName(const LocatedName&) = delete;
    LocatedName& operator=(const LocatedName&) = delete;
    [[nodiscard]] Text text() const { return text_of(name_); }

   private:
    UNICODE_STRING* name_ = nullptr;
};

void add_feature(uint32_t feature) { gate.set_features(features |= feature); }

template <typename Routine>
void* address_of(Routine* routine) {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(routine));
}

// The state of a new process' file, read from the file object of its section: still open for writing (herpaderping),
// deleted with its last handle (ghosting), or in a transaction that can be rolled back (doppelganging).
_IRQL_requires_max_(APC_LEVEL) uint32_t file_flags(FILE_OBJECT* file) {
    if (file == nullptr) return 0;
    uint32_t flags = 0;
    const bool is_mapped_for_writing = writable_references != nullptr && file->SectionObjectPointer != nullptr &&
                                       writable_references(file->SectionObjectPointer) != 0;
    if (file->WriteAccess || is_mapped_for_writing) flags |= wire::kFlagWriteOpen;
    if (file->DeletePending) flags |= wire::kFlagDeletePending;
    if (transaction_of != nullptr && transaction_of(file) != nullptr) flags |= wire::kFlagTransacted;
    return flags;
}

// The first thread of a process that was ended before it ran also passes the callbacks, on its way out.
_IRQL_requires_max_(APC_LEVEL) bool is_dying() {
    return is_terminating != nullptr && is_terminating(PsGetCurrentThread());
}

_IRQL_requires_(PASSIVE_LEVEL) void process_exited(PEPROCESS process, uint32_t pid) {
    PAGED_CODE();
    const bool known = process != nullptr && exit_status != nullptr;
    gate.on_exit(pid, known ? static_cast<uint32_t>(exit_status(process)) : wire::kStatusUnknown);
}

// Creation: in the creator's thread. Exit: in the last thread of the process. Windows Vista SP1 and later.
_IRQL_requires_(PASSIVE_LEVEL) _IRQL_requires_same_ void NTAPI
on_create_ex(PEPROCESS process, HANDLE pid, PS_CREATE_NOTIFY_INFO* info) {
    PAGED_CODE();
    const CallbackScope callback;
    if (!callback) return;
    if (info == nullptr) return process_exited(process, id_of(pid));
    UCHAR section_level;
    const LocatedName name(process);
    Creation creation;
    creation.pid = id_of(pid);
    creation.parent_pid = id_of(info->ParentProcessId);
    creation.creator_pid = id_of(info->CreatingThreadId.UniqueProcess);
    creation.creator_tid = id_of(info->CreatingThreadId.UniqueThread);
    creation.created = create_time != nullptr ? create_time(process) : 0;
    creation.native_name = name.text();  // ImageFileName is the creator's spelling: \??\C:\... or a link
    creation.command_line = text_of(info->CommandLine);
    creation.file_flags = file_flags(info->FileObject);
    if (signature_level != nullptr) creation.signature_level = signature_level(process, &section_level);
    creation.pico = (info->Flags & kIsSubsystemProcess) != 0;
    creation.refusable = true;
    if (gate.on_create(creation)) info->CreationStatus = static_cast<NTSTATUS>(wire::kStatusBlocked);
}

// The same for the routine that every kernel has.
_IRQL_requires_(PASSIVE_LEVEL) _IRQL_requires_same_ void NTAPI on_create(HANDLE parent, HANDLE pid, BOOLEAN created) {
    PAGED_CODE();
    const CallbackScope callback;
    if (!callback) return;
    const ProcessReference process(pid);
    if (!created) return process_exited(process.get(), id_of(pid));
    const LocatedName name(process.get());
    Creation creation;
    creation.pid = id_of(pid);
    creation.parent_pid = id_of(parent);
    creation.creator_pid = id_of(PsGetCurrentProcessId());
    creation.creator_tid = id_of(PsGetCurrentThreadId());
    creation.created = create_time != nullptr && process.get() != nullptr ? create_time(process.get()) : 0;
    creation.native_name = name.text();
    (void)gate.on_create(creation);  // not refusable
}

// The wait of a held thread: KernelMode, so that its stack (and the Hold on it) stays in memory, and not alertable.
_IRQL_requires_(PASSIVE_LEVEL) void wait_while_held(Hold* hold) {
    PAGED_CODE();
    do {
        LARGE_INTEGER slice = milliseconds(hold->slice_ms);
        KeWaitForSingleObject(event_of(&hold->signal), Executive, KernelMode, FALSE, &slice);
    } while (gate.still_held(hold, is_dying()));
    (void)gate.end_hold(hold);  // if blocked, the worker has terminated it, and it dies on its way to user mode
}

// In the new thread's own context, after the image notification and before its first instruction in user mode. The hold
// of a process' first thread is over by then. An extra thread, created by another process, waits for the same verdict.
// Windows 10 and later.
_IRQL_requires_max_(APC_LEVEL) _IRQL_requires_same_ void NTAPI
on_own_thread(HANDLE process_id, HANDLE, BOOLEAN created) {
    PAGED_CODE();
    const CallbackScope callback;
    if (!callback || !created) return;
    if (process_id != PsGetCurrentProcessId()) return gate.on_thread(id_of(process_id));
    Image image;
    image.pid = id_of(process_id);
    image.protected_process = is_protected != nullptr && is_protected(PsGetCurrentProcess());
    image.dying = is_dying();
    Hold hold;
    if (gate.begin_thread(&hold, image)) wait_while_held(&hold);
}

// In the context of the creating thread, which must not wait. Older kernels.
_IRQL_requires_max_(APC_LEVEL) _IRQL_requires_same_ void NTAPI
on_any_thread(HANDLE process_id, HANDLE, BOOLEAN created) {
    PAGED_CODE();
    const CallbackScope callback;
    if (callback && created) gate.on_thread(id_of(process_id));
}

// In the thread that maps the image. For the EXE this is the first thread of the new process to run, before its first
// instruction in user mode. Images that a parent maps into the process, and DLLs, are not held.
_IRQL_requires_(PASSIVE_LEVEL) _IRQL_requires_same_ void NTAPI
on_image(UNICODE_STRING* name, HANDLE process_id, IMAGE_INFO* info) {
    PAGED_CODE();
    const CallbackScope callback;
    if (!callback || info->SystemModeImage) return;
    const uint32_t pid = id_of(process_id);
    if (pid == kIdlePid || pid == kSystemPid || process_id != PsGetCurrentProcessId()) return;
    const PEPROCESS process = PsGetCurrentProcess();
    if (section_base != nullptr && section_base(process) != info->ImageBase) return;

    Image image;
    image.pid = pid;
    image.protected_process = is_protected != nullptr && is_protected(process);
    image.dying = is_dying();
    const LocatedName located(process);  // the same name that the creation had, if it had one
    image.native_name = located.text().length != 0 ? located.text() : text_of(name);
    if (located.text().length != 0) image.mapped_name = text_of(name);
    image.own = section_base != nullptr;  // compared above
    Hold hold;
    if (gate.begin_hold(&hold, image)) wait_while_held(&hold);
}

}  // namespace

NTSTATUS callbacks_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    find_newer(&locate_image_name, L"SeLocateProcessImageName");
    find_newer(&is_protected, L"PsIsProtectedProcess");
    find_newer(&create_time, L"PsGetProcessCreateTimeQuadPart");
    find_newer(&exit_status, L"PsGetProcessExitStatus");
    find_newer(&is_terminating, L"PsIsThreadTerminating");
    find_newer(&section_base, L"PsGetProcessSectionBaseAddress");
    find_newer(&signature_level, L"PsGetProcessSignatureLevel");
    find_newer(&writable_references, L"MmDoesFileHaveUserWritableReferences");
    find_newer(&transaction_of, L"IoGetTransactionParameterBlock");
    find_newer(&set_create_notify_ex, L"PsSetCreateProcessNotifyRoutineEx");
    find_newer(&set_create_notify_ex2, L"PsSetCreateProcessNotifyRoutineEx2");
    features = build::features;
    callbacks.open();
    return STATUS_SUCCESS;
}

// All notify routines are removed by now. Kernels wait for callbacks in progress at the removal, except the oldest.
void callbacks_stop() {
    PAGED_CODE();
    callbacks.close();
}

// Registers the newest routine that this kernel has and accepts: the Ex ones require an image that is linked for forced
// integrity. Each is notified of exits, too.
NTSTATUS create_notify_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    create_routine = Registered::kNone;
    NTSTATUS status = STATUS_SUCCESS;
    if (set_create_notify_ex2 != nullptr &&
        NT_SUCCESS(set_create_notify_ex2(kSubsystems, address_of(on_create_ex), FALSE))) {
        create_routine = Registered::kEx2;
        add_feature(wire::kFeatureCreateEx | wire::kFeatureSubsystems);
    } else if (set_create_notify_ex != nullptr && NT_SUCCESS(set_create_notify_ex(on_create_ex, FALSE))) {
        create_routine = Registered::kEx;
        add_feature(wire::kFeatureCreateEx);
    } else if (NT_SUCCESS(status = PsSetCreateProcessNotifyRoutine(on_create, FALSE))) {
        create_routine = Registered::kPlain;
    }
    if (create_routine > Registered::kPlain && signature_level != nullptr) add_feature(wire::kFeatureSignatureLevel);
    return create_routine != Registered::kNone || !build::needs_notifications ? STATUS_SUCCESS : status;
}

void create_notify_stop() {
    PAGED_CODE();
    switch (create_routine) {
        case Registered::kEx2: set_create_notify_ex2(kSubsystems, address_of(on_create_ex), TRUE); break;
        case Registered::kEx: set_create_notify_ex(on_create_ex, TRUE); break;
        case Registered::kPlain: PsSetCreateProcessNotifyRoutine(on_create, TRUE); break;
        case Registered::kNone: break;
    }
}

// Without it the driver still works. The features in INFO show how an extra thread is treated.
NTSTATUS thread_notify_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    find_newer(&set_thread_notify_ex, L"PsSetCreateThreadNotifyRoutineEx");
    find_newer(&set_thread_notify, L"PsSetCreateThreadNotifyRoutine");
    find_newer(&remove_thread_notify, L"PsRemoveCreateThreadNotifyRoutine");
    thread_routine = nullptr;
    if (remove_thread_notify == nullptr) return STATUS_SUCCESS;
    if (set_thread_notify_ex != nullptr && NT_SUCCESS(set_thread_notify_ex(kNonSystem, address_of(on_own_thread)))) {
        thread_routine = on_own_thread;
        add_feature(wire::kFeatureThreadHold);
    } else if (set_thread_notify != nullptr && NT_SUCCESS(set_thread_notify(on_any_thread))) {
        thread_routine = on_any_thread;
        add_feature(wire::kFeatureThreadNotify);
    }
    return STATUS_SUCCESS;
}

void thread_notify_stop() {
    PAGED_CODE();
    if (thread_routine != nullptr) remove_thread_notify(thread_routine);
}

// The newer routine is notified of programs for another processor, too: of x64 programs on arm64.
NTSTATUS image_notify_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    find_newer(&set_image_notify_ex, L"PsSetLoadImageNotifyRoutineEx");
    const bool is_set = set_image_notify_ex != nullptr && NT_SUCCESS(set_image_notify_ex(on_image, kAnyArchitecture));
    const NTSTATUS status = is_set ? STATUS_SUCCESS : PsSetLoadImageNotifyRoutine(on_image);
    image_active = NT_SUCCESS(status);
    return image_active || !build::needs_notifications ? STATUS_SUCCESS : status;
}

void image_notify_stop() {
    PAGED_CODE();
    if (image_active) PsRemoveLoadImageNotifyRoutine(on_image);
}

}  // namespace procmon::kernel
