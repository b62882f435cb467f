// fake.cpp - the made-up kernel as tests see it: its calls to the driver, and its record of the driver's calls.

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "state.h"

KUSER_SHARED_DATA shared_user_data = {L"C:\\Windows"};
extern "C" NTSTATUS DriverEntry(DRIVER_OBJECT*, UNICODE_STRING*);

namespace fake {

Kernel kernel;
std::string failed;
std::vector<Ace> device_acl;
ULONG device_flags;
uint64_t pool_bytes_nx, pool_bytes_executable, pool_bytes_paged;
std::vector<std::string> debug_output;
std::function<void(const std::string&)> after;
std::atomic<uint64_t> locks_taken;

std::recursive_mutex lock;
std::condition_variable_any changed;
std::map<void*, Object> objects;
std::map<uintptr_t, OpenHandle> kernel_handles, user_handles;
std::map<void*, Block> pool;
std::map<uint32_t, PEPROCESS> processes;
std::map<std::u16string, DEVICE_OBJECT*> devices;
std::map<std::u16string, std::u16string> links = {
    {u"\\GLOBAL??\\C:", u"\\Device\\HarddiskVolume2"},
    {u"\\GLOBAL??\\E:", u"\\Device\\HarddiskVolume21"},
    {u"\\GLOBAL??\\S:", u"\\??\\C:\\subst"},
};
PCREATE_PROCESS_NOTIFY_ROUTINE create_routine;
PCREATE_PROCESS_NOTIFY_ROUTINE_EX create_routine_ex;
PLOAD_IMAGE_NOTIFY_ROUTINE image_routine;
PCREATE_THREAD_NOTIFY_ROUTINE thread_routine, own_thread_routine;
bool images_of_any_architecture;
int in_callbacks, threads_running;
std::atomic<bool> is_unloaded;
std::atomic<int64_t> system_time_ahead;
std::atomic<uint64_t> slept, stopped_at;
thread_local Context current;

namespace {

std::vector<std::string> done;
uint64_t fail_in;
uintptr_t next_handle = 0x1000;
DRIVER_OBJECT driver;
std::atomic<bool> loaded, stop_pending;
int open_files;

NTSTATUS request(int major, IRP* irp) {
    const NTSTATUS status = driver.MajorFunction[major](reinterpret_cast<DEVICE_OBJECT*>(1), irp);
    if (!irp->completed) bugcheck("a request was not completed");
    if (status != irp->IoStatus.Status) bugcheck("a request's status differs from what was returned");
    return status;
}

}  // namespace

// ------------------------------------------------------------------------------------------------ for all its parts

[[noreturn]] void bugcheck(const std::string& why) {
    fprintf(stderr, "bugcheck: %s\ntrace: %s\n", why.c_str(), trace_text().c_str());
    fflush(stderr);
    abort();
}

void note(std::string what) {
    {
        const Guard guard(lock);
        done.push_back(what);
    }
    if (after) after(what);
}

bool fails(const char* call) {
    const Guard guard(lock);
    if (fail_in == 0 || --fail_in != 0) return false;
    failed = call;
    return true;
}

void passive(const char* call) {
    if (KeGetCurrentIrql() > PASSIVE_LEVEL) bugcheck(std::string(call) + " above PASSIVE_LEVEL");
}

std::u16string text(const UNICODE_STRING* string) {
    return {reinterpret_cast<const char16_t*>(string->Buffer), string->Length / sizeof(WCHAR)};
}

UNICODE_STRING unicode(const std::u16string& from) {
    const auto bytes = static_cast<USHORT>(from.size() * 2);
    return {bytes, bytes, reinterpret_cast<WCHAR*>(const_cast<char16_t*>(from.data()))};
}

uintptr_t make_handle(std::map<uintptr_t, OpenHandle>& table, void* object, ACCESS_MASK access) {
    ++objects.at(object).references;
    next_handle += 4;
    table[next_handle] = {object, access};
    return next_handle;
}

void dereference(void* object) {
    const auto found = objects.find(object);
    if (found == objects.end()) bugcheck("a reference too few");
    if (--found->second.references > 0) return;
    const auto destroy = found->second.destroy;
    objects.erase(found);
    destroy();
}

PEPROCESS find_process(uint32_t pid) {
    const Guard guard(lock);
    const auto found = processes.find(pid);
    return found == processes.end() ? nullptr : found->second;
}

void forget_process(uint32_t pid) {
    const PEPROCESS process = find_process(pid);
    processes.erase(pid);
    dereference(process);
}

HANDLE id(uint32_t number) { return reinterpret_cast<HANDLE>(static_cast<uintptr_t>(number)); }

// --------------------------------------------------------------------------------------------------- for the tests

void fail_call(uint64_t n) {
    const Guard guard(lock);
    fail_in = n;
    failed.clear();
}

std::vector<std::string> trace() {
    const Guard guard(lock);
    return done;
}

std::string trace_text() {
    std::string all;
    for (const std::string& one : trace()) all += (all.empty() ? "" : ", ") + one;
    return all;
}

std::string leftovers() {
    const Guard guard(lock);
    std::string left;
    const auto add = [&left](const char* what, size_t count) {
        if (count != 0) left += std::string(left.empty() ? "" : ", ") + std::to_string(count) + " " + what;
    };
    add("blocks of pool", pool.size());
    add("kernel handles", kernel_handles.size());
    add("devices", devices.size());
    add("links", links.count(u"\\DosDevices\\ProcMonGate"));
    add("notify routines", (create_routine != nullptr) + (create_routine_ex != nullptr) + (image_routine != nullptr) +
                               (thread_routine != nullptr) + (own_thread_routine != nullptr));
    add("threads", static_cast<size_t>(threads_running));
    size_t references = 0;  // a process has one reference of its own, and one for each handle of the test
    for (const auto& object : objects) references += static_cast<size_t>(object.second.references);
    add("references", references - processes.size() - user_handles.size());
    return left;
}

void add_process(uint32_t pid, uint32_t parent, const char16_t* path) {
    const Guard guard(lock);
    auto* process = new _KPROCESS{};
    process->header.kind = kProcess;
    process->pid = pid;
    process->parent = parent;
    process->path = path;
    process->status = 0x103;
    objects[process] = {kProcess, 1, [process] { delete process; }};
    processes[pid] = process;
}

void set_exiting(uint32_t pid) {
    const Guard guard(lock);
    find_process(pid)->exiting = true;
}

void end_process(uint32_t pid, NTSTATUS status) {
    const Guard guard(lock);
    const PEPROCESS process = find_process(pid);
    process->dying = process->terminated = true;
    process->status = status;
}

void set_critical(uint32_t pid, bool critical) {
    const Guard guard(lock);
    find_process(pid)->critical = critical;
}

void as_process(uint32_t pid, uint32_t tid, const std::function<void()>& what) {
    const Context before = current;
    current.pid = pid;
    current.tid = tid;
    what();
    current.pid = before.pid;
    current.tid = before.tid;
}

NTSTATUS create_process(uint32_t pid, uint32_t parent, const char16_t* path, const char16_t* command_line,
                        const NewFile& file) {
    add_process(pid, parent, path);
    NTSTATUS status = STATUS_SUCCESS;
    {
        const Routines routines;
        if (routines.create_ex != nullptr) {
            const std::u16string typed = u"\\??\\C:\\typed.exe", arguments = command_line;
            const UNICODE_STRING name = unicode(typed), line = unicode(arguments);
            SECTION_OBJECT_POINTERS sections = {file.writable_references};
            FILE_OBJECT object = {};
            object.SectionObjectPointer = &sections;
            object.WriteAccess = file.write_access;
            object.DeletePending = file.delete_pending;
            object.transacted = file.transacted;
            PS_CREATE_NOTIFY_INFO info = {};
            info.Flags = file.subsystem ? 2 : 0;
            info.FileObject = file.subsystem ? nullptr : &object;
            info.ParentProcessId = id(parent);
            info.CreatingThreadId = {PsGetCurrentProcessId(), PsGetCurrentThreadId()};
            info.ImageFileName = &name;
            info.CommandLine = &line;
            routines.create_ex(find_process(pid), id(pid), &info);
            status = info.CreationStatus;
        } else if (routines.create != nullptr) {
            routines.create(id(parent), id(pid), TRUE);
        }
        if (routines.thread != nullptr) routines.thread(id(pid), id(pid + 1), TRUE);
    }
    if (!NT_SUCCESS(status)) {  // its first thread still runs up to where it sees that it must end
        end_process(pid, status);
        std::thread([pid] { map_image(pid, {}); }).join();
        exit_process(pid, status);
    }
    return status;
}

void map_image(uint32_t pid, const Mapping& mapping) {
    const PEPROCESS process = find_process(pid);
    const Routines routines;
    if (routines.image == nullptr) return;
    const bool notified = images_of_any_architecture || !mapping.emulated;
    const std::u16string path = mapping.name != nullptr ? mapping.name : u"";
    UNICODE_STRING name = unicode(path);
    static char elsewhere;
    IMAGE_INFO info = {mapping.system_image, mapping.executable && process != nullptr ? process->image : &elsewhere};
    as_process(mapping.mapped_by != 0 ? mapping.mapped_by : pid, pid + 1, [&] {
        if (notified) routines.image(mapping.name != nullptr ? &name : nullptr, id(pid), &info);
        const bool is_first =
            process != nullptr && mapping.mapped_by == 0 && mapping.executable && !mapping.system_image;
        if (!is_first || process->first_thread_seen || routines.own_thread == nullptr) return;
        process->first_thread_seen = true;
        routines.own_thread(id(pid), id(pid + 1), TRUE);
    });
}

void start_thread(uint32_t pid, uint32_t tid) {
    const Routines routines;
    if (routines.thread != nullptr) routines.thread(id(pid), id(tid), TRUE);
    if (routines.own_thread != nullptr)
        as_process(pid, tid, [&] { routines.own_thread(id(pid), id(tid), TRUE); });
}

void exit_process(uint32_t pid, NTSTATUS status) {
    PEPROCESS process;
    {
        const Guard guard(lock);
        process = find_process(pid);
        process->exiting = true;
        process->status = status;
    }
    {
        const Routines routines;
        if (routines.create_ex != nullptr)
            routines.create_ex(process, id(pid), nullptr);
        else if (routines.create != nullptr)
            routines.create(id(process->parent), id(pid), FALSE);
    }
    const Guard guard(lock);
    forget_process(pid);
}

void add_link(const char16_t* name, const char16_t* target) {
    const Guard guard(lock);
    links[name] = target;
}

void stop_clock() { stopped_at = KeQueryInterruptTime() - slept; }
void pass_time(uint32_t ms) { stopped_at += ms * uint64_t{10000}; }
void sleep_machine(uint32_t ms) { slept += ms * uint64_t{10000}; }
void set_system_time(int64_t ahead_ms) { system_time_ahead = ahead_ms * 10000; }

void end_all_processes() {
    const Guard guard(lock);
    while (!processes.empty()) forget_process(processes.begin()->first);
}

bool terminated(uint32_t pid, NTSTATUS* status) {
    const Guard guard(lock);
    const PEPROCESS process = find_process(pid);
    *status = process->status;
    return process->terminated;
}

NTSTATUS load() {
    driver = {};
    is_unloaded = false;
    UNICODE_STRING path = unicode(u"\\Registry\\Machine");
    const NTSTATUS status = DriverEntry(&driver, &path);
    if (current.fast_mutexes != 0) bugcheck("DriverEntry kept a lock");
    loaded = NT_SUCCESS(status);
    if (loaded && driver.DriverUnload == nullptr) bugcheck("a driver that cannot be unloaded");
    return status;
}

void unload() {
    driver.DriverUnload(&driver);
    std::unique_lock<std::recursive_mutex> guard(lock);
    loaded = stop_pending = false;
    is_unloaded = true;
    if (in_callbacks != 0 && kernel.removal_waits) bugcheck(kUnloadedTooEarly);
    // Otherwise a callback may still be at its last instructions, which call nothing; see KeLeaveCriticalRegion.
    if (!changed.wait_for(guard, std::chrono::seconds(100), [] { return in_callbacks == 0; }))
        bugcheck("a callback never ends");
    if (threads_running != 0) bugcheck("the code is unloaded while a thread is in it");
}

void stop() {
    if (open_files == 0) return unload();
    stop_pending = true;
}

void shutdown() {
    std::vector<DEVICE_OBJECT*> listening;
    {
        const Guard guard(lock);
        for (const auto& device : devices)
            if (device.second->hears_of_shutdown) listening.push_back(device.second);
    }
    for (size_t i = 0; i < listening.size(); ++i) {
        IRP irp = {};
        request(IRP_MJ_SHUTDOWN, &irp);
    }
}

bool is_loaded() { return loaded; }

NTSTATUS open(File* file, const char16_t* name) {
    static std::u16string kept;
    kept = name;
    file->object.FileName = unicode(kept);
    {
        const Guard guard(lock);
        if (!loaded || stop_pending || links.count(u"\\DosDevices\\ProcMonGate") == 0)
            return STATUS_OBJECT_NAME_NOT_FOUND;
    }
    IRP irp = {};
    irp.stack.FileObject = &file->object;
    const NTSTATUS status = request(IRP_MJ_CREATE, &irp);
    file->opened = NT_SUCCESS(status);
    if (file->opened) ++open_files;
    return status;
}

void cleanup(File* file) {
    IRP irp = {};
    irp.stack.FileObject = &file->object;
    request(IRP_MJ_CLEANUP, &irp);
}

void close(File* file) {
    cleanup(file);
    IRP irp = {};
    irp.stack.FileObject = &file->object;
    request(IRP_MJ_CLOSE, &irp);
    file->opened = false;
    if (--open_files == 0 && stop_pending) unload();
}

NTSTATUS control(File* file, uint32_t code, const void* input, size_t input_bytes, std::vector<uint8_t>* output) {
    const size_t bytes = std::max(input_bytes, output->size());
    const std::unique_ptr<uint8_t[]> buffer(new uint8_t[bytes]);  // exactly: a sanitizer sees an access past the end
    if (input_bytes != 0) memcpy(buffer.get(), input, input_bytes);
    IRP irp = {};
    irp.stack.FileObject = &file->object;
    irp.stack.Parameters.DeviceIoControl.IoControlCode = code;
    irp.stack.Parameters.DeviceIoControl.InputBufferLength = static_cast<ULONG>(input_bytes);
    irp.stack.Parameters.DeviceIoControl.OutputBufferLength = static_cast<ULONG>(output->size());
    irp.AssociatedIrp.SystemBuffer = bytes != 0 ? buffer.get() : nullptr;
    const NTSTATUS status = request(IRP_MJ_DEVICE_CONTROL, &irp);
    if (irp.IoStatus.Information > output->size()) bugcheck("a reply is longer than its buffer");
    output->resize(irp.IoStatus.Information);
    if (!output->empty()) memcpy(output->data(), buffer.get(), output->size());
    return status;
}

uint64_t new_event() {
    const Guard guard(lock);
    auto* event = new KEVENT{{kSynchronizationEvent, 0, nullptr}};
    objects[event] = {kNotificationEvent, 0, [event] { delete event; }};
    return make_handle(user_handles, event, EVENT_MODIFY_STATE);
}

uint64_t new_non_event() {
    const Guard guard(lock);
    auto* file = new int(0);
    objects[file] = {kFile, 0, [file] { delete file; }};
    return make_handle(user_handles, file, FILE_ALL_ACCESS);
}

bool event_was_set(uint64_t handle, uint32_t wait_ms) {
    LARGE_INTEGER timeout;
    timeout.QuadPart = -static_cast<LONGLONG>(wait_ms) * 10000;
    void* event;
    {
        const Guard guard(lock);
        event = user_handles.at(handle).object;
    }
    return KeWaitForSingleObject(event, Executive, UserMode, FALSE, &timeout) == STATUS_SUCCESS;
}

void close_handle(uint64_t handle) {
    const Guard guard(lock);
    dereference(user_handles.at(handle).object);
    user_handles.erase(handle);
}

}  // namespace fake
