// costs.cpp - what a process costs while few or many others live: create (with its image), find, exit, in ns.
//
//     costs FEW MANY ROUNDS     prints "few create find exit" and "many create find exit"
//
// Both tables live side by side and are measured by turns, and the best of all rounds counts, so that what else the
// machine does falls on both or on none.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../protocol.h"
#include "procmon_core.h"

using namespace procmon;

namespace {

constexpr uint32_t kBatch = 500;
constexpr char16_t kName[] = u"\\Device\\HarddiskVolume2\\Program Files\\Some Vendor\\Some Program\\program.exe";
constexpr size_t kUnits = sizeof kName / sizeof kName[0] - 1;

struct Costs {
    double create = 1e9, find = 1e9, exit = 1e9;
};

struct Table {
    Host* host;
    uint32_t live;
    uint32_t next_pid;
    Costs best;
};

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return double(time.tv_sec) * 1e9 + double(time.tv_nsec);
}

uint32_t random_below(uint32_t limit) {
    static uint64_t state = 88172645463325252u;  // xorshift
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return uint32_t(state % limit);
}

void start_process(Table& table, uint32_t pid) {
    (void)gate_on_create(table.host, pid, 4, 4, 8, 1, nullptr, 0, nullptr, 0, 0, 0);
    (void)hold_begin(table.host, pid, kName, kUnits, 0);  // nobody is registered: it passes
}

Table make_table(uint32_t live) {
    Table table = {host_new(1), live, 8, {}};
    if (gate_start(table.host, 0) || gate_volumes_begin(table.host) ||
        gate_volumes_add(table.host, kName, 23, u'c'))
        abort();
    gate_volumes_commit(table.host);
    for (uint32_t i = 0; i < live; ++i, table.next_pid += 4) start_process(table, table.next_pid);
    return table;
}

void keep_least(double* best, double started) {
    const double each = (now() - started) / kBatch;
    if (each < *best) *best = each;
}

// A batch of processes comes, is looked up and goes, while all the others stay. That is what machines do: it is the
// young that die. The pids of the batch fall anywhere in the table.
void measure(Table& table) {
    uint32_t pids[kBatch];
    for (uint32_t& pid : pids) pid = table.next_pid += 4 * (1 + random_below(8));
    double started = now();
    for (const uint32_t pid : pids) start_process(table, pid);
    keep_least(&table.best.create, started);
    started = now();
    for (const uint32_t pid : pids)  // a later image: found, looked at, left alone
        if (hold_begin(table.host, pid, kName, kUnits, 0)) abort();
    keep_least(&table.best.find, started);
    started = now();
    for (const uint32_t pid : pids) gate_on_exit(table.host, pid, 0);
    keep_least(&table.best.exit, started);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) return fprintf(stderr, "usage: costs FEW MANY ROUNDS\n"), 2;
    Table tables[] = {make_table(uint32_t(atoi(arguments[1]))), make_table(uint32_t(atoi(arguments[2])))};
    for (int round = atoi(arguments[3]); round-- > 0;)
        for (Table& table : tables) measure(table);
    for (Table& table : tables) {
        printf("%u %.0f %.0f %.0f\n", table.live, table.best.create, table.best.find, table.best.exit);
        gate_stop(table.host);
        gate_destroy(table.host);
        if (host_delete(table.host)) abort();
    }
    return 0;
}
