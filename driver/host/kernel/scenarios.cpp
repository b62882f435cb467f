// scenarios.cpp - driver/wdm on the made-up kernel: one behaviour each, named after it. Without arguments it lists
// them; with a name it runs that one, and ends with 1 and a reason if it does not hold.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "../../protocol.h"
#include "fake.h"

using namespace fake;
using namespace procmon;

namespace {

#define CHECK(condition) check((condition), #condition, __LINE__)

void check(bool holds, const char* condition, int line) {
    if (holds) return;
    fprintf(stderr, "scenarios.cpp:%d: %s does not hold\ntrace: %s\n", line, condition, trace_text().c_str());
    fflush(stderr);
    _exit(1);
}

constexpr char16_t kPath[] = u"\\Device\\HarddiskVolume2\\Tools\\A.exe";
constexpr uint32_t kController = 100;
constexpr int kSoonMs = 3000;  // what should take a moment; never would be for ever

void furnish() {
    add_process(4, 0, u"");
    add_process(kController, 4, u"\\Device\\HarddiskVolume2\\python.exe");
    add_process(200, 4, u"\\Device\\HarddiskVolume21\\shell.exe");
}

void load_driver() { CHECK(load() == STATUS_SUCCESS); }

void unload_driver() {
    unload();
    CHECK(leftovers() == "");
}

struct Shown {
    wire::RecordHeader header;
    std::u16string image, native, command_line;
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
    NTSTATUS request_register(uint64_t handle, uint32_t timeout_ms = 0, uint32_t disconnect = wire::kVerdictAllow) {
        const wire::RegisterRequest request = {wire::kVersion,      0,          handle, timeout_ms,
                                               wire::kVerdictBlock, disconnect, 0};
        std::vector<uint8_t> nothing;
        return send(wire::kRegister, &request, sizeof request, &nothing);
    }
    void become_controller(uint32_t timeout_ms = 0, uint32_t disconnect = wire::kVerdictAllow) {
        event = new_event();
        CHECK(request_register(event, timeout_ms, disconnect) == STATUS_SUCCESS);
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
            one.command_line.assign(text + one.native.size(), one.header.command_line_bytes / 2);
            at += one.header.size;
        }
        return all;
    }
    // Waits until the process is held, and answers its record.
    Shown held(uint32_t pid) {
        for (int tries = 0; tries < 500; ++tries) {
            for (const Shown& one : records(wire::kList))
                if (one.header.pid == pid && one.header.state == wire::kStateHeld) return one;
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        CHECK(!"held");
        return {};
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

size_t place(const std::vector<std::string>& all, const char* what) {
    for (size_t i = 0; i < all.size(); ++i)
        if (all[i] == what) return i;
    CHECK(!what);
    return 0;
}

// ----------------------------------------------------------------------------------------------------- load, unload

void loads_in_order_and_unloads_in_reverse() {
    load_driver();
    CHECK(trace_text() == "device, security, create routine ex, image routine, link");
    unload_driver();
    const auto all = trace();
    CHECK(place(all, "-link") < place(all, "-image routine"));
    CHECK(place(all, "-image routine") < place(all, "-create routine ex"));
    CHECK(place(all, "-create routine ex") < place(all, "-device"));
}

void unwinds_whatever_kernel_call_fails() {
    uint64_t n = 1;
    int refused = 0;
    for (;; ++n) {
        fail_call(n);
        const NTSTATUS status = load();
        const bool was_reached = !failed.empty();
        fail_call(0);
        if (NT_SUCCESS(status)) {
            Device device;
            device.become_controller();
        } else {
            ++refused;
        }
        if (is_loaded()) unload();
        CHECK(leftovers() == "");
        if (!was_reached) break;
    }
    CHECK(n > 30);
    CHECK(refused > 10);
}

void loads_again_after_unloading() {
    for (int round = 0; round < 3; ++round) {
        load_driver();
        {
            Device device;
            device.become_controller();
        }
        unload_driver();
    }
}

void gives_the_device_to_system_and_administrators_alone() {
    load_driver();
    CHECK(device_acl.size() == 2);
    CHECK(device_acl[0].sid == std::vector<uint32_t>{18});
    CHECK((device_acl[1].sid == std::vector<uint32_t>{32, 544}));
    CHECK(device_acl[0].access == FILE_ALL_ACCESS && device_acl[1].access == FILE_ALL_ACCESS);
    CHECK(device_flags & FILE_DEVICE_SECURE_OPEN);
    unload_driver();
}

void allocates_nothing_executable_where_the_kernel_knows_better() {
    kernel.absent = {"ExAllocatePool2"};
    kernel.major = 6;
    kernel.minor = 2;
    load_driver();
    CHECK(pool_bytes_nx > 0 && pool_bytes_executable == 0);
    unload_driver();
}

void runs_on_the_oldest_kernel() {
    kernel.absent = {"PsSetCreateProcessNotifyRoutineEx", "SeLocateProcessImageName", "ExAllocatePool2",
                     "PsIsProtectedProcess", "PsGetProcessCreateTimeQuadPart", "PsGetProcessExitStatus",
                     "PsGetProcessSectionBaseAddress", "PsGetProcessExitProcessCalled"};
    kernel.removal_waits = false;
    kernel.major = 5;
    kernel.minor = 2;
    load_driver();
    {
        Device device;
        CHECK(device.info().features == 0);
        device.become_controller();
        as_process(200, 201, [] { CHECK(create_process(5000, 300, kPath, u"") == STATUS_SUCCESS); });
        Mapping by_parent;
        by_parent.mapped_by = 200;
        map_image(5000, by_parent);  // returns: that is not the new process' own thread
        std::thread first([] {
            Mapping mapping;
            mapping.name = u"\\Device\\HarddiskVolume21\\B.exe";
            map_image(5000, mapping);
        });
        const Shown shown = device.held(5000);
        CHECK(shown.image == u"e:\\b.exe" && shown.header.parent_pid == 300);
        CHECK(shown.header.creator_pid == 200 && shown.header.creator_tid == 201);
        fake::close(&device.file);
        first.join();
        exit_process(5000, 3);
    }
    CHECK(pool_bytes_executable > 0);
    unload_driver();
}

void goes_on_with_the_first_routine_where_the_other_is_refused() {
    kernel.refuses_ex = true;
    load_driver();
    Device* device = new Device;
    CHECK((device->info().features & wire::kFeatureCreateEx) == 0);
    delete device;
    CHECK(place(trace(), "create routine") < place(trace(), "image routine"));
    unload_driver();
}

// ---------------------------------------------------------------------------------------------------- what is running

void lists_what_runs_already_with_names_and_forgets_who_has_left() {
    add_process(300, 4, u"\\Device\\HarddiskVolume2\\leaving.exe");
    set_exiting(300);
    add_process(400, 4, u"\\??\\C:\\subst\\x.exe");  // S: stands for that folder, and must not be its name
    load_driver();
    {
        Device device;
        const auto all = device.records(wire::kList);
        CHECK(all.size() == 4);
        CHECK(all[3].image == u"c:\\subst\\x.exe");
        CHECK(all[0].header.pid == 4 && all[0].image == u"short");
        CHECK(all[1].image == u"c:\\python.exe" && all[1].header.created == 600);
        CHECK(all[2].image == u"e:\\shell.exe" && all[2].header.parent_pid == 4);
        for (const Shown& one : all) CHECK(one.header.flags & wire::kFlagRunningBefore);
    }
    unload_driver();
}

// --------------------------------------------------------------------------------------------------------------- hold

void holds_a_process_until_it_is_allowed() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(event_was_set(device.event, 0));  // for those that run already
        device.records(wire::kFetch);
        Started started(5000);
        CHECK(event_was_set(device.event, 1000));
        const auto fetched = device.records(wire::kFetch);
        CHECK(fetched.size() == 1 && fetched[0].image == u"c:\\tools\\a.exe" && fetched[0].native == kPath);
        CHECK(fetched[0].command_line == u"a.exe 1 2" && fetched[0].header.parent_pid == 200);
        CHECK(fetched[0].header.creator_pid == kController && fetched[0].header.created == 6000);
        const uint64_t looks = locks_taken;
        CHECK(!started.returns_within(600));  // two slices and more
        CHECK(locks_taken - looks < 20);      // and it waits, it does not run in circles
        CHECK(device.answer(wire::kAllow, fetched[0]) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs) && !started.dead_on_return);
    }
    unload_driver();
}

void a_blocked_process_is_dead_before_its_thread_goes_on() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        CHECK(device.answer(wire::kBlock, device.held(5000)) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
        NTSTATUS status;
        CHECK(terminated(5000, &status) && static_cast<uint32_t>(status) == wire::kStatusBlocked);
    }
    unload_driver();
}

void a_process_that_would_not_die_is_tried_again() {
    kernel.terminate_fails = true;
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        CHECK(device.answer(wire::kBlock, device.held(5000)) == wire::kResultDone);
        CHECK(!started.returns_within(300));
        const uint64_t failures = device.info().counters.terminate_failures;
        CHECK(failures >= 2 && failures < 12);  // with time between
        kernel.terminate_fails = false;
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
    }
    unload_driver();
}

void a_timeout_answers_one_process_and_no_other() {
    load_driver();
    {
        Device device;
        device.become_controller(1200);
        Started first(5000);
        CHECK(!first.returns_within(800));
        Started second(5004);
        CHECK(first.returns_within(kSoonMs) && first.dead_on_return);
        CHECK(!second.returned);
        CHECK(device.answer(wire::kAllow, device.held(5004)) == wire::kResultDone);
    }
    unload_driver();
}

void releases_all_at_once_when_the_controllers_handle_is_closed() {
    load_driver();
    {
        Device device;
        device.become_controller(0, wire::kVerdictBlock);
        Started a(5000), b(5004), c(5008);
        device.held(5000), device.held(5004), device.held(5008);
        cleanup(&device.file);
        CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && c.returns_within(kSoonMs));
        CHECK(a.dead_on_return && b.dead_on_return && c.dead_on_return);
    }
    unload_driver();
}

void releases_all_at_once_when_the_controllers_process_ends() {
    load_driver();
    {
        add_process(400, 200, u"\\Device\\HarddiskVolume2\\controller.exe");
        Device device;
        as_process(400, 401, [&] { device.become_controller(); });
        CHECK(device.info().controller_pid == 400);
        Started a(5000), b(5004);
        device.held(5000), device.held(5004);
        exit_process(400, 1);  // somebody else still has the handle
        CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && !a.dead_on_return);
        CHECK(device.info().controller_pid == 0);
    }
    unload_driver();
}

void unloads_at_once_while_three_are_held() {
    load_driver();
    Started a(5000), b(5004), c(5008);
    {
        Device device;
        device.become_controller();
        std::thread late([] { map_image(5000, {}); });  // a second image of the same process passes
        late.join();
    }
    Device* device = new Device;
    device->become_controller();
    Started d(5012), e(5016), f(5020);
    device->held(5012), device->held(5016), device->held(5020);
    const auto before = std::chrono::steady_clock::now();
    unload();  // the handle is open: Wine does so, and NT would have waited
    CHECK(std::chrono::steady_clock::now() - before < std::chrono::milliseconds(kSoonMs));
    CHECK(d.returns_within(kSoonMs) && e.returns_within(kSoonMs) && f.returns_within(kSoonMs));
    CHECK(!d.dead_on_return && !e.dead_on_return && !f.dead_on_return);
    std::vector<uint8_t> output(sizeof(wire::Info));
    CHECK(device->send(wire::kInfo, nullptr, 0, &output) == STATUS_DEVICE_NOT_READY);
    device->file.opened = false;
    delete device;
    CHECK(leftovers() == "");
}

void unload_waits_for_callbacks_where_the_kernel_does_not() {
    kernel.removal_waits = false;
    load_driver();
    Device device;
    device.become_controller();
    Started a(5000), b(5004), c(5008);
    device.held(5000), device.held(5004), device.held(5008);
    device.file.opened = false;
    unload();  // made up or not, code that is gone must have nobody in it
    CHECK(leftovers() == "");
}

void unloads_while_a_blocked_process_is_about_to_die() {
    load_driver();
    Device device;
    device.become_controller();
    Started started(5000);
    const Shown shown = device.held(5000);
    CHECK(device.answer(wire::kBlock, shown) == wire::kResultDone);
    device.file.opened = false;
    unload();
    CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
}

// -------------------------------------------------------------------------------------------------- who is never held

void holds_only_the_first_image_of_a_process_in_its_own_thread() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        Mapping by_parent, driver_image, library;
        by_parent.mapped_by = 200;
        driver_image.system_image = true;
        library.executable = false;
        for (const Mapping& mapping : {by_parent, driver_image, library}) map_image(5000, mapping);  // each returns
        map_image(4, {});
        map_image(0, {});
        CHECK(device.info().counters.held == 0);
        std::thread first([] { map_image(5000, {}); });
        device.answer(wire::kAllow, device.held(5000));
        first.join();
        map_image(5000, {});
        CHECK(device.info().counters.held == 1);
        exit_process(5000, 0);
    }
    unload_driver();
}

void never_holds_the_protected_the_critical_or_anybody_without_a_controller() {
    load_driver();
    {
        Device device;
        Started nobody_asks(5000);
        CHECK(nobody_asks.returns_within(kSoonMs));
        device.become_controller();
        Started safe(5004, u"\\Device\\HarddiskVolume2\\protected.exe");
        Started critical(5008, u"\\Device\\HarddiskVolume2\\Windows\\System32\\csrss.exe");
        CHECK(safe.returns_within(kSoonMs) && critical.returns_within(kSoonMs));
        CHECK(device.info().counters.exempt == 2);
    }
    unload_driver();
}

void refuses_a_creation_by_a_rule_so_that_no_process_comes_to_be() {
    load_driver();
    {
        Device device;
        device.become_controller();
        const std::u16string path = u"c:\\tools\\a.exe";
        std::vector<uint8_t> rules(sizeof(wire::RulesHeader) + sizeof(wire::RuleHeader) + 32), nothing;
        const wire::RulesHeader header = {1, 0};
        const auto bytes = static_cast<uint32_t>(path.size() * 2);
        const wire::RuleHeader rule = {sizeof(wire::RuleHeader) + 32, wire::kVerdictBlock, bytes, 0};
        memcpy(rules.data(), &header, sizeof header);
        memcpy(rules.data() + sizeof header, &rule, sizeof rule);
        memcpy(rules.data() + sizeof header + sizeof rule, path.data(), bytes);
        CHECK(device.send(wire::kSetRules, rules.data(), rules.size(), &nothing) == STATUS_SUCCESS);
        CHECK(static_cast<uint32_t>(create_process(5000, 200, kPath, u"a")) == wire::kStatusBlocked);
        CHECK(create_process(5004, 200, u"\\Device\\HarddiskVolume21\\other.exe", u"b") == STATUS_SUCCESS);
        CHECK(device.info().counters.rule_blocked == 1);
        exit_process(5004, 0);
    }
    unload_driver();
}

// ---------------------------------------------------------------------------------------------------------- the device

void refuses_a_name_below_the_device() {
    load_driver();
    File file;
    CHECK(open(&file, u"\\x") == STATUS_OBJECT_NAME_INVALID);
    unload_driver();
}

void takes_an_event_of_the_caller_and_nothing_else() {
    load_driver();
    {
        Device device;
        const uint64_t file = new_non_event(), closed = new_event();
        close_handle(closed);
        CHECK(device.request_register(file) == STATUS_OBJECT_TYPE_MISMATCH);
        CHECK(device.request_register(closed) == STATUS_INVALID_HANDLE);
        CHECK(device.request_register(0) == STATUS_INVALID_HANDLE);
        close_handle(file);
        device.become_controller();
        close_handle(device.event);  // the driver has its own reference
        device.event = 0;
        Started started(5000);
        device.answer(wire::kAllow, device.held(5000));
    }
    unload_driver();
}

void a_second_controller_is_told_that_there_is_one() {
    load_driver();
    {
        Device first, second;
        first.become_controller();
        const uint64_t event = new_event();
        CHECK(static_cast<uint32_t>(second.request_register(event)) == 0xC0000043);  // SHARING_VIOLATION
        fake::close(&first.file);
        CHECK(second.request_register(event) == STATUS_SUCCESS);
        close_handle(event);
    }
    unload_driver();
}

void many_starts_verdicts_and_exits_at_once() {
    load_driver();
    {
        Device device;
        device.become_controller();
        std::atomic<bool> over{false};
        std::thread controller([&] {
            while (!over) {
                event_was_set(device.event, 20);
                for (const Shown& one : device.records(wire::kFetch))
                    device.answer(one.header.pid % 3 == 0 ? wire::kBlock : wire::kAllow, one);
            }
        });
        std::vector<std::thread> creators;
        for (uint32_t creator = 0; creator < 6; ++creator)
            creators.emplace_back([creator] {
                for (uint32_t i = 0; i < 40; ++i) {
                    Started started(10000 + creator * 1000 + 4 * i);
                    CHECK(started.returns_within(5000));
                    CHECK(started.dead_on_return == (started.pid % 3 == 0));
                }
            });
        for (std::thread& thread : creators) thread.join();
        over = true;
        controller.join();
        CHECK(device.info().counters.held == 240 && device.info().held_count == 0);
    }
    unload_driver();
}

struct Scenario {
    const char* name;
    void (*run)();
};

constexpr Scenario kScenarios[] = {
#define SCENARIO(name) {#name, name}
    SCENARIO(loads_in_order_and_unloads_in_reverse),
    SCENARIO(unwinds_whatever_kernel_call_fails),
    SCENARIO(loads_again_after_unloading),
    SCENARIO(gives_the_device_to_system_and_administrators_alone),
    SCENARIO(allocates_nothing_executable_where_the_kernel_knows_better),
    SCENARIO(runs_on_the_oldest_kernel),
    SCENARIO(goes_on_with_the_first_routine_where_the_other_is_refused),
    SCENARIO(lists_what_runs_already_with_names_and_forgets_who_has_left),
    SCENARIO(holds_a_process_until_it_is_allowed),
    SCENARIO(a_blocked_process_is_dead_before_its_thread_goes_on),
    SCENARIO(a_process_that_would_not_die_is_tried_again),
    SCENARIO(a_timeout_answers_one_process_and_no_other),
    SCENARIO(releases_all_at_once_when_the_controllers_handle_is_closed),
    SCENARIO(releases_all_at_once_when_the_controllers_process_ends),
    SCENARIO(unloads_at_once_while_three_are_held),
    SCENARIO(unload_waits_for_callbacks_where_the_kernel_does_not),
    SCENARIO(unloads_while_a_blocked_process_is_about_to_die),
    SCENARIO(holds_only_the_first_image_of_a_process_in_its_own_thread),
    SCENARIO(never_holds_the_protected_the_critical_or_anybody_without_a_controller),
    SCENARIO(refuses_a_creation_by_a_rule_so_that_no_process_comes_to_be),
    SCENARIO(refuses_a_name_below_the_device),
    SCENARIO(takes_an_event_of_the_caller_and_nothing_else),
    SCENARIO(a_second_controller_is_told_that_there_is_one),
    SCENARIO(many_starts_verdicts_and_exits_at_once),
#undef SCENARIO
};

}  // namespace

int main(int count, char** arguments) {
    for (const Scenario& scenario : kScenarios) {
        if (count < 2) {
            puts(scenario.name);
        } else if (strcmp(arguments[1], scenario.name) == 0) {
            furnish();
            scenario.run();
            end_all_processes();
            return 0;
        }
    }
    return count < 2 ? 0 : 2;
}
