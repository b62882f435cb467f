// gate.cpp - start and stop, the map of volumes, the worker's queue, and the entries of requests and of closed handles.
// What follows when the controller dies or closes its handle: `GateState::controller_gone`, transitions.cpp.

#include "gate.h"

#include "state.h"
#include "text.h"

namespace procmon {

using namespace wire;

// ------------------------------------------------------------------------------------------------------- life

Status Gate::start(const Port& port, uint32_t features) {
    if (state_) return kInvalidDeviceState;
    GateState* state = allocate<GateState>(port);
    Table::Buckets* buckets = state ? allocate<Table::Buckets>(port) : nullptr;
    Reserve* reserve = buckets ? allocate<Reserve>(port) : nullptr;
    if (!reserve) {
        if (buckets) port.release(port.context, buckets);
        if (state) port.release(port.context, state);
        return kInsufficientResources;
    }
    state->port = port;
    state->features = features;
    // Keys ascend from the time of the load, so that no two loads assign the same key.
    const int64_t now = port.filetime(port.context);
    state->last_key = now > 0 ? static_cast<uint64_t>(now) : 0;
    state->reserve = reserve;
    reserve->fill();
    state->keep(state);
    state->keep(buckets);
    state->keep(reserve);
    state->table.open(buckets);
    port.lock_create(port.context, &state->lock);
    state_ = state;
    return kSuccess;
}

void Gate::stop() {
    if (!state_) return;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->stopping = true;
    state_->end_controller(kVerdictAllow, kByStop, deferred);
    if (state_->to_terminate.first) state_->port.worker_wake(state_->port.context);  // a retry need not wait any more
}

void Gate::quiesce() {
    if (!state_) return;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->quiesce(deferred);
}

void Gate::destroy() {
    if (!state_) return;
    stop();
    GateState* state = state_;
    const Port port = state->port;
    state_ = nullptr;
    PROCMON_CHECK(!state->holds);
    {
        DeferredFree deferred(port);
        while (Record* record = state->table.records.first) {
            state->table.records.remove(record);
            state->drop_record(record, deferred);
        }
        state->drop_volumes(state->volumes, deferred);
        state->drop_volumes(state->new_volumes, deferred);
        state->drop(state->system_directory, deferred);
        state->drop(state->table.buckets(), deferred);
        state->memory_bytes -= state->reserve->bytes;
        deferred.add(state->reserve);
        PROCMON_CHECK(state->memory_bytes == state->bytes);
        port.lock_destroy(port.context, &state->lock);
        deferred.add(state);
    }
}

uint32_t Gate::holds_in_flight() const {
    if (!state_) return 0;
    Locked locked(*state_);
    return state_->holds;
}

void Gate::set_features(uint32_t features) {
    if (!state_) return;
    Locked locked(*state_);
    state_->features = features;
}

// ------------------------------------------------------------------------------------------------------ volumes

Status Gate::volumes_begin() {
    if (!state_) return kDeviceNotReady;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->drop_volumes(state_->new_volumes, deferred);
    return kSuccess;
}

Status Gate::volumes_add(Text native_prefix, char16_t drive) {
    if (!state_) return kDeviceNotReady;
    if (!native_prefix.length || native_prefix.length > kMaxNameBytes / sizeof(char16_t)) return kInvalidParameter;
    Volume* volume = make_volume(state_->port, native_prefix, drive);
    if (!volume) return kInsufficientResources;
    Locked locked(*state_);
    state_->keep(volume);
    state_->new_volumes.append(volume);
    return kSuccess;
}

void Gate::volumes_commit() {
    if (!state_) return;
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->drop_volumes(state_->volumes, deferred);
    state_->volumes = state_->new_volumes;
    state_->new_volumes = {};
    ++state_->map_number;
}

Status Gate::set_system_directory(Text dos_path) {
    if (!state_) return kDeviceNotReady;
    while (dos_path.length && dos_path.data[dos_path.length - 1] == u'\\') --dos_path.length;
    if (!dos_path.length || dos_path.length > kMaxSystemDirectory) return kInvalidParameter;
    Path* path = allocate<Path>(state_->port, dos_path.length * sizeof(char16_t), true);
    if (!path) return kInsufficientResources;
    path->length = dos_path.length;
    copy_lower(state_->port, text_behind(path), dos_path);
    DeferredFree deferred(state_->port);
    Locked locked(*state_);
    state_->keep(path);
    state_->drop(state_->system_directory, deferred);
    state_->system_directory = path;
    ++state_->map_number;
    return kSuccess;
}

// ------------------------------------------------------------------------------------------------------- worker

bool Gate::next_to_terminate(ToTerminate* to_terminate, uint32_t* wait_ms) {
    *wait_ms = kUnlimited;
    if (!state_) return false;
    GateState& state = *state_;
    Locked locked(state);
    const uint64_t now = state.port.monotonic_ms(state.port.context);
    for (Record* record = state.to_terminate.first; record; record = state.to_terminate.next(record)) {
        if (record->retry_at_ms > now && !state.stopping) {
            const uint64_t wait = record->retry_at_ms - now;
            if (wait < *wait_ms) *wait_ms = static_cast<uint32_t>(wait);
            continue;
        }
        state.to_terminate.remove(record);
        state.in_worker.append(record);
        record->in_worker = true;
        record->last_try = state.stopping;
        *to_terminate = {record->pid, record->start_key};
        return true;
    }
    return false;
}

void Gate::terminated(const ToTerminate& to_terminate, Outcome outcome) {
    if (!state_) return;
    GateState& state = *state_;
    Locked locked(state);
    Record* record = state.in_worker.first;
    while (record && record->start_key != to_terminate.start_key) record = state.in_worker.next(record);
    if (!record) return;
    state.in_worker.remove(record);
    record->in_worker = false;
    if (outcome == Outcome::kFailed) ++state.counters.terminate_failures;
    if (outcome == Outcome::kCritical) ++state.counters.critical_refused;
    if (record->state == kStateExiting) {
        state.release(record);
    } else if (outcome == Outcome::kDied || record->last_try) {
        state.move_to(record, kStateReleased);
        state.release(record);
    } else {
        const bool quick = outcome == Outcome::kFailed && ++record->terminate_tries < kQuickTries;
        record->retry_at_ms = state.port.monotonic_ms(state.port.context) + (quick ? kQuickRetryMs : kRetryMs);
        state.to_terminate.append(record);
        if (!quick && !(record->flags & kFlagTerminateFailed)) {
            record->flags |= kFlagTerminateFailed;
            state.queue_for_fetch(record);
        }
    }
}

// ----------------------------------------------------------------------------------------------------- requests

Status Gate::dispatch(const Caller& caller, uint32_t code, const void* input, size_t input_bytes, void* output,
                      size_t output_bytes, size_t* written) {
    *written = 0;
    if (!state_) return kDeviceNotReady;
    return dispatch_request(*state_, caller, code, input, input_bytes, output, output_bytes, written);
}

void Gate::handle_closed(uint64_t owner) {
    if (!state_) return;
    GateState& state = *state_;
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (owner && state.controller.owner == owner) state.controller_gone(deferred);
}

}  // namespace procmon
