// requests.cpp - the requests of a controller, in one table.
//
// `output` may be the same memory as `input`: each handler reads its input before it overwrites it.

#include "state.h"

namespace procmon {

using namespace wire;

namespace {

// What FETCH and LIST copy before they release the lock and acquire it again.
constexpr int kRecordsPerLock = 64;
constexpr size_t kBytesPerLock = 0x10000;  // one record with long names takes 200 KB

struct Request {
    GateState& state;
    const Caller& caller;
    const unsigned char* input;
    size_t input_bytes;
    unsigned char* output;
    size_t output_bytes;
    size_t written;
};

template <class T>
T read(const Request& request, size_t offset = 0) {
    T value;
    memcpy(&value, request.input + offset, sizeof value);
    return value;
}

template <class T>
void write(Request& request, size_t offset, const T& value) {
    memcpy(request.output + offset, &value, sizeof value);
}

// ------------------------------------------------------------------------------------------------- records

uint32_t hold_left_ms(const GateState& state, const Record& record) {
    if (record.state != kStateHeld) return 0;
    const uint32_t limit = state.controller.hold_timeout_ms;
    if (limit == kNoTimeout) return kUnlimited;
    const uint32_t waited = state.waited_ms(&record);
    return waited < limit ? limit - waited : 0;
}

// The texts of a record, in the order in which they follow its header.
struct Texts {
    Text image, native, command_line, creation;

    explicit Texts(const Record& record) {
        if (record.names) image = record.names->image(), native = record.names->native();
        if (record.command_line) command_line = record.command_line->text();
        if (record.creation_names) creation = record.creation_names->native();
    }
    [[nodiscard]] uint32_t record_bytes() const {
        const size_t units = image.length + native.length + command_line.length + creation.length;
        return static_cast<uint32_t>(round_up(sizeof(RecordHeader) + units * sizeof(char16_t), 8));
    }
};

uint32_t bytes_of(Text text) { return static_cast<uint32_t>(text.length * sizeof(char16_t)); }

unsigned char* append(unsigned char* to, Text text) {
    if (text.length) memcpy(to, text.data, text.length * sizeof(char16_t));
    return to + text.length * sizeof(char16_t);
}

void write_record(Request& request, size_t offset, const Record& record, const Texts& texts) {
    RecordHeader header = {};
    header.size = texts.record_bytes();
    header.pid = record.pid;
    header.start_key = record.start_key;
    header.created = record.created;
    header.parent_pid = record.parent_pid;
    header.creator_pid = record.creator_pid;
    header.creator_tid = record.creator_tid;
    header.state = record.state;
    header.flags = record.flags | (request.state.is_seen(&record) ? kFlagSeen : 0);
    header.verdict = record.verdict;
    header.decided_by = record.decided_by;
    header.exit_status = record.exit_status;
    header.held_ms = record.state == kStateHeld ? request.state.waited_ms(&record) : record.held_ms;
    header.hold_left_ms = hold_left_ms(request.state, record);
    header.image_name_bytes = bytes_of(texts.image);
    header.native_name_bytes = bytes_of(texts.native);
    header.command_line_bytes = bytes_of(texts.command_line);
    header.creation_name_bytes = bytes_of(texts.creation);
    header.signature_level = record.signature_level;
    header.exited = record.exited_at;
    write(request, offset, header);
    unsigned char* const start = request.output + offset;
    unsigned char* end = start + sizeof header;
    end = append(append(end, texts.image), texts.native);
    end = append(append(end, texts.command_line), texts.creation);
    memset(end, 0, static_cast<size_t>(start + header.size - end));
}

// Appends the record to the reply. false: it does not fit, and needed_bytes is set.
bool add_record(Request& request, RecordsHeader* header, Record& record) {
    const Texts texts(record);
    const uint32_t bytes = texts.record_bytes();
    if (bytes > request.output_bytes - request.written) {
        header->needed_bytes = bytes;
        return false;
    }
    write_record(request, request.written, record, texts);
    request.written += bytes;
    ++header->count;
    return true;
}

// -------------------------------------------------------------------------------------------------- handlers

Status info(Request& request) {
    GateState& state = request.state;
    Info info = {};
    {
        Locked locked(state);
        info.size = sizeof info;
        info.version = kVersion;
        info.features = state.features;
        info.controller_pid = state.controller.pid;
        info.record_count = state.table.size();
        info.record_limit = kMaxRecords;
        info.held_count = state.held_count;
        info.rule_count = state.rules ? state.rules->count : 0;
        info.memory_bytes = state.memory_bytes;
        info.hold_timeout_ms = state.controller.hold_timeout_ms;
        info.timeout_verdict = state.controller.timeout_verdict;
        info.disconnect_verdict = state.controller.disconnect_verdict;
        info.limit_verdict = state.controller.limit_verdict;
        info.tamper_verdict = state.controller.tamper_verdict;
        info.pico_verdict = state.controller.pico_verdict;
        info.register_flags = state.controller.flags;
        info.quiesced = state.quiesced;
        info.text_bytes = static_cast<uint32_t>(state.text_bytes);
        info.text_limit = kMaxTextBytes;
        info.counters = state.counters;
    }
    write(request, 0, info);
    request.written = sizeof info;
    return kSuccess;
}

bool is_verdict(uint32_t value) { return value == kVerdictAllow || value == kVerdictBlock; }

Status register_controller(Request& request) {
    GateState& state = request.state;
    const Port& port = state.port;
    const auto asked = read<RegisterRequest>(request);
    if (asked.version >> 16 != kVersionMajor) return kRevisionMismatch;
    if (asked.flags & ~kRegisterFlags) return kInvalidParameter;
    const uint32_t verdicts[] = {asked.timeout_verdict, asked.disconnect_verdict, asked.limit_verdict,
                                 asked.tamper_verdict, asked.pico_verdict};
    for (const uint32_t verdict : verdicts)
        if (!is_verdict(verdict)) return kInvalidParameter;
    void* event = nullptr;
    const Status opened = port.user_event_open(port.context, asked.event, &event);
    if (opened != kSuccess) return opened;

    DeferredFree deferred(port);
    Locked locked(state);
    PROCMON_CHECK(request.caller.owner);
    Controller& controller = state.controller;
    const bool ends = state.stopping || state.quiesced;
    if (ends || (controller.owner && !state.is_controller(request.caller))) {
        deferred.close(event);
        return ends ? kDeviceNotReady : kSharingViolation;
    }
    const bool is_new = !controller.owner;
    if (!is_new) deferred.close(controller.event);
    controller = {request.caller.owner,
                  request.caller.pid,
                  asked.flags,
                  asked.hold_timeout_ms,
                  asked.timeout_verdict,
                  asked.disconnect_verdict,
                  asked.limit_verdict,
                  asked.tamper_verdict,
                  asked.pico_verdict,
                  event};
    if (is_new) {
        ++state.registrations;
        // This controller has not seen any running process, and all of them ran before it registered.
        for (Record* record = state.table.records.first; record; record = state.table.records.next(record)) {
            if (record->state == kStateNew || record->state == kStateExiting) continue;
            record->flags |= kFlagRunningBefore;
            state.unseen.append(record);
        }
    }
    if (state.unseen.first || state.held.first) port.user_event_set(port.context, event);
    return kSuccess;
}

Status fetch(Request& request) {
    GateState& state = request.state;
    RecordsHeader header = {};
    request.written = sizeof header;
    for (bool more = true; more;) {
        DeferredFree deferred(state.port);
        Locked locked(state);
        more = state.is_controller(request.caller);
        const size_t enough = request.written + kBytesPerLock;
        for (int i = 0; more && i < kRecordsPerLock && request.written < enough; ++i) {
            Record* record = state.unseen.first;
            more = record && add_record(request, &header, *record);
            if (!more) break;
            state.unseen.remove(record);
            record->fetched_by = state.registrations;
            state.drop_if_done(record, deferred);
        }
    }
    write(request, 0, header);
    return kSuccess;
}

Status list(Request& request) {
    GateState& state = request.state;
    RecordsHeader header = {};
    header.next_key = read<ListRequest>(request).after_key;
    request.written = sizeof header;
    for (bool more = true; more;) {
        Locked locked(state);
        Record* record = state.table.after(header.next_key);
        const size_t enough = request.written + kBytesPerLock;
        for (int i = 0; more && i < kRecordsPerLock && request.written < enough; ++i) {
            if (!record) header.next_key = 0;
            more = record && add_record(request, &header, *record);
            if (!more) break;
            header.next_key = record->start_key;
            state.table.remember(record);
            record = state.table.records.next(record);
        }
    }
    write(request, 0, header);
    return kSuccess;
}

uint32_t answer(GateState& state, const Target& target, uint32_t verdict) {
    Counters& counters = state.counters;
    Record* record = state.table.find(target.pid);
    if (!record) {
        ++counters.unknown_verdicts;
        return kResultUnknown;
    }
    if (record->start_key != target.start_key) {
        ++counters.stale_verdicts;
        return kResultStale;
    }
    if (!state.is_asked(record)) {
        ++counters.late_verdicts;
        return record->state == kStateAnswered || record->state == kStateReleased ? kResultAnswered : kResultNotHeld;
    }
    ++(verdict == kVerdictAllow ? counters.allowed : counters.blocked);
    state.decide(record, verdict, kByController);
    return kResultDone;
}

Status answer_all(Request& request, uint32_t verdict) {
    const size_t count = request.input_bytes / sizeof(Target);
    if (request.input_bytes % sizeof(Target)) return kInfoLengthMismatch;
    if (count > kMaxTargets) return kInvalidParameter;
    if (request.output_bytes < count * sizeof(uint32_t)) return kBufferTooSmall;
    for (size_t i = 0; i < count; ++i) {
        const auto target = read<Target>(request, i * sizeof(Target));
        Locked locked(request.state);
        if (!request.state.is_controller(request.caller)) return kInvalidDeviceState;
        write(request, i * sizeof(uint32_t), answer(request.state, target, verdict));
    }
    request.written = count * sizeof(uint32_t);
    return kSuccess;
}

Status allow(Request& request) { return answer_all(request, kVerdictAllow); }
Status block(Request& request) { return answer_all(request, kVerdictBlock); }

Status reset(Request& request) {
    GateState& state = request.state;
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (!state.is_controller(request.caller)) return kInvalidDeviceState;
    state.end_controller(state.controller.disconnect_verdict, kByDisconnect, deferred);
    state.counters = {};
    return kSuccess;
}

// Marks the rules about programs that are exempt whatever their creator. A DOS path is compared as it is, a native path
// with the current drive letters. Acquires the lock once per rule, to hold it only for a short time.
void mark_exempt(GateState& state, Rules& rules) {
    NameHead head;
    for (uint32_t i = 0; i < rules.count; ++i) {
        Rule& rule = rules.first[i];
        Locked locked(state);
        state.find_head(rule.path, &head);
        if (is_always_exempt(head.program)) rule.is_inert = true;
    }
}

void write_inert(Request& request, const Rules* rules) {
    RulesReply reply = {};
    const size_t room = (request.output_bytes - sizeof reply) / sizeof(uint32_t);
    for (uint32_t i = 0; rules && i < rules->count; ++i) {
        if (!rules->first[i].is_inert) continue;
        if (reply.count++ < room) write(request, sizeof reply + reply.listed++ * sizeof(uint32_t), i);
    }
    write(request, 0, reply);
    request.written = sizeof reply + reply.listed * sizeof(uint32_t);
}

Status set_rules(Request& request) {
    GateState& state = request.state;
    Rules* rules = nullptr;
    const Status parsed = parse_rules(state.port, request.input, request.input_bytes, &rules);
    if (rules) mark_exempt(state, *rules);
    if (parsed == kSuccess) write_inert(request, rules);  // before another request can replace and free the rules
    DeferredFree deferred(state.port);
    Locked locked(state);
    if (parsed == kInsufficientResources) ++state.counters.allocation_failures;
    if (parsed != kSuccess) return parsed;
    if (!state.is_controller(request.caller)) {
        deferred.add(rules);
        return kInvalidDeviceState;
    }
    state.drop(state.rules, deferred);
    state.rules = rules;
    if (rules) state.keep(rules);
    return kSuccess;
}

Status quiesce(Request& request) {
    DeferredFree deferred(request.state.port);
    Locked locked(request.state);
    if (request.state.stopping) return kDeviceNotReady;
    request.state.quiesce(deferred);
    return kSuccess;
}

// ----------------------------------------------------------------------------------------------------- table

enum Who { kAnyHandle, kNotQuiesced, kController };  // the permitted senders, each stricter than the one before

struct Entry {
    uint32_t code;
    Who who;
    uint32_t min_input;
    uint32_t min_output;
    Status (*handler)(Request&);
};

constexpr Entry kRequests[] = {
    {kInfo, kAnyHandle, 0, sizeof(Info), info},
    {kRegister, kNotQuiesced, sizeof(RegisterRequest), 0, register_controller},
    {kFetch, kController, 0, sizeof(RecordsHeader), fetch},
    {kList, kAnyHandle, sizeof(ListRequest), sizeof(RecordsHeader), list},
    {kAllow, kController, sizeof(Target), sizeof(uint32_t), allow},
    {kBlock, kController, sizeof(Target), sizeof(uint32_t), block},
    {kReset, kController, 0, 0, reset},
    {kSetRules, kController, sizeof(RulesHeader), sizeof(RulesReply), set_rules},
    {kQuiesce, kAnyHandle, 0, 0, quiesce},
};

const Entry* find_entry(uint32_t code) {
    for (const Entry& entry : kRequests)
        if (entry.code == code) return &entry;
    return nullptr;
}

Status admission(GateState& state, const Caller& caller, const Entry& entry) {
    Locked locked(state);
    if (state.stopping || (state.quiesced && entry.who != kAnyHandle)) return kDeviceNotReady;
    if (entry.who == kController && !state.is_controller(caller)) return kInvalidDeviceState;
    return kSuccess;
}

}  // namespace

Status dispatch_request(GateState& state, const Caller& caller, uint32_t code, const void* input, size_t input_bytes,
                        void* output, size_t output_bytes, size_t* written) {
    const Entry* entry = find_entry(code);
    if (!entry) return kInvalidDeviceRequest;
    const Status admitted = admission(state, caller, *entry);
    if (admitted != kSuccess) return admitted;
    if (input_bytes < entry->min_input) return kInfoLengthMismatch;
    if (output_bytes < entry->min_output) return kBufferTooSmall;
    Request request = {state,        caller, static_cast<const unsigned char*>(input), input_bytes,
                       static_cast<unsigned char*>(output), output_bytes, 0};
    const Status status = entry->handler(request);
    if (status == kSuccess) *written = request.written;
    return status;
}

}  // namespace procmon
