// drive_letters.cpp - the volume of each drive letter, and the path of the system directory; read outside of callbacks.

#include "driver.h"

namespace procmon::kernel {
namespace {

KMUTEX building;  // one map is built at a time; a mutex also keeps its owner from being suspended

// Holds `building` for a scope.
class MapScope {
   public:
    MapScope() { KeWaitForSingleObject(&building, Executive, KernelMode, FALSE, nullptr); }
    ~MapScope() { KeReleaseMutex(&building, FALSE); }
    MapScope(const MapScope&) = delete;
    MapScope& operator=(const MapScope&) = delete;
};

constexpr size_t kTargetUnits = 256;  // \Device\HarddiskVolume123 takes 25

bool starts_with(const UNICODE_STRING& string, const UNICODE_STRING& prefix) {
    return string.Length >= prefix.Length &&
           RtlCompareMemory(string.Buffer, prefix.Buffer, prefix.Length) == prefix.Length;
}

// Adds one letter of the global namespace, not of the caller's session: image names do not depend on the caller. A
// letter that does not exist, or is a substitute for a folder (subst), adds nothing.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS add_drive(WCHAR letter) {
    PAGED_CODE();
    WCHAR path[16];
    size_t units = 0;
    for (; build::drive_links[units] != 0; ++units) path[units] = build::drive_links[units];
    path[units - 2] = letter;
    UNICODE_STRING name = {static_cast<USHORT>(units * sizeof(WCHAR)), sizeof path, path};
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, &name, OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE, nullptr, nullptr);
    Handle link;
    if (!NT_SUCCESS(ZwOpenSymbolicLinkObject(link.put(), SYMBOLIC_LINK_QUERY, &attributes))) return STATUS_SUCCESS;

    WCHAR buffer[kTargetUnits];
    UNICODE_STRING target = {0, sizeof buffer, buffer};
    if (!NT_SUCCESS(ZwQuerySymbolicLinkObject(link.get(), &target, nullptr))) return STATUS_SUCCESS;
    if (target.Length == 0 || starts_with(target, string_of(L"\\??\\"))) return STATUS_SUCCESS;
    return static_cast<NTSTATUS>(gate.volumes_add(text_of(&target), static_cast<char16_t>(letter | 0x20)));
}

// The path is in SharedUserData. Read unit by unit: that page is not ordinary memory.
_IRQL_requires_(PASSIVE_LEVEL) _Must_inspect_result_ NTSTATUS set_system_directory() {
    PAGED_CODE();
    constexpr WCHAR kFolder[] = L"\\system32";
    WCHAR path[kTargetUnits + ARRAYSIZE(kFolder)];
    const volatile WCHAR* root = SharedUserData->NtSystemRoot;
    size_t units = 0;
    for (WCHAR unit; units < kTargetUnits && (unit = root[units]) != 0; ++units) path[units] = unit;
    for (size_t i = 0; kFolder[i] != 0; ++i) path[units++] = kFolder[i];
    return static_cast<NTSTATUS>(gate.set_system_directory({reinterpret_cast<char16_t*>(path), units}));
}

}  // namespace

NTSTATUS volumes_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    KeInitializeMutex(&building, 0);
    const NTSTATUS status = set_system_directory();
    return NT_SUCCESS(status) ? volumes_refresh() : status;
}

// Any thread, no lock. The old map stays in force until the new one is complete. Of several letters for one volume the
// first counts. The system volume's own letter is added first: with another one, Windows' programs would get wrong
// names.
NTSTATUS volumes_refresh() {
    PAGED_CODE();
    const MapScope scope;
    NTSTATUS status = static_cast<NTSTATUS>(gate.volumes_begin());
    const volatile WCHAR* system_root = SharedUserData->NtSystemRoot;
    if (NT_SUCCESS(status)) status = add_drive(static_cast<WCHAR>(system_root[0] & ~0x20));
    for (WCHAR letter = L'A'; NT_SUCCESS(status) && letter <= L'Z'; ++letter) status = add_drive(letter);
    if (NT_SUCCESS(status)) gate.volumes_commit();
    return status;
}

}  // namespace procmon::kernel
