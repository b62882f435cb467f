// ntifs.h - the part of the kernel's interface that driver/wdm uses, on a made-up kernel in a Linux process.
//
// Compiling driver/wdm with the real headers shows that they agree; this header only lets the same sources run under a
// test. fake.cpp implements it, and checks what a real kernel would punish: IRQL, waits with a lock held, references
// and handles that are not freed.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int32_t NTSTATUS, LONG;
typedef uint32_t ULONG, ACCESS_MASK;
typedef int64_t LONGLONG;
typedef uint64_t ULONGLONG;
typedef uint8_t UCHAR, BOOLEAN, KIRQL;
typedef uint16_t USHORT;
typedef wchar_t WCHAR;
typedef void VOID, *PVOID, *HANDLE;
typedef size_t SIZE_T;
typedef uint32_t* PULONG;
static_assert(sizeof(WCHAR) == 2, "compile with -fshort-wchar");

#define TRUE 1
#define FALSE 0
#define NTAPI
#define NTSYSAPI
#define ARRAYSIZE(array) (sizeof(array) / sizeof((array)[0]))
#define NT_SUCCESS(status) ((status) >= 0)

#define STATUS_SUCCESS ((NTSTATUS)0)
#define STATUS_TIMEOUT ((NTSTATUS)0x102)
#define STATUS_PENDING ((NTSTATUS)0x103)
#define STATUS_UNSUCCESSFUL ((NTSTATUS)0xC0000001)
#define STATUS_INFO_LENGTH_MISMATCH ((NTSTATUS)0xC0000004)
#define STATUS_INVALID_HANDLE ((NTSTATUS)0xC0000008)
#define STATUS_INVALID_CID ((NTSTATUS)0xC000000B)
#define STATUS_INVALID_DEVICE_REQUEST ((NTSTATUS)0xC0000010)
#define STATUS_ACCESS_DENIED ((NTSTATUS)0xC0000022)
#define STATUS_OBJECT_TYPE_MISMATCH ((NTSTATUS)0xC0000024)
#define STATUS_OBJECT_NAME_INVALID ((NTSTATUS)0xC0000033)
#define STATUS_OBJECT_NAME_NOT_FOUND ((NTSTATUS)0xC0000034)
#define STATUS_OBJECT_NAME_COLLISION ((NTSTATUS)0xC0000035)
#define STATUS_INSUFFICIENT_RESOURCES ((NTSTATUS)0xC000009A)
#define STATUS_DEVICE_NOT_READY ((NTSTATUS)0xC00000A3)
#define STATUS_NOT_SUPPORTED ((NTSTATUS)0xC00000BB)
#define STATUS_PROCESS_IS_TERMINATING ((NTSTATUS)0xC000010A)

union LARGE_INTEGER {
    LONGLONG QuadPart;
};
struct UNICODE_STRING {
    USHORT Length;
    USHORT MaximumLength;
    WCHAR* Buffer;
};
struct CLIENT_ID {
    HANDLE UniqueProcess;
    HANDLE UniqueThread;
};
struct OBJECT_ATTRIBUTES {
    UNICODE_STRING* ObjectName;
    ULONG Attributes;
};
#define InitializeObjectAttributes(p, name, attributes, root, security) \
    ((p)->ObjectName = (name), (p)->Attributes = (attributes), (void)(root), (void)(security))
#define OBJ_CASE_INSENSITIVE 0x40
#define OBJ_KERNEL_HANDLE 0x200

// Memory
enum POOL_TYPE { NonPagedPool = 0, PagedPool = 1, NonPagedPoolNx = 512 };
PVOID ExAllocatePoolWithTag(POOL_TYPE type, SIZE_T bytes, ULONG tag);
void ExFreePoolWithTag(PVOID memory, ULONG tag);
void ExFreePool(PVOID memory);
#define RtlZeroMemory(to, bytes) memset((to), 0, (bytes))
#define RtlCopyMemory(to, from, bytes) memcpy((to), (from), (bytes))
SIZE_T RtlCompareMemory(const void* a, const void* b, SIZE_T bytes);

// Waiting
enum EVENT_TYPE { NotificationEvent, SynchronizationEvent };
enum KWAIT_REASON { Executive };
enum KPROCESSOR_MODE { KernelMode, UserMode };
struct DISPATCHER_HEADER {
    int kind;
    int signaled;
    void* owner;
};
struct KEVENT {
    DISPATCHER_HEADER header;
};
struct KMUTEX {
    DISPATCHER_HEADER header;
};
struct FAST_MUTEX {
    uint64_t mutex[8];  // a pthread_mutex_t
};
#define PASSIVE_LEVEL 0
#define APC_LEVEL 1
#define DISPATCH_LEVEL 2
KIRQL KeGetCurrentIrql();
void KeRaiseIrql(KIRQL to, KIRQL* before);  // not called by the driver: for tests of the checks
void KeLowerIrql(KIRQL to);
void paged_code(const char* function);
#define PAGED_CODE() paged_code(__func__)
#define EVENT_INCREMENT 1
#define DPFLTR_IHVDRIVER_ID 77
#define DPFLTR_TRACE_LEVEL 2
void KeInitializeEvent(KEVENT* event, EVENT_TYPE type, BOOLEAN state);
LONG KeSetEvent(KEVENT* event, LONG increment, BOOLEAN wait);
void KeInitializeMutex(KMUTEX* mutex, ULONG level);
LONG KeReleaseMutex(KMUTEX* mutex, BOOLEAN wait);
NTSTATUS KeWaitForSingleObject(PVOID object, KWAIT_REASON, KPROCESSOR_MODE, BOOLEAN alertable, LARGE_INTEGER* timeout);
NTSTATUS KeDelayExecutionThread(KPROCESSOR_MODE, BOOLEAN alertable, LARGE_INTEGER* interval);
void KeEnterCriticalRegion();
void KeLeaveCriticalRegion();
void ExInitializeFastMutex(FAST_MUTEX*);
void ExAcquireFastMutex(FAST_MUTEX*);
void ExReleaseFastMutex(FAST_MUTEX*);
inline LONG InterlockedIncrement(volatile LONG* at) { return __atomic_add_fetch(at, 1, __ATOMIC_SEQ_CST); }
inline LONG InterlockedDecrement(volatile LONG* at) { return __atomic_sub_fetch(at, 1, __ATOMIC_SEQ_CST); }
inline LONG InterlockedExchange(volatile LONG* at, LONG to) { return __atomic_exchange_n(at, to, __ATOMIC_SEQ_CST); }
inline LONG InterlockedExchangeAdd(volatile LONG* at, LONG by) { return __atomic_fetch_add(at, by, __ATOMIC_SEQ_CST); }
inline LONG InterlockedCompareExchange(volatile LONG* at, LONG to, LONG from) {
    __atomic_compare_exchange_n(at, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return from;
}
uint64_t KeQueryInterruptTime();
void KeQuerySystemTime(LARGE_INTEGER* now);

// Objects
typedef struct _OBJECT_TYPE* POBJECT_TYPE;
typedef struct _KPROCESS* PEPROCESS;
typedef struct _KTHREAD *PKTHREAD, *PETHREAD;
#define EVENT_MODIFY_STATE 0x2
#define SYNCHRONIZE 0x100000
#define WRITE_DAC 0x40000
#define THREAD_ALL_ACCESS 0x1FFFFF
#define FILE_ALL_ACCESS 0x1F01FF
#define SYMBOLIC_LINK_QUERY 0x1
NTSTATUS ObReferenceObjectByHandle(HANDLE, ACCESS_MASK, POBJECT_TYPE, KPROCESSOR_MODE, PVOID* object, PVOID);
NTSTATUS ObOpenObjectByPointer(PVOID, ULONG attributes, PVOID, ACCESS_MASK, POBJECT_TYPE, KPROCESSOR_MODE, HANDLE*);
void ObDereferenceObject(PVOID);
NTSTATUS ZwClose(HANDLE);
NTSTATUS ZwWaitForSingleObject(HANDLE, BOOLEAN alertable, LARGE_INTEGER* timeout);
PVOID MmGetSystemRoutineAddress(UNICODE_STRING* name);
NTSTATUS ZwOpenSymbolicLinkObject(HANDLE*, ACCESS_MASK, OBJECT_ATTRIBUTES*);
NTSTATUS ZwQuerySymbolicLinkObject(HANDLE, UNICODE_STRING* target, ULONG* length);

// Security
typedef void* PSID;
struct ACL {
    UCHAR AclRevision;
    UCHAR Sbz1;
    USHORT AclSize;
    USHORT AceCount;
    USHORT Sbz2;
};
struct SECURITY_DESCRIPTOR {
    ACL* Dacl;
};
#define SID_REVISION 1
#define ACL_REVISION 2
#define SECURITY_DESCRIPTOR_REVISION 1
#define SECURITY_NT_AUTHORITY {0, 0, 0, 0, 0, 5}
#define SECURITY_LOCAL_SYSTEM_RID 18
#define SECURITY_BUILTIN_DOMAIN_RID 32
#define DOMAIN_ALIAS_RID_ADMINS 544
#define DACL_SECURITY_INFORMATION 4
NTSTATUS RtlCreateAcl(ACL*, ULONG bytes, ULONG revision);
NTSTATUS RtlAddAccessAllowedAce(ACL*, ULONG revision, ACCESS_MASK, PSID);
NTSTATUS RtlCreateSecurityDescriptor(SECURITY_DESCRIPTOR*, ULONG revision);
NTSTATUS RtlSetDaclSecurityDescriptor(SECURITY_DESCRIPTOR*, BOOLEAN present, ACL*, BOOLEAN defaulted);
NTSTATUS ZwSetSecurityObject(HANDLE, ULONG information, SECURITY_DESCRIPTOR*);

// Processes and threads
enum PROCESSINFOCLASS { ProcessBasicInformation = 0, MaxProcessInfoClass = 128 };
typedef void (*PKSTART_ROUTINE)(PVOID);
HANDLE PsGetCurrentProcessId();
HANDLE PsGetCurrentThreadId();
PEPROCESS PsGetCurrentProcess();
PETHREAD PsGetCurrentThread();
NTSTATUS PsLookupProcessByProcessId(HANDLE, PEPROCESS*);
NTSTATUS PsCreateSystemThread(HANDLE*, ULONG, OBJECT_ATTRIBUTES*, PVOID, PVOID, PKSTART_ROUTINE, PVOID context);
NTSTATUS PsTerminateSystemThread(NTSTATUS);  // returns here: the caller does nothing more
NTSTATUS ZwOpenProcess(HANDLE*, ACCESS_MASK, OBJECT_ATTRIBUTES*, CLIENT_ID*);
NTSTATUS ZwTerminateProcess(HANDLE, NTSTATUS);

struct SECTION_OBJECT_POINTERS {
    ULONG writable_references;
};
typedef SECTION_OBJECT_POINTERS* PSECTION_OBJECT_POINTERS;
struct FILE_OBJECT {
    PSECTION_OBJECT_POINTERS SectionObjectPointer;
    BOOLEAN DeletePending;
    BOOLEAN WriteAccess;
    UNICODE_STRING FileName;
    bool transacted;
};
struct PS_CREATE_NOTIFY_INFO {
    ULONG Flags;
    HANDLE ParentProcessId;
    CLIENT_ID CreatingThreadId;
    FILE_OBJECT* FileObject;
    const UNICODE_STRING* ImageFileName;
    const UNICODE_STRING* CommandLine;
    NTSTATUS CreationStatus;
};
struct IMAGE_INFO {
    ULONG SystemModeImage;
    PVOID ImageBase;
};
typedef void (*PCREATE_PROCESS_NOTIFY_ROUTINE)(HANDLE, HANDLE, BOOLEAN);
typedef void (*PCREATE_PROCESS_NOTIFY_ROUTINE_EX)(PEPROCESS, HANDLE, PS_CREATE_NOTIFY_INFO*);
typedef void (*PCREATE_THREAD_NOTIFY_ROUTINE)(HANDLE, HANDLE, BOOLEAN);
typedef void (*PLOAD_IMAGE_NOTIFY_ROUTINE)(UNICODE_STRING*, HANDLE, IMAGE_INFO*);
NTSTATUS PsSetCreateProcessNotifyRoutine(PCREATE_PROCESS_NOTIFY_ROUTINE, BOOLEAN remove);
NTSTATUS PsSetLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE);
NTSTATUS PsRemoveLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE);

// Devices
#define FILE_DEVICE_SECURE_OPEN 0x100
#define IO_NO_INCREMENT 0
#define IRP_MJ_CREATE 0
#define IRP_MJ_CLOSE 2
#define IRP_MJ_DEVICE_CONTROL 14
#define IRP_MJ_SHUTDOWN 16
#define IRP_MJ_CLEANUP 18
struct DEVICE_OBJECT;
struct IRP;
struct DRIVER_OBJECT {
    NTSTATUS (*MajorFunction[28])(DEVICE_OBJECT*, IRP*);
    void (*DriverUnload)(DRIVER_OBJECT*);
};
struct IO_STACK_LOCATION {
    FILE_OBJECT* FileObject;
    struct {
        struct {
            ULONG OutputBufferLength;
            ULONG InputBufferLength;
            ULONG IoControlCode;
        } DeviceIoControl;
    } Parameters;
};
struct IRP {
    struct {
        NTSTATUS Status;
        uintptr_t Information;
    } IoStatus;
    struct {
        PVOID SystemBuffer;
    } AssociatedIrp;
    IO_STACK_LOCATION stack;
    bool completed;
};
inline IO_STACK_LOCATION* IoGetCurrentIrpStackLocation(IRP* irp) { return &irp->stack; }
void IoCompleteRequest(IRP*, LONG increment);
NTSTATUS IoCreateDevice(DRIVER_OBJECT*, ULONG, UNICODE_STRING* name, ULONG type, ULONG flags, BOOLEAN, DEVICE_OBJECT**);
void IoDeleteDevice(DEVICE_OBJECT*);
NTSTATUS IoRegisterShutdownNotification(DEVICE_OBJECT*);
void IoUnregisterShutdownNotification(DEVICE_OBJECT*);
NTSTATUS IoCreateSymbolicLink(UNICODE_STRING* link, UNICODE_STRING* target);
NTSTATUS IoDeleteSymbolicLink(UNICODE_STRING* link);

// The rest
struct RTL_OSVERSIONINFOW {
    ULONG dwOSVersionInfoSize;
    ULONG dwMajorVersion;
    ULONG dwMinorVersion;
};
struct KUSER_SHARED_DATA {
    WCHAR NtSystemRoot[260];
};
extern KUSER_SHARED_DATA shared_user_data;
#define SharedUserData (&shared_user_data)
NTSTATUS RtlGetVersion(RTL_OSVERSIONINFOW*);
void RtlInitUnicodeString(UNICODE_STRING*, const WCHAR*);
NTSTATUS RtlDowncaseUnicodeString(UNICODE_STRING* to, const UNICODE_STRING* from, BOOLEAN allocate);
ULONG DbgPrint(const char* format, ...);
ULONG DbgPrintEx(ULONG component, ULONG level, const char* format, ...);
