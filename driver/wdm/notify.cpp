// notify.cpp - what the kernel tells of processes and images, handed on to the gate; and the wait of a held thread.
//
// Every routine here runs at PASSIVE_LEVEL, with no lock of ours. Newer kernels call it in a critical region, NT 5.2
// does not; so each enters one, lest a held thread be suspended in the middle of its hold.
// They touch no registry, file, mapping or user memory.

#include "driver.h"

namespace procmon::kernel {
namespace {

// Routines of newer kernels; each may be missing.
using SetCreateNotifyEx = NTSTATUS(NTAPI*)(PCREATE_PROCESS_NOTIFY_ROUTINE_EX, BOOLEAN remove);
NTSTATUS(NTAPI* locate_image_name)(PEPROCESS, UNICODE_STRING** name);  // SeLocateProcessImageName
BOOLEAN(NTAPI* is_protected)(PEPROCESS);                               // PsIsProtectedProcess
LONGLONG(NTAPI* create_time)(PEPROCESS);                               // PsGetProcessCreateTimeQuadPart
NTSTATUS(NTAPI* exit_status)(PEPROCESS);                               // PsGetProcessExitStatus
BOOLEAN(NTAPI* is_terminating)(PETHREAD);                              // PsIsThreadTerminating
void*(NTAPI* section_base)(PEPROCESS);                                 // PsGetProcessSectionBaseAddress
SetCreateNotifyEx set_create_notify_ex;

bool extended;       // the Ex routine is the one that is registered
bool create_active;  // either is
bool image_active;
Rundown callbacks;   // newer kernels wait for callbacks when a routine is removed; the oldest do not

// In a callback, until the scope ends. Where the kernel has no critical region of its own, a suspension takes effect
// when ours is left; by then the hold is over, but the thread is still counted, and its code stays.
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
        if (locate_image_name == nullptr || !NT_SUCCESS(locate_image_name(process, &name_))) name_ = nullptr;
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

// The first thread of a process that was ended before it ran comes by here, too, on its way out.
bool is_dying() { return is_terminating != nullptr && is_terminating(PsGetCurrentThread()); }

void process_exited(PEPROCESS process, uint32_t pid) {
    const bool known = process != nullptr && exit_status != nullptr;
    gate.on_exit(pid, known ? static_cast<uint32_t>(exit_status(process)) : wire::kStatusUnknown);
}

// PASSIVE_LEVEL; creation: the creator's thread, exit: the last thread of the process. Windows Vista SP1 and later.
void NTAPI on_create_ex(PEPROCESS process, HANDLE pid, PS_CREATE_NOTIFY_INFO* info) {
    const CallbackScope callback;
    if (!callback) return;
    if (info == nullptr) return process_exited(process, id_of(pid));
    const LocatedName name(process);
    Creation creation;
    creation.pid = id_of(pid);
    creation.parent_pid = id_of(info->ParentProcessId);
    creation.creator_pid = id_of(info->CreatingThreadId.UniqueProcess);
    creation.creator_tid = id_of(info->CreatingThreadId.UniqueThread);
    creation.created = create_time != nullptr ? create_time(process) : 0;
    creation.native_name = name.text();  // ImageFileName is only what the creator typed: \??\C:\... or a link
    creation.command_line = text_of(info->CommandLine);
    creation.refusable = true;
    if (gate.on_create(creation)) info->CreationStatus = static_cast<NTSTATUS>(wire::kStatusBlocked);
}

// The same from the routine that every kernel has.
void NTAPI on_create(HANDLE parent, HANDLE pid, BOOLEAN created) {
    const CallbackScope callback;
    if (!callback) return;
    const ProcessReference process(pid);
    if (!created) return process_exited(process.get(), id_of(pid));
    Creation creation;
    creation.pid = id_of(pid);
    creation.parent_pid = id_of(parent);
    creation.creator_pid = id_of(PsGetCurrentProcessId());
    creation.creator_tid = id_of(PsGetCurrentThreadId());
    creation.created = create_time != nullptr && process.get() != nullptr ? create_time(process.get()) : 0;
    (void)gate.on_create(creation);  // not refusable
}

// The wait of a held thread: KernelMode, so that its stack (and the Hold on it) stays in memory, and not alertable.
void wait_while_held(Hold* hold) {
    do {
        LARGE_INTEGER slice = milliseconds(hold->slice_ms);
        KeWaitForSingleObject(event_of(&hold->signal), Executive, KernelMode, FALSE, &slice);
    } while (gate.still_held(hold, is_dying()));
    (void)gate.end_hold(hold);  // if blocked, the worker has terminated it, and it dies on its way to user mode
}

// PASSIVE_LEVEL, the thread that maps the image. For the EXE that is the new process' own first thread, before its
// first instruction in user mode; a parent may map more into the process, and DLLs follow: none of those is held.
void NTAPI on_image(UNICODE_STRING* name, HANDLE process_id, IMAGE_INFO* info) {
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
    const LocatedName located(process);  // the same name that on_create_ex gave, if it gave one
    image.native_name = located.text().length != 0 ? located.text() : text_of(name);
    Hold hold;
    if (gate.begin_hold(&hold, image)) wait_while_held(&hold);
}

}  // namespace

// The Ex routine, if this kernel has it and accepts our image (it must be linked for forced integrity), else the first.
NTSTATUS create_notify_start(DRIVER_OBJECT*) {
    find_newer(&locate_image_name, L"SeLocateProcessImageName");
    find_newer(&is_protected, L"PsIsProtectedProcess");
    find_newer(&create_time, L"PsGetProcessCreateTimeQuadPart");
    find_newer(&exit_status, L"PsGetProcessExitStatus");
    find_newer(&is_terminating, L"PsIsThreadTerminating");
    find_newer(&section_base, L"PsGetProcessSectionBaseAddress");
    find_newer(&set_create_notify_ex, L"PsSetCreateProcessNotifyRoutineEx");

    callbacks.open();
    extended = set_create_notify_ex != nullptr && NT_SUCCESS(set_create_notify_ex(on_create_ex, FALSE));
    const NTSTATUS status = extended ? STATUS_SUCCESS : PsSetCreateProcessNotifyRoutine(on_create, FALSE);
    create_active = NT_SUCCESS(status);
    if (extended) gate.set_features(build::features | wire::kFeatureCreateEx);
    return create_active || !build::needs_notifications ? STATUS_SUCCESS : status;
}

void create_notify_stop() {
    if (create_active) {
        if (extended)
            set_create_notify_ex(on_create_ex, TRUE);
        else
            PsSetCreateProcessNotifyRoutine(on_create, TRUE);
    }
    callbacks.close();
}

NTSTATUS image_notify_start(DRIVER_OBJECT*) {
    const NTSTATUS status = PsSetLoadImageNotifyRoutine(on_image);
    image_active = NT_SUCCESS(status);
    return image_active || !build::needs_notifications ? STATUS_SUCCESS : status;
}

void image_notify_stop() {
    if (image_active) PsRemoveLoadImageNotifyRoutine(on_image);
}

}  // namespace procmon::kernel
