// scenarios_load.cpp - the driver comes and goes: in order, half way, on old kernels; what runs already; its device.

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
                     "PsGetProcessSectionBaseAddress", "PsGetProcessExitProcessCalled", "PsIsThreadTerminating",
                     "KeQueryUnbiasedInterruptTime"};
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

void lists_what_runs_already_with_names_and_forgets_who_has_left() {
    add_process(300, 4, u"\\Device\\HarddiskVolume2\\leaving.exe");
    set_exiting(300);
    add_process(350, 4, u"minimal");  // nobody would tell of its end
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

}  // namespace scenarios
