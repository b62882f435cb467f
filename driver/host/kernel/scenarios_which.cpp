// scenarios_which.cpp - which process is held, refused or neither, and what its record shows.

#include <algorithm>

#include "scenarios.h"

namespace scenarios {

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

void an_emulated_program_is_held_at_its_image() {
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        std::thread first([] {
            Mapping mapping;
            mapping.emulated = true;
            mapping.name = u"\\Device\\HarddiskVolume2\\Tools\\B.exe";
            map_image(5000, mapping);
        });
        const Shown shown = device.held(5000);
        CHECK(shown.header.flags & wire::kFlagNameChanged);
        device.answer(wire::kAllow, shown);
        first.join();
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
        Started started(5000, u"\\Device\\HarddiskVolume2\\\u0418\u0413\u0420\u0410\uFF21.EXE");
        const Shown shown = device.held(5000);
        CHECK(shown.image == u"c:\\\u0438\u0433\u0440\u0430\uFF41.exe");
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
        device.set_rule(u"c:\\tools\\a.exe", wire::kVerdictBlock);
        CHECK(static_cast<uint32_t>(create_process(5000, 200, kPath, u"a")) == wire::kStatusBlocked);
        CHECK(create_process(5004, 200, u"\\Device\\HarddiskVolume21\\other.exe", u"b") == STATUS_SUCCESS);
        CHECK(device.info().counters.rule_blocked == 1);
        // The first thread of a refused creation passes the callbacks on its way out; the gate ignores it.
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

void a_process_that_was_suspended_before_the_load_is_held_when_it_first_runs() {
    add_process(5000, 200, kPath);
    load_driver();
    {
        Device device;
        device.become_controller();
        const auto running = device.records(wire::kFetch);
        CHECK(std::count_if(running.begin(), running.end(), [](auto& one) { return one.header.pid == 5000; }) == 1);
        std::atomic<bool> returned{false};
        std::thread first([&] {
            map_image(5000, {});
            returned = true;
        });
        const Shown shown = device.held(5000);
        CHECK(!returned && shown.header.flags == wire::kFlagRunningBefore);  // not seen: it is a new question
        CHECK(device.answer(wire::kBlock, shown) == wire::kResultDone);
        first.join();
        NTSTATUS status;
        CHECK(terminated(5000, &status));
        exit_process(5000, 0);
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

void the_first_routine_too_gives_the_name_at_creation() {
    kernel.refuses_ex = true;
    load_driver();
    {
        Device device;
        device.become_controller();
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        CHECK(device.record(5000).image == u"c:\\tools\\a.exe");
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
        exit_process(5000, 0);
    }
    unload_driver();
}

// fault: no memory for the name at creation when a renamed image is notified | stays held | NAME_CHANGED | - | -
void a_name_at_creation_that_is_not_given_again_still_counts() {
    load_driver();
    {
        Device device;
        device.become_controller();
        device.set_rule(u"c:\\tools\\b.exe", wire::kVerdictAllow);
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        std::thread first([] {
            fail_call(1);
            Mapping mapping;
            mapping.name = u"\\Device\\HarddiskVolume2\\Tools\\B.exe";
            map_image(5000, mapping);
        });
        const Shown shown = device.held(5000);
        CHECK(failed == "SeLocateProcessImageName");
        CHECK(shown.header.flags & wire::kFlagNameChanged);
        CHECK(shown.image == u"c:\\tools\\b.exe" && shown.creation == kPath);
        device.answer(wire::kAllow, shown);
        first.join();
        exit_process(5000, 0);
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

}  // namespace scenarios
