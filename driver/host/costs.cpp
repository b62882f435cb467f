// costs.cpp - the cost of a process while few or many others live: create (with its image), find, exit, in ns.
//
//     costs warm FEW MANY ROUNDS     batches come and go, while all others stay
//     costs cold FEW MANY ROUNDS     random live processes, with no part of the table in a cache
//
// Both print "few create find exit" and "many create find exit". Warm is the cost of the code. Cold is the cost when
// seconds pass between two starts and other programs have used the caches; a random pick is then fair to both tables,
// because neither is in a cache.
//
// Both tables exist side by side and are measured in turn, so that other load on the machine affects both or none. The
// result is the best of the warm batches and the median of the cold calls.

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vector>

#include "../protocol.h"
#include "procmon_core.h"

using namespace procmon;

namespace {

constexpr uint32_t kBatch = 500;
constexpr size_t kMoreThanCaches = 64 << 20;
constexpr char16_t kName[] = u"\\Device\\HarddiskVolume2\\Program Files\\Some Vendor\\Some Program\\program.exe";
constexpr size_t kUnits = sizeof kName / sizeof kName[0] - 1;

struct Table {
    Host* host;
    uint32_t next_pid;
    std::vector<uint32_t> live;
    std::vector<double> create, find, exit;
};

uint32_t random_below(size_t limit) {
    static uint64_t state = 88172645463325252u;  // xorshift
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return uint32_t(state % limit);
}

void start_process(Table& table, uint32_t pid) {
    (void)gate_on_create(table.host, pid, 4, 4, 8, 1, nullptr, 0, nullptr, 0, 0, 0, 0);
    (void)hold_begin(table.host, pid, kName, kUnits, nullptr, 0, 0);  // no controller is registered: it is not held
}

void find_process(Table& table, uint32_t pid) {  // a later image: found, and ignored
    if (hold_begin(table.host, pid, kName, kUnits, nullptr, 0, 0)) abort();
}

void end_process(Table& table, uint32_t pid) { gate_on_exit(table.host, pid, 0); }

Table make_table(uint32_t live) {
    Table table = {host_new(1), 8, {}, {}, {}, {}};
    if (gate_start(table.host, 0) || gate_volumes_begin(table.host) || gate_volumes_add(table.host, kName, 23, u'c'))
        abort();
    gate_volumes_commit(table.host);
    for (; table.live.size() < live; table.next_pid += 4) {
        start_process(table, table.next_pid);
        table.live.push_back(table.next_pid);
    }
    return table;
}

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return double(time.tv_sec) * 1e9 + double(time.tv_nsec);
}

// Records the duration of one of these calls.
void timed(std::vector<double>* times, void (*call)(Table&, uint32_t), Table& table, const uint32_t* pids, uint32_t n) {
    const double started = now();
    for (uint32_t i = 0; i < n; ++i) call(table, pids[i]);
    times->push_back((now() - started) / n);
}

// Creates, finds and ends a batch of processes. Their pids fall anywhere in the table.
void measure_warm(Table& table) {
    uint32_t pids[kBatch];
    for (uint32_t& pid : pids) pid = table.next_pid += 4 * (1 + random_below(8));
    timed(&table.create, start_process, table, pids, kBatch);
    timed(&table.find, find_process, table, pids, kBatch);
    timed(&table.exit, end_process, table, pids, kBatch);
}

void empty_caches() {
    static std::vector<char> other(kMoreThanCaches);
    memset(other.data(), int(random_below(256)), other.size());
}

// Finds a live process, ends another one, and creates a new one in its place.
void measure_cold(Table& table) {
    uint32_t& leaving = table.live[random_below(table.live.size())];
    const uint32_t found = table.live[random_below(table.live.size())];
    const uint32_t gone = leaving, comes = leaving = table.next_pid += 4;
    empty_caches();
    timed(&table.find, find_process, table, &found, 1);
    empty_caches();
    timed(&table.exit, end_process, table, &gone, 1);
    empty_caches();
    timed(&table.create, start_process, table, &comes, 1);
}

double quantile(std::vector<double>& times, size_t percent) {
    std::sort(times.begin(), times.end());
    return times[times.size() * percent / 100];
}

}  // namespace

int main(int count, char** arguments) {
    const bool cold = count == 5 && !strcmp(arguments[1], "cold");
    const int rounds = count == 5 ? atoi(arguments[4]) : 0;
    if ((!cold && (count != 5 || strcmp(arguments[1], "warm"))) || rounds < 1)
        return fprintf(stderr, "usage: costs warm|cold FEW MANY ROUNDS\n"), 2;
    Table tables[] = {make_table(uint32_t(atoi(arguments[2]))), make_table(uint32_t(atoi(arguments[3])))};
    for (int round = 0; round < rounds; ++round)
        for (Table& table : tables) (cold ? measure_cold : measure_warm)(table);
    const size_t percent = cold ? 50 : 0;
    for (Table& table : tables) {
        printf("%zu %.0f %.0f %.0f\n", table.live.size(), quantile(table.create, percent),
               quantile(table.find, percent), quantile(table.exit, percent));
        gate_stop(table.host);
        gate_destroy(table.host);
        if (host_delete(table.host)) abort();
    }
    return 0;
}
