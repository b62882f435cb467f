// security.cpp - the device's access list, without wdmsec.lib: SYSTEM and Administrators everything, others nothing.

#include "driver.h"

namespace procmon::kernel {
namespace {

template <size_t N>
struct Sid {  // laid out as SID, with N sub-authorities
    uint8_t revision;
    uint8_t count;
    uint8_t authority[6];
    uint32_t parts[N];
};
static_assert(sizeof(Sid<1>) == 12 && sizeof(Sid<2>) == 16);

}  // namespace

// The device is still being initialised, so it cannot have been opened with its default security.
NTSTATUS secure_device(DEVICE_OBJECT* device) {
    PAGED_CODE();
    Sid<1> system = {SID_REVISION, 1, SECURITY_NT_AUTHORITY, {SECURITY_LOCAL_SYSTEM_RID}};
    Sid<2> administrators = {
        SID_REVISION, 2, SECURITY_NT_AUTHORITY, {SECURITY_BUILTIN_DOMAIN_RID, DOMAIN_ALIAS_RID_ADMINS}};
    alignas(8) uint8_t list[128];
    auto* acl = reinterpret_cast<ACL*>(list);
    SECURITY_DESCRIPTOR descriptor;

    NTSTATUS status = RtlCreateAcl(acl, sizeof list, ACL_REVISION);
    if (NT_SUCCESS(status)) status = RtlAddAccessAllowedAce(acl, ACL_REVISION, FILE_ALL_ACCESS, &system);
    if (NT_SUCCESS(status)) status = RtlAddAccessAllowedAce(acl, ACL_REVISION, FILE_ALL_ACCESS, &administrators);
    if (NT_SUCCESS(status)) status = RtlCreateSecurityDescriptor(&descriptor, SECURITY_DESCRIPTOR_REVISION);
    if (NT_SUCCESS(status)) status = RtlSetDaclSecurityDescriptor(&descriptor, TRUE, acl, FALSE);
    if (!NT_SUCCESS(status)) return status;

    Handle handle;
    status = ObOpenObjectByPointer(device, OBJ_KERNEL_HANDLE, nullptr, WRITE_DAC, nullptr, KernelMode, handle.put());
    if (!NT_SUCCESS(status)) return status;
    return ZwSetSecurityObject(handle.get(), DACL_SECURITY_INFORMATION, &descriptor);
}

}  // namespace procmon::kernel
