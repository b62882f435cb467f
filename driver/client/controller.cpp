// controller.cpp - a whole controller: REGISTER with an event, wait for it, FETCH, ALLOW or BLOCK.

#include <stdlib.h>
#include <string.h>
#include <string>

#include "../protocol.h"
#include "client.h"

namespace procmon::client {
namespace {

constexpr DWORD kPatience = 20000;  // ms; only a hang reaches it

HANDLE device = INVALID_HANDLE_VALUE;
alignas(8) uint8_t buffer[65536];

// Sends one request and returns the bytes received. Exits with the request's name when the driver refuses it.
DWORD request(const wchar_t* name, uint32_t code, void* input, DWORD input_bytes, void* output, DWORD output_bytes) {
    DWORD received = 0;
    if (!DeviceIoControl(device, code, input, input_bytes, output, output_bytes, &received, nullptr)) {
        say(L"%ls: %lu", name, GetLastError());
        exit(1);
    }
    return received;
}

std::wstring text(const uint8_t* bytes, uint32_t count) {
    return std::wstring(reinterpret_cast<const wchar_t*>(bytes), count / sizeof(wchar_t));
}

void print_info() {
    wire::Info info = {};
    DWORD received = request(L"INFO", wire::kInfo, nullptr, 0, &info, sizeof info);
    say(L"info %lu of %u bytes, protocol %u.%u, timeout %u ms, %ls, held %llu, allowed %llu, blocked %llu", received,
        info.size, info.version >> 16, info.version & 0xFFFF, info.hold_timeout_ms,
        info.controller_pid == GetCurrentProcessId() ? L"controlled by us" : L"not controlled by us",
        info.counters.held, info.counters.allowed, info.counters.blocked);
}

void register_event(HANDLE event) {
    wire::RegisterRequest options = {};
    options.version = wire::kVersion;
    options.flags = wire::kReportExits;
    options.event = reinterpret_cast<uintptr_t>(event);
    options.hold_timeout_ms = kPatience;
    options.timeout_verdict = wire::kVerdictAllow;
    options.disconnect_verdict = options.limit_verdict = options.pico_verdict = wire::kVerdictAllow;
    options.tamper_verdict = wire::kVerdictBlock;
    request(L"REGISTER", wire::kRegister, &options, sizeof options, nullptr, 0);
}

bool ends_with(const std::wstring& name, const std::wstring& end) {
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

void answer(const wire::RecordHeader& record, bool block) {
    wire::Target target = {record.pid, 0, record.start_key};
    uint32_t result = ~0u;
    request(block ? L"BLOCK" : L"ALLOW", block ? wire::kBlock : wire::kAllow, &target, sizeof target, &result,
            sizeof result);
    say(L"%ls #%u: %u", block ? L"block" : L"allow", record.pid, result);
}

// Handles one reply of FETCH. Returns how many processes in it have exited.
int take_records(const std::wstring& blocked) {
    DWORD received = request(L"FETCH", wire::kFetch, nullptr, 0, buffer, sizeof buffer);
    wire::RecordsHeader head;
    memcpy(&head, buffer, sizeof head);
    const uint8_t* at = buffer + sizeof head;
    int ended = 0;
    for (uint32_t index = 0; index < head.count; ++index) {
        wire::RecordHeader record;
        memcpy(&record, at, sizeof record);
        std::wstring name = text(at + sizeof record, record.image_name_bytes);
        std::wstring command = text(at + sizeof record + record.image_name_bytes + record.native_name_bytes,
                                    record.command_line_bytes);
        if (record.state == wire::kStateHeld) {
            say(L"held #%u below #%u, %ls: %ls", record.pid, record.parent_pid, name.c_str(), command.c_str());
            answer(record, ends_with(name, blocked));
        } else if (record.state == wire::kStateExiting) {
            say(L"ended #%u, status 0x%X, verdict %u by %u", record.pid, record.exit_status, record.verdict,
                record.decided_by);
            ++ended;
        }
        at += record.size;
    }
    if (at > buffer + received) {
        say(L"FETCH: records of more bytes than were received");
        exit(1);
    }
    return ended;
}

}  // namespace

int control(int exits, const char* blocked) {
    device = CreateFileW(L"\\\\.\\ProcMonGate", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE,
                         nullptr, OPEN_EXISTING, 0, nullptr);
    HANDLE event = CreateEventW(nullptr, FALSE, FALSE, nullptr);
    if (device == INVALID_HANDLE_VALUE || event == nullptr) {
        say(L"open: %lu", GetLastError());
        return 1;
    }
    print_info();
    register_event(event);
    print_info();
    const std::wstring ending(blocked, blocked + strlen(blocked));
    while (exits > 0) {
        if (WaitForSingleObject(event, kPatience) != WAIT_OBJECT_0) {
            say(L"nothing more to fetch");
            return 1;
        }
        exits -= take_records(ending);
    }
    print_info();
    return 0;
}

}  // namespace procmon::client
