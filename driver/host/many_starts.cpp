// many_starts.cpp - many starts through the core, from many threads: each is decided once, by its own verdict, and
// nothing is left behind.
//
//     many_starts STARTS THREADS
//
// Each thread starts kAtOnce processes, whose threads wait, waits for each, and ends it. One controller fetches and
// answers by the serial number in the name, odd = BLOCK. One worker terminates. Counted for each start: how often FETCH
// returned it while it was held, how often an answer was DONE, and the verdict that its thread got.
//
// Prints "load: S starts, D decided, M missed, H held at most, B bytes of growth". Ends with 1 and a reason when a
// start was missed, decided twice or by another start's verdict, when one stays held, or when the core keeps memory.

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <atomic>
#include <vector>

#include "host.h"
#include "procmon_core.h"

using namespace procmon;

namespace {

constexpr uint32_t kAtOnce = 8;
constexpr uint32_t kOwner = 16, kControllerPid = 4;
constexpr uint32_t kSliceMs = 10000;  // such a thread leaves only if it is woken
constexpr char16_t kVolume[] = u"\\Device\\HarddiskVolume2";
constexpr size_t kVolumeUnits = sizeof kVolume / sizeof kVolume[0] - 1;

Host* core;
uint64_t starts, event;
std::atomic<uint64_t> next_start, most_held, terminations;
std::atomic<bool> over;
std::vector<std::atomic<uint8_t>> given, decided;  // by serial

#define EXPECT(condition) expect((condition), #condition, __LINE__)

void expect(bool holds, const char* condition, int line) {
    if (holds) return;
    fprintf(stderr, "many_starts.cpp:%d: %s does not hold\n", line, condition);
    abort();
}

void pause() {
    const timespec time = {0, 50000};
    nanosleep(&time, nullptr);
}

// \Device\HarddiskVolume2\<serial in hexadecimal>
constexpr size_t kNameUnits = kVolumeUnits + 1 + 16;

void write_name(char16_t* name, uint64_t serial) {
    memcpy(name, kVolume, kVolumeUnits * sizeof(char16_t));
    name[kVolumeUnits] = u'\\';
    for (int i = 0; i < 16; ++i) name[kVolumeUnits + 1 + i] = u"0123456789abcdef"[serial >> (60 - 4 * i) & 15];
}

uint64_t serial_of(const unsigned char* name) {  // c:\<serial>
    uint64_t serial = 0;
    for (int i = 0; i < 16; ++i) {
        char16_t unit;
        memcpy(&unit, name + (3 + i) * sizeof unit, sizeof unit);
        serial = serial << 4 | uint64_t(unit <= u'9' ? unit - u'0' : unit - u'a' + 10);
    }
    return serial;
}

Status request(uint32_t code, const void* input, size_t input_bytes, void* output, size_t output_bytes,
               size_t* written) {
    return gate_dispatch(core, kOwner, kControllerPid, code, input, input_bytes, output, output_bytes, written);
}

// ------------------------------------------------------------------------------------------------- the threads

void* start_processes(void* argument) {
    const uint32_t first_pid = 1000 + 4 * kAtOnce * uint32_t(reinterpret_cast<uintptr_t>(argument));
    for (;;) {
        Hold holds[kAtOnce];
        uint64_t serials[kAtOnce];
        uint32_t count = 0;
        for (; count < kAtOnce && (serials[count] = next_start++) < starts; ++count) {
            const uint32_t pid = first_pid + 4 * count;
            char16_t name[kNameUnits];
            write_name(name, serials[count]);
            EXPECT(!gate_on_create(core, pid, 8, 8, 12, 1, name, kNameUnits, name, kNameUnits, 0, 0, kRefusable));
            Image image;
            image.pid = pid;
            image.native_name = image.mapped_name = {name, kNameUnits};
            image.own = true;
            EXPECT(core->gate.begin_hold(&holds[count], image));
        }
        if (!count) return nullptr;
        for (uint32_t i = 0; i < count; ++i) {
            do EXPECT(procmon::host::wait_signal(&holds[i].signal, kSliceMs));
            while (core->gate.still_held(&holds[i]));
            const uint32_t verdict = core->gate.end_hold(&holds[i]);
            EXPECT(verdict == (serials[i] % 2 ? wire::kVerdictBlock : wire::kVerdictAllow));
            gate_on_exit(core, first_pid + 4 * i, 0);
        }
    }
}

void* work(void*) {
    while (!over) {
        uint32_t pid, wait_ms;
        uint64_t start_key;
        while (gate_next_to_terminate(core, &pid, &start_key, &wait_ms)) {
            gate_terminated(core, pid, start_key, int(Outcome::kDied));
            ++terminations;
        }
        pause();
    }
    return nullptr;
}

// One FETCH, and the verdicts for its records. false: there were none.
bool serve() {
    alignas(8) static unsigned char reply[1 << 16];
    static wire::Target targets[2][sizeof reply / sizeof(wire::RecordHeader)];
    static uint64_t serials[2][sizeof reply / sizeof(wire::RecordHeader)];
    static uint32_t results[sizeof reply / sizeof(wire::RecordHeader)];
    size_t written;
    EXPECT(request(wire::kFetch, nullptr, 0, reply, sizeof reply, &written) == kSuccess);
    wire::RecordsHeader header;
    memcpy(&header, reply, sizeof header);
    const unsigned char* at = reply + sizeof header;
    size_t counts[2] = {};
    for (uint32_t i = 0; i < header.count; ++i) {
        wire::RecordHeader record;
        memcpy(&record, at, sizeof record);
        EXPECT(record.state == wire::kStateHeld);
        const uint64_t serial = serial_of(at + sizeof record);
        EXPECT(serial < starts && ++given[serial] == 1);
        const size_t odd = serial % 2;
        serials[odd][counts[odd]] = serial;
        targets[odd][counts[odd]++] = {record.pid, 0, record.start_key};
        at += record.size;
    }
    if (header.count > most_held) most_held = header.count;
    for (size_t odd = 0; odd < 2; ++odd) {
        if (!counts[odd]) continue;
        EXPECT(request(odd ? wire::kBlock : wire::kAllow, targets[odd], counts[odd] * sizeof(wire::Target), results,
                       counts[odd] * sizeof(uint32_t), &written) == kSuccess);
        for (size_t i = 0; i < counts[odd]; ++i) {
            EXPECT(results[i] == wire::kResultDone);
            ++decided[serials[odd][i]];
        }
    }
    return header.count;
}

void* control(void*) {
    while (!over)
        if (host_event_wait(core, event, 20))
            while (serve()) {
            }
    return nullptr;
}

// ------------------------------------------------------------------------------------------------- before and after

void set_up() {
    core = host_new(1);
    EXPECT(gate_start(core, 0) == kSuccess && gate_volumes_begin(core) == kSuccess);
    EXPECT(gate_volumes_add(core, kVolume, kVolumeUnits, u'c') == kSuccess);
    gate_volumes_commit(core);
    event = host_event_new(core, 1);
    wire::RegisterRequest asked = {};
    asked.version = wire::kVersion;
    asked.event = event;
    asked.timeout_verdict = asked.disconnect_verdict = asked.limit_verdict = wire::kVerdictAllow;
    asked.tamper_verdict = asked.pico_verdict = wire::kVerdictAllow;
    size_t written;
    EXPECT(request(wire::kRegister, &asked, sizeof asked, nullptr, 0, &written) == kSuccess);
}

wire::Info info() {
    wire::Info info;
    size_t written;
    EXPECT(request(wire::kInfo, nullptr, 0, &info, sizeof info, &written) == kSuccess);
    return info;
}

}  // namespace

int main(int count, char** arguments) {
    starts = count == 3 ? strtoull(arguments[1], nullptr, 10) : 0;
    const uintptr_t threads = count == 3 ? strtoull(arguments[2], nullptr, 10) : 0;
    if (!starts || !threads) return fprintf(stderr, "usage: load STARTS THREADS\n"), 2;
    given = std::vector<std::atomic<uint8_t>>(starts);
    decided = std::vector<std::atomic<uint8_t>>(starts);
    set_up();
    const uint64_t before = host_live_bytes(core);

    std::vector<pthread_t> starters(threads), others(2);
    for (uintptr_t i = 0; i < threads; ++i)
        pthread_create(&starters[i], nullptr, start_processes, reinterpret_cast<void*>(i));
    pthread_create(&others[0], nullptr, work, nullptr);
    pthread_create(&others[1], nullptr, control, nullptr);
    for (pthread_t thread : starters) pthread_join(thread, nullptr);
    over = true;
    for (pthread_t thread : others) pthread_join(thread, nullptr);

    uint64_t once = 0, missed = 0;
    for (uint64_t serial = 0; serial < starts; ++serial) once += decided[serial] == 1, missed += given[serial] == 0;
    const wire::Info after = info();
    const uint64_t growth = host_live_bytes(core) - before;
    printf("load: %llu starts, %llu decided, %llu missed, %llu held at most, %llu bytes of growth\n",
           (unsigned long long)starts, (unsigned long long)once, (unsigned long long)missed,
           (unsigned long long)most_held, (unsigned long long)growth);
    EXPECT(once == starts && missed == 0 && growth == 0);
    EXPECT(terminations == starts / 2 && after.counters.held == starts && after.counters.timeouts == 0);
    EXPECT(after.record_count == 0 && after.held_count == 0 && gate_holds_in_flight(core) == 0);
    gate_stop(core);
    gate_destroy(core);
    EXPECT(host_breaches(core) == 0);
    EXPECT(host_delete(core) == 0);
    return 0;
}
