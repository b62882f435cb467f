// state.h - the state of the made-up kernel; for its own sources only. `lock` guards everything.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>

#include "fake.h"

enum Kind { kNotificationEvent = 1, kSynchronizationEvent, kMutex, kThread, kProcess, kDevice, kLink, kFile };

struct _OBJECT_TYPE {
    Kind kind;
};
struct _KPROCESS {
    DISPATCHER_HEADER header;
    uint32_t pid, parent;
    std::u16string path;
    bool exiting, terminated;
    bool dying;  // its threads must end
    bool critical;
    bool first_thread_seen;
    NTSTATUS status;
    char image[16];  // its address is the section base
    bool minimal() const { return path == u"minimal"; }  // a process without an image
};
struct _KTHREAD {
    DISPATCHER_HEADER header;
};
struct DEVICE_OBJECT {
    std::u16string name;
    bool hears_of_shutdown;
};
struct LinkObject {
    std::u16string target;
};

namespace fake {

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

extern std::recursive_mutex lock;
extern std::condition_variable_any changed;  // something that a wait may wait for
extern std::map<void*, Object> objects;
extern std::map<uintptr_t, OpenHandle> kernel_handles, user_handles;
extern std::map<void*, Block> pool;
extern std::map<uint32_t, PEPROCESS> processes;
extern std::map<std::u16string, DEVICE_OBJECT*> devices;
extern std::map<std::u16string, std::u16string> links;
extern PCREATE_PROCESS_NOTIFY_ROUTINE create_routine;
extern PCREATE_PROCESS_NOTIFY_ROUTINE_EX create_routine_ex;
extern PLOAD_IMAGE_NOTIFY_ROUTINE image_routine;
extern PCREATE_THREAD_NOTIFY_ROUTINE thread_routine, own_thread_routine;  // in the creator's or in its own context
extern bool images_of_any_architecture;  // for image_routine
extern int in_callbacks, threads_running;
extern std::atomic<bool> is_unloaded;
extern std::atomic<int64_t> system_time_ahead;  // in units of 100 ns; see set_system_time
extern std::atomic<uint64_t> slept;       // in all, in units of 100 ns
extern std::atomic<uint64_t> stopped_at;  // what the clock shows, when it has been stopped; 0 = it runs

// The calling thread's identity and state.
struct Context {
    uint32_t pid = 100, tid = 101;
    int fast_mutexes = 0;
    int callbacks = 0;
    int critical_regions = 0;
    KIRQL raised = PASSIVE_LEVEL;
};
extern thread_local Context current;

using Guard = std::lock_guard<std::recursive_mutex>;

inline const std::string kUnloadedTooEarly = "the code is unloaded while a callback is in it";

[[noreturn]] void bugcheck(const std::string& why);
void note(std::string what);        // into the trace
bool fails(const char* call);       // must this call fail?
void passive(const char* call);     // bugcheck above PASSIVE_LEVEL
std::u16string text(const UNICODE_STRING* string);
UNICODE_STRING unicode(const std::u16string& from);
HANDLE id(uint32_t number);

uintptr_t make_handle(std::map<uintptr_t, OpenHandle>& table, void* object, ACCESS_MASK access);
void dereference(void* object);
PEPROCESS find_process(uint32_t pid);
void forget_process(uint32_t pid);

// The routines registered now, with a callback in progress until the scope ends.
class Routines {
   public:
    PCREATE_PROCESS_NOTIFY_ROUTINE create;
    PCREATE_PROCESS_NOTIFY_ROUTINE_EX create_ex;
    PLOAD_IMAGE_NOTIFY_ROUTINE image;
    PCREATE_THREAD_NOTIFY_ROUTINE thread, own_thread;

    Routines() {
        const Guard guard(lock);
        create = create_routine;
        create_ex = create_routine_ex;
        image = image_routine;
        thread = thread_routine;
        own_thread = own_thread_routine;
        ++in_callbacks;
        ++current.callbacks;
    }
    ~Routines() {
        const Guard guard(lock);
        --in_callbacks;
        --current.callbacks;
        if (current.fast_mutexes != 0) bugcheck("a callback kept a lock");
        if (current.critical_regions != 0) bugcheck("a callback did not leave its critical region");
        changed.notify_all();
    }
    Routines(const Routines&) = delete;
    Routines& operator=(const Routines&) = delete;
};

}  // namespace fake
