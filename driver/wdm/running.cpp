// running.cpp - the processes that run already: passed to the gate once, right after the notifications are registered.

#include "driver.h"

namespace procmon::kernel {
namespace {

constexpr ULONG kSystemProcessInformation = 5;
constexpr auto kProcessImageFileName = static_cast<PROCESSINFOCLASS>(27);
constexpr ULONG kQueryInformation = 0x400;  // PROCESS_QUERY_INFORMATION
constexpr size_t kNameBytes = wire::kMaxNameBytes + sizeof(UNICODE_STRING);

struct RunningProcess {  // the head of SYSTEM_PROCESS_INFORMATION
    ULONG next_offset;
    ULONG thread_count;
    LARGE_INTEGER reserved[3];
    LARGE_INTEGER created;
    LARGE_INTEGER user_time;
    LARGE_INTEGER kernel_time;
    UNICODE_STRING name;  // only the last part
    LONG base_priority;
    HANDLE pid;
    HANDLE parent_pid;
};
static_assert(offsetof(RunningProcess, created) == 0x20 && offsetof(RunningProcess, name) == 0x38);
static_assert(offsetof(RunningProcess, pid) == (sizeof(void*) == 8 ? 0x50 : 0x44));

BOOLEAN(NTAPI* exit_called)(PEPROCESS);  // PsGetProcessExitProcessCalled
void*(NTAPI* section_base)(PEPROCESS);   // PsGetProcessSectionBaseAddress

// The native path of a process, in `buffer`; empty when it has none (System) or has exited.
_IRQL_requires_(PASSIVE_LEVEL) Text path_of(HANDLE pid, UNICODE_STRING* buffer) {
    PAGED_CODE();
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, nullptr, OBJ_KERNEL_HANDLE, nullptr, nullptr);
    CLIENT_ID client = {pid, nullptr};
    Handle process;
    if (!NT_SUCCESS(ZwOpenProcess(process.put(), kQueryInformation, &attributes, &client))) return {};
    ULONG needed = 0;
    const NTSTATUS status =
        ZwQueryInformationProcess(process.get(), kProcessImageFileName, buffer, kNameBytes, &needed);
    return NT_SUCCESS(status) ? text_of(buffer) : Text{};
}

// Will its exit be notified? Processes without an image (Registry, Memory Compression, those of WSL 1) exit without a
// notification, and would stay in the table for ever.
bool has_image(PEPROCESS process) { return section_base == nullptr || section_base(process) != nullptr; }

// The reference keeps the pid from being reused.
_IRQL_requires_(PASSIVE_LEVEL) void report(const RunningProcess& running, UNICODE_STRING* path_buffer) {
    PAGED_CODE();
    const ProcessReference process(running.pid);
    if (process.get() == nullptr) return;  // it has exited since the list was made
    if (id_of(running.pid) != kSystemPid && !has_image(process.get())) return;
    Creation creation;
    creation.pid = id_of(running.pid);
    creation.parent_pid = id_of(running.parent_pid);
    creation.created = running.created.QuadPart;
    creation.native_name = path_of(running.pid, path_buffer);
    if (creation.native_name.length == 0) creation.native_name = text_of(&running.name);
    creation.running = true;
    (void)gate.on_create(creation);
    // Its exit may have been notified before on_create: then the record would stay for ever.
    if (exit_called != nullptr && exit_called(process.get())) gate.on_exit(creation.pid, wire::kStatusUnknown);
}

}  // namespace

// The list can grow between two queries, so each retry adds spare room.
NTSTATUS list_running(DRIVER_OBJECT*) {
    PAGED_CODE();
    find_newer(&exit_called, L"PsGetProcessExitProcessCalled");
    find_newer(&section_base, L"PsGetProcessSectionBaseAddress");
    const PagedMemory path_buffer(kNameBytes);
    if (path_buffer.get() == nullptr) return STATUS_INSUFFICIENT_RESOURCES;

    ULONG bytes = 0x10000;
    for (int tries = 0; tries < 8; ++tries) {
        const PagedMemory list(bytes);
        if (list.get() == nullptr) return STATUS_INSUFFICIENT_RESOURCES;
        ULONG needed = 0;
        const NTSTATUS status = ZwQuerySystemInformation(kSystemProcessInformation, list.get(), bytes, &needed);
        if (status == STATUS_INFO_LENGTH_MISMATCH) {
            bytes = (needed > bytes ? needed : bytes) + 0x10000;
            continue;
        }
        if (!NT_SUCCESS(status)) return status;
        for (auto* at = list.get<uint8_t>();;) {
            const auto* running = reinterpret_cast<const RunningProcess*>(at);
            const bool lives = running->pid != nullptr && running->thread_count != 0;  // neither Idle nor a zombie
            if (lives) report(*running, path_buffer.get<UNICODE_STRING>());
            if (running->next_offset == 0) return STATUS_SUCCESS;
            at += running->next_offset;
        }
    }
    return STATUS_INFO_LENGTH_MISMATCH;
}

}  // namespace procmon::kernel
