// port.h - the services that the core needs from the system.
//
// The core includes no system header; each build gives it one Port: wdm/core_port.cpp (kernel), host/port.cpp (tests).
// Every function may be called at PASSIVE_LEVEL or APC_LEVEL, from any thread. Those marked "under the lock" are
// called while the gate's lock is held, and must not call back into the gate.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace procmon {

// Storage for the system's lock or event: a Gate and a Hold embed one without knowing its type.
struct alignas(16) LockStorage {
    unsigned char bytes[128];
};
struct alignas(16) SignalStorage {
    unsigned char bytes[128];
};

// One change of a record's state. The numbers are those of protocol.h.
struct StateChange {
    uint32_t pid;
    uint64_t start_key;
    uint32_t from, to, verdict, decided_by;
};

struct Port {
    void* context;

    // 16-byte aligned and zeroed, or nullptr; nonpaged, or paged for texts and rules. Never called under the lock.
    void* (*allocate)(void* context, size_t bytes);
    void* (*allocate_paged)(void* context, size_t bytes);
    void (*release)(void* context, void* memory);  // of either

    // One lock, not recursive. It is never held across a wait.
    void (*lock_create)(void* context, LockStorage*);
    void (*lock_destroy)(void* context, LockStorage*);
    void (*lock_acquire)(void* context, LockStorage*);
    void (*lock_release)(void* context, LockStorage*);

    // An event that wakes its waiter and stays set. signal_set is called under the lock.
    void (*signal_create)(void* context, SignalStorage*);
    void (*signal_destroy)(void* context, SignalStorage*);
    void (*signal_set)(void* context, SignalStorage*);

    // The controller's event. open turns a handle of the calling process into an object (PASSIVE_LEVEL, no lock) and
    // returns 0 or an NTSTATUS; set is called under the lock; close is not.
    uint32_t (*user_event_open)(void* context, uint64_t handle, void** event);
    void (*user_event_set)(void* context, void* event);
    void (*user_event_close)(void* context, void* event);

    // Wakes the worker thread, which then calls Gate::next_to_terminate. Under the lock.
    void (*worker_wake)(void* context);

    // For a debugger; under the lock.
    void (*trace)(void* context, const StateChange& change);

    uint64_t (*monotonic_ms)(void* context);        // never goes back; under the lock
    int64_t (*filetime)(void* context);             // 100 ns since 1601-01-01 UTC; under the lock
    const char16_t* lowercase;  // of each of the 65,536 code units, by the system's rules; also read under the lock
};

}  // namespace procmon
