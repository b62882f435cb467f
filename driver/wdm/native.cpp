// native.cpp - this driver on a real NT kernel (the Wine test build has ../wine/ instead).

#include "driver.h"

namespace procmon::kernel::build {
namespace {

// PROCESS_TERMINATE and PROCESS_QUERY_INFORMATION, which not every ntifs.h has
constexpr ACCESS_MASK kProcessTerminate = 0x1, kProcessQuery = 0x400;
constexpr auto kBreakOnTermination = static_cast<PROCESSINFOCLASS>(29);  // ProcessBreakOnTermination

// The end of a critical process is a bugcheck. A kernel without this query has no critical processes.
_IRQL_requires_(PASSIVE_LEVEL) bool is_critical(HANDLE process) {
    PAGED_CODE();
    ULONG breaks = 0;
    return NT_SUCCESS(ZwQueryInformationProcess(process, kBreakOnTermination, &breaks, sizeof breaks, nullptr)) &&
           breaks != 0;
}

}  // namespace

#ifdef PROCMON_DEBUG
const uint32_t features = wire::kFeatureDebugBuild;
#else
const uint32_t features = 0;
#endif
const bool needs_notifications = true;
const WCHAR drive_links[] = L"\\GLOBAL??\\A:";

void* newer_routine(const WCHAR* name) { return find_export(name); }

// Checks the type and the caller's right to set the event: UserMode, whatever the mode of the request.
// ExEventObjectType is read through its address, because the headers disagree on how many times to dereference it.
NTSTATUS reference_event(uint64_t handle, KEVENT** event) {
    PAGED_CODE();
    auto* type = static_cast<POBJECT_TYPE*>(find_export(L"ExEventObjectType"));
    if (type == nullptr) return STATUS_NOT_SUPPORTED;
    if (handle == 0 || handle > UINTPTR_MAX) return STATUS_INVALID_HANDLE;
    return ObReferenceObjectByHandle(handle_of(handle), EVENT_MODIFY_STATE, *type, UserMode,
                                     reinterpret_cast<void**>(event), nullptr);
}

// Called by the worker. The process stays held until this has returned, so that its pid cannot be reused.
Outcome terminate(const ToTerminate& to_terminate) {
    PAGED_CODE();
    const ProcessReference process(handle_of(to_terminate.pid));
    if (process.get() == nullptr) return Outcome::kFailed;
    Handle handle;
    NTSTATUS status = ObOpenObjectByPointer(process.get(), OBJ_KERNEL_HANDLE, nullptr,
                                            kProcessTerminate | kProcessQuery, nullptr, KernelMode, handle.put());
    if (!NT_SUCCESS(status)) return Outcome::kFailed;
    if (is_critical(handle.get())) return Outcome::kCritical;
    status = ZwTerminateProcess(handle.get(), static_cast<NTSTATUS>(wire::kStatusBlocked));
    return NT_SUCCESS(status) || status == STATUS_PROCESS_IS_TERMINATING ? Outcome::kDied : Outcome::kFailed;
}

NTSTATUS control(IRP*, uint32_t, void*, size_t, size_t, size_t*) { return STATUS_INVALID_DEVICE_REQUEST; }

NTSTATUS start(DRIVER_OBJECT*) { return STATUS_SUCCESS; }
void stop() {}

}  // namespace procmon::kernel::build
