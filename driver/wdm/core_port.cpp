// core_port.cpp - the core's Port on an NT kernel: pool, one fast mutex, events, two clocks, the case table.

#include "driver.h"

namespace procmon::kernel {
namespace {

static_assert(sizeof(FAST_MUTEX) <= sizeof(LockStorage));
static_assert(sizeof(KEVENT) <= sizeof(SignalStorage));

using ExAllocatePool2Routine = void*(NTAPI*)(uint64_t flags, SIZE_T bytes, ULONG tag);
constexpr uint64_t kPoolFlagNonPaged = 0x40;  // POOL_FLAG_NON_PAGED: zeroed and never executable
constexpr uint64_t kPoolFlagPaged = 0x100;    // POOL_FLAG_PAGED

ExAllocatePool2Routine allocate_pool2;  // Windows 10 2004 and later
ULONGLONG(NTAPI* unbiased_time)();      // KeQueryUnbiasedInterruptTime: Windows 7 and later
POOL_TYPE pool_type = NonPagedPool;     // NonPagedPoolNx where there is one: Windows 8 and later
char16_t* lowercase;                    // the lowercase form of each code unit; paged

FAST_MUTEX* mutex_of(LockStorage* storage) { return reinterpret_cast<FAST_MUTEX*>(storage); }

void* take(size_t bytes, bool paged) {
    if (allocate_pool2 != nullptr) return allocate_pool2(paged ? kPoolFlagPaged : kPoolFlagNonPaged, bytes, kPoolTag);
    void* memory = ExAllocatePoolWithTag(paged ? PagedPool : pool_type, bytes, kPoolTag);
    if (memory != nullptr) RtlZeroMemory(memory, bytes);
    return memory;
}

const char* state_name(uint32_t state) {
    constexpr const char* kNames[] = {"none", "new", "named", "held", "answered", "released", "exiting"};
    return state < ARRAYSIZE(kNames) ? kNames[state] : "?";
}

// Lowercases all code units at load: the system's routine requires PASSIVE_LEVEL, and the core needs letters under its
// lock. Uses the string routine, because the oldest kernels have none for a single unit.
_IRQL_requires_(PASSIVE_LEVEL) NTSTATUS make_case_table() {
    PAGED_CODE();
    constexpr size_t kUnits = 0x10000, kAtOnce = 0x4000;  // a UNICODE_STRING is shorter than 64 KiB
    lowercase = static_cast<char16_t*>(allocate(kUnits * sizeof(char16_t), true));
    if (lowercase == nullptr) return STATUS_INSUFFICIENT_RESOURCES;
    NTSTATUS status = STATUS_SUCCESS;
    for (size_t unit = 0; unit < kUnits; ++unit) lowercase[unit] = static_cast<char16_t>(unit);
    for (size_t unit = 0; unit < kUnits && NT_SUCCESS(status); unit += kAtOnce) {
        constexpr USHORT kBytes = kAtOnce * sizeof(WCHAR);
        UNICODE_STRING part = {kBytes, kBytes, reinterpret_cast<WCHAR*>(lowercase + unit)};
        status = RtlDowncaseUnicodeString(&part, &part, FALSE);  // in place
    }
    if (!NT_SUCCESS(status)) port_stop();
    return status;
}

}  // namespace

NTSTATUS port_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    find_newer(&allocate_pool2, L"ExAllocatePool2");
    find_newer(&unbiased_time, L"KeQueryUnbiasedInterruptTime");
    RTL_OSVERSIONINFOW version = {};
    version.dwOSVersionInfoSize = sizeof version;
    RtlGetVersion(&version);
    if (version.dwMajorVersion > 6 || (version.dwMajorVersion == 6 && version.dwMinorVersion >= 2))
        pool_type = NonPagedPoolNx;
    return make_case_table();
}

void port_stop() {
    PAGED_CODE();
    release(lowercase);
    lowercase = nullptr;
}

// The pool aligns to 16 bytes on x64 but to 8 on x86. There the block's own address lies just below the returned one.
void* allocate(size_t bytes, bool paged) {
    PAGED_CODE();
    constexpr size_t kAlignment = 16;
    if (bytes > SIZE_MAX - kAlignment) return nullptr;
    if constexpr (sizeof(void*) == 8) return take(bytes, paged);
    void* block = take(bytes + kAlignment, paged);
    if (block == nullptr) return nullptr;
    const uintptr_t aligned = (reinterpret_cast<uintptr_t>(block) + kAlignment) & ~(kAlignment - 1);
    reinterpret_cast<void**>(aligned)[-1] = block;
    return reinterpret_cast<void*>(aligned);
}

void release(void* memory) {
    PAGED_CODE();
    if (memory == nullptr) return;
    ExFreePoolWithTag(sizeof(void*) == 8 ? memory : static_cast<void**>(memory)[-1], kPoolTag);
}

// <= APC_LEVEL throughout. A fast mutex raises to APC_LEVEL; everything that the core does under it is allowed there.
Port port() {
    Port port = {};
    port.allocate = [](void*, size_t bytes) { return kernel::allocate(bytes); };
    port.allocate_paged = [](void*, size_t bytes) { return kernel::allocate(bytes, true); };
    port.release = [](void*, void* memory) { kernel::release(memory); };
    port.lock_create = [](void*, LockStorage* lock) { ExInitializeFastMutex(mutex_of(lock)); };
    port.lock_destroy = [](void*, LockStorage*) {};
    port.lock_acquire = [](void*, LockStorage* lock) {
        PAGED_CODE();  // texts are read under it
        ExAcquireFastMutex(mutex_of(lock));
    };
    port.lock_release = [](void*, LockStorage* lock) { ExReleaseFastMutex(mutex_of(lock)); };
    port.signal_create = [](void*, SignalStorage* signal) {
        KeInitializeEvent(event_of(signal), NotificationEvent, FALSE);
    };
    port.signal_destroy = [](void*, SignalStorage*) {};
    port.signal_set = [](void*, SignalStorage* signal) { KeSetEvent(event_of(signal), EVENT_INCREMENT, FALSE); };
    port.user_event_open = [](void*, uint64_t handle, void** event) {
        return static_cast<uint32_t>(build::reference_event(handle, reinterpret_cast<KEVENT**>(event)));
    };
    port.user_event_set = [](void*, void* event) {
        KeSetEvent(static_cast<KEVENT*>(event), EVENT_INCREMENT, FALSE);
    };
    port.user_event_close = [](void*, void* event) { ObDereferenceObject(event); };
    port.worker_wake = [](void*) { kernel::worker_wake(); };
    // The time during which the machine sleeps must not count towards the hold timeout.
    port.monotonic_ms = [](void*) {
        return static_cast<uint64_t>(unbiased_time != nullptr ? unbiased_time() : KeQueryInterruptTime()) / 10000;
    };
    port.filetime = [](void*) {
        LARGE_INTEGER now;
        KeQuerySystemTime(&now);
        return static_cast<int64_t>(now.QuadPart);
    };
    port.lowercase = lowercase;
    // Shown by a kernel debugger after "ed nt!Kd_IHVDRIVER_Mask 4"; off by default. Any IRQL.
    port.trace = [](void*, const StateChange& change) {
        DbgPrintEx(DPFLTR_IHVDRIVER_ID, DPFLTR_TRACE_LEVEL, "procmon: %u (%I64x): %s -> %s, verdict %u by %u\n",
                   change.pid, change.start_key, state_name(change.from), state_name(change.to), change.verdict,
                   change.decided_by);
    };
    return port;
}

}  // namespace procmon::kernel
