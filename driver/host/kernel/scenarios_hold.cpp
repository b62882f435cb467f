// scenarios_hold.cpp - which process is held, which is not, and how each hold ends.

#include "scenarios.h"

namespace scenarios {

void holds_a_process_until_it_is_allowed() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(event_was_set(device.event, 0));  // for those that run already
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
        CHECK(looked <= 2 + static_cast<uint64_t>(passed / std::chrono::milliseconds(200)));  // it does not run in circles
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
    unload();  // code that is gone must have no thread in it
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

// ------------------------------------------------------------------------------------------------ what is never held

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

void never_holds_the_protected_the_critical_or_any_without_a_controller() {
    load_driver();
    {
        Device device;
        Started unasked(5000);
        CHECK(unasked.returns_within(kSoonMs));
        device.become_controller();
        Started safe(5004, u"\\Device\\HarddiskVolume2\\protected.exe");
        Started critical(5008, u"\\Device\\HarddiskVolume2\\Windows\\System32\\csrss.exe");
        CHECK(safe.returns_within(kSoonMs) && critical.returns_within(kSoonMs));
        CHECK(device.info().counters.exempt == 2);
    }
    unload_driver();
}

void names_the_system_volume_by_the_letter_that_windows_uses() {
    add_link(u"\\GLOBAL??\\B:", u"\\Device\\HarddiskVolume2");
    load_driver();
    {
        Device device;
        device.become_controller();
        Started critical(5000, u"\\Device\\HarddiskVolume2\\Windows\\System32\\csrss.exe");
        CHECK(critical.returns_within(kSoonMs) && device.info().counters.exempt == 1);
        CHECK(device.records(wire::kList).back().image == u"c:\\windows\\system32\\csrss.exe");
    }
    unload_driver();
}

void knows_capitals_of_any_alphabet() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000, u"\\Device\\HarddiskVolume2\\\u0418\u0413\u0420\u0410.EXE");
        const Shown shown = device.held(5000);
        CHECK(shown.image == u"c:\\\u0438\u0433\u0440\u0430.exe");
        device.answer(wire::kAllow, shown);
        CHECK(started.returns_within(kSoonMs));
    }
    unload_driver();
}

void refuses_a_creation_by_a_rule_so_that_no_process_comes_to_be() {
    load_driver();
    {
        Device device;
        device.become_controller();
        const std::u16string path = u"c:\\tools\\a.exe";
        std::vector<uint8_t> rules(sizeof(wire::RulesHeader) + sizeof(wire::RuleHeader) + 32), reply(8);
        const wire::RulesHeader header = {1, 0};
        const auto bytes = static_cast<uint32_t>(path.size() * 2);
        const wire::RuleHeader rule = {sizeof(wire::RuleHeader) + 32, wire::kVerdictBlock, bytes, 0};
        memcpy(rules.data(), &header, sizeof header);
        memcpy(rules.data() + sizeof header, &rule, sizeof rule);
        memcpy(rules.data() + sizeof header + sizeof rule, path.data(), bytes);
        CHECK(device.send(wire::kSetRules, rules.data(), rules.size(), &reply) == STATUS_SUCCESS);
        CHECK(static_cast<uint32_t>(create_process(5000, 200, kPath, u"a")) == wire::kStatusBlocked);
        CHECK(create_process(5004, 200, u"\\Device\\HarddiskVolume21\\other.exe", u"b") == STATUS_SUCCESS);
        CHECK(device.info().counters.rule_blocked == 1);
        // The first thread of what was refused comes by on its way out; nothing of that is news.
        CHECK(device.info().counters.image_without_create == 0 && device.info().counters.exit_without_create == 0);
        int shown = 0;
        for (const Shown& one : device.records(wire::kFetch)) {
            if (one.header.pid != 5000) continue;
            ++shown;
            CHECK(one.header.verdict == wire::kVerdictBlock && one.header.flags & wire::kFlagNeverStarted);
        }
        CHECK(shown == 1);
        exit_process(5004, 0);
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

// ---------------------------------------------------------------------------------------------------- extra threads

void an_extra_thread_waits_for_the_same_verdict() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(device.info().features & wire::kFeatureThreadHold);
        Started started(5000);
        const Shown shown = device.held(5000);
        Extra extra(5000);
        CHECK(eventually([&] { return device.record(5000).header.flags & wire::kFlagForeignThread; }));
        CHECK(!extra.returns_within(600));
        CHECK(device.info().counters.foreign_threads == 1 && device.info().held_count == 1);
        CHECK(device.answer(wire::kAllow, shown) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs) && extra.returns_within(kSoonMs) && !started.dead_on_return);
        Extra later(5000);  // the process runs: its threads are its own affair
        CHECK(later.returns_within(kSoonMs) && device.info().counters.foreign_threads == 1);
    }
    unload_driver();
}

void an_extra_thread_that_comes_first_is_held_like_the_first() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        Extra extra(5000);
        const Shown shown = device.held(5000);
        CHECK(shown.image == u"c:\\tools\\a.exe");
        std::atomic<bool> returned{false};
        std::thread first([&] {
            map_image(5000, {});
            returned = true;
        });
        CHECK(eventually([&] { return device.record(5000).header.flags & wire::kFlagForeignThread; }));
        CHECK(!extra.returns_within(300) && !returned && device.info().counters.held == 1);
        CHECK(device.answer(wire::kAllow, shown) == wire::kResultDone);
        first.join();
        CHECK(extra.returns_within(kSoonMs));
        exit_process(5000, 0);
    }
    unload_driver();
}

void an_extra_thread_dies_with_what_is_blocked() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        const Shown shown = device.held(5000);
        Extra extra(5000);
        CHECK(eventually([&] { return device.info().counters.foreign_threads == 1; }));
        CHECK(device.answer(wire::kBlock, shown) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return && extra.returns_within(kSoonMs));
    }
    unload_driver();
}

void on_an_older_kernel_an_extra_thread_has_the_process_blocked() {
    kernel.absent = {"PsSetCreateThreadNotifyRoutineEx"};
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(device.info().features & wire::kFeatureThreadNotify);
        Started started(5000);
        device.held(5000);
        Extra extra(5000);
        CHECK(extra.returns_within(kSoonMs));  // its creator must not wait
        CHECK(started.returns_within(kSoonMs) && started.dead_on_return);
        const Shown shown = device.record(5000);
        CHECK(shown.header.flags & wire::kFlagForeignThread && shown.header.decided_by == wire::kByTamper);
    }
    unload_driver();
}

void on_an_older_kernel_an_extra_thread_before_the_first_image_has_the_process_blocked() {
    kernel.absent = {"PsSetCreateThreadNotifyRoutineEx"};
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        { Extra extra(5000); }
        std::thread first([] { map_image(5000, {}); });
        first.join();
        NTSTATUS status;
        CHECK(terminated(5000, &status) && device.record(5000).header.decided_by == wire::kByTamper);
        exit_process(5000, 0);
    }
    unload_driver();
}

void on_an_older_kernel_an_extra_thread_can_be_only_marked() {
    kernel.absent = {"PsSetCreateThreadNotifyRoutineEx"};
    load_driver();
    {
        Device device;
        device.become_controller({0, wire::kVerdictAllow, wire::kVerdictAllow});
        Started started(5000);
        device.held(5000);
        { Extra extra(5000); }
        const Shown shown = device.held(5000);  // it is asked about like any other
        CHECK(shown.header.flags & wire::kFlagForeignThread);
        CHECK(device.answer(wire::kAllow, shown) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs) && !started.dead_on_return);
    }
    unload_driver();
}

// ------------------------------------------------------------------------------------------------------- and the rest

void a_process_that_was_suspended_before_the_load_is_held_when_it_first_runs() {
    add_process(5000, 200, kPath);
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(device.record(5000).header.flags & wire::kFlagRunningBefore);
        std::atomic<bool> returned{false};
        std::thread first([&] {
            map_image(5000, {});
            returned = true;
        });
        const Shown shown = device.held(5000);
        CHECK(!returned && shown.header.flags & wire::kFlagRunningBefore);
        CHECK(device.answer(wire::kBlock, shown) == wire::kResultDone);
        first.join();
        NTSTATUS status;
        CHECK(terminated(5000, &status));
        exit_process(5000, 0);
    }
    unload_driver();
}

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

void the_record_says_what_the_file_was_like() {
    load_driver();
    {
        Device device;
        device.become_controller();
        NewFile written, referenced, deleted, undone;
        written.write_access = true;
        referenced.writable_references = 2;
        deleted.delete_pending = true;
        undone.transacted = true;
        const struct {
            const NewFile& file;
            uint32_t flag;
        } cases[] = {{written, wire::kFlagWriteOpen},
                     {referenced, wire::kFlagWriteOpen},
                     {deleted, wire::kFlagDeletePending},
                     {undone, wire::kFlagTransacted},
                     {NewFile(), 0}};
        constexpr uint32_t kAll = wire::kFlagWriteOpen | wire::kFlagDeletePending | wire::kFlagTransacted;
        uint32_t pid = 5000;
        for (const auto& one : cases) {
            CHECK(create_process(pid, 200, u"\\Device\\HarddiskVolume2\\signed.exe", u"", one.file) == STATUS_SUCCESS);
            const Shown shown = device.record(pid);
            CHECK((shown.header.flags & kAll) == one.flag && shown.header.signature_level == 8);
            exit_process(pid, 0);
            pid += 4;
        }
        CHECK(device.info().features & wire::kFeatureSignatureLevel);
        CHECK(create_process(6000, 200, kPath, u"") == STATUS_SUCCESS);
        CHECK(device.record(6000).header.signature_level == 0);
        exit_process(6000, 0);
    }
    unload_driver();
}

void the_record_says_that_the_file_was_renamed_before_it_ran() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        std::thread first([] {
            Mapping mapping;
            mapping.name = u"\\Device\\HarddiskVolume2\\Tools\\B.exe";
            map_image(5000, mapping);
        });
        const Shown shown = device.held(5000);
        CHECK(shown.header.flags & wire::kFlagNameChanged);
        CHECK(shown.image == u"c:\\tools\\b.exe" && shown.creation == kPath);
        device.answer(wire::kAllow, shown);
        first.join();
        CHECK(create_process(5004, 200, kPath, u"") == STATUS_SUCCESS);
        std::thread other([] {
            Mapping mapping;
            mapping.name = u"\\Windows\\Tools\\A.exe";  // the system abbreviates: no rename
            map_image(5004, mapping);
        });
        const Shown same = device.held(5004);
        CHECK(!(same.header.flags & wire::kFlagNameChanged) && same.creation.empty() && same.native == kPath);
        device.answer(wire::kAllow, same);
        other.join();
        exit_process(5000, 0), exit_process(5004, 0);
    }
    unload_driver();
}

void lists_wsl_1_processes_and_refuses_them_if_asked() {
    load_driver();
    {
        Device device;
        NewFile subsystem;
        subsystem.subsystem = true;
        CHECK(device.info().features & wire::kFeatureSubsystems);
        device.become_controller();
        CHECK(create_process(5000, 200, u"", u"", subsystem) == STATUS_SUCCESS);
        const Shown shown = device.record(5000);
        CHECK(shown.header.flags & wire::kFlagPico && shown.header.decided_by == wire::kByPico);
        device.records(wire::kFetch);
        exit_process(5000, 0);
        CHECK(device.record(5000).header.pid == 0);
        Options options;
        options.pico = wire::kVerdictBlock;
        CHECK(device.request_register(device.event, options) == STATUS_SUCCESS);
        CHECK(static_cast<uint32_t>(create_process(5004, 200, u"", u"", subsystem)) == wire::kStatusBlocked);
        CHECK(device.info().counters.pico_blocked == 1);
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
