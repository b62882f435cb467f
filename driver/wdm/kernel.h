// kernel.h - the NT kernel's own headers, usable from C++ with mingw-w64 and with the WDK, and guards over its handles.
//
// mingw-w64's ddk/wdm.h defines two intrinsics that its own intrin-impl.h has defined before; macros rename them during
// the include. Nothing here may include <windef.h> or <windows.h>: those are user-mode types.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {
#if defined(__MINGW32__)
#include <basetsd.h>
#include <psdk_inc/intrin-impl.h>
#define InterlockedBitTestAndSet InterlockedBitTestAndSetOfWdm
#define InterlockedBitTestAndReset InterlockedBitTestAndResetOfWdm
#include <ntifs.h>
#undef InterlockedBitTestAndSet
#undef InterlockedBitTestAndReset
#else
#include <ntifs.h>
NTSYSAPI NTSTATUS NTAPI ZwQueryInformationProcess(HANDLE, PROCESSINFOCLASS, PVOID, ULONG, PULONG);
#endif
NTSYSAPI NTSTATUS NTAPI ZwQuerySystemInformation(ULONG information_class, PVOID buffer, ULONG bytes, PULONG needed);
}

// Annotations for the WDK's analysis; other headers do not have them all. They follow [[nodiscard]].
#ifndef _IRQL_requires_
#define _IRQL_requires_(irql)
#endif
#ifndef _IRQL_requires_max_
#define _IRQL_requires_max_(irql)
#endif
#ifndef _IRQL_requires_same_
#define _IRQL_requires_same_
#endif
#ifndef _Must_inspect_result_
#define _Must_inspect_result_
#endif

#include "../core/gate.h"

namespace procmon::kernel {

constexpr uint32_t kIdlePid = 0, kSystemPid = 4;
constexpr ULONG kPoolTag = 0x476D6350;  // shown as "PcmG" by !poolused

inline uint32_t id_of(HANDLE id) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(id)); }
inline HANDLE handle_of(uint64_t value) { return reinterpret_cast<HANDLE>(static_cast<uintptr_t>(value)); }

inline Text text_of(const UNICODE_STRING* string) {
    if (string == nullptr || string->Buffer == nullptr) return {};
    return {reinterpret_cast<const char16_t*>(string->Buffer), string->Length / sizeof(WCHAR)};
}

// A string over `literal`; nothing is copied.
template <size_t N>
UNICODE_STRING string_of(const WCHAR (&literal)[N]) {
    return {static_cast<USHORT>((N - 1) * sizeof(WCHAR)), static_cast<USHORT>(N * sizeof(WCHAR)),
            const_cast<WCHAR*>(literal)};
}

inline LARGE_INTEGER milliseconds(uint32_t ms) {  // relative, as the Ke waits expect
    LARGE_INTEGER interval;
    interval.QuadPart = -static_cast<LONGLONG>(ms) * 10000;
    return interval;
}

_IRQL_requires_max_(APC_LEVEL) inline void wait_ms(uint32_t ms) {
    LARGE_INTEGER interval = milliseconds(ms);
    KeDelayExecutionThread(KernelMode, FALSE, &interval);
}

// Reads a value that other threads change. Any IRQL.
inline LONG read(volatile LONG* at) { return InterlockedCompareExchange(at, 0, 0); }

// Zeroed, nonpaged unless `paged`, never executable where the system knows the difference; nullptr when memory ran out.
// <= APC_LEVEL.
[[nodiscard]] _IRQL_requires_max_(APC_LEVEL) void* allocate(size_t bytes, bool paged = false);
_IRQL_requires_max_(APC_LEVEL) void release(void* memory);

// The address that the kernel or the HAL exports by this name, or nullptr. PASSIVE_LEVEL.
_IRQL_requires_(PASSIVE_LEVEL) inline void* find_export(const WCHAR* name) {
    UNICODE_STRING string;
    RtlInitUnicodeString(&string, name);
    return MmGetSystemRoutineAddress(&string);
}

// Owns a kernel handle.
class Handle {
   public:
    Handle() = default;
    ~Handle() {
        if (handle_ != nullptr) ZwClose(handle_);
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    [[nodiscard]] HANDLE get() const { return handle_; }
    [[nodiscard]] HANDLE* put() { return &handle_; }  // only while empty

   private:
    HANDLE handle_ = nullptr;
};

// Owns a reference to the process that has a pid now; empty when there is none. PASSIVE_LEVEL.
class ProcessReference {
   public:
    explicit ProcessReference(HANDLE pid) {
        if (!NT_SUCCESS(PsLookupProcessByProcessId(pid, &process_))) process_ = nullptr;
    }
    ~ProcessReference() {
        if (process_ != nullptr) ObDereferenceObject(process_);
    }
    ProcessReference(const ProcessReference&) = delete;
    ProcessReference& operator=(const ProcessReference&) = delete;
    [[nodiscard]] PEPROCESS get() const { return process_; }

   private:
    PEPROCESS process_ = nullptr;
};

// Owns paged memory, for large, short-lived data that is touched only at PASSIVE_LEVEL or APC_LEVEL.
class PagedMemory {
   public:
    explicit PagedMemory(size_t bytes) : memory_(ExAllocatePoolWithTag(PagedPool, bytes, kPoolTag)) {}
    ~PagedMemory() {
        if (memory_ != nullptr) ExFreePoolWithTag(memory_, kPoolTag);
    }
    PagedMemory(const PagedMemory&) = delete;
    PagedMemory& operator=(const PagedMemory&) = delete;
    template <typename T = void>
    [[nodiscard]] T* get() const {
        return static_cast<T*>(memory_);
    }

   private:
    void* memory_;
};

// Counts the threads inside callbacks or requests, so that unload can wait for the last one. Ex*RundownProtection does
// this better, but not every kernel has it.
class Rundown {
   public:
    // Any IRQL. false: closed, the caller must not go on.
    [[nodiscard]] bool enter() {
        if (InterlockedIncrement(&inside_) > 0) return true;
        InterlockedDecrement(&inside_);
        return false;
    }
    void leave() { InterlockedDecrement(&inside_); }
    // Once, or after close. Adds rather than sets: a thread in the middle of a refused enter is still counted.
    void open() { InterlockedExchangeAdd(&inside_, -kClosed); }
    // Refuses new entries and waits until all have left; twice is no error. PASSIVE_LEVEL, no lock.
    void close() {
        if (read(&inside_) >= 0) InterlockedExchangeAdd(&inside_, kClosed);
        while (read(&inside_) != kClosed) wait_ms(1);
    }

   private:
    static constexpr LONG kClosed = -0x40000000;
    volatile LONG inside_ = kClosed;
};

// Enters a Rundown for a scope, unless it is closed.
class RundownScope {
   public:
    explicit RundownScope(Rundown& rundown) : rundown_(rundown), inside_(rundown.enter()) {}
    ~RundownScope() {
        if (inside_) rundown_.leave();
    }
    RundownScope(const RundownScope&) = delete;
    RundownScope& operator=(const RundownScope&) = delete;
    explicit operator bool() const { return inside_; }

   private:
    Rundown& rundown_;
    const bool inside_;
};

}  // namespace procmon::kernel
