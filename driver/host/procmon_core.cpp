// procmon_core.cpp - the core as a library: the functions that the tests call by ctypes.

#include "procmon_core.h"

#include <stdlib.h>

#include "host.h"

using namespace procmon;

namespace procmon::host {

struct HeldThread {
    Hold hold;
    Host* host;
};

namespace {

constexpr uint64_t kFirstHandle = 4;

Event* event_of(Host* host, uint64_t handle) { return &host->events[handle - kFirstHandle]; }

}  // namespace
}  // namespace procmon::host

using procmon::host::event_of;

// -------------------------------------------------------------------------------------------------- the system

Host* host_new(int64_t filetime) {
    Host* host = static_cast<Host*>(calloc(1, sizeof(Host)));
    if (!host) return nullptr;
    host->filetime.set(filetime);
    host->now_ms.set(1000);
    host->port = procmon::host::make_port(host);
    return host;
}

uint64_t host_delete(Host* host) {
    const uint64_t leftovers = host_leftovers(host);
    for (uint64_t i = 0; i < host->event_count.get(); ++i) {
        pthread_cond_destroy(&host->events[i].wakes);
        pthread_mutex_destroy(&host->events[i].mutex);
    }
    free(host);
    return leftovers;
}

void host_advance(Host* host, uint64_t milliseconds) {
    host->now_ms.add(milliseconds);
    host->filetime.add(static_cast<int64_t>(milliseconds) * 10000);
}

void host_fail_allocation(Host* host, uint64_t n, int forever) {
    host->fail_at.set(n ? host->allocations.get() + n : 0);
    host->fail_from_there_on.set(forever);
}

uint64_t host_allocations(Host* host) { return host->allocations.get(); }
uint64_t host_live_bytes(Host* host) { return host->live_bytes.get(); }
uint64_t host_worker_wakes(Host* host) { return host->worker_wakes.get(); }
uint64_t host_breaches(Host* host) { return host->breaches.get(); }

uint64_t host_leftovers(Host* host) {
    return host->live_blocks.get() + host->live_signals.get() + host->live_locks.get() + host->live_references.get();
}

uint64_t host_event_new(Host* host, int is_event) {
    const uint64_t number = host->event_count.get();
    if (number == procmon::host::kMaxEvents) return 0;
    procmon::host::Event& event = host->events[number];
    pthread_mutex_init(&event.mutex, nullptr);
    pthread_cond_init(&event.wakes, nullptr);
    event.is_event = is_event;
    host->event_count.set(number + 1);
    return procmon::host::kFirstHandle + number;
}

uint64_t host_event_sets(Host* host, uint64_t handle) {
    procmon::host::Event* event = event_of(host, handle);
    pthread_mutex_lock(&event->mutex);
    const uint64_t sets = event->sets;
    pthread_mutex_unlock(&event->mutex);
    return sets;
}

int host_event_wait(Host* host, uint64_t handle, uint32_t real_ms) {
    return procmon::host::wait_event(event_of(host, handle), real_ms);
}

// ---------------------------------------------------------------------------------------------------- the gate

uint32_t gate_start(Host* host, uint32_t features) { return host->gate.start(host->port, features); }
void gate_stop(Host* host) { host->gate.stop(); }
void gate_quiesce(Host* host) { host->gate.quiesce(); }
void gate_on_thread(Host* host, uint32_t pid) { host->gate.on_thread(pid); }
void gate_destroy(Host* host) { host->gate.destroy(); }
uint32_t gate_holds_in_flight(Host* host) { return host->gate.holds_in_flight(); }
void gate_set_features(Host* host, uint32_t features) { host->gate.set_features(features); }
uint32_t gate_volumes_begin(Host* host) { return host->gate.volumes_begin(); }
void gate_volumes_commit(Host* host) { host->gate.volumes_commit(); }
void gate_on_exit(Host* host, uint32_t pid, uint32_t exit_status) { host->gate.on_exit(pid, exit_status); }
void gate_handle_closed(Host* host, uint64_t owner) { host->gate.handle_closed(owner); }

uint32_t gate_volumes_add(Host* host, const char16_t* prefix, size_t units, char16_t drive) {
    return host->gate.volumes_add({prefix, units}, drive);
}

uint32_t gate_set_system_directory(Host* host, const char16_t* path, size_t units) {
    return host->gate.set_system_directory({path, units});
}

int gate_on_create(Host* host, uint32_t pid, uint32_t parent_pid, uint32_t creator_pid, uint32_t creator_tid,
                   int64_t created, const char16_t* native_name, size_t native_units, const char16_t* command_line,
                   size_t command_units, uint32_t file_flags, uint32_t signature_level, int options) {
    Creation creation;
    creation.pid = pid;
    creation.parent_pid = parent_pid;
    creation.creator_pid = creator_pid;
    creation.creator_tid = creator_tid;
    creation.created = created;
    creation.native_name = {native_name, native_units};
    creation.command_line = {command_line, command_units};
    creation.file_flags = file_flags;
    creation.signature_level = signature_level;
    creation.running = options & kRunning;
    creation.refusable = options & kRefusable;
    creation.pico = options & kPico;
    return host->gate.on_create(creation);
}

uint32_t gate_dispatch(Host* host, uint64_t owner, uint32_t pid, uint32_t code, const void* input, size_t input_bytes,
                       void* output, size_t output_bytes, size_t* written) {
    return host->gate.dispatch({owner, pid}, code, input, input_bytes, output, output_bytes, written);
}

int gate_next_to_terminate(Host* host, uint32_t* pid, uint64_t* start_key, uint32_t* wait_ms) {
    ToTerminate to_terminate;
    if (!host->gate.next_to_terminate(&to_terminate, wait_ms)) return 0;
    *pid = to_terminate.pid;
    *start_key = to_terminate.start_key;
    return 1;
}

void gate_terminated(Host* host, uint32_t pid, uint64_t start_key, int outcome) {
    host->gate.terminated({pid, start_key}, static_cast<Outcome>(outcome));
}

// ------------------------------------------------------------------------------------------------------- holds

namespace {

HeldThread* begin(Host* host, bool (Gate::*call)(Hold*, const Image&), Image image, int options) {
    HeldThread* thread = static_cast<HeldThread*>(calloc(1, sizeof(HeldThread)));
    if (!thread) abort();
    thread->host = host;
    image.protected_process = options & kProtected;
    image.dying = options & kDying;
    image.own = options & kOwn;
    if ((host->gate.*call)(&thread->hold, image)) return thread;
    free(thread);
    return nullptr;
}

}  // namespace

HeldThread* hold_begin(Host* host, uint32_t pid, const char16_t* native_name, size_t units,
                       const char16_t* mapped_name, size_t mapped_units, int options) {
    Image image;
    image.pid = pid;
    image.native_name = {native_name, units};
    image.mapped_name = {mapped_name, mapped_units};
    return begin(host, &Gate::begin_hold, image, options);
}

HeldThread* hold_begin_thread(Host* host, uint32_t pid, int options) {
    Image image;
    image.pid = pid;
    return begin(host, &Gate::begin_thread, image, options);
}

int hold_signaled(HeldThread* thread) { return procmon::host::wait_signal(&thread->hold.signal, 0); }
uint32_t hold_slice_ms(HeldThread* thread) { return thread->hold.slice_ms; }
int hold_still_held(HeldThread* thread, int dying) { return thread->host->gate.still_held(&thread->hold, dying); }

uint32_t hold_end(HeldThread* thread) {
    const uint32_t verdict = thread->host->gate.end_hold(&thread->hold);
    free(thread);
    return verdict;
}

uint32_t hold_through(Host* host, uint32_t pid, const char16_t* native_name, size_t units, uint32_t slice_real_ms) {
    Hold hold;
    Image image;
    image.pid = pid;
    image.native_name = {native_name, units};
    if (!host->gate.begin_hold(&hold, image)) return wire::kVerdictAllow;
    do {
        (void)procmon::host::wait_signal(&hold.signal, slice_real_ms);
    } while (host->gate.still_held(&hold));
    return host->gate.end_hold(&hold);
}
