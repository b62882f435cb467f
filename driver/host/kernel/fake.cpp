// fake.cpp - a made-up kernel: one lock, a table of objects, and no patience with whoever breaks the rules.

#include "fake.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

enum Kind { kNotificationEvent = 1, kSynchronizationEvent, kMutex, kThread, kProcess, kDevice, kLink, kFile };

struct _OBJECT_TYPE {
    Kind kind;
};
struct _KPROCESS {
    DISPATCHER_HEADER header;
    uint32_t pid, parent;
    std::u16string path;
    bool exiting, terminated;
    NTSTATUS status;
    char image[16];  // its address is the section base
};
struct _KTHREAD {
    DISPATCHER_HEADER header;
};
struct DEVICE_OBJECT {
    std::u16string name;
};
struct LinkObject {
    std::u16string target;
};

KUSER_SHARED_DATA shared_user_data = {L"C:\\Windows"};
extern "C" NTSTATUS DriverEntry(DRIVER_OBJECT*, UNICODE_STRING*);

namespace fake {

Kernel kernel;
std::string failed;
std::vector<Ace> device_acl;
ULONG device_flags;
uint64_t pool_bytes_nx, pool_bytes_executable;
std::atomic<uint64_t> locks_taken;

namespace {

[[noreturn]] void bugcheck(const std::string& why) {
    fprintf(stderr, "bugcheck: %s\ntrace: %s\n", why.c_str(), trace_text().c_str());
    fflush(stderr);
    abort();
}

struct Object {
    Kind kind;
    int references;
    std::function<void()> destroy;
};
struct OpenHandle {
    void* object;
    ACCESS_MASK access;
};
struct Block {
    size_t bytes;
    ULONG tag;
};

std::recursive_mutex lock;  // of everything below
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
std::map<ACL*, std::vector<Ace>> lists;
std::vector<std::string> done;
PCREATE_PROCESS_NOTIFY_ROUTINE create_routine;
PCREATE_PROCESS_NOTIFY_ROUTINE_EX create_routine_ex;
PLOAD_IMAGE_NOTIFY_ROUTINE image_routine;
int in_callbacks, threads_running;
uint64_t fail_in;
uintptr_t next_handle = 0x1000;
DRIVER_OBJECT driver;
bool loaded;

struct Context {
    uint32_t pid = 100, tid = 101;
    int fast_mutexes = 0;
    int callbacks = 0;
};
thread_local Context current;

using Guard = std::lock_guard<std::recursive_mutex>;

void note(std::string what) {
    const Guard guard(lock);
    done.push_back(std::move(what));
}

bool fails(const char* call) {
    const Guard guard(lock);
    if (fail_in == 0 || --fail_in != 0) return false;
    failed = call;
    return true;
}

void passive(const char* call) {
    if (current.fast_mutexes != 0) bugcheck(std::string(call) + " above PASSIVE_LEVEL");
}

std::u16string text(const UNICODE_STRING* string) {
    return {reinterpret_cast<const char16_t*>(string->Buffer), string->Length / sizeof(WCHAR)};
}

UNICODE_STRING unicode(const std::u16string& from) {
    const auto bytes = static_cast<USHORT>(from.size() * 2);
    return {bytes, bytes, reinterpret_cast<WCHAR*>(const_cast<char16_t*>(from.data()))};
}

std::string narrow(const std::u16string& from) { return {from.begin(), from.end()}; }

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

// The routines as they are now, with a callback under way until the scope ends.
class Routines {
   public:
    PCREATE_PROCESS_NOTIFY_ROUTINE create;
    PCREATE_PROCESS_NOTIFY_ROUTINE_EX create_ex;
    PLOAD_IMAGE_NOTIFY_ROUTINE image;

    Routines() {
        const Guard guard(lock);
        create = create_routine;
        create_ex = create_routine_ex;
        image = image_routine;
        ++in_callbacks;
        ++current.callbacks;
    }
    ~Routines() {
        const Guard guard(lock);
        --in_callbacks;
        --current.callbacks;
        if (current.fast_mutexes != 0) bugcheck("a callback kept a lock");
        changed.notify_all();
    }
    Routines(const Routines&) = delete;
    Routines& operator=(const Routines&) = delete;
};

void wait_for_callbacks() {
    if (!kernel.removal_waits) return;
    std::unique_lock<std::recursive_mutex> guard(lock);
    if (!changed.wait_for(guard, std::chrono::seconds(10), [] { return in_callbacks == 0; }))
        bugcheck("a routine is removed while a call of it never ends");
}

// The exports that are found at run time.
NTSTATUS set_create_routine_ex(PCREATE_PROCESS_NOTIFY_ROUTINE_EX routine, BOOLEAN remove) {
    passive("PsSetCreateProcessNotifyRoutineEx");
    if (remove) {
        wait_for_callbacks();
        const Guard guard(lock);
        if (create_routine_ex != routine) bugcheck("a routine is removed that was not set");
        create_routine_ex = nullptr;
        note("-create routine ex");
        return STATUS_SUCCESS;
    }
    if (kernel.refuses_ex || fails("PsSetCreateProcessNotifyRoutineEx")) return STATUS_ACCESS_DENIED;
    const Guard guard(lock);
    create_routine_ex = routine;
    note("create routine ex");
    return STATUS_SUCCESS;
}

NTSTATUS locate_image_name(PEPROCESS process, UNICODE_STRING** name) {
    passive("SeLocateProcessImageName");
    if (fails("SeLocateProcessImageName")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    const size_t bytes = process->path.size() * 2;
    auto* string = static_cast<UNICODE_STRING*>(malloc(sizeof(UNICODE_STRING) + bytes));
    string->Length = string->MaximumLength = static_cast<USHORT>(bytes);
    string->Buffer = reinterpret_cast<WCHAR*>(string + 1);
    memcpy(string->Buffer, process->path.data(), bytes);
    pool[string] = {bytes, 0};
    *name = string;
    return STATUS_SUCCESS;
}

void* allocate_pool2(uint64_t flags, SIZE_T bytes, ULONG tag) {
    if (flags != 0x40) bugcheck("ExAllocatePool2 with other flags than nonpaged");
    if (fails("ExAllocatePool2")) return nullptr;
    const Guard guard(lock);
    void* memory = calloc(1, bytes);
    pool[memory] = {bytes, tag};
    pool_bytes_nx += bytes;
    return memory;
}

BOOLEAN is_protected(PEPROCESS process) {
    const Guard guard(lock);
    return process->path.find(u"protected") != std::u16string::npos;
}
LONGLONG create_time(PEPROCESS process) { return 1000 + static_cast<LONGLONG>(process->pid); }
NTSTATUS exit_status(PEPROCESS process) {
    const Guard guard(lock);
    return process->status;
}
void* section_base(PEPROCESS process) { return process->image; }
BOOLEAN exit_called(PEPROCESS process) {
    const Guard guard(lock);
    return process->exiting;
}

_OBJECT_TYPE event_type = {kNotificationEvent};
POBJECT_TYPE event_type_pointer = &event_type;

template <typename Routine>
void* address(Routine* routine) {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(routine));
}

const std::map<std::string, void*> exports = {
    {"PsSetCreateProcessNotifyRoutineEx", address(set_create_routine_ex)},
    {"SeLocateProcessImageName", address(locate_image_name)},
    {"ExAllocatePool2", address(allocate_pool2)},
    {"PsIsProtectedProcess", address(is_protected)},
    {"PsGetProcessCreateTimeQuadPart", address(create_time)},
    {"PsGetProcessExitStatus", address(exit_status)},
    {"PsGetProcessSectionBaseAddress", address(section_base)},
    {"PsGetProcessExitProcessCalled", address(exit_called)},
    {"ExEventObjectType", &event_type_pointer},
};

NTSTATUS request(int major, IRP* irp) {
    const NTSTATUS status = driver.MajorFunction[major](reinterpret_cast<DEVICE_OBJECT*>(1), irp);
    if (!irp->completed) bugcheck("a request was not completed");
    if (status != irp->IoStatus.Status) bugcheck("a request's status differs from what was returned");
    return status;
}

}  // namespace

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
    add("notify routines", (create_routine != nullptr) + (create_routine_ex != nullptr) + (image_routine != nullptr));
    add("threads", static_cast<size_t>(threads_running));
    size_t references = 0;  // each process is referenced once by being there, and by each handle of the test
    for (const auto& object : objects) references += static_cast<size_t>(object.second.references);
    add("references", references - processes.size() - user_handles.size());
    return left;
}

void add_process(uint32_t pid, uint32_t parent, const char16_t* path) {
    const Guard guard(lock);
    auto* process = new _KPROCESS{{kProcess, 0, nullptr}, pid, parent, path, false, false, 0x103, {}};
    objects[process] = {kProcess, 1, [process] { delete process; }};
    processes[pid] = process;
}

void set_exiting(uint32_t pid) {
    const Guard guard(lock);
    find_process(pid)->exiting = true;
}

void as_process(uint32_t pid, uint32_t tid, const std::function<void()>& what) {
    const Context before = current;
    current.pid = pid;
    current.tid = tid;
    what();
    current.pid = before.pid;
    current.tid = before.tid;
}

NTSTATUS create_process(uint32_t pid, uint32_t parent, const char16_t* path, const char16_t* command_line) {
    add_process(pid, parent, path);
    const PEPROCESS process = find_process(pid);
    const Routines routines;
    NTSTATUS status = STATUS_SUCCESS;
    if (routines.create_ex != nullptr) {
        const std::u16string typed = u"\\??\\C:\\typed.exe", arguments = command_line;
        const UNICODE_STRING name = unicode(typed), line = unicode(arguments);
        PS_CREATE_NOTIFY_INFO info = {};
        info.ParentProcessId = id(parent);
        info.CreatingThreadId = {PsGetCurrentProcessId(), PsGetCurrentThreadId()};
        info.ImageFileName = &name;
        info.CommandLine = &line;
        routines.create_ex(process, id(pid), &info);
        status = info.CreationStatus;
    } else if (routines.create != nullptr) {
        routines.create(id(parent), id(pid), TRUE);
    }
    const Guard guard(lock);
    if (!NT_SUCCESS(status)) forget_process(pid);
    return status;
}

void map_image(uint32_t pid, const Mapping& mapping) {
    const PEPROCESS process = find_process(pid);
    const Routines routines;
    if (routines.image == nullptr) return;
    const std::u16string path = mapping.name != nullptr ? mapping.name : u"";
    UNICODE_STRING name = unicode(path);
    static char elsewhere;
    IMAGE_INFO info = {mapping.system_image, mapping.executable && process != nullptr ? process->image : &elsewhere};
    as_process(mapping.mapped_by != 0 ? mapping.mapped_by : pid, pid + 1, [&] {
        routines.image(mapping.name != nullptr ? &name : nullptr, id(pid), &info);
    });
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
    UNICODE_STRING path = unicode(u"\\Registry\\Machine");
    const NTSTATUS status = DriverEntry(&driver, &path);
    if (current.fast_mutexes != 0) bugcheck("DriverEntry kept a lock");
    loaded = NT_SUCCESS(status);
    if (loaded && driver.DriverUnload == nullptr) bugcheck("a driver that cannot be unloaded");
    return status;
}

void unload() {
    driver.DriverUnload(&driver);
    loaded = false;
    const Guard guard(lock);
    if (in_callbacks != 0) bugcheck("the code is unloaded while a callback is in it");
    if (threads_running != 0) bugcheck("the code is unloaded while a thread is in it");
}

bool is_loaded() { return loaded; }

NTSTATUS open(File* file, const char16_t* name) {
    static std::u16string kept;
    kept = name;
    file->object.FileName = unicode(kept);
    {
        const Guard guard(lock);
        if (!loaded || links.count(u"\\DosDevices\\ProcMonGate") == 0) return STATUS_OBJECT_NAME_NOT_FOUND;
    }
    IRP irp = {};
    irp.stack.FileObject = &file->object;
    const NTSTATUS status = request(IRP_MJ_CREATE, &irp);
    file->opened = NT_SUCCESS(status);
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
}

NTSTATUS control(File* file, uint32_t code, const void* input, size_t input_bytes, std::vector<uint8_t>* output) {
    const size_t bytes = std::max(input_bytes, output->size());
    const std::unique_ptr<uint8_t[]> buffer(new uint8_t[bytes]);  // exactly: a sanitizer sees one byte more
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

using namespace fake;

// --------------------------------------------------------------------------------------------- what ntifs.h declares

PVOID ExAllocatePoolWithTag(POOL_TYPE type, SIZE_T bytes, ULONG tag) {
    if (fails("ExAllocatePoolWithTag")) return nullptr;
    const Guard guard(lock);
    void* memory = malloc(bytes);
    memset(memory, 0xCD, bytes);
    pool[memory] = {bytes, tag};
    (type == NonPagedPoolNx ? pool_bytes_nx : pool_bytes_executable) += bytes;
    return memory;
}

void ExFreePoolWithTag(PVOID memory, ULONG tag) {
    const Guard guard(lock);
    const auto found = pool.find(memory);
    if (found == pool.end() || found->second.tag != tag) bugcheck("pool is freed that was not allocated so");
    pool.erase(found);
    free(memory);
}

// Slow where nobody waits for callbacks: it is the last that a held thread calls, so a hasty unload is seen.
void ExFreePool(PVOID memory) {
    if (!kernel.removal_waits) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ExFreePoolWithTag(memory, 0);
}

SIZE_T RtlCompareMemory(const void* a, const void* b, SIZE_T bytes) {
    SIZE_T equal = 0;
    while (equal < bytes && static_cast<const char*>(a)[equal] == static_cast<const char*>(b)[equal]) ++equal;
    return equal;
}

void KeInitializeEvent(KEVENT* event, EVENT_TYPE type, BOOLEAN state) {
    const Guard guard(lock);
    event->header = {type == NotificationEvent ? kNotificationEvent : kSynchronizationEvent, state, nullptr};
}

LONG KeSetEvent(KEVENT* event, LONG, BOOLEAN wait) {
    const Guard guard(lock);
    if (wait) bugcheck("KeSetEvent with Wait");
    const int before = event->header.signaled;
    event->header.signaled = 1;
    changed.notify_all();
    return before;
}

void KeInitializeMutex(KMUTEX* mutex, ULONG) {
    const Guard guard(lock);
    mutex->header = {kMutex, 1, nullptr};
}

LONG KeReleaseMutex(KMUTEX* mutex, BOOLEAN) {
    const Guard guard(lock);
    if (mutex->header.owner != &current) bugcheck("a mutex is released by another thread");
    mutex->header.signaled = 1;
    mutex->header.owner = nullptr;
    changed.notify_all();
    return 0;
}

NTSTATUS KeWaitForSingleObject(PVOID object, KWAIT_REASON, KPROCESSOR_MODE, BOOLEAN alertable, LARGE_INTEGER* timeout) {
    passive("KeWaitForSingleObject");
    if (alertable) bugcheck("an alertable wait");
    auto* header = static_cast<DISPATCHER_HEADER*>(object);
    std::unique_lock<std::recursive_mutex> guard(lock);
    using std::chrono::microseconds;
    const auto limit = timeout != nullptr ? microseconds(-timeout->QuadPart / 10) : std::chrono::seconds(30);
    if (!changed.wait_for(guard, limit, [header] { return header->signaled != 0; })) {
        if (timeout == nullptr) bugcheck("a wait without end");
        return STATUS_TIMEOUT;
    }
    if (header->kind == kSynchronizationEvent || header->kind == kMutex) header->signaled = 0;
    if (header->kind == kMutex) header->owner = &current;
    return STATUS_SUCCESS;
}

NTSTATUS KeDelayExecutionThread(KPROCESSOR_MODE, BOOLEAN, LARGE_INTEGER* interval) {
    passive("KeDelayExecutionThread");
    std::this_thread::sleep_for(std::chrono::microseconds(-interval->QuadPart / 10));
    return STATUS_SUCCESS;
}

void ExInitializeFastMutex(FAST_MUTEX* mutex) {
    static_assert(sizeof(pthread_mutex_t) <= sizeof mutex->mutex);
    pthread_mutex_init(reinterpret_cast<pthread_mutex_t*>(mutex->mutex), nullptr);
}

void ExAcquireFastMutex(FAST_MUTEX* mutex) {
    if (current.fast_mutexes++ != 0) bugcheck("two fast mutexes at once");
    ++locks_taken;
    pthread_mutex_lock(reinterpret_cast<pthread_mutex_t*>(mutex->mutex));
}

void ExReleaseFastMutex(FAST_MUTEX* mutex) {
    pthread_mutex_unlock(reinterpret_cast<pthread_mutex_t*>(mutex->mutex));
    --current.fast_mutexes;
}

uint64_t KeQueryInterruptTime() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()) / 100;
}

void KeQuerySystemTime(LARGE_INTEGER* now) {
    now->QuadPart = 134000000000000000 + static_cast<LONGLONG>(KeQueryInterruptTime());
}

NTSTATUS ObReferenceObjectByHandle(HANDLE handle, ACCESS_MASK access, POBJECT_TYPE type, KPROCESSOR_MODE mode,
                                   PVOID* object, PVOID) {
    passive("ObReferenceObjectByHandle");
    if (fails("ObReferenceObjectByHandle")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    auto& table = mode == UserMode ? user_handles : kernel_handles;
    const auto found = table.find(reinterpret_cast<uintptr_t>(handle));
    if (found == table.end()) return STATUS_INVALID_HANDLE;
    Object& body = objects.at(found->second.object);
    if (type != nullptr && type->kind != body.kind) return STATUS_OBJECT_TYPE_MISMATCH;
    if ((found->second.access & access) != access) return STATUS_ACCESS_DENIED;
    ++body.references;
    *object = found->second.object;
    return STATUS_SUCCESS;
}

NTSTATUS ObOpenObjectByPointer(PVOID object, ULONG attributes, PVOID, ACCESS_MASK access, POBJECT_TYPE, KPROCESSOR_MODE,
                               HANDLE* handle) {
    passive("ObOpenObjectByPointer");
    if (fails("ObOpenObjectByPointer")) return STATUS_INSUFFICIENT_RESOURCES;
    if ((attributes & OBJ_KERNEL_HANDLE) == 0) bugcheck("a handle that user mode can see");
    const Guard guard(lock);
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, object, access));
    return STATUS_SUCCESS;
}

void ObDereferenceObject(PVOID object) {
    passive("ObDereferenceObject");
    const Guard guard(lock);
    dereference(object);
}

NTSTATUS ZwClose(HANDLE handle) {
    passive("ZwClose");
    const Guard guard(lock);
    const auto found = kernel_handles.find(reinterpret_cast<uintptr_t>(handle));
    if (found == kernel_handles.end()) bugcheck("a handle is closed that is not open");
    void* object = found->second.object;
    kernel_handles.erase(found);
    dereference(object);
    return STATUS_SUCCESS;
}

NTSTATUS ZwWaitForSingleObject(HANDLE handle, BOOLEAN alertable, LARGE_INTEGER* timeout) {
    void* object;
    {
        const Guard guard(lock);
        object = kernel_handles.at(reinterpret_cast<uintptr_t>(handle)).object;
    }
    return KeWaitForSingleObject(object, Executive, KernelMode, alertable, timeout);
}

PVOID MmGetSystemRoutineAddress(UNICODE_STRING* name) {
    passive("MmGetSystemRoutineAddress");
    const std::string wanted = narrow(text(name));
    if (std::count(kernel.absent.begin(), kernel.absent.end(), wanted)) return nullptr;
    const auto found = exports.find(wanted);
    if (found == exports.end()) bugcheck("an export that nobody has heard of: " + wanted);
    return found->second;
}

NTSTATUS ZwOpenSymbolicLinkObject(HANDLE* handle, ACCESS_MASK access, OBJECT_ATTRIBUTES* attributes) {
    passive("ZwOpenSymbolicLinkObject");
    const Guard guard(lock);
    const auto found = links.find(text(attributes->ObjectName));
    if (found == links.end()) return STATUS_OBJECT_NAME_NOT_FOUND;
    if (fails("ZwOpenSymbolicLinkObject")) return STATUS_INSUFFICIENT_RESOURCES;
    auto* link = new LinkObject{found->second};
    objects[link] = {kLink, 0, [link] { delete link; }};
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, link, access));
    return STATUS_SUCCESS;
}

NTSTATUS ZwQuerySymbolicLinkObject(HANDLE handle, UNICODE_STRING* target, ULONG*) {
    if (fails("ZwQuerySymbolicLinkObject")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    const auto* link = static_cast<LinkObject*>(kernel_handles.at(reinterpret_cast<uintptr_t>(handle)).object);
    target->Length = static_cast<USHORT>(link->target.size() * 2);
    if (target->Length > target->MaximumLength) bugcheck("a target that does not fit");
    memcpy(target->Buffer, link->target.data(), target->Length);
    return STATUS_SUCCESS;
}

NTSTATUS RtlCreateAcl(ACL* acl, ULONG bytes, ULONG) {
    if (fails("RtlCreateAcl")) return STATUS_UNSUCCESSFUL;
    *acl = {ACL_REVISION, 0, static_cast<USHORT>(bytes), 0, 0};
    lists[acl].clear();
    return STATUS_SUCCESS;
}

NTSTATUS RtlAddAccessAllowedAce(ACL* acl, ULONG, ACCESS_MASK access, PSID sid) {
    if (fails("RtlAddAccessAllowedAce")) return STATUS_UNSUCCESSFUL;
    const auto* bytes = static_cast<const uint8_t*>(sid);
    const uint8_t authority[6] = SECURITY_NT_AUTHORITY;
    if (bytes[0] != SID_REVISION || memcmp(bytes + 2, authority, 6) != 0) bugcheck("not a SID of the NT authority");
    Ace ace = {access, {}};
    for (int i = 0; i < bytes[1]; ++i) {
        uint32_t part;
        memcpy(&part, bytes + 8 + 4 * i, sizeof part);
        ace.sid.push_back(part);
    }
    lists.at(acl).push_back(ace);
    return STATUS_SUCCESS;
}

NTSTATUS RtlCreateSecurityDescriptor(SECURITY_DESCRIPTOR* descriptor, ULONG) {
    if (fails("RtlCreateSecurityDescriptor")) return STATUS_UNSUCCESSFUL;
    *descriptor = {};
    return STATUS_SUCCESS;
}

NTSTATUS RtlSetDaclSecurityDescriptor(SECURITY_DESCRIPTOR* descriptor, BOOLEAN present, ACL* acl, BOOLEAN) {
    if (fails("RtlSetDaclSecurityDescriptor")) return STATUS_UNSUCCESSFUL;
    if (!present || acl == nullptr) bugcheck("a device for everybody");
    descriptor->Dacl = acl;
    return STATUS_SUCCESS;
}

NTSTATUS ZwSetSecurityObject(HANDLE handle, ULONG information, SECURITY_DESCRIPTOR* descriptor) {
    passive("ZwSetSecurityObject");
    if (fails("ZwSetSecurityObject")) return STATUS_ACCESS_DENIED;
    const Guard guard(lock);
    const OpenHandle& opened = kernel_handles.at(reinterpret_cast<uintptr_t>(handle));
    if (objects.at(opened.object).kind != kDevice || (opened.access & WRITE_DAC) == 0) return STATUS_ACCESS_DENIED;
    if (information != DACL_SECURITY_INFORMATION) bugcheck("more than the access list is set");
    device_acl = lists.at(descriptor->Dacl);
    note("security");
    return STATUS_SUCCESS;
}

HANDLE PsGetCurrentProcessId() { return id(current.pid); }
HANDLE PsGetCurrentThreadId() { return id(current.tid); }
PEPROCESS PsGetCurrentProcess() {
    const Guard guard(lock);
    return find_process(current.pid);
}

NTSTATUS PsLookupProcessByProcessId(HANDLE pid, PEPROCESS* process) {
    passive("PsLookupProcessByProcessId");
    if (fails("PsLookupProcessByProcessId")) return STATUS_INVALID_CID;
    const Guard guard(lock);
    *process = find_process(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pid)));
    if (*process == nullptr) return STATUS_INVALID_CID;
    ++objects.at(*process).references;
    return STATUS_SUCCESS;
}

NTSTATUS PsCreateSystemThread(HANDLE* handle, ULONG access, PVOID, PVOID, PVOID, PKSTART_ROUTINE start, PVOID context) {
    passive("PsCreateSystemThread");
    if (fails("PsCreateSystemThread")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    auto* thread = new _KTHREAD{{kThread, 0, nullptr}};
    objects[thread] = {kThread, 1, [thread] { delete thread; }};
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, thread, access));
    ++threads_running;
    std::thread([thread, start, context] {
        current.pid = 4;
        current.tid = 8;
        start(context);
        const Guard at_end(lock);
        --threads_running;
        thread->header.signaled = 1;
        dereference(thread);
        changed.notify_all();
    }).detach();
    return STATUS_SUCCESS;
}

NTSTATUS PsTerminateSystemThread(NTSTATUS) { return STATUS_SUCCESS; }

NTSTATUS ZwOpenProcess(HANDLE* handle, ACCESS_MASK access, OBJECT_ATTRIBUTES* attributes, CLIENT_ID* client) {
    passive("ZwOpenProcess");
    if (fails("ZwOpenProcess")) return STATUS_ACCESS_DENIED;
    if ((attributes->Attributes & OBJ_KERNEL_HANDLE) == 0) bugcheck("a handle that user mode can see");
    const Guard guard(lock);
    const PEPROCESS process = find_process(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(client->UniqueProcess)));
    if (process == nullptr) return STATUS_INVALID_CID;
    *handle = reinterpret_cast<HANDLE>(make_handle(kernel_handles, process, access));
    return STATUS_SUCCESS;
}

NTSTATUS ZwTerminateProcess(HANDLE handle, NTSTATUS status) {
    passive("ZwTerminateProcess");
    if (current.callbacks != 0) bugcheck("a process is terminated from within a callback");
    if (fails("ZwTerminateProcess") || kernel.terminate_fails) return STATUS_ACCESS_DENIED;
    const Guard guard(lock);
    const OpenHandle& opened = kernel_handles.at(reinterpret_cast<uintptr_t>(handle));
    if ((opened.access & 1) == 0) return STATUS_ACCESS_DENIED;
    auto* process = static_cast<PEPROCESS>(opened.object);
    process->terminated = true;
    process->status = status;
    note("terminate " + std::to_string(process->pid));
    return STATUS_SUCCESS;
}

extern "C" NTSTATUS ZwQueryInformationProcess(HANDLE handle, PROCESSINFOCLASS, PVOID buffer, ULONG bytes, PULONG) {
    passive("ZwQueryInformationProcess");
    if (fails("ZwQueryInformationProcess")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    const auto* process = static_cast<PEPROCESS>(kernel_handles.at(reinterpret_cast<uintptr_t>(handle)).object);
    auto* string = static_cast<UNICODE_STRING*>(buffer);
    if (sizeof *string + process->path.size() * 2 > bytes) return STATUS_INFO_LENGTH_MISMATCH;
    string->Length = string->MaximumLength = static_cast<USHORT>(process->path.size() * 2);
    string->Buffer = reinterpret_cast<WCHAR*>(string + 1);
    memcpy(string->Buffer, process->path.data(), string->Length);
    return STATUS_SUCCESS;
}

extern "C" NTSTATUS ZwQuerySystemInformation(ULONG information_class, PVOID buffer, ULONG bytes, PULONG needed) {
    passive("ZwQuerySystemInformation");
    if (fails("ZwQuerySystemInformation")) return STATUS_INSUFFICIENT_RESOURCES;
    if (information_class != 5) bugcheck("another class than the processes");
    constexpr size_t kEntry = 104, kName = 16;
    const Guard guard(lock);
    *needed = static_cast<ULONG>((processes.size() + 1) * (kEntry + kName));
    if (*needed > bytes) return STATUS_INFO_LENGTH_MISMATCH;
    memset(buffer, 0, *needed);
    auto* at = static_cast<uint8_t*>(buffer);  // the first is Idle
    for (const auto& [pid, process] : processes) {
        const uint32_t next = kEntry + kName, threads = 1;
        memcpy(at, &next, 4);
        at += next;
        const int64_t created = 500 + pid;
        const uint64_t wide_pid = pid, wide_parent = process->parent;
        memcpy(at + kEntry, u"short", 10);
        const UNICODE_STRING name = {10, 10, reinterpret_cast<WCHAR*>(at + kEntry)};
        memcpy(at + 4, &threads, 4);
        memcpy(at + 32, &created, 8);
        memcpy(at + 56, &name, sizeof name);
        memcpy(at + 80, &wide_pid, 8);
        memcpy(at + 88, &wide_parent, 8);
    }
    return STATUS_SUCCESS;
}

NTSTATUS PsSetCreateProcessNotifyRoutine(PCREATE_PROCESS_NOTIFY_ROUTINE routine, BOOLEAN remove) {
    passive("PsSetCreateProcessNotifyRoutine");
    if (remove) {
        wait_for_callbacks();
        const Guard guard(lock);
        if (create_routine != routine) bugcheck("a routine is removed that was not set");
        create_routine = nullptr;
        note("-create routine");
        return STATUS_SUCCESS;
    }
    if (fails("PsSetCreateProcessNotifyRoutine")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    create_routine = routine;
    note("create routine");
    return STATUS_SUCCESS;
}

NTSTATUS PsSetLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE routine) {
    passive("PsSetLoadImageNotifyRoutine");
    if (fails("PsSetLoadImageNotifyRoutine")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    image_routine = routine;
    note("image routine");
    return STATUS_SUCCESS;
}

NTSTATUS PsRemoveLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE routine) {
    passive("PsRemoveLoadImageNotifyRoutine");
    wait_for_callbacks();
    const Guard guard(lock);
    if (image_routine != routine) bugcheck("a routine is removed that was not set");
    image_routine = nullptr;
    note("-image routine");
    return STATUS_SUCCESS;
}

void IoCompleteRequest(IRP* irp, LONG) {
    if (irp->completed) bugcheck("a request is completed twice");
    irp->completed = true;
}

NTSTATUS IoCreateDevice(DRIVER_OBJECT*, ULONG, UNICODE_STRING* name, ULONG, ULONG flags, BOOLEAN,
                        DEVICE_OBJECT** device) {
    passive("IoCreateDevice");
    if (fails("IoCreateDevice")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    if (devices.count(text(name)) != 0) return STATUS_OBJECT_NAME_COLLISION;
    DEVICE_OBJECT* made = *device = new DEVICE_OBJECT{text(name)};
    devices[made->name] = made;
    objects[made] = {kDevice, 1, [made] { delete made; }};
    device_flags = flags;
    note("device");
    return STATUS_SUCCESS;
}

void IoDeleteDevice(DEVICE_OBJECT* device) {
    const Guard guard(lock);
    devices.erase(device->name);
    dereference(device);
    note("-device");
}

NTSTATUS IoCreateSymbolicLink(UNICODE_STRING* link, UNICODE_STRING* target) {
    passive("IoCreateSymbolicLink");
    if (fails("IoCreateSymbolicLink")) return STATUS_INSUFFICIENT_RESOURCES;
    const Guard guard(lock);
    if (!links.emplace(text(link), text(target)).second) return STATUS_OBJECT_NAME_COLLISION;
    note("link");
    return STATUS_SUCCESS;
}

NTSTATUS IoDeleteSymbolicLink(UNICODE_STRING* link) {
    const Guard guard(lock);
    if (links.erase(text(link)) == 0) bugcheck("a link is deleted that is not there");
    note("-link");
    return STATUS_SUCCESS;
}

NTSTATUS RtlGetVersion(RTL_OSVERSIONINFOW* version) {
    version->dwMajorVersion = kernel.major;
    version->dwMinorVersion = kernel.minor;
    return STATUS_SUCCESS;
}

void RtlInitUnicodeString(UNICODE_STRING* string, const WCHAR* from) {
    size_t units = 0;
    while (from[units] != 0) ++units;
    *string = {static_cast<USHORT>(units * 2), static_cast<USHORT>(units * 2 + 2), const_cast<WCHAR*>(from)};
}

NTSTATUS RtlDowncaseUnicodeString(UNICODE_STRING* to, const UNICODE_STRING* from, BOOLEAN) {
    if (to->MaximumLength < from->Length) return STATUS_INFO_LENGTH_MISMATCH;
    to->Length = from->Length;
    for (size_t i = 0; i < from->Length / 2; ++i) {
        const WCHAR unit = from->Buffer[i];
        const bool capital = (unit >= 0xC0 && unit <= 0xDE && unit != 0xD7) || (unit >= 0x410 && unit <= 0x42F);
        to->Buffer[i] = static_cast<WCHAR>(capital ? unit + 0x20 : unit);
    }
    return STATUS_SUCCESS;
}

ULONG DbgPrint(const char* format, ...) {
    char line[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    std::string text(line);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    note("\"" + text + "\"");
    return 0;
}
