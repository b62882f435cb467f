// controller.cpp - the least that a controller of the driver does: what is held is allowed, in one request a fetch.
//
// Prints a line when it is registered, and runs until it is ended.

#include <windows.h>

#include <stdio.h>
#include <string.h>

#include "../../driver/protocol.h"

using namespace procmon;

namespace {

HANDLE device;
alignas(8) unsigned char records[1 << 16];
wire::Target targets[wire::kMaxTargets];
uint32_t results[wire::kMaxTargets];

void request(const char* name, uint32_t code, const void* input, size_t input_bytes, void* output,
             size_t output_bytes) {
    DWORD received;
    if (DeviceIoControl(device, code, const_cast<void*>(input), static_cast<DWORD>(input_bytes), output,
                        static_cast<DWORD>(output_bytes), &received, nullptr))
        return;
    fprintf(stderr, "controller: %s: error %lu\n", name, GetLastError());
    ExitProcess(1);
}

void answer_all() {
    request("FETCH", wire::kFetch, nullptr, 0, records, sizeof records);
    wire::RecordsHeader head;
    memcpy(&head, records, sizeof head);
    const unsigned char* at = records + sizeof head;
    uint32_t held = 0;
    for (uint32_t i = 0; i < head.count; ++i) {
        wire::RecordHeader record;
        memcpy(&record, at, sizeof record);
        at += record.size;
        if (record.state == wire::kStateHeld && held < wire::kMaxTargets)
            targets[held++] = {record.pid, 0, record.start_key};
    }
    if (held) request("ALLOW", wire::kAllow, targets, held * sizeof *targets, results, held * sizeof *results);
}

}  // namespace

int main() {
    device = CreateFileW(L"\\\\.\\ProcMonGate", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE,
                         nullptr, OPEN_EXISTING, 0, nullptr);
    HANDLE event = CreateEventW(nullptr, FALSE, FALSE, nullptr);
    wire::RegisterRequest options = {};
    options.version = wire::kVersion;
    options.flags = wire::kReportExits;
    options.event = reinterpret_cast<uintptr_t>(event);
    options.hold_timeout_ms = 30000;
    options.timeout_verdict = options.disconnect_verdict = options.limit_verdict = wire::kVerdictAllow;
    options.pico_verdict = options.tamper_verdict = wire::kVerdictAllow;
    request("REGISTER", wire::kRegister, &options, sizeof options, nullptr, 0);
    puts("ready");
    fflush(stdout);
    while (WaitForSingleObject(event, INFINITE) == WAIT_OBJECT_0) answer_all();
    return 1;
}
