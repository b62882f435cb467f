// objects.cpp - the made-up kernel's memory, waits, handles, security and devices.

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "state.h"

using namespace fake;

namespace {

std::map<ACL*, std::vector<Ace>> lists;

}  // namespace

PVOID ExAllocatePoolWithTag(POOL_TYPE type, SIZE_T bytes, ULONG tag) {
    if (fails("ExAllocatePoolWithTag")) return nullptr;
    const Guard guard(lock);
    void* memory = malloc(bytes);
    memset(memory, 0xCD, bytes);
    pool[memory] = {bytes, tag};
    (type == PagedPool ? pool_bytes_paged : type == NonPagedPoolNx ? pool_bytes_nx : pool_bytes_executable) += bytes;
    return memory;
}

void ExFreePoolWithTag(PVOID memory, ULONG tag) {
    const Guard guard(lock);
    const auto found = pool.find(memory);
    if (found == pool.end() || found->second.tag != tag) bugcheck("pool is freed that was not allocated so");
    pool.erase(found);
    free(memory);
}

// Slow where the kernel does not wait for callbacks: a held thread calls this at its end, so that a test sees an unload
// that does not wait for it.
void ExFreePool(PVOID memory) {
    if (!kernel.removal_waits) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ExFreePoolWithTag(memory, 0);
}

SIZE_T RtlCompareMemory(const void* a, const void* b, SIZE_T bytes) {
    SIZE_T equal = 0;
    while (equal < bytes && static_cast<const char*>(a)[equal] == static_cast<const char*>(b)[equal]) ++equal;
    return equal;
}

void KeInitializeEvent(KEVENT* event, EVENT_TYPE type, BOOLEAN state) {
    const Guard guard(lock);
    event->header = {type == NotificationEvent ? kNotificationEvent : kSynchronizationEvent, state, nullptr};
}

LONG KeSetEvent(KEVENT* event, LONG, BOOLEAN wait) {
    const Guard guard(lock);
    if (wait) bugcheck("KeSetEvent with Wait");
    const int before = event->header.signaled;
    event->header.signaled = 1;
    changed.notify_all();
    return before;
}

void KeInitializeMutex(KMUTEX* mutex, ULONG) {
    const Guard guard(lock);
    mutex->header = {kMutex, 1, nullptr};
}

LONG KeReleaseMutex(KMUTEX* mutex, BOOLEAN) {
    const Guard guard(lock);
    if (mutex->header.owner != &current) bugcheck("a mutex is released by another thread");
    mutex->header.signaled = 1;
    mutex->header.owner = nullptr;
    changed.notify_all();
    return 0;
}

NTSTATUS KeWaitForSingleObject(PVOID object, KWAIT_REASON, KPROCESSOR_MODE, BOOLEAN alertable, LARGE_INTEGER* timeout) {
    passive("KeWaitForSingleObject");
    if (alertable) bugcheck("an alertable wait");
    if (current.callbacks != 0 && current.critical_regions == 0) bugcheck("a callback waits and can be suspended");
    auto* header = static_cast<DISPATCHER_HEADER*>(object);
    std::unique_lock<std::recursive_mutex> guard(lock);
    using std::chrono::microseconds;
    const auto limit = timeout != nullptr ? microseconds(-timeout->QuadPart / 10) : std::chrono::seconds(100);
    if (!changed.wait_for(guard, limit, [header] { return header->signaled != 0; })) {
        if (timeout == nullptr) bugcheck("a wait without end");
        return STATUS_TIMEOUT;
    }
    if (header->kind == kSynchronizationEvent || header->kind == kMutex) header->signaled = 0;
    if (header->kind == kMutex) header->owner = &current;
    return STATUS_SUCCESS;
}

NTSTATUS KeDelayExecutionThread(KPROCESSOR_MODE, BOOLEAN, LARGE_INTEGER* interval) {
    passive("KeDelayExecutionThread");
    std::this_thread::sleep_for(std::chrono::microseconds(-interval->QuadPart / 10));
    return STATUS_SUCCESS;
}

KIRQL KeGetCurrentIrql() { return std::max<KIRQL>(current.raised, current.fast_mutexes != 0 ? APC_LEVEL : 0); }

void KeRaiseIrql(KIRQL to, KIRQL* before) {
    *before = current.raised;
    current.raised = to;
}

void KeLowerIrql(KIRQL to) { current.raised = to; }

void paged_code(const char* function) {
    if (KeGetCurrentIrql() > APC_LEVEL) bugcheck(std::string(function) + " above APC_LEVEL");
}

void KeEnterCriticalRegion() { ++current.critical_regions; }

// The last call of each callback: one that comes here after the unload was not waited for.
void KeLeaveCriticalRegion() {
    if (--current.critical_regions < 0) bugcheck("a critical region is left that was not entered");
    if (is_unloaded && current.callbacks != 0) bugcheck(kUnloadedTooEarly);
}

void ExInitializeFastMutex(FAST_MUTEX* mutex) {
    static_assert(sizeof(pthread_mutex_t) <= sizeof mutex->mutex);
    pthread_mutex_init(reinterpret_cast<pthread_mutex_t*>(mutex->mutex), nullptr);
}

void ExAcquireFastMutex(FAST_MUTEX* mutex) {
    paged_code("ExAcquireFastMutex");
    if (current.fast_mutexes++ != 0) bugcheck("two fast mutexes at once");
    ++locks_taken;
    pthread_mutex_lock(reinterpret_cast<pthread_mutex_t*>(mutex->mutex));
}

void ExReleaseFastMutex(FAST_MUTEX* mutex) {
    pthread_mutex_unlock(reinterpret_cast<pthread_mutex_t*>(mutex->mutex));
    --current.fast_mutexes;
}

uint64_t KeQueryInterruptTime() {
    if (stopped_at != 0) return stopped_at + slept;
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()) / 100 + slept;
}

void KeQuerySystemTime(LARGE_INTEGER* now) {
    now->QuadPart = 134000000000000000 + static_cast<LONGLONG>(KeQueryInterruptTime()) + system_time_ahead;
}

NTSTATUS ObReferenceObjectByHandle(HANDLE handle, ACCESS_MASK access, POBJECT_TYPE type, KPROCESSOR_MODE mode,
                                   PVOID* object, PVOID) {
    passive("ObReferenceObjectByHandle");
    if (fails("ObReferenceObjectByHandle")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    auto& table = mode == UserMode ? user_handles : kernel_handles;
    const auto found = table.find(reinterpret_cast<uintptr_t>(handle));
    if (found == table.end()) return STATUS_INVALID_HANDLE;
    Object& body = objects.at(found->second.object);
    if (type != nullptr && type->kind != body.kind) return STATUS_OBJECT_TYPE_MISMATCH;
    if ((found->second.access & access) != access) return STATUS_ACCESS_DENIED;
    ++body.references;
    *object = found->second.object;
    return STATUS_SUCCESS;
}

NTSTATUS ObOpenObjectByPointer(PVOID object, ULONG attributes, PVOID, ACCESS_MASK access, POBJECT_TYPE, KPROCESSOR_MODE,
                               HANDLE* handle) {
    passive("ObOpenObjectByPointer");
    if (fails("ObOpenObjectByPointer")) return STATUS_INSUFFICIENT_RESOURCES;
    if ((attributes & OBJ_KERNEL_HANDLE) == 0) bugcheck("a handle that user mode can see");
    const Guard guard(lock);
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, object, access));
    return STATUS_SUCCESS;
}

void ObDereferenceObject(PVOID object) {
    passive("ObDereferenceObject");
    const Guard guard(lock);
    dereference(object);
}

NTSTATUS ZwClose(HANDLE handle) {
    passive("ZwClose");
    const Guard guard(lock);
    const auto found = kernel_handles.find(reinterpret_cast<uintptr_t>(handle));
    if (found == kernel_handles.end()) bugcheck("a handle is closed that is not open");
    void* object = found->second.object;
    kernel_handles.erase(found);
    dereference(object);
    return STATUS_SUCCESS;
}

NTSTATUS ZwWaitForSingleObject(HANDLE handle, BOOLEAN alertable, LARGE_INTEGER* timeout) {
    void* object;
    {
        const Guard guard(lock);
        object = kernel_handles.at(reinterpret_cast<uintptr_t>(handle)).object;
    }
    return KeWaitForSingleObject(object, Executive, KernelMode, alertable, timeout);
}

NTSTATUS ZwOpenSymbolicLinkObject(HANDLE* handle, ACCESS_MASK access, OBJECT_ATTRIBUTES* attributes) {
    passive("ZwOpenSymbolicLinkObject");
    const Guard guard(lock);
    const auto found = links.find(text(attributes->ObjectName));
    if (found == links.end()) return STATUS_OBJECT_NAME_NOT_FOUND;
    if (fails("ZwOpenSymbolicLinkObject")) return STATUS_INSUFFICIENT_RESOURCES;
    auto* link = new LinkObject{found->second};
    objects[link] = {kLink, 0, [link] { delete link; }};
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, link, access));
    return STATUS_SUCCESS;
}

NTSTATUS ZwQuerySymbolicLinkObject(HANDLE handle, UNICODE_STRING* target, ULONG*) {
    if (fails("ZwQuerySymbolicLinkObject")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    const auto* link = static_cast<LinkObject*>(kernel_handles.at(reinterpret_cast<uintptr_t>(handle)).object);
    target->Length = static_cast<USHORT>(link->target.size() * 2);
    if (target->Length > target->MaximumLength) bugcheck("a target that does not fit");
    memcpy(target->Buffer, link->target.data(), target->Length);
    return STATUS_SUCCESS;
}

NTSTATUS RtlCreateAcl(ACL* acl, ULONG bytes, ULONG) {
    if (fails("RtlCreateAcl")) return STATUS_UNSUCCESSFUL;
    *acl = {ACL_REVISION, 0, static_cast<USHORT>(bytes), 0, 0};
    lists[acl].clear();
    return STATUS_SUCCESS;
}

NTSTATUS RtlAddAccessAllowedAce(ACL* acl, ULONG, ACCESS_MASK access, PSID sid) {
    if (fails("RtlAddAccessAllowedAce")) return STATUS_UNSUCCESSFUL;
    const auto* bytes = static_cast<const uint8_t*>(sid);
    const uint8_t authority[6] = SECURITY_NT_AUTHORITY;
    if (bytes[0] != SID_REVISION || memcmp(bytes + 2, authority, 6) != 0) bugcheck("not a SID of the NT authority");
    Ace ace = {access, {}};
    for (int i = 0; i < bytes[1]; ++i) {
        uint32_t part;
        memcpy(&part, bytes + 8 + 4 * i, sizeof part);
        ace.sid.push_back(part);
    }
    lists.at(acl).push_back(ace);
    return STATUS_SUCCESS;
}

NTSTATUS RtlCreateSecurityDescriptor(SECURITY_DESCRIPTOR* descriptor, ULONG) {
    if (fails("RtlCreateSecurityDescriptor")) return STATUS_UNSUCCESSFUL;
    *descriptor = {};
    return STATUS_SUCCESS;
}

NTSTATUS RtlSetDaclSecurityDescriptor(SECURITY_DESCRIPTOR* descriptor, BOOLEAN present, ACL* acl, BOOLEAN) {
    if (fails("RtlSetDaclSecurityDescriptor")) return STATUS_UNSUCCESSFUL;
    if (!present || acl == nullptr) bugcheck("a device for everybody");
    descriptor->Dacl = acl;
    return STATUS_SUCCESS;
}

NTSTATUS ZwSetSecurityObject(HANDLE handle, ULONG information, SECURITY_DESCRIPTOR* descriptor) {
    passive("ZwSetSecurityObject");
    if (fails("ZwSetSecurityObject")) return STATUS_ACCESS_DENIED;
    const Guard guard(lock);
    const OpenHandle& opened = kernel_handles.at(reinterpret_cast<uintptr_t>(handle));
    if (objects.at(opened.object).kind != kDevice || (opened.access & WRITE_DAC) == 0) return STATUS_ACCESS_DENIED;
    if (information != DACL_SECURITY_INFORMATION) bugcheck("more than the access list is set");
    device_acl = lists.at(descriptor->Dacl);
    note("security");
    return STATUS_SUCCESS;
}

void IoCompleteRequest(IRP* irp, LONG) {
    if (irp->completed) bugcheck("a request is completed twice");
    irp->completed = true;
}

NTSTATUS IoCreateDevice(DRIVER_OBJECT*, ULONG, UNICODE_STRING* name, ULONG, ULONG flags, BOOLEAN,
                        DEVICE_OBJECT** device) {
    passive("IoCreateDevice");
    if (fails("IoCreateDevice")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    if (devices.count(text(name)) != 0) return STATUS_OBJECT_NAME_COLLISION;
    DEVICE_OBJECT* made = *device = new DEVICE_OBJECT{text(name), false};
    devices[made->name] = made;
    objects[made] = {kDevice, 1, [made] { delete made; }};
    device_flags = flags;
    note("device");
    return STATUS_SUCCESS;
}

void IoDeleteDevice(DEVICE_OBJECT* device) {
    const Guard guard(lock);
    if (device->hears_of_shutdown) bugcheck("a device is deleted that still hears of shutdowns");
    devices.erase(device->name);
    dereference(device);
    note("-device");
}

NTSTATUS IoRegisterShutdownNotification(DEVICE_OBJECT* device) {
    passive("IoRegisterShutdownNotification");
    if (fails("IoRegisterShutdownNotification")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    device->hears_of_shutdown = true;
    return STATUS_SUCCESS;
}

void IoUnregisterShutdownNotification(DEVICE_OBJECT* device) {
    const Guard guard(lock);
    if (!device->hears_of_shutdown) bugcheck("a shutdown notification is removed that was not set");
    device->hears_of_shutdown = false;
}

NTSTATUS IoCreateSymbolicLink(UNICODE_STRING* link, UNICODE_STRING* target) {
    passive("IoCreateSymbolicLink");
    if (fails("IoCreateSymbolicLink")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    if (!links.emplace(text(link), text(target)).second) return STATUS_OBJECT_NAME_COLLISION;
    note("link");
    return STATUS_SUCCESS;
}

NTSTATUS IoDeleteSymbolicLink(UNICODE_STRING* link) {
    const Guard guard(lock);
    if (links.erase(text(link)) == 0) bugcheck("a link is deleted that is not there");
    note("-link");
    return STATUS_SUCCESS;
}

NTSTATUS RtlGetVersion(RTL_OSVERSIONINFOW* version) {
    version->dwMajorVersion = kernel.major;
    version->dwMinorVersion = kernel.minor;
    return STATUS_SUCCESS;
}

void RtlInitUnicodeString(UNICODE_STRING* string, const WCHAR* from) {
    size_t units = 0;
    while (from[units] != 0) ++units;
    *string = {static_cast<USHORT>(units * 2), static_cast<USHORT>(units * 2 + 2), const_cast<WCHAR*>(from)};
}

NTSTATUS RtlDowncaseUnicodeString(UNICODE_STRING* to, const UNICODE_STRING* from, BOOLEAN) {
    passive("RtlDowncaseUnicodeString");
    if (fails("RtlDowncaseUnicodeString")) return STATUS_INSUFFICIENT_RESOURCES;
    if (to->MaximumLength < from->Length) return STATUS_INFO_LENGTH_MISMATCH;
    to->Length = from->Length;
    for (size_t i = 0; i < from->Length / 2; ++i) {
        const WCHAR unit = from->Buffer[i];
        const bool latin = (unit >= u'A' && unit <= u'Z') || (unit >= 0xC0 && unit <= 0xDE && unit != 0xD7);
        const bool capital = latin || (unit >= 0x410 && unit <= 0x42F) || (unit >= 0xFF21 && unit <= 0xFF3A);
        to->Buffer[i] = static_cast<WCHAR>(capital ? unit + 0x20 : unit);
    }
    return STATUS_SUCCESS;
}

namespace {

std::string printed(const char* format, va_list arguments) {
    std::string plain = format;  // %I64x is the kernel's own format
    for (size_t at; (at = plain.find("%I64x")) != std::string::npos;) plain.replace(at, 5, "%lx");
    char line[200];
    vsnprintf(line, sizeof line, plain.c_str(), arguments);
    std::string text(line);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

}  // namespace

ULONG DbgPrint(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    note("\"" + printed(format, arguments) + "\"");
    va_end(arguments);
    return 0;
}

ULONG DbgPrintEx(ULONG component, ULONG level, const char* format, ...) {
    if (component != DPFLTR_IHVDRIVER_ID || level == 0) bugcheck("a message that everyone would see");
    va_list arguments;
    va_start(arguments, format);
    const Guard guard(lock);
    debug_output.push_back(printed(format, arguments));
    va_end(arguments);
    return 0;
}
