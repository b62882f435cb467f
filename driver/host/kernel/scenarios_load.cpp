// scenarios_load.cpp - load and unload: in order, half way, on old kernels; running processes; the device.

#include "scenarios.h"

namespace scenarios {
namespace {

size_t place(const std::vector<std::string>& all, const char* what) {
    for (size_t i = 0; i < all.size(); ++i)
        if (all[i] == what) return i;
    CHECK(!what);
    return 0;
}

}  // namespace

void loads_in_order_and_unloads_in_reverse() {
    load_driver();
    CHECK(trace_text() == "device, security, image routine ex, thread routine ex, for all subsystems, "
                          "create routine ex, link");
    unload_driver();
    const auto all = trace();
    CHECK(place(all, "-link") < place(all, "-create routine ex"));
    CHECK(place(all, "-create routine ex") < place(all, "-thread routine"));
    CHECK(place(all, "-thread routine") < place(all, "-image routine"));
    CHECK(place(all, "-image routine") < place(all, "-device"));
}

// fault: a kernel call fails while the driver loads | none is held yet | the error of the start | - | -
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
                     "PsGetProcessSectionBaseAddress", "PsGetProcessExitProcessCalled", "PsIsThreadTerminating",
                     "KeQueryUnbiasedInterruptTime", "PsSetCreateProcessNotifyRoutineEx2",
                     "PsSetLoadImageNotifyRoutineEx",
                     "PsSetCreateThreadNotifyRoutineEx", "PsGetProcessSignatureLevel",
                     "MmDoesFileHaveUserWritableReferences", "IoGetTransactionParameterBlock"};
    kernel.removal_waits = false;
    kernel.major = 5;
    kernel.minor = 2;
    load_driver();
    {
        Device device;
        CHECK(device.info().features == wire::kFeatureThreadNotify);
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
    CHECK(place(trace(), "image routine ex") < place(trace(), "create routine"));
    unload_driver();
}

void lists_what_runs_already_with_names_and_forgets_what_has_left() {
    add_process(300, 4, u"\\Device\\HarddiskVolume2\\leaving.exe");
    set_exiting(300);
    add_process(350, 4, u"minimal");  // its end would not be notified
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

void what_starts_while_the_driver_loads_is_known_to_run() {
    uint32_t next = 5000;
    after = [&](const std::string& done) {
        if (done.find("routine") == std::string::npos || done[0] == '-') return;
        CHECK(create_process(next, 200, kPath, u"") == STATUS_SUCCESS);
        map_image(next, {});
        next += 4;
    };
    load_driver();
    after = nullptr;
    CHECK(next == 5012);
    {
        Device device;
        device.become_controller();
        for (uint32_t pid = 5000; pid < next; pid += 4) {
            const Shown shown = device.record(pid);
            CHECK(shown.header.pid == pid && shown.header.state == wire::kStateNamed);
            CHECK(shown.image == u"c:\\tools\\a.exe");
            Extra extra(pid);  // it runs, so an extra thread of it is not held
            CHECK(extra.returns_within(kSoonMs));
            exit_process(pid, 0);
        }
        CHECK(device.info().counters.held == 0);
    }
    unload_driver();
}

// On an older kernel, which only counts threads.
void what_is_created_while_the_driver_loads_has_its_first_thread_noticed() {
    kernel.absent = {"PsSetCreateThreadNotifyRoutineEx"};
    bool created = false;
    after = [&](const std::string& done) {
        if (created || done.find("routine") == std::string::npos || done[0] == '-') return;
        CHECK(create_process(5000, 200, kPath, u"") == STATUS_SUCCESS);
        created = done.find("create") != std::string::npos;  // otherwise its creation was not notified
        if (!created) exit_process(5000, 0);
    };
    load_driver();
    after = nullptr;
    {
        Device device;
        device.become_controller({1000});
        { Extra extra(5000); }
        std::thread first([] { map_image(5000, {}); });
        first.join();
        NTSTATUS status;
        CHECK(terminated(5000, &status) && device.record(5000).header.decided_by == wire::kByTamper);
        exit_process(5000, status);
    }
    unload_driver();
}

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

void long_names_are_copied_by_turns_with_others() {
    load_driver();
    {
        Device device;
        const std::u16string path = kPath + std::u16string(30000, u'x');
        for (uint32_t pid = 5000; pid < 5000 + 4 * 8; pid += 4)
            CHECK(create_process(pid, 200, path.c_str(), u"") == STATUS_SUCCESS);
        const uint64_t before = locks_taken;
        std::vector<uint8_t> output(1 << 21);
        const wire::ListRequest request = {};
        CHECK(device.send(wire::kList, &request, sizeof request, &output) == STATUS_SUCCESS);
        CHECK(output.size() > 8 * 120000 && locks_taken - before >= 8);  // the lock is free between two of them
        for (uint32_t pid = 5000; pid < 5000 + 4 * 8; pid += 4) exit_process(pid, 0);
    }
    unload_driver();
}

// fault: two handles send REGISTER | stays with the first controller | SHARING_VIOLATION for the second | - | -
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

// fault: the driver is stopped without QUIESCE while its device is open | stays held, and gets its verdict | - | - | -
void a_stop_while_the_device_is_open_releases_nothing_by_itself() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started started(5000);
        const Shown shown = device.held(5000);
        stop();
        File file;
        CHECK(open(&file) == STATUS_OBJECT_NAME_NOT_FOUND);
        CHECK(is_loaded() && !started.returns_within(600));
        CHECK(device.answer(wire::kAllow, shown) == wire::kResultDone);
        CHECK(started.returns_within(kSoonMs));
        fake::close(&device.file);
        CHECK(!is_loaded());
    }
    CHECK(leftovers() == "");
}

// fault: QUIESCE is sent | gets on_disconnect at once | its event is set; DEVICE_NOT_READY for FETCH | - | -
void quiesce_releases_all_so_that_a_stop_can_follow() {
    load_driver();
    {
        Device device;
        device.become_controller();
        Started a(5000), b(5004);
        device.held(5000), device.held(5004);
        event_was_set(device.event, 0);
        {
            Device service;
            CHECK(service.quiesce() == STATUS_SUCCESS);
        }
        CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && !a.dead_on_return && !b.dead_on_return);
        CHECK(event_was_set(device.event, 0));  // its controller is woken, and then:
        std::vector<uint8_t> output(sizeof(wire::RecordsHeader));
        CHECK(device.send(wire::kFetch, nullptr, 0, &output) == STATUS_DEVICE_NOT_READY);
        CHECK(device.request_register(device.event) == STATUS_DEVICE_NOT_READY);
        CHECK(device.info().quiesced == 1);
        Started c(5008);
        CHECK(c.returns_within(kSoonMs));
        stop();
        CHECK(is_loaded());
        fake::close(&device.file);
        CHECK(!is_loaded());
    }
    CHECK(leftovers() == "");
    load_driver();
    {
        Device device;
        device.become_controller();  // a new start undoes it
    }
    unload_driver();
}

// fault: Windows shuts down | gets on_disconnect at once | - | - | -
void a_shutdown_of_windows_releases_what_is_held() {
    load_driver();
    {
        Device device;
        device.become_controller({0, wire::kVerdictBlock});
        Started a(5000), b(5004);
        device.held(5000), device.held(5004);
        shutdown();
        CHECK(a.returns_within(kSoonMs) && b.returns_within(kSoonMs) && a.dead_on_return && b.dead_on_return);
        Started late(5008);
        CHECK(late.returns_within(kSoonMs) && !late.dead_on_return);
    }
    unload_driver();
}

void keeps_texts_in_paged_pool() {
    load_driver();
    const uint64_t nonpaged = pool_bytes_nx, paged = pool_bytes_paged;
    {
        const std::u16string line(1000, u'x');
        Device device;
        CHECK(create_process(5000, 200, kPath, line.c_str()) == STATUS_SUCCESS);
        CHECK(pool_bytes_paged - paged > 2000 && pool_bytes_nx - nonpaged < 500);
        exit_process(5000, 0);
    }
    unload_driver();
}

}  // namespace scenarios
