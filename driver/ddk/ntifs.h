// ntifs.h - mingw-w64's ntifs.h, which does not support arm64, for all release builds: their include path has this
// folder.
//
// A test compares the layouts of structures with those of Windows' public symbols. For arm64 the result is compiled and
// read back, and has never been run.
#pragma once

#if !defined(__aarch64__)
#include_next <ntifs.h>
#else

#define _IA64_                // structures as on every 64-bit Windows, without the peculiarities of x64
#define _M_ARM                // the processor's own part is in armddk.h, beside this file
#define _PSGETCURRENTTHREAD_  // not inline: the kernel exports it
#include_next <ntifs.h>
#undef _M_ARM
#undef _IA64_

NTKERNELAPI PETHREAD NTAPI PsGetCurrentThread(VOID);

// The arm64 kernel exports no such routines; SharedUserData has the times. The kernel writes High2Time first and
// High1Time last, so that a reader that finds both equal has a consistent value.
inline LONGLONG read_shared_time(const volatile KSYSTEM_TIME& time) {
    LONG high;
    ULONG low;
    do {
        high = __atomic_load_n(&time.High1Time, __ATOMIC_ACQUIRE);
        low = __atomic_load_n(&time.LowPart, __ATOMIC_ACQUIRE);
    } while (high != time.High2Time);
    return static_cast<LONGLONG>(high) << 32 | low;
}
#define KeQueryInterruptTime() static_cast<ULONGLONG>(read_shared_time(SharedUserData->InterruptTime))
#define KeQuerySystemTime(now) ((now)->QuadPart = read_shared_time(SharedUserData->SystemTime))

#endif
