// handshake.cpp - what the driver's core spends on the whole handshake of a process, in one thread, while few or many
// others live, in ns.
//
//     handshake FEW MANY ROUNDS
//
// The handshake: creation, image (the process is held), FETCH, ALLOW, the end of the hold, the exit, its FETCH. Prints
// a line for each round: that of FEW, that of MANY, and what a hash map of the standard library takes in which a
// process with its name and command line is put in, found twice, and taken out. The last two lines are the steps of
// FEW and of MANY, the fastest of their rounds.

#include <algorithm>
#include <chrono>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <unordered_map>
#include <vector>

#include "../../driver/host/procmon_core.h"
#include "../../driver/protocol.h"

using namespace procmon;

namespace {

constexpr uint64_t kOwner = 7;
constexpr uint32_t kController = 4000000000u;
constexpr uint32_t kPerRound = 100;
constexpr char16_t kSystem[] = u"C:\\Windows\\System32";
constexpr char16_t kName[] = u"\\Device\\HarddiskVolume2\\Program Files\\Some Vendor\\Some Program\\program.exe";
constexpr char16_t kLine[] = u"\"C:\\Program Files\\Some Vendor\\Some Program\\program.exe\" --option=value --other";

struct Process {
    std::u16string name, line;
};
using Map = std::unordered_map<uint32_t, Process>;

enum Step { kCreate, kImage, kFetch, kAllow, kEnd, kExit, kFetchExit, kSteps };
constexpr const char* kStepNames[] = {"create", "image", "fetch", "allow", "end", "exit", "fetch-exit"};

struct Table {
    Host* host;
    uint32_t next_pid = 8;
    double fastest[kSteps];
};

template <size_t kSize>
constexpr size_t units(const char16_t (&)[kSize]) {
    return kSize - 1;
}

void need(bool kept, const char* what) {
    if (kept) return;
    fprintf(stderr, "handshake: %s\n", what);
    exit(1);
}

double now() {
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t request(Table& table, uint32_t code, const void* input, size_t input_bytes, void* output, size_t output_bytes) {
    size_t written = 0;
    need(!gate_dispatch(table.host, kOwner, kController, code, input, input_bytes, output, output_bytes, &written),
         "a request was refused");
    return written;
}

alignas(8) unsigned char reply[1 << 20];

size_t fetch(Table& table) { return request(table, wire::kFetch, nullptr, 0, reply, sizeof reply); }

HeldThread* map_image(Table& table, uint32_t pid) {
    return hold_begin(table.host, pid, kName, units(kName), kName, units(kName), kOwn);
}

void create(Table& table, uint32_t pid) {
    need(!gate_on_create(table.host, pid, 4, 4, 8, 1, kName, units(kName), kLine, units(kLine), 0, 0, kRefusable),
         "a creation was refused");
}

void register_controller(Table& table) {
    wire::RegisterRequest options = {};
    options.version = wire::kVersion;
    options.flags = wire::kReportExits;
    options.event = host_event_new(table.host, 1);
    options.hold_timeout_ms = 30000;
    options.timeout_verdict = options.disconnect_verdict = options.limit_verdict = wire::kVerdictAllow;
    options.pico_verdict = options.tamper_verdict = wire::kVerdictAllow;
    request(table, wire::kRegister, &options, sizeof options, nullptr, 0);
    while (fetch(table) > sizeof(wire::RecordsHeader)) {
    }
}

Table make_table(uint32_t live) {
    Table table;
    table.host = host_new(1);
    std::fill(table.fastest, table.fastest + kSteps, 1e18);
    need(!gate_start(table.host, 0) && !gate_set_system_directory(table.host, kSystem, units(kSystem)) &&
             !gate_volumes_begin(table.host),
         "no gate");
    const char16_t letters[] = u"dce";
    char16_t prefix[] = u"\\Device\\HarddiskVolume1";
    for (size_t i = 0; i < units(letters); ++i, ++prefix[units(prefix) - 1])
        need(!gate_volumes_add(table.host, prefix, units(prefix), letters[i]), "no volume");
    gate_volumes_commit(table.host);
    for (uint32_t i = 0; i < live; ++i, table.next_pid += 4) {
        create(table, table.next_pid);
        need(!map_image(table, table.next_pid), "held without a controller");
    }
    register_controller(table);
    return table;
}

// One process from its creation to its end. `step` is called between the steps.
template <class Between>
void handshake(Table& table, Between step) {
    const uint32_t pid = table.next_pid += 4;
    create(table, pid);
    step(kCreate);
    HeldThread* hold = map_image(table, pid);
    need(hold, "not held");
    step(kImage);
    fetch(table);
    step(kFetch);
    wire::RecordHeader record;
    memcpy(&record, reply + sizeof(wire::RecordsHeader), sizeof record);
    const wire::Target target = {record.pid, 0, record.start_key};
    uint32_t result;
    request(table, wire::kAllow, &target, sizeof target, &result, sizeof result);
    need(!result, "not allowed");
    step(kAllow);
    need(!hold_still_held(hold, 0), "still held");
    hold_end(hold);
    step(kEnd);
    gate_on_exit(table.host, pid, 0);
    step(kExit);
    fetch(table);
    step(kFetchExit);
}

double round_of(Table& table) {
    const double begin = now();
    for (uint32_t i = 0; i < kPerRound; ++i) handshake(table, [](Step) {});
    const double whole = (now() - begin) / kPerRound;
    double steps[kSteps] = {};
    for (uint32_t i = 0; i < kPerRound; ++i) {
        double last = now();
        handshake(table, [&](Step step) {
            const double at = now();
            steps[step] += at - last;
            last = at;
        });
    }
    for (int i = 0; i < kSteps; ++i) table.fastest[i] = std::min(table.fastest[i], steps[i] / kPerRound);
    return whole;
}

double round_of(Map& map, uint32_t& next_pid) {
    const double begin = now();
    for (uint32_t i = 0; i < kPerRound; ++i) {
        const uint32_t pid = next_pid += 4;
        map.emplace(pid, Process{kName, kLine});
        need(map.find(pid) != map.end() && map.find(pid)->second.name.size() == units(kName), "not in the map");
        map.erase(pid);
    }
    return (now() - begin) / kPerRound;
}

}  // namespace

int main(int count, char** arguments) {
    const int rounds = count == 4 ? atoi(arguments[3]) : 0;
    need(rounds > 0, "usage: handshake FEW MANY ROUNDS");
    Table few = make_table(uint32_t(atoi(arguments[1]))), many = make_table(uint32_t(atoi(arguments[2])));
    Map map;
    uint32_t next_pid = 8;
    for (; map.size() < uint32_t(atoi(arguments[1])); next_pid += 4) map.emplace(next_pid, Process{kName, kLine});
    for (int i = 0; i < rounds; ++i) {
        const double of_few = round_of(few), of_many = round_of(many);
        printf("%.0f %.0f %.0f\n", of_few, of_many, round_of(map, next_pid));
    }
    for (const Table& table : {few, many}) {
        for (int i = 0; i < kSteps; ++i)
            printf("%s %.0f%s", kStepNames[i], table.fastest[i], i + 1 < kSteps ? ", " : "\n");
    }
    return 0;
}
