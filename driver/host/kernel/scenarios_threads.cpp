// scenarios_threads.cpp - threads that another process creates in a held process.

#include "scenarios.h"

namespace scenarios {

// fault: a thread is put into a held process | stays held, the thread too | FOREIGN_THREAD | foreign_threads | -
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
        Extra later(5000);  // the process runs: its threads are not held
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
        device.held(5000);
        std::atomic<bool> returned{false};
        std::thread first([&] {
            map_image(5000, {});
            returned = true;
        });
        CHECK(eventually([&] { return device.record(5000).header.flags & wire::kFlagForeignThread; }));
        const Shown shown = device.record(5000);
        CHECK(!extra.returns_within(300) && !returned && device.info().counters.held == 1);
        CHECK(shown.image == u"c:\\tools\\a.exe" && device.answer(wire::kAllow, shown) == wire::kResultDone);
        first.join();
        CHECK(extra.returns_within(kSoonMs));
        exit_process(5000, 0);
    }
    unload_driver();
}

// fault: a thread is put into a process during its image notification | waits for the image | FOREIGN_THREAD | held | -
void an_extra_thread_that_comes_first_is_decided_by_the_name_at_the_image() {
    load_driver();
    {
        Device device;
        stop_clock();
        device.become_controller();
        device.set_rule(u"c:\\tools\\a.exe", wire::kVerdictAllow);
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        Extra extra(5000);
        const Shown early = device.held(5000);  // the image notification is under way in the first thread
        CHECK(device.answer(wire::kAllow, early) == wire::kResultNotHeld && !extra.returns_within(300));
        for (const Shown& one : device.records(wire::kFetch)) CHECK(one.header.pid != 5000);
        std::thread first([] {
            Mapping mapping;
            mapping.name = u"\\Device\\HarddiskVolume2\\Tools\\B.exe";
            map_image(5000, mapping);
        });
        CHECK(eventually([&] { return device.record(5000).header.flags & wire::kFlagNameChanged; }));
        const auto fetched = device.records(wire::kFetch);
        CHECK(fetched.size() == 1 && fetched[0].image == u"c:\\tools\\b.exe" && fetched[0].creation == kPath);
        CHECK(device.answer(wire::kBlock, fetched[0]) == wire::kResultDone);
        first.join();
        CHECK(extra.returns_within(kSoonMs));
        NTSTATUS status;
        CHECK(terminated(5000, &status));
        exit_process(5000, status);
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

// fault: a thread is put into a held process, before Windows 10 | gets on_tamper | FOREIGN_THREAD | foreign_threads | -
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

void on_an_older_kernel_an_extra_thread_goes_before_a_rule_that_allows() {
    kernel.absent = {"PsSetCreateThreadNotifyRoutineEx"};
    load_driver();
    {
        Device device;
        device.become_controller();
        device.set_rule(u"c:\\tools\\a.exe", wire::kVerdictAllow);
        Started alone(5000);
        CHECK(alone.returns_within(kSoonMs) && !alone.dead_on_return);
        CHECK(create_process(5004, 200, kPath, u"") == STATUS_SUCCESS);
        { Extra extra(5004); }
        std::thread first([] { map_image(5004, {}); });
        first.join();
        NTSTATUS status;
        CHECK(terminated(5004, &status) && device.record(5004).header.decided_by == wire::kByTamper);
        exit_process(5004, 0);
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
        const Shown shown = device.held(5000);  // the controller is asked about it like about any other
        CHECK(shown.header.flags & wire::kFlagForeignThread);
        CHECK(device.answer(wire::kAllow, shown) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs) && !started.dead_on_return);
    }
    unload_driver();
}

}  // namespace scenarios
