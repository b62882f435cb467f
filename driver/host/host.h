// host.h - a gate on a system that tests control: a clock that tests set, allocations that fail on request, events that
// count, and a check of what port.h forbids.
#pragma once

#include <pthread.h>

#include <atomic>

#include "../core/gate.h"

namespace procmon::host {

constexpr int kMaxEvents = 64;

// A number that threads share without synchronisation: a lock here would hide races of the core from the thread
// sanitizer.
template <class T>
class Shared {
   public:
    T get() const { return value_.load(std::memory_order_relaxed); }
    void set(T value) { value_.store(value, std::memory_order_relaxed); }
    T add(T more) { return value_.fetch_add(more, std::memory_order_relaxed) + more; }

   private:
    std::atomic<T> value_{};
};

// The controller's event, in place of a kernel's event object.
struct Event {
    pthread_mutex_t mutex;
    pthread_cond_t wakes;
    uint64_t sets;       // since it was created
    uint64_t taken;      // of these, seen by wait_event
    Shared<uint64_t> references;  // that the core holds
    bool is_event;                // false: a handle of something else
};

struct Host {
    Gate gate;
    Port port;
    Shared<uint64_t> now_ms;
    Shared<int64_t> filetime;
    Shared<uint64_t> allocations;  // requested so far
    Shared<uint64_t> fail_at;      // the number of the allocation that fails; 0 = none
    Shared<bool> fail_from_there_on;
    Shared<uint64_t> live_blocks;
    Shared<uint64_t> live_bytes;
    Shared<uint64_t> live_signals;
    Shared<uint64_t> live_locks;
    Shared<uint64_t> live_references;  // to events
    Shared<uint64_t> worker_wakes;
    Shared<uint64_t> breaches;  // calls that port.h forbids
    Shared<uint64_t> event_count;
    Event events[kMaxEvents];
};

// The port's functions over a Host. A call of allocate or release under the lock counts as a breach: the core must
// allocate before it locks, and free afterwards.
[[nodiscard]] Port make_port(Host* host);

// Is the signal set? Waits up to `real_ms` for it, in real time.
[[nodiscard]] bool wait_signal(SignalStorage* signal, uint32_t real_ms);
[[nodiscard]] bool wait_event(Event* event, uint32_t real_ms);

}  // namespace procmon::host
