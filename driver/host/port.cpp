// port.cpp - the port of the core on POSIX threads: what a kernel provides, for tests on this system.

#include <stdlib.h>
#include <time.h>

#include "host.h"

namespace procmon::host {

namespace {

struct Lock {
    pthread_mutex_t mutex;
};
struct Signal {
    pthread_mutex_t mutex;
    pthread_cond_t wakes;
    bool set;
};
static_assert(sizeof(Lock) <= sizeof(LockStorage));
static_assert(sizeof(Signal) <= sizeof(SignalStorage));

constexpr size_t kHeaderBytes = 16;  // before each block: its size
constexpr uint64_t kFirstHandle = 4;

thread_local bool holds_the_lock;  // this thread, of the gate it is in

Host& host_of(void* context) { return *static_cast<Host*>(context); }
Lock* lock_of(LockStorage* storage) { return reinterpret_cast<Lock*>(storage); }
Signal* signal_of(SignalStorage* storage) { return reinterpret_cast<Signal*>(storage); }

void expect(Host& host, bool kept) {
    if (!kept) host.breaches.add(1);
}

void* allocate(void* context, size_t bytes) {
    Host& host = host_of(context);
    expect(host, !holds_the_lock);
    const uint64_t number = host.allocations.add(1);
    const uint64_t fail_at = host.fail_at.get();
    if (fail_at && (number == fail_at || (host.fail_from_there_on.get() && number > fail_at))) return nullptr;
    auto* block = static_cast<unsigned char*>(calloc(1, kHeaderBytes + bytes));
    if (!block) return nullptr;
    *reinterpret_cast<size_t*>(block) = bytes;
    host.live_blocks.add(1);
    host.live_bytes.add(bytes);
    return block + kHeaderBytes;
}

void release(void* context, void* memory) {
    Host& host = host_of(context);
    expect(host, !holds_the_lock && memory);
    unsigned char* block = static_cast<unsigned char*>(memory) - kHeaderBytes;
    host.live_blocks.add(-1);
    host.live_bytes.add(-*reinterpret_cast<size_t*>(block));
    free(block);
}

void lock_create(void* context, LockStorage* storage) {
    pthread_mutex_init(&lock_of(storage)->mutex, nullptr);
    host_of(context).live_locks.add(1);
}

void lock_destroy(void* context, LockStorage* storage) {
    pthread_mutex_destroy(&lock_of(storage)->mutex);
    host_of(context).live_locks.add(-1);
}

void lock_acquire(void*, LockStorage* storage) {
    pthread_mutex_lock(&lock_of(storage)->mutex);
    holds_the_lock = true;
}

void lock_release(void*, LockStorage* storage) {
    holds_the_lock = false;
    pthread_mutex_unlock(&lock_of(storage)->mutex);
}

void signal_create(void* context, SignalStorage* storage) {
    Signal* signal = signal_of(storage);
    pthread_mutex_init(&signal->mutex, nullptr);
    pthread_cond_init(&signal->wakes, nullptr);
    signal->set = false;
    host_of(context).live_signals.add(1);
}

void signal_destroy(void* context, SignalStorage* storage) {
    Signal* signal = signal_of(storage);
    pthread_cond_destroy(&signal->wakes);
    pthread_mutex_destroy(&signal->mutex);
    host_of(context).live_signals.add(-1);
}

void signal_set(void* context, SignalStorage* storage) {
    Signal* signal = signal_of(storage);
    pthread_mutex_lock(&signal->mutex);
    signal->set = true;
    pthread_cond_broadcast(&signal->wakes);
    pthread_mutex_unlock(&signal->mutex);
    expect(host_of(context), holds_the_lock);
}

uint32_t user_event_open(void* context, uint64_t handle, void** event) {
    Host& host = host_of(context);
    expect(host, !holds_the_lock);
    if (handle < kFirstHandle || handle - kFirstHandle >= host.event_count.get()) return kInvalidHandle;
    Event& found = host.events[handle - kFirstHandle];
    if (!found.is_event) return 0xC0000024;  // STATUS_OBJECT_TYPE_MISMATCH
    found.references.add(1);
    host.live_references.add(1);
    *event = &found;
    return kSuccess;
}

void user_event_set(void* context, void* event) {
    Event& found = *static_cast<Event*>(event);
    expect(host_of(context), holds_the_lock && found.references.get());
    pthread_mutex_lock(&found.mutex);
    ++found.sets;
    pthread_cond_broadcast(&found.wakes);
    pthread_mutex_unlock(&found.mutex);
}

void user_event_close(void* context, void* event) {
    Host& host = host_of(context);
    Event& found = *static_cast<Event*>(event);
    expect(host, !holds_the_lock && found.references.get());
    found.references.add(-1);
    host.live_references.add(-1);
}

void trace(void* context, const StateChange& change) {
    expect(host_of(context), holds_the_lock && change.from != change.to);
}

void worker_wake(void* context) {
    Host& host = host_of(context);
    expect(host, holds_the_lock);
    host.worker_wakes.add(1);
}

uint64_t monotonic_ms(void* context) {
    return host_of(context).now_ms.get();
}

int64_t filetime(void* context) {
    return host_of(context).filetime.get();
}

// ASCII, Latin-1 and Cyrillic: enough to distinguish it from a loop over A to Z.
struct CaseTable {
    char16_t lowercase[0x10000];

    CaseTable() {
        for (uint32_t unit = 0; unit < 0x10000; ++unit) {
            const bool latin = (unit >= u'A' && unit <= u'Z') || (unit >= 0xC0 && unit <= 0xDE && unit != 0xD7);
            const bool is_capital = latin || (unit >= 0x410 && unit <= 0x42F);
            lowercase[unit] = char16_t(is_capital ? unit + 0x20 : unit);
        }
    }
};
const CaseTable case_table;

timespec real_time_in(uint32_t milliseconds) {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    const long nanoseconds = until.tv_nsec + long(milliseconds % 1000) * 1000000;
    until.tv_sec += time_t(milliseconds / 1000) + nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    return until;
}

}  // namespace

Port make_port(Host* host) {
    return {host,         allocate,     allocate,      release,        lock_create,
            lock_destroy, lock_acquire, lock_release,  signal_create,  signal_destroy,
            signal_set,   user_event_open, user_event_set, user_event_close, worker_wake,
            trace,        monotonic_ms, filetime,      case_table.lowercase};
}

bool wait_signal(SignalStorage* storage, uint32_t real_ms) {
    Signal* signal = signal_of(storage);
    const timespec until = real_time_in(real_ms);
    pthread_mutex_lock(&signal->mutex);
    while (!signal->set && real_ms && pthread_cond_timedwait(&signal->wakes, &signal->mutex, &until) == 0) {
    }
    const bool set = signal->set;
    pthread_mutex_unlock(&signal->mutex);
    return set;
}

bool wait_event(Event* event, uint32_t real_ms) {
    const timespec until = real_time_in(real_ms);
    pthread_mutex_lock(&event->mutex);
    while (event->taken == event->sets && real_ms &&
           pthread_cond_timedwait(&event->wakes, &event->mutex, &until) == 0) {
    }
    const bool set = event->taken != event->sets;
    event->taken = event->sets;  // an auto-reset event
    pthread_mutex_unlock(&event->mutex);
    return set;
}

}  // namespace procmon::host
