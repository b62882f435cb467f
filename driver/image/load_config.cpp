// load_config.cpp - the load configuration of a release driver, and the entry that Windows' loader calls.
//
// The WDK links this part from its own libraries (loadcfg, BufferOverflowFastFail). This file replaces them for clang's
// *-windows-gnu targets, whose stack protector compares with __stack_chk_guard and calls __stack_chk_fail.

#include "../wdm/kernel.h"

// The cookie value that the loader of Windows 8 and later treats as not seeded yet, and seeds.
#if defined(_WIN64)
constexpr uintptr_t kUnseeded = 0x00002B992DDFA232;
#else
constexpr uintptr_t kUnseeded = 0xBB40E64E;
#endif
constexpr ULONG kDriverOverranStackBuffer = 0xF7;  // DRIVER_OVERRAN_STACK_BUFFER

extern "C" {

DRIVER_INITIALIZE DriverEntry;

uintptr_t __stack_chk_guard = kUnseeded;

[[noreturn]] void __stack_chk_fail() {
    KeBugCheckEx(kDriverOverranStackBuffer, 0, __stack_chk_guard, ~__stack_chk_guard, 0);
    __builtin_unreachable();
}

// Control flow guard. Indirect calls go through these two pointers. A kernel that enforces the guard replaces them with
// its own functions; other kernels leave these functions, which check nothing.
[[gnu::naked]] void guard_check_nothing() { __asm__("ret"); }
#if defined(__x86_64__)
[[gnu::naked]] void guard_dispatch_unchecked() { __asm__("jmp *%rax"); }
extern void (*const __guard_dispatch_icall_fptr)();
[[gnu::section(".00cfg"), gnu::used]] void (*const __guard_dispatch_icall_fptr)() = guard_dispatch_unchecked;
constexpr const void* kGuardDispatch = &__guard_dispatch_icall_fptr;
#else
constexpr const void* kGuardDispatch = nullptr;  // calls are checked, then made
#endif
extern void (*const __guard_check_icall_fptr)();
[[gnu::section(".00cfg"), gnu::used]] void (*const __guard_check_icall_fptr)() = guard_check_nothing;

// From the linker: the table of valid targets of indirect calls; the "address" of the second symbol is their number.
extern char __guard_fids_table[], __guard_fids_count[];

// IMAGE_LOAD_CONFIG_DIRECTORY, up to the last member that control flow guard needs.
struct LoadConfig {
    uint32_t size, timestamp, version, flags_to_clear, flags_to_set, critical_section_timeout;
    uintptr_t decommit_free_block, decommit_total_free, lock_prefix_table, largest_allocation, virtual_memory_threshold;
    uint32_t process[sizeof(void*) == 8 ? 4 : 3];  // affinity, heap flags, versions
    uintptr_t edit_list;
    const void* security_cookie;
    uintptr_t handler_table, handler_count;
    const void *guard_check, *guard_dispatch, *guard_table, *guard_count;
    uint32_t guard_flags;
};
static_assert(offsetof(LoadConfig, security_cookie) == (sizeof(void*) == 8 ? 0x58 : 0x3C));
static_assert(offsetof(LoadConfig, guard_flags) == (sizeof(void*) == 8 ? 0x90 : 0x58));
constexpr uint32_t kGuardSize = offsetof(LoadConfig, guard_flags) + sizeof(uint32_t);
constexpr uint32_t kInstrumented = 0x100, kTablePresent = 0x400;  // IMAGE_GUARD_CF_...

extern const LoadConfig _load_config_used;
[[gnu::used]] const LoadConfig _load_config_used = {
    kGuardSize, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0,
    {},
    0,
    &__stack_chk_guard,
    0, 0,
    &__guard_check_icall_fptr, kGuardDispatch, __guard_fids_table, __guard_fids_count,
    kInstrumented | kTablePresent,
};

// The image's entry, with the WDK's name. PASSIVE_LEVEL, a system thread. It has no cookie on its own stack, because it
// changes the cookie. The seed need not be secret from the kernel, only from an attacker who overruns a buffer.
[[clang::no_stack_protector]] NTSTATUS NTAPI GsDriverEntry(DRIVER_OBJECT* driver, UNICODE_STRING* path) {
    if (__stack_chk_guard == kUnseeded) {
        LARGE_INTEGER now;
        KeQuerySystemTime(&now);
        uint64_t seed = static_cast<uint64_t>(now.QuadPart) ^ KeQueryInterruptTime() << 20;
#if defined(__aarch64__)
        uint64_t ticks;
        __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
        seed ^= ticks << 32;
#else
        seed ^= __builtin_ia32_rdtsc() << 32;
#endif
        seed ^= reinterpret_cast<uintptr_t>(driver) ^ reinterpret_cast<uintptr_t>(&now);
        seed ^= seed >> 32;
        __stack_chk_guard = seed != 0 ? static_cast<uintptr_t>(seed) : kUnseeded + 1;
    }
    return DriverEntry(driver, path);
}

#if defined(__i386__)
// clang calls libgcc's function to divide 64-bit numbers; the kernel exports an equivalent one.
NTKERNELAPI uint64_t NTAPI _aulldiv(uint64_t dividend, uint64_t divisor);
uint64_t __udivdi3(uint64_t dividend, uint64_t divisor) { return _aulldiv(dividend, divisor); }
#endif

}  // extern "C"
