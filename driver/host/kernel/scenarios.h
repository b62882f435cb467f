// scenarios.h - the list of scenarios, and their helpers.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "../../core/gate.h"
#include "fake.h"

// One behaviour each, named after it.
#define SCENARIOS(SCENARIO) \
    SCENARIO(loads_in_order_and_unloads_in_reverse) \
    SCENARIO(unwinds_whatever_kernel_call_fails) \
    SCENARIO(loads_again_after_unloading) \
    SCENARIO(gives_the_device_to_system_and_administrators_alone) \
    SCENARIO(allocates_nothing_executable_where_the_kernel_knows_better) \
    SCENARIO(runs_on_the_oldest_kernel) \
    SCENARIO(goes_on_with_the_first_routine_where_the_other_is_refused) \
    SCENARIO(lists_what_runs_already_with_names_and_forgets_what_has_left) \
    SCENARIO(holds_a_process_until_it_is_allowed) \
    SCENARIO(a_blocked_process_is_dead_before_its_thread_goes_on) \
    SCENARIO(a_process_that_would_not_die_is_tried_again) \
    SCENARIO(a_timeout_answers_one_process_and_no_other) \
    SCENARIO(a_hold_does_not_run_out_while_the_machine_sleeps) \
    SCENARIO(a_date_that_is_set_changes_no_hold) \
    SCENARIO(a_process_that_another_ends_while_it_is_held_leaves_at_once) \
    SCENARIO(no_question_is_asked_about_a_process_that_another_ended_before_it_runs) \
    SCENARIO(releases_all_at_once_when_the_controllers_handle_is_closed) \
    SCENARIO(releases_all_at_once_when_the_controllers_process_ends) \
    SCENARIO(unloads_at_once_while_three_are_held) \
    SCENARIO(unload_waits_for_callbacks_where_the_kernel_does_not) \
    SCENARIO(unloads_while_a_blocked_process_is_about_to_die) \
    SCENARIO(holds_only_the_first_image_of_a_process_in_its_own_thread) \
    SCENARIO(an_emulated_program_is_held_at_its_image) \
    SCENARIO(never_holds_the_protected_the_critical_or_any_without_a_controller) \
    SCENARIO(names_the_system_volume_by_the_letter_that_windows_uses) \
    SCENARIO(knows_capitals_of_any_alphabet) \
    SCENARIO(refuses_a_creation_by_a_rule_so_that_no_process_comes_to_be) \
    SCENARIO(what_starts_while_the_driver_loads_is_known_to_run) \
    SCENARIO(what_is_created_while_the_driver_loads_has_its_first_thread_noticed) \
    SCENARIO(refuses_a_name_below_the_device) \
    SCENARIO(takes_an_event_of_the_caller_and_nothing_else) \
    SCENARIO(long_names_are_copied_by_turns_with_others) \
    SCENARIO(a_second_controller_is_told_that_there_is_one) \
    SCENARIO(many_starts_verdicts_and_exits_at_once) \
    SCENARIO(an_extra_thread_waits_for_the_same_verdict) \
    SCENARIO(an_extra_thread_that_comes_first_is_held_like_the_first) \
    SCENARIO(an_extra_thread_that_comes_first_is_decided_by_the_name_at_the_image) \
    SCENARIO(an_extra_thread_dies_with_what_is_blocked) \
    SCENARIO(on_an_older_kernel_an_extra_thread_has_the_process_blocked) \
    SCENARIO(on_an_older_kernel_an_extra_thread_before_the_first_image_has_the_process_blocked) \
    SCENARIO(on_an_older_kernel_an_extra_thread_can_be_only_marked) \
    SCENARIO(on_an_older_kernel_an_extra_thread_goes_before_a_rule_that_allows) \
    SCENARIO(a_process_that_was_suspended_before_the_load_is_held_when_it_first_runs) \
    SCENARIO(a_critical_process_is_not_terminated_but_stays_held) \
    SCENARIO(the_record_says_what_the_file_was_like) \
    SCENARIO(the_record_says_that_the_file_was_renamed_before_it_ran) \
    SCENARIO(the_first_routine_too_gives_the_name_at_creation) \
    SCENARIO(a_name_at_creation_that_is_not_given_again_still_counts) \
    SCENARIO(lists_wsl_1_processes_and_refuses_them_if_asked) \
    SCENARIO(a_stop_while_the_device_is_open_releases_nothing_by_itself) \
    SCENARIO(quiesce_releases_all_so_that_a_stop_can_follow) \
    SCENARIO(a_shutdown_of_windows_releases_what_is_held) \
    SCENARIO(shows_state_changes_to_a_debugger) \
    SCENARIO(keeps_texts_in_paged_pool)

namespace scenarios {

#define SCENARIO(name) void name();
SCENARIOS(SCENARIO)
#undef SCENARIO

using namespace fake;
using namespace procmon;

#define CHECK(condition) check((condition), #condition, __LINE__)

inline void check(bool holds, const char* condition, int line) {
    if (holds) return;
    fprintf(stderr, "scenarios.cpp:%d: %s does not hold\ntrace: %s\n", line, condition, trace_text().c_str());
    fflush(stderr);
    _exit(1);
}

constexpr char16_t kPath[] = u"\\Device\\HarddiskVolume2\\Tools\\A.exe";
constexpr uint32_t kController = 100;
constexpr int kSoonMs = 60000;  // for events that take a moment: a timeout instead of an endless wait

// Waits until the condition holds; false after kSoonMs.
template <typename Condition>
bool eventually(Condition holds) {
    for (int ms = kSoonMs; ms > 0; ms -= 2) {
        if (holds()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
}

inline void furnish() {
    add_process(4, 0, u"");
    add_process(kController, 4, u"\\Device\\HarddiskVolume2\\python.exe");
    add_process(200, 4, u"\\Device\\HarddiskVolume21\\shell.exe");
}

inline void load_driver() { CHECK(load() == STATUS_SUCCESS); }

inline void unload_driver() {
    unload();
    CHECK(leftovers() == "");
}

struct Shown {
    wire::RecordHeader header;
    std::u16string image, native, command_line, creation;
};
struct Options {
    uint32_t timeout_ms = 0, disconnect = wire::kVerdictAllow, tamper = wire::kVerdictBlock, pico = wire::kVerdictAllow;
};

struct Device {
    File file;
    uint64_t event = 0;

    Device() { CHECK(open(&file) == STATUS_SUCCESS); }
    ~Device() {
        if (file.opened) fake::close(&file);
        if (event != 0) close_handle(event);
    }
    NTSTATUS send(uint32_t code, const void* input, size_t bytes, std::vector<uint8_t>* output) {
        return control(&file, code, input, bytes, output);
    }
    NTSTATUS request_register(uint64_t handle, const Options& options = {}) {
        wire::RegisterRequest request = {};
        request.version = wire::kVersion;
        request.event = handle;
        request.hold_timeout_ms = options.timeout_ms;
        request.timeout_verdict = wire::kVerdictBlock;
        request.disconnect_verdict = options.disconnect;
        request.limit_verdict = wire::kVerdictAllow;
        request.tamper_verdict = options.tamper;
        request.pico_verdict = options.pico;
        std::vector<uint8_t> nothing;
        return send(wire::kRegister, &request, sizeof request, &nothing);
    }
    void become_controller(const Options& options = {}) {
        event = new_event();
        CHECK(request_register(event, options) == STATUS_SUCCESS);
    }
    void set_rule(const std::u16string& path, uint32_t verdict) {
        const size_t padded = (path.size() * 2 + 7) / 8 * 8;
        std::vector<uint8_t> rules(sizeof(wire::RulesHeader) + sizeof(wire::RuleHeader) + padded), reply(8);
        const wire::RulesHeader header = {1, 0};
        const wire::RuleHeader rule = {static_cast<uint32_t>(sizeof(wire::RuleHeader) + padded), verdict,
                                       static_cast<uint32_t>(path.size() * 2), 0};
        memcpy(rules.data(), &header, sizeof header);
        memcpy(rules.data() + sizeof header, &rule, sizeof rule);
        memcpy(rules.data() + sizeof header + sizeof rule, path.data(), path.size() * 2);
        CHECK(send(wire::kSetRules, rules.data(), rules.size(), &reply) == STATUS_SUCCESS);
    }
    NTSTATUS quiesce() {
        std::vector<uint8_t> nothing;
        return send(wire::kQuiesce, nullptr, 0, &nothing);
    }
    wire::Info info() {
        std::vector<uint8_t> output(sizeof(wire::Info));
        CHECK(send(wire::kInfo, nullptr, 0, &output) == STATUS_SUCCESS);
        wire::Info info;
        memcpy(&info, output.data(), sizeof info);
        return info;
    }
    std::vector<Shown> records(uint32_t code) {
        std::vector<uint8_t> output(65536);
        const wire::ListRequest request = {};
        CHECK(send(code, &request, code == wire::kList ? sizeof request : 0, &output) == STATUS_SUCCESS);
        wire::RecordsHeader header;
        memcpy(&header, output.data(), sizeof header);
        std::vector<Shown> all(header.count);
        const uint8_t* at = output.data() + sizeof header;
        for (Shown& one : all) {
            memcpy(&one.header, at, sizeof one.header);
            const auto* text = reinterpret_cast<const char16_t*>(at + sizeof one.header);
            one.image.assign(text, one.header.image_name_bytes / 2);
            text += one.image.size();
            one.native.assign(text, one.header.native_name_bytes / 2);
            text += one.native.size();
            one.command_line.assign(text, one.header.command_line_bytes / 2);
            one.creation.assign(text + one.command_line.size(), one.header.creation_name_bytes / 2);
            at += one.header.size;
        }
        return all;
    }
    // What LIST shows of a process; pid 0 = it is not there.
    Shown record(uint32_t pid) {
        for (const Shown& one : records(wire::kList))
            if (one.header.pid == pid) return one;
        return {};
    }
    // Waits until the process is held, and answers its record.
    Shown held(uint32_t pid) {
        Shown shown;
        CHECK(eventually([&] {
            shown = record(pid);
            return shown.header.state == wire::kStateHeld;
        }));
        return shown;
    }
    uint32_t answer(uint32_t code, const Shown& process) {
        const wire::Target target = {process.header.pid, 0, process.header.start_key};
        std::vector<uint8_t> output(sizeof(uint32_t));
        CHECK(send(code, &target, sizeof target, &output) == STATUS_SUCCESS);
        uint32_t result;
        memcpy(&result, output.data(), sizeof result);
        return result;
    }
};

// A thread that is put into a process by another one.
struct Extra {
    std::atomic<bool> returned{false};
    std::thread thread;

    explicit Extra(uint32_t pid, uint32_t creator = 200)
        : thread([this, pid, creator] {
              as_process(creator, creator + 1, [pid] { start_thread(pid, pid + 2); });
              returned = true;
          }) {}
    ~Extra() { thread.join(); }
    bool returns_within(int ms) {
        for (; ms > 0 && !returned; ms -= 2) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        return returned;
    }
};

// A new process whose first thread is in the image notification, perhaps for long.
struct Started {
    uint32_t pid;
    std::atomic<bool> returned{false};
    std::atomic<bool> dead_on_return{false};
    std::thread thread;

    explicit Started(uint32_t new_pid, const char16_t* path = kPath) : pid(new_pid) {
        CHECK(create_process(pid, 200, path, u"a.exe 1 2") == STATUS_SUCCESS);
        thread = std::thread([this] {
            map_image(pid, {});
            NTSTATUS status;
            dead_on_return = terminated(pid, &status);
            returned = true;
        });
    }
    ~Started() {
        thread.join();
        if (is_loaded()) exit_process(pid, 0);
    }
    bool returns_within(int ms) {
        for (; ms > 0 && !returned; ms -= 2) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        return returned;
    }
};

}  // namespace scenarios
