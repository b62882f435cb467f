// scenarios_hold.cpp - held processes: how each hold ends.

#include "scenarios.h"

namespace scenarios {

void holds_a_process_until_it_is_allowed() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(event_was_set(device.event, 0));  // for the processes that run already
        device.records(wire::kFetch);
        Started started(5000);
        CHECK(event_was_set(device.event, kSoonMs));
        const auto fetched = device.records(wire::kFetch);
        CHECK(fetched.size() == 1 && fetched[0].image == u"c:\\tools\\a.exe" && fetched[0].native == kPath);
        CHECK(fetched[0].command_line == u"a.exe 1 2" && fetched[0].header.parent_pid == 200);
        CHECK(fetched[0].header.creator_pid == kController && fetched[0].header.created == 6000);
        const uint64_t looks = locks_taken;
        const auto since = std::chrono::steady_clock::now();
        CHECK(!started.returns_within(600));  // two slices and more
        const uint64_t looked = locks_taken - looks;
        const auto passed = std::chrono::steady_clock::now() - since;
        // It does not spin.
        CHECK(looked <= 2 + static_cast<uint64_t>(passed / std::chrono::milliseconds(200)));
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

// fault: a blocked process cannot be terminated | stays held; tried again | its record again | terminate_failures | -
void a_process_that_would_not_die_is_tried_again() {
    kernel.terminate_fails = true;
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        CHECK(device.answer(wire::kBlock, device.held(5000)) == wire::kResultDone);
        const auto blocked = std::chrono::steady_clock::now();
        while (device.info().counters.terminate_failures < 3) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        const uint64_t failures = device.info().counters.terminate_failures;
        const auto passed = std::chrono::steady_clock::now() - blocked;
        CHECK(!started.returned && passed >= std::chrono::milliseconds(2 * kQuickRetryMs - 20));  // with time between
        CHECK(failures <= 5 + static_cast<uint64_t>(passed / std::chrono::milliseconds(kQuickRetryMs)));
        kernel.terminate_fails = false;
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
    }
    unload_driver();
}

// fault: the hold timeout passes | gets on_timeout; no other process does | its record again | timeouts | -
void a_timeout_answers_one_process_and_no_other() {
    load_driver();
    {
        Device device;
        stop_clock();
        device.become_controller({1200});
        Started first(5000);
        device.held(5000);
        pass_time(800);
        Started second(5004);
        device.held(5004);
        pass_time(399);
        CHECK(!first.returns_within(600));  // two slices and more
        pass_time(1);
        CHECK(first.returns_within(kSoonMs) && first.dead_on_return);
        CHECK(!second.returns_within(600));
        CHECK(device.answer(wire::kAllow, device.held(5004)) == wire::kResultDone);
    }
    unload_driver();
}

// fault: the machine sleeps | stays held; the time asleep does not count | - | - | -
void a_hold_does_not_run_out_while_the_machine_sleeps() {
    load_driver();
    {
        Device device;
        stop_clock();
        device.become_controller({2000});
        Started started(5000);
        device.held(5000);
        sleep_machine(3600 * 1000);
        CHECK(!started.returns_within(700));  // more than two slices
        CHECK(device.held(5000).header.hold_left_ms == 2000);
        pass_time(2000);
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
    }
    unload_driver();
}

// fault: the date is set forward or back | stays held; its timeout is unchanged | - | - | -
void a_date_that_is_set_changes_no_hold() {
    constexpr int64_t kYearMs = int64_t{365} * 24 * 3600 * 1000;
    load_driver();
    {
        Device device;
        stop_clock();
        device.become_controller({2000});
        Started started(5000);
        device.held(5000);
        for (const int64_t ahead_ms : {kYearMs, -kYearMs}) {
            set_system_time(ahead_ms);
            CHECK(!started.returns_within(600));  // two slices and more
            CHECK(device.held(5000).header.hold_left_ms == 2000);
        }
        pass_time(2000);
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
    }
    unload_driver();
}

// fault: another process ends the held process | ends, and never ran | ANSWERED for a verdict | died_held | -
void a_process_that_another_ends_while_it_is_held_leaves_at_once() {
    load_driver();
    {
        Device device;
        device.become_controller();  // without a timeout
        Started started(5000);
        const Shown shown = device.held(5000);
        end_process(5000, 1);
        CHECK(started.returns_within(kSoonMs));
        CHECK(device.info().held_count == 0 && device.info().counters.died_held == 1);
        CHECK(device.answer(wire::kAllow, shown) == wire::kResultAnswered);
    }
    unload_driver();
}

void no_question_is_asked_about_a_process_that_another_ended_before_it_runs() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        end_process(5000, 1);
        std::thread first([] { map_image(5000, {}); });
        first.join();
        const wire::Counters counters = device.info().counters;
        CHECK(counters.held == 0 && counters.allowed == 0 && counters.died_held == 1);
        for (const Shown& one : device.records(wire::kFetch)) CHECK(one.header.pid != 5000 || !one.header.verdict);
        exit_process(5000, 1);
    }
    unload_driver();
}

// fault: the gate is closed | gets on_disconnect at once | - | disconnects | -
void releases_all_at_once_when_the_controllers_handle_is_closed() {
    load_driver();
    {
        Device device;
        device.become_controller({0, wire::kVerdictBlock});
        Started a(5000), b(5004), c(5008);
        device.held(5000), device.held(5004), device.held(5008);
        cleanup(&device.file);
        CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && c.returns_within(kSoonMs));
        CHECK(a.dead_on_return && b.dead_on_return && c.dead_on_return);
    }
    unload_driver();
}

// fault: the controller is killed | gets on_disconnect at once | - | disconnects | -
void releases_all_at_once_when_the_controllers_process_ends() {
    load_driver();
    {
        add_process(400, 200, u"\\Device\\HarddiskVolume2\\controller.exe");
        Device device;
        as_process(400, 401, [&] { device.become_controller(); });
        CHECK(device.info().controller_pid == 400);
        Started a(5000), b(5004);
        device.held(5000), device.held(5004);
        exit_process(400, 1);  // another process still has the handle
        CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && !a.dead_on_return);
        CHECK(device.info().controller_pid == 0);
    }
    unload_driver();
}

// fault: the driver is unloaded while processes are held | runs at once | DEVICE_NOT_READY for each request | - | -
void unloads_at_once_while_three_are_held() {
    load_driver();
    Started a(5000), b(5004), c(5008);  // there is no controller, so they are not held
    CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && c.returns_within(kSoonMs));
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
    unload();  // no thread may be in code that is unloaded
    CHECK(leftovers() == "");
}

// fault: the driver is unloaded while a blocked process is to be terminated | ends, and never ran | - | - | -
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
                    CHECK(started.returns_within(kSoonMs));
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

// fault: a critical process is blocked | stays held while it is critical | TERMINATE_FAILED | critical_refused | -
void a_critical_process_is_not_terminated_but_stays_held() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        set_critical(5000, true);
        CHECK(device.answer(wire::kBlock, device.held(5000)) == wire::kResultDone);
        CHECK(eventually([&] { return device.info().counters.critical_refused >= 1; }));
        CHECK(!started.returns_within(600) && device.info().counters.terminate_failures == 0);
        CHECK(device.record(5000).header.flags & wire::kFlagTerminateFailed);
        set_critical(5000, false);
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
    }
    unload_driver();
}

void shows_state_changes_to_a_debugger() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        device.answer(wire::kAllow, device.held(5000));
        CHECK(started.returns_within(kSoonMs));
        std::string all;
        for (const std::string& line : debug_output) all += line + "; ";
        for (const char* part : {"procmon: 5000 (", "none -> new", "new -> held", "held -> released, verdict 1 by 1"})
            CHECK(all.find(part) != std::string::npos);
    }
    unload_driver();
}

}  // namespace scenarios
