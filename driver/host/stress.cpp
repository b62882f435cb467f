// stress.cpp - the core under many threads at once, for the thread and address sanitizers.
//
//     stress SECONDS
//
// Processes start, are held and exit; the controller fetches, answers, ignores some, and sometimes ends in each of the
// three ways; the worker terminates; some processes exit while they are held; other threads read, change the volumes
// and advance the clock; and the gate is stopped and loaded again, round after round. Every process has a serial number
// in its name, odd = the controller blocks it. Checked on the way:
//
//   - no thread is held long after an answer, a timeout, the end of the controller or a stop: no wake-up is lost
//   - a verdict reaches the process that it was meant for: an even serial is never blocked
//   - the worker terminates only odd serials that are still held, so that the pid is not reused
//   - the core leaves nothing behind and does nothing that port.h forbids

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <atomic>

#include "../core/gate.h"
#include "procmon_core.h"

using namespace procmon;

namespace {

constexpr int kStarters = 6;
constexpr int kPidsOfOne = 3;        // each starter uses a few pids over and over
constexpr uint32_t kControllerPid = 9000;
constexpr uint32_t kTimeoutMs = 100;
constexpr uint32_t kLongestHoldMs = 6000;  // real time; the controller answers within a few
constexpr uint32_t kRoundMs = 300;
constexpr uint32_t kShortSliceMs = 2;
constexpr uint32_t kLongSliceMs = 8000;  // such a thread leaves only if it is woken

Host* host;
std::atomic<bool> closing;      // no more processes start
std::atomic<bool> stopped;      // Gate::stop has been called
std::atomic<bool> ended;        // no thread is held any more
std::atomic<uint64_t> serials;  // assigned so far
// The serial of the process that has this pid now, while its thread is in its hold; 0 = none.
std::atomic<uint64_t> in_hold[kStarters * kPidsOfOne];
std::atomic<uint64_t> held, blocked, terminations, controllers;

[[noreturn]] void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("stress: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

uint64_t real_ms() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return uint64_t(time.tv_sec) * 1000 + uint64_t(time.tv_nsec) / 1000000;
}

void sleep_us(uint32_t microseconds) {
    const timespec time = {0, long(microseconds) * 1000};
    nanosleep(&time, nullptr);
}

struct Random {
    uint64_t state;
    uint32_t below(uint32_t limit) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return uint32_t((state >> 11) % limit);
    }
    bool one_in(uint32_t n) { return below(n) == 0; }
};

uint32_t pid_of(int place) { return 1000 + uint32_t(place) * 4; }
uint32_t place_of(uint32_t pid) { return (pid - 1000) / 4; }

// \Device\HarddiskVolume2\<serial>.<l or s: its thread waits in long or in short slices>
size_t write_name(char16_t* name, uint64_t serial, bool patient) {
    char text[80];
    const int length = snprintf(text, sizeof text, "\\Device\\HarddiskVolume2\\%llu.%c",
                                static_cast<unsigned long long>(serial), patient ? 'l' : 's');
    for (int i = 0; i < length; ++i) name[i] = char16_t(text[i]);
    return size_t(length);
}

// ------------------------------------------------------------------------------------------------- the threads

// The new processes' threads.
void* start_processes(void* argument) {
    const int first = int(reinterpret_cast<intptr_t>(argument)) * kPidsOfOne;
    Random random = {real_ms() * 64 + uint64_t(first) + 1};
    char16_t name[80];
    while (!closing) {
        const int place = first + int(random.below(kPidsOfOne));
        const uint32_t pid = pid_of(place);
        const uint64_t serial = ++serials;
        const bool patient = random.one_in(2);
        const size_t units = write_name(name, serial, patient);
        const uint32_t parent = random.one_in(4) ? kControllerPid : pid_of(int(random.below(kStarters * kPidsOfOne)));
        if (gate_on_create(host, pid, parent, 0, 0, 0, nullptr, 0, name, units, 0, 0, kRefusable))
            fail("refused without a rule");
        const uint64_t since = real_ms();
        in_hold[place] = serial;
        const uint32_t verdict = hold_through(host, pid, name, units, patient ? kLongSliceMs : kShortSliceMs);
        in_hold[place] = 0;
        const uint64_t took = real_ms() - since;
        if (took > kLongestHoldMs)
            fail("process %u was held for %llu ms", pid, static_cast<unsigned long long>(took));
        if (verdict == wire::kVerdictBlock && serial % 2 == 0)
            fail("serial %llu got another one's verdict", static_cast<unsigned long long>(serial));
        ++held;
        if (verdict == wire::kVerdictBlock) ++blocked;
        if (!random.one_in(3)) gate_on_exit(host, pid, 0);  // else its pid is reused without an exit
    }
    return nullptr;
}

// The kernel's termination of a process.
void* work(void*) {
    Random random = {real_ms() * 8 + 1};
    while (!ended) {
        uint32_t pid, wait_ms;
        uint64_t start_key;
        if (!gate_next_to_terminate(host, &pid, &start_key, &wait_ms)) {
            sleep_us(200);
            continue;
        }
        const uint64_t before = in_hold[place_of(pid)];
        if (before % 2 == 0) fail("the worker is to terminate serial %llu", static_cast<unsigned long long>(before));
        sleep_us(50);
        if (in_hold[place_of(pid)] != before) fail("pid %u became another's while it was terminated", pid);
        ++terminations;
        gate_terminated(host, pid, start_key, random.one_in(4) ? 0 : 1);
    }
    return nullptr;
}

struct Controller {
    uint64_t owner;
    uint64_t event;
    alignas(8) unsigned char buffer[4096];
    Status request(uint32_t code, size_t input_bytes, size_t output_bytes, size_t* written) {
        return gate_dispatch(host, owner, kControllerPid, code, buffer, input_bytes, buffer,
                             output_bytes, written);
    }
};

uint64_t serial_of(const wire::RecordHeader& record, const unsigned char* texts, bool* patient) {
    uint64_t serial = 0;
    for (uint32_t i = sizeof(char16_t) * 3; i < record.image_name_bytes; i += sizeof(char16_t)) {  // behind c:\.
        char16_t unit;
        memcpy(&unit, texts + i, sizeof unit);
        if (unit >= u'0' && unit <= u'9') serial = serial * 10 + (unit - u'0');
        *patient = unit == u'l';
    }
    return serial;
}

// One FETCH and its verdicts; *more: a record did not fit. false: this handle is no longer the controller.
bool serve(Controller& controller, Random& random, bool* more) {
    static const size_t rooms[] = {16, 200, 1000, sizeof controller.buffer};
    size_t written = 0;
    if (controller.request(wire::kFetch, 0, rooms[random.below(4)], &written) != kSuccess) return false;
    wire::RecordsHeader header;
    memcpy(&header, controller.buffer, sizeof header);
    *more = header.needed_bytes;
    wire::Target targets[2][64];
    uint32_t counts[2] = {};
    size_t at = sizeof header;
    for (uint32_t i = 0; i < header.count; ++i) {
        wire::RecordHeader record;
        memcpy(&record, controller.buffer + at, sizeof record);
        bool patient = false;
        const uint64_t serial = serial_of(record, controller.buffer + at + sizeof record, &patient);
        at += record.size;
        if (record.state != wire::kStateHeld || (!patient && random.one_in(8))) continue;  // or left to its timeout
        targets[serial % 2][counts[serial % 2]++] = {record.pid, 0, record.start_key};
    }
    for (int odd = 0; odd < 2; ++odd) {
        const size_t bytes = counts[odd] * sizeof(wire::Target);
        if (!bytes) continue;
        memcpy(controller.buffer, targets[odd], bytes);
        if (controller.request(odd ? wire::kBlock : wire::kAllow, bytes, bytes, &written) != kSuccess) return false;
    }
    return true;
}

void* control(void*) {
    Random random = {real_ms() * 2 + 1};
    Controller controller = {};
    for (uint64_t number = 1; !stopped; ++number) {
        controller.owner = number * 16;
        controller.event = 4 + number % 8;
        wire::RegisterRequest request = {};
        request.version = wire::kVersion;
        request.flags = random.below(2) * wire::kReportExits;
        request.event = controller.event;
        request.hold_timeout_ms = kTimeoutMs;
        request.timeout_verdict = request.disconnect_verdict = request.limit_verdict = wire::kVerdictAllow;
        request.tamper_verdict = request.pico_verdict = wire::kVerdictAllow;
        memcpy(controller.buffer, &request, sizeof request);
        size_t written;
        if (controller.request(wire::kRegister, sizeof request, 0, &written) != kSuccess) continue;
        ++controllers;
        const uint32_t end = 1 + random.below(100);
        for (uint32_t i = 0; i < end && !stopped; ++i) {
            while (!stopped && !host_event_wait(host, controller.event, 20)) {
            }  // then waits until the event is set: a lost wake-up would keep the patient processes held
            for (bool more = true; more;)
                if (!serve(controller, random, &more)) break;
        }
        switch (random.below(3)) {
            case 0: gate_handle_closed(host, controller.owner); break;
            case 1: gate_on_exit(host, kControllerPid, 1); break;
            default: (void)controller.request(wire::kReset, 0, 0, &written);
        }
        gate_handle_closed(host, controller.owner);
    }
    return nullptr;
}

// The clock, drive letters, readers, and exits of held processes.
void* disturb(void*) {
    Random random = {real_ms() * 4 + 1};
    alignas(8) static unsigned char buffer[8192];
    static const char16_t prefix[] = u"\\Device\\HarddiskVolume2";
    while (!ended) {
        host_advance(host, 1 + random.below(10));
        size_t written;
        memset(buffer, 0, 8);
        const uint32_t code = random.one_in(2) ? wire::kList : wire::kInfo;
        (void)gate_dispatch(host, 7, 7, code, buffer, 8, buffer, sizeof buffer, &written);
        if (random.one_in(8) && gate_volumes_begin(host) == kSuccess &&
            gate_volumes_add(host, prefix, sizeof prefix / sizeof prefix[0] - 1, u'c') == kSuccess)
            gate_volumes_commit(host);
        if (!closing && random.one_in(4)) gate_on_exit(host, pid_of(int(random.below(kStarters * kPidsOfOne))), 9);
        sleep_us(300);
    }
    return nullptr;
}

// -------------------------------------------------------------------------------------------------- one round

void run_round(int round) {
    host = host_new(1);
    static const char16_t prefix[] = u"\\Device\\HarddiskVolume2";
    if (gate_start(host, 0) || gate_volumes_begin(host) || gate_volumes_add(host, prefix, 23, u'c')) fail("start");
    gate_volumes_commit(host);
    for (int i = 0; i < 8; ++i) (void)host_event_new(host, 1);
    closing = stopped = ended = false;

    pthread_t starters[kStarters], others[3];
    for (intptr_t i = 0; i < kStarters; ++i)
        pthread_create(&starters[i], nullptr, start_processes, reinterpret_cast<void*>(i));
    void* (*const roles[])(void*) = {work, control, disturb};
    for (int i = 0; i < 3; ++i) pthread_create(&others[i], nullptr, roles[i], nullptr);

    for (const uint64_t until = real_ms() + kRoundMs; real_ms() < until;) sleep_us(1000);
    // In turn: all held processes are answered before the stop, or the stop arrives while they are held.
    if (round % 2) {
        closing = true;
        const uint64_t since = real_ms();
        while (gate_holds_in_flight(host)) {
            if (real_ms() - since > kLongestHoldMs) {
                fail("a process is held although all are answered: a wake-up was lost");
            }
            sleep_us(1000);
        }
    }
    const uint64_t stopping = real_ms();
    gate_stop(host);
    closing = stopped = true;
    for (pthread_t thread : starters) pthread_join(thread, nullptr);
    if (real_ms() - stopping > kLongestHoldMs) fail("the stop took too long: a held thread was not woken");
    if (gate_holds_in_flight(host)) fail("a process is held after the stop");
    ended = true;
    for (pthread_t thread : others) pthread_join(thread, nullptr);
    gate_destroy(host);
    if (host_breaches(host)) fail("the core did what port.h forbids");
    if (host_delete(host)) fail("the core left something behind");
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return fprintf(stderr, "usage: stress SECONDS\n"), 2;
    int rounds = 0;
    const uint64_t until = real_ms() + uint64_t(atoi(arguments[1])) * 1000;
    for (; real_ms() < until; ++rounds) run_round(rounds);
    printf("stress: %d rounds, %llu holds, %llu blocked, %llu terminations, %llu controllers, no finding\n", rounds,
           (unsigned long long)held, (unsigned long long)blocked, (unsigned long long)terminations,
           (unsigned long long)controllers);
    if (!blocked || !terminations || controllers < 2) fail("not everything has happened");
    return 0;
}
