// fuzz.cpp - requests of any bytes, with notifications, verdicts, time and lack of memory in between, for libFuzzer.
//
//     fuzz -max_total_time=60 WORK_FOLDER driver/host/corpus
//
// The bytes are a program: one byte is the instruction, the next ones its operands (see `steps`). Buffers have exactly
// the size in the request, so that the address sanitizer sees each access past the end. Replies are decoded and must be
// well formed. At the end nothing may be left behind. seeds.py writes the first programs.

#include <stdlib.h>
#include <string.h>

#include "../core/gate.h"
#include "procmon_core.h"

using namespace procmon;

namespace {

void demand(bool condition) {
    if (!condition) __builtin_trap();
}

// The program. Reads past its end give zeros.
struct Program {
    const uint8_t* data;
    size_t left;

    uint8_t byte() { return left ? (--left, *data++) : 0; }
    uint16_t word() {
        const uint8_t low = byte();
        return uint16_t(low | byte() << 8);
    }
    const uint8_t* bytes(size_t* count) {
        if (*count > left) *count = left;
        const uint8_t* start = data;
        data += *count;
        left -= *count;
        return start;
    }
};

constexpr uint32_t kCodes[] = {wire::kInfo,  wire::kRegister, wire::kFetch,    wire::kList,
                               wire::kAllow, wire::kBlock,    wire::kReset,    wire::kSetRules, wire::kQuiesce,
                               wire::kNoteCreated, 0, 0xFFFFFFFF};
constexpr int kHolds = 8;

// A text in memory of exactly its size: one byte picks a known text, or gives the length (7 = empty).
struct OwnedText {
    char16_t* data;
    size_t units;
    OwnedText(Program& program) {
        static const char* const known[] = {"\\Device\\HarddiskVolume2\\a.exe", "\\Device\\HarddiskVolume11\\A.exe",
                                            "\\SystemRoot\\System32\\csrss.exe", "\\Device\\Mup\\s\\A.exe",
                                            "\\??\\C:\\a", "\\Device\\HarddiskVolume2", ""};
        const uint8_t which = program.byte();
        constexpr size_t kKnown = sizeof known / sizeof known[0];
        size_t count = which < kKnown ? strlen(known[which]) : which - kKnown;
        const uint8_t* bytes = which < kKnown ? reinterpret_cast<const uint8_t*>(known[which]) : program.bytes(&count);
        units = count;
        data = static_cast<char16_t*>(malloc(count * sizeof(char16_t)));
        for (size_t i = 0; i < count; ++i) data[i] = bytes[i];
    }
    ~OwnedText() { free(data); }
    OwnedText(const OwnedText&) = delete;
    OwnedText& operator=(const OwnedText&) = delete;
};

struct World {
    Host* host = host_new(1000);
    HeldThread* holds[kHolds] = {};
    uint64_t in_worker_key[kHolds] = {};
    uint32_t in_worker_pid[kHolds] = {};
    uint64_t event = 0;
};

uint32_t pid_from(Program& program) { return uint32_t(program.byte() % 8) * 4; }

void check_records(const uint8_t* reply, size_t size) {
    wire::RecordsHeader header;
    memcpy(&header, reply, sizeof header);
    size_t at = sizeof header;
    for (uint32_t i = 0; i < header.count; ++i) {
        wire::RecordHeader record;
        demand(size - at >= sizeof record);
        memcpy(&record, reply + at, sizeof record);
        const size_t texts = size_t(record.image_name_bytes) + record.native_name_bytes + record.command_line_bytes +
                             record.creation_name_bytes;
        demand(record.size == (sizeof record + texts + 7) / 8 * 8 && record.size <= size - at);
        demand(record.start_key && record.state >= wire::kStateNew && record.state <= wire::kStateExiting);
        demand(!record.reserved);
        at += record.size;
    }
    demand(at == size);
}

void request(World& world, Program& program) {
    const uint8_t how = program.byte();
    const uint32_t code = kCodes[program.byte() % (sizeof kCodes / sizeof kCodes[0])];
    const uint8_t who = program.byte();
    size_t input_bytes = program.word() % 2048;
    const size_t output_bytes = program.word() % 4096;
    const uint8_t* data = program.bytes(&input_bytes);
    const bool overlap = how & 1;
    const size_t shared_bytes = input_bytes > output_bytes ? input_bytes : output_bytes;
    auto* input = static_cast<uint8_t*>(malloc(overlap ? shared_bytes : input_bytes));
    auto* output = overlap ? input : static_cast<uint8_t*>(malloc(output_bytes));
    if (input_bytes) memcpy(input, data, input_bytes);
    if (how & 2 && input_bytes >= 16) memcpy(input + 8, &world.event, 8);  // REGISTER with the existing event
    size_t written = 1;
    const uint32_t status = gate_dispatch(world.host, 1 + who % 2, 12 + who % 2 * 4, code, input, input_bytes, output,
                                          output_bytes, &written);
    demand(written <= output_bytes && (status == kSuccess || !written));
    if (status == kSuccess && (code == wire::kFetch || code == wire::kList)) check_records(output, written);
    free(input);
    if (!overlap) free(output);
}

void create(World& world, Program& program) {
    const uint32_t pid = pid_from(program), parent = pid_from(program), creator = pid_from(program);
    const uint8_t how = program.byte();
    const OwnedText name(program), line(program);
    (void)gate_on_create(world.host, pid, parent, creator, 0, how & 4, name.data, name.units, line.data, line.units,
                         how & 8 ? wire::kFlagWriteOpen : 0, how, how >> 4 & 7);
}

void image(World& world, Program& program) {
    const uint32_t pid = pid_from(program);
    const uint8_t how = program.byte();
    const OwnedText name(program), mapped(program);
    HeldThread*& place = world.holds[how % kHolds];
    if (!place)
        place = hold_begin(world.host, pid, name.data, name.units, mapped.data, mapped.units, how >> 4 & 7);
}

void thread(World& world, Program& program) {
    const uint32_t pid = pid_from(program);
    const uint8_t how = program.byte();
    HeldThread*& place = world.holds[how % kHolds];
    if (how & 128)
        gate_on_thread(world.host, pid);
    else if (!place)
        place = hold_begin_thread(world.host, pid, how >> 4 & 3);
}

void exit_process(World& world, Program& program) { gate_on_exit(world.host, pid_from(program), program.byte()); }

void look(World& world, Program& program) {
    const uint8_t how = program.byte();
    HeldThread*& place = world.holds[how % kHolds];
    if (!place || hold_still_held(place, how & 64)) return;
    demand(hold_signaled(place) || how & 64);  // a thread that ends alone is not woken
    (void)hold_end(place);
    place = nullptr;
}

void take_to_terminate(World& world, Program& program) {
    const int place = program.byte() % kHolds;
    uint32_t wait_ms;
    if (!world.in_worker_key[place])
        (void)gate_next_to_terminate(world.host, &world.in_worker_pid[place], &world.in_worker_key[place], &wait_ms);
}

void terminated(World& world, Program& program) {
    const uint8_t how = program.byte();
    const int place = how % kHolds;
    if (!world.in_worker_key[place]) return;
    gate_terminated(world.host, world.in_worker_pid[place], world.in_worker_key[place], how >> 6 & 3);
    world.in_worker_key[place] = 0;
}

void time_passes(World& world, Program& program) { host_advance(world.host, program.byte() * 16u); }
void memory_runs_out(World& world, Program& program) {
    const uint8_t n = program.byte();
    host_fail_allocation(world.host, n % 8, n & 128);
}
void close_handle(World& world, Program& program) { gate_handle_closed(world.host, 1 + program.byte() % 2); }

void volumes(World& world, Program& program) {
    const uint8_t how = program.byte();
    const OwnedText prefix(program);
    if (how & 1) (void)gate_volumes_begin(world.host);
    if (how & 2) (void)gate_volumes_add(world.host, prefix.data, prefix.units, char16_t('A' + how % 26));
    if (how & 4) gate_volumes_commit(world.host);
    if (how & 8) (void)gate_set_system_directory(world.host, prefix.data, prefix.units);
}

void stop(World& world, Program& program) {
    const uint8_t how = program.byte();
    if (how == 255) gate_stop(world.host);
    if (how == 254) gate_quiesce(world.host);
}

// The instructions; seeds.py has the same order.
void (*const steps[])(World&, Program&) = {request,        create,     image,       exit_process,    look,
                                           take_to_terminate, terminated, time_passes, memory_runs_out, close_handle,
                                           volumes,        stop,       thread};

void finish(World& world) {
    host_fail_allocation(world.host, 0, 0);
    gate_stop(world.host);
    for (int i = 0; i < kHolds; ++i)
        if (world.in_worker_key[i]) gate_terminated(world.host, world.in_worker_pid[i], world.in_worker_key[i], 1);
    uint32_t pid, wait_ms;
    uint64_t start_key;
    while (gate_next_to_terminate(world.host, &pid, &start_key, &wait_ms))
        gate_terminated(world.host, pid, start_key, 1);
    for (HeldThread* held : world.holds) {
        if (!held) continue;
        demand(!hold_still_held(held, 0) && hold_signaled(held));
        (void)hold_end(held);
    }
    gate_destroy(world.host);
    demand(!host_breaches(world.host));
    demand(!host_delete(world.host));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Program program = {data, size};
    World world;
    world.event = host_event_new(world.host, 1);
    host_fail_allocation(world.host, program.byte() % 4, 0);
    if (gate_start(world.host, 0) == kSuccess)
        while (program.left) steps[program.byte() % (sizeof steps / sizeof steps[0])](world, program);
    finish(world);
    return 0;
}
