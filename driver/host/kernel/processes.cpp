// processes.cpp - the made-up kernel's processes, threads and notify routines, and the exports found at run time.

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "state.h"

using namespace fake;

namespace {

void wait_for_callbacks() {
    if (!kernel.removal_waits) return;
    std::unique_lock<std::recursive_mutex> guard(lock);
    if (!changed.wait_for(guard, std::chrono::seconds(100), [] { return in_callbacks == 0; }))
        bugcheck("a routine is removed while a call of it never ends");
}

// The exports that are found at run time.
NTSTATUS set_create_routine_ex(PCREATE_PROCESS_NOTIFY_ROUTINE_EX routine, BOOLEAN remove) {
    passive("PsSetCreateProcessNotifyRoutineEx");
    if (remove) {
        wait_for_callbacks();
        const Guard guard(lock);
        if (create_routine_ex != routine) bugcheck("a routine is removed that was not set");
        create_routine_ex = nullptr;
        note("-create routine ex");
        return STATUS_SUCCESS;
    }
    if (kernel.refuses_ex || fails("PsSetCreateProcessNotifyRoutineEx")) return STATUS_ACCESS_DENIED;
    {
        const Guard guard(lock);
        create_routine_ex = routine;
    }
    note("create routine ex");
    return STATUS_SUCCESS;
}

NTSTATUS set_create_routine_ex2(ULONG type, void* routine, BOOLEAN remove) {
    if (type != 0) bugcheck("an unknown type of process notification");
    note("for all subsystems");
    return set_create_routine_ex(reinterpret_cast<PCREATE_PROCESS_NOTIFY_ROUTINE_EX>(routine), remove);
}

NTSTATUS set_image_routine_ex(PLOAD_IMAGE_NOTIFY_ROUTINE routine, uintptr_t flags) {
    passive("PsSetLoadImageNotifyRoutineEx");
    if (flags != 1) bugcheck("an unknown flag of image notifications");
    if (fails("PsSetLoadImageNotifyRoutineEx")) return STATUS_INSUFFICIENT_RESOURCES;
    {
        const Guard guard(lock);
        image_routine = routine;
        images_of_any_architecture = true;
    }
    note("image routine ex");
    return STATUS_SUCCESS;
}

NTSTATUS set_thread_routine(PCREATE_THREAD_NOTIFY_ROUTINE routine) {
    passive("PsSetCreateThreadNotifyRoutine");
    if (fails("PsSetCreateThreadNotifyRoutine")) return STATUS_INSUFFICIENT_RESOURCES;
    {
        const Guard guard(lock);
        thread_routine = routine;
    }
    note("thread routine");
    return STATUS_SUCCESS;
}

NTSTATUS set_thread_routine_ex(ULONG type, void* routine) {
    passive("PsSetCreateThreadNotifyRoutineEx");
    if (type != 0) bugcheck("an unknown type of thread notification");
    if (fails("PsSetCreateThreadNotifyRoutineEx")) return STATUS_INSUFFICIENT_RESOURCES;
    {
        const Guard guard(lock);
        own_thread_routine = reinterpret_cast<PCREATE_THREAD_NOTIFY_ROUTINE>(routine);
    }
    note("thread routine ex");
    return STATUS_SUCCESS;
}

NTSTATUS remove_thread_routine(PCREATE_THREAD_NOTIFY_ROUTINE routine) {
    passive("PsRemoveCreateThreadNotifyRoutine");
    wait_for_callbacks();
    const Guard guard(lock);
    if (routine != thread_routine && routine != own_thread_routine) bugcheck("a routine is removed that was not set");
    thread_routine = own_thread_routine = nullptr;
    note("-thread routine");
    return STATUS_SUCCESS;
}

UCHAR signature_level(PEPROCESS process, UCHAR* section_level) {
    const Guard guard(lock);
    const bool is_signed = process->path.find(u"signed") != std::u16string::npos;
    *section_level = 0;
    return is_signed ? 8 : 0;
}
ULONG writable_references(PSECTION_OBJECT_POINTERS sections) { return sections->writable_references; }
void* transaction_of(FILE_OBJECT* file) { return file->transacted ? file : nullptr; }

NTSTATUS locate_image_name(PEPROCESS process, UNICODE_STRING** name) {
    passive("SeLocateProcessImageName");
    if (fails("SeLocateProcessImageName")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    const size_t bytes = process->path.size() * 2;
    auto* string = static_cast<UNICODE_STRING*>(malloc(sizeof(UNICODE_STRING) + bytes));
    string->Length = string->MaximumLength = static_cast<USHORT>(bytes);
    string->Buffer = reinterpret_cast<WCHAR*>(string + 1);
    memcpy(string->Buffer, process->path.data(), bytes);
    pool[string] = {bytes, 0};
    *name = string;
    return STATUS_SUCCESS;
}

void* allocate_pool2(uint64_t flags, SIZE_T bytes, ULONG tag) {
    if (flags != 0x40 && flags != 0x100) bugcheck("ExAllocatePool2 with other flags than nonpaged or paged");
    if (fails("ExAllocatePool2")) return nullptr;
    const Guard guard(lock);
    void* memory = calloc(1, bytes);
    pool[memory] = {bytes, tag};
    (flags == 0x100 ? pool_bytes_paged : pool_bytes_nx) += bytes;
    return memory;
}

BOOLEAN is_protected(PEPROCESS process) {
    const Guard guard(lock);
    return process->path.find(u"protected") != std::u16string::npos;
}
LONGLONG create_time(PEPROCESS process) { return 1000 + static_cast<LONGLONG>(process->pid); }
NTSTATUS exit_status(PEPROCESS process) {
    const Guard guard(lock);
    return process->status;
}
void* section_base(PEPROCESS process) { return process->minimal() ? nullptr : process->image; }
BOOLEAN is_terminating(PETHREAD) {  // the driver only asks about the calling thread
    const Guard guard(lock);
    const PEPROCESS process = find_process(current.pid);
    return process != nullptr && process->dying;
}
ULONGLONG unbiased_time() { return KeQueryInterruptTime() - slept; }
BOOLEAN exit_called(PEPROCESS process) {
    const Guard guard(lock);
    return process->exiting;
}

_OBJECT_TYPE event_type = {kNotificationEvent};
POBJECT_TYPE event_type_pointer = &event_type;

template <typename Routine>
void* address(Routine* routine) {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(routine));
}

const std::map<std::string, void*> exports = {
    {"PsSetCreateProcessNotifyRoutineEx", address(set_create_routine_ex)},
    {"PsSetCreateProcessNotifyRoutineEx2", address(set_create_routine_ex2)},
    {"PsSetLoadImageNotifyRoutineEx", address(set_image_routine_ex)},
    {"PsSetCreateThreadNotifyRoutine", address(set_thread_routine)},
    {"PsSetCreateThreadNotifyRoutineEx", address(set_thread_routine_ex)},
    {"PsRemoveCreateThreadNotifyRoutine", address(remove_thread_routine)},
    {"PsGetProcessSignatureLevel", address(signature_level)},
    {"MmDoesFileHaveUserWritableReferences", address(writable_references)},
    {"IoGetTransactionParameterBlock", address(transaction_of)},
    {"SeLocateProcessImageName", address(locate_image_name)},
    {"ExAllocatePool2", address(allocate_pool2)},
    {"PsIsProtectedProcess", address(is_protected)},
    {"PsGetProcessCreateTimeQuadPart", address(create_time)},
    {"PsGetProcessExitStatus", address(exit_status)},
    {"PsGetProcessSectionBaseAddress", address(section_base)},
    {"PsIsThreadTerminating", address(is_terminating)},
    {"KeQueryUnbiasedInterruptTime", address(unbiased_time)},
    {"PsGetProcessExitProcessCalled", address(exit_called)},
    {"ExEventObjectType", &event_type_pointer},
};

}  // namespace

PVOID MmGetSystemRoutineAddress(UNICODE_STRING* name) {
    passive("MmGetSystemRoutineAddress");
    const std::u16string wide = text(name);
    const std::string wanted(wide.begin(), wide.end());
    if (std::count(kernel.absent.begin(), kernel.absent.end(), wanted)) return nullptr;
    const auto found = exports.find(wanted);
    if (found == exports.end()) bugcheck("an unknown export: " + wanted);
    return found->second;
}

HANDLE PsGetCurrentProcessId() { return id(current.pid); }
HANDLE PsGetCurrentThreadId() { return id(current.tid); }
PEPROCESS PsGetCurrentProcess() {
    const Guard guard(lock);
    return find_process(current.pid);
}

PETHREAD PsGetCurrentThread() {
    static thread_local _KTHREAD self;
    return &self;
}

NTSTATUS PsLookupProcessByProcessId(HANDLE pid, PEPROCESS* process) {
    passive("PsLookupProcessByProcessId");
    if (fails("PsLookupProcessByProcessId")) return STATUS_INVALID_CID;
    const Guard guard(lock);
    *process = find_process(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pid)));
    if (*process == nullptr) return STATUS_INVALID_CID;
    ++objects.at(*process).references;
    return STATUS_SUCCESS;
}

NTSTATUS PsCreateSystemThread(HANDLE* handle, ULONG access, OBJECT_ATTRIBUTES* attributes, PVOID, PVOID,
                              PKSTART_ROUTINE start, PVOID context) {
    passive("PsCreateSystemThread");
    if (attributes == nullptr || (attributes->Attributes & OBJ_KERNEL_HANDLE) == 0)
        bugcheck("a handle that user mode can see");
    if (fails("PsCreateSystemThread")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    auto* thread = new _KTHREAD{{kThread, 0, nullptr}};
    objects[thread] = {kThread, 1, [thread] { delete thread; }};
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, thread, access));
    ++threads_running;
    std::thread([thread, start, context] {
        current.pid = 4;
        current.tid = 8;
        start(context);
        const Guard at_end(lock);
        --threads_running;
        thread->header.signaled = 1;
        dereference(thread);
        changed.notify_all();
    }).detach();
    return STATUS_SUCCESS;
}

NTSTATUS PsTerminateSystemThread(NTSTATUS) { return STATUS_SUCCESS; }

NTSTATUS ZwOpenProcess(HANDLE* handle, ACCESS_MASK access, OBJECT_ATTRIBUTES* attributes, CLIENT_ID* client) {
    passive("ZwOpenProcess");
    if (fails("ZwOpenProcess")) return STATUS_ACCESS_DENIED;
    if ((attributes->Attributes & OBJ_KERNEL_HANDLE) == 0) bugcheck("a handle that user mode can see");
    const Guard guard(lock);
    const PEPROCESS process = find_process(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(client->UniqueProcess)));
    if (process == nullptr) return STATUS_INVALID_CID;
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, process, access));
    return STATUS_SUCCESS;
}

NTSTATUS ZwTerminateProcess(HANDLE handle, NTSTATUS status) {
    passive("ZwTerminateProcess");
    if (current.callbacks != 0) bugcheck("a process is terminated from within a callback");
    if (fails("ZwTerminateProcess") || kernel.terminate_fails) return STATUS_ACCESS_DENIED;
    const Guard guard(lock);
    const OpenHandle& opened = kernel_handles.at(reinterpret_cast<uintptr_t>(handle));
    if ((opened.access & 1) == 0) return STATUS_ACCESS_DENIED;
    auto* process = static_cast<PEPROCESS>(opened.object);
    if (process->critical) bugcheck("CRITICAL_PROCESS_DIED");
    end_process(process->pid, status);
    note("terminate " + std::to_string(process->pid));
    return STATUS_SUCCESS;
}

extern "C" NTSTATUS ZwQueryInformationProcess(HANDLE handle, PROCESSINFOCLASS what, PVOID buffer, ULONG bytes, PULONG) {
    passive("ZwQueryInformationProcess");
    if (fails("ZwQueryInformationProcess")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    const OpenHandle& opened = kernel_handles.at(reinterpret_cast<uintptr_t>(handle));
    if ((opened.access & 0x400) == 0) return STATUS_ACCESS_DENIED;
    const auto* process = static_cast<PEPROCESS>(opened.object);
    if (what == 29) {
        if (bytes != sizeof(ULONG)) return STATUS_INFO_LENGTH_MISMATCH;
        *static_cast<ULONG*>(buffer) = process->critical;
        return STATUS_SUCCESS;
    }
    if (what != 27) bugcheck("another class than the image's name");
    auto* string = static_cast<UNICODE_STRING*>(buffer);
    if (sizeof *string + process->path.size() * 2 > bytes) return STATUS_INFO_LENGTH_MISMATCH;
    string->Length = string->MaximumLength = static_cast<USHORT>(process->path.size() * 2);
    string->Buffer = reinterpret_cast<WCHAR*>(string + 1);
    memcpy(string->Buffer, process->path.data(), string->Length);
    return STATUS_SUCCESS;
}

extern "C" NTSTATUS ZwQuerySystemInformation(ULONG information_class, PVOID buffer, ULONG bytes, PULONG needed) {
    passive("ZwQuerySystemInformation");
    if (fails("ZwQuerySystemInformation")) return STATUS_INSUFFICIENT_RESOURCES;
    if (information_class != 5) bugcheck("another class than the processes");
    constexpr size_t kEntry = 104, kName = 16;
    const Guard guard(lock);
    *needed = static_cast<ULONG>((processes.size() + 1) * (kEntry + kName));
    if (*needed > bytes) return STATUS_INFO_LENGTH_MISMATCH;
    memset(buffer, 0, *needed);
    auto* at = static_cast<uint8_t*>(buffer);  // the first is Idle
    for (const auto& [pid, process] : processes) {
        const uint32_t next = kEntry + kName, threads = 1;
        memcpy(at, &next, 4);
        at += next;
        const int64_t created = 500 + pid;
        const uint64_t wide_pid = pid, wide_parent = process->parent;
        memcpy(at + kEntry, u"short", 10);
        const UNICODE_STRING name = {10, 10, reinterpret_cast<WCHAR*>(at + kEntry)};
        memcpy(at + 4, &threads, 4);
        memcpy(at + 32, &created, 8);
        memcpy(at + 56, &name, sizeof name);
        memcpy(at + 80, &wide_pid, 8);
        memcpy(at + 88, &wide_parent, 8);
    }
    return STATUS_SUCCESS;
}

NTSTATUS PsSetCreateProcessNotifyRoutine(PCREATE_PROCESS_NOTIFY_ROUTINE routine, BOOLEAN remove) {
    passive("PsSetCreateProcessNotifyRoutine");
    if (remove) {
        wait_for_callbacks();
        const Guard guard(lock);
        if (create_routine != routine) bugcheck("a routine is removed that was not set");
        create_routine = nullptr;
        note("-create routine");
        return STATUS_SUCCESS;
    }
    if (fails("PsSetCreateProcessNotifyRoutine")) return STATUS_INSUFFICIENT_RESOURCES;
    {
        const Guard guard(lock);
        create_routine = routine;
    }
    note("create routine");
    return STATUS_SUCCESS;
}

NTSTATUS PsSetLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE routine) {
    passive("PsSetLoadImageNotifyRoutine");
    if (fails("PsSetLoadImageNotifyRoutine")) return STATUS_INSUFFICIENT_RESOURCES;
    {
        const Guard guard(lock);
        image_routine = routine;
    }
    note("image routine");
    return STATUS_SUCCESS;
}

NTSTATUS PsRemoveLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE routine) {
    passive("PsRemoveLoadImageNotifyRoutine");
    wait_for_callbacks();
    const Guard guard(lock);
    if (image_routine != routine) bugcheck("a routine is removed that was not set");
    image_routine = nullptr;
    note("-image routine");
    return STATUS_SUCCESS;
}
