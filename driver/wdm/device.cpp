// device.cpp - the control device: opening it, and the way of a request to the core and back.

#include "driver.h"

namespace procmon::kernel {
namespace {

DEVICE_OBJECT* device;
Rundown requests;

UNICODE_STRING device_name() { return string_of(L"\\Device\\ProcMonGate"); }
UNICODE_STRING link_name() { return string_of(L"\\DosDevices\\ProcMonGate"); }

NTSTATUS complete(IRP* irp, NTSTATUS status, size_t written = 0) {
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = written;
    IoCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

// The file object lives from create to close. For that time its address identifies one handle and its duplicates.
uint64_t owner_of(const IO_STACK_LOCATION* stack) { return reinterpret_cast<uintptr_t>(stack->FileObject); }

// The caller's context. FILE_DEVICE_SECURE_OPEN makes the device's security apply to every name. Still, nothing exists
// below the device, so a name is an error.
_IRQL_requires_(PASSIVE_LEVEL) NTSTATUS NTAPI on_open(DEVICE_OBJECT*, IRP* irp) {
    PAGED_CODE();
    const RundownScope inside(requests);
    if (!inside) return complete(irp, STATUS_DEVICE_NOT_READY);
    const FILE_OBJECT* file = IoGetCurrentIrpStackLocation(irp)->FileObject;
    return complete(irp, file->FileName.Length == 0 ? STATUS_SUCCESS : STATUS_OBJECT_NAME_INVALID);
}

// CLEANUP: the last handle was closed; the closer's context. CLOSE: no request is pending any more; any thread. Both
// call the core: the close undoes a REGISTER that raced with the cleanup, and Wine sends only the close.
_IRQL_requires_(PASSIVE_LEVEL) NTSTATUS NTAPI on_closed(DEVICE_OBJECT*, IRP* irp) {
    PAGED_CODE();
    const RundownScope inside(requests);
    if (inside) gate.handle_closed(owner_of(IoGetCurrentIrpStackLocation(irp)));
    return complete(irp, STATUS_SUCCESS);
}

// The caller's context. METHOD_BUFFERED: the system buffer is private to this request. It is input and output in one,
// and as long as the longer of the two. The I/O manager has checked the handle's access against the request code.
_IRQL_requires_(PASSIVE_LEVEL) NTSTATUS NTAPI on_control(DEVICE_OBJECT*, IRP* irp) {
    PAGED_CODE();
    const RundownScope inside(requests);
    if (!inside) return complete(irp, STATUS_DEVICE_NOT_READY);
    const IO_STACK_LOCATION* stack = IoGetCurrentIrpStackLocation(irp);
    const auto& control = stack->Parameters.DeviceIoControl;
    void* buffer = irp->AssociatedIrp.SystemBuffer;
    const uint32_t code = control.IoControlCode;
    const size_t input_bytes = control.InputBufferLength, output_bytes = control.OutputBufferLength;

    size_t written = 0;
    NTSTATUS status = build::control(irp, code, buffer, input_bytes, output_bytes, &written);
    if (status == STATUS_PENDING) return status;  // another thread completes it, or has completed it
    if (status != STATUS_INVALID_DEVICE_REQUEST) return complete(irp, status, written);

    if (code == wire::kRegister) {  // drive letters may have changed, and a callback must not read them
        status = volumes_refresh();
        if (!NT_SUCCESS(status)) return complete(irp, status);
    }
    Caller caller;
    caller.owner = owner_of(stack);
    caller.pid = id_of(PsGetCurrentProcessId());
    status = static_cast<NTSTATUS>(gate.dispatch(caller, code, buffer, input_bytes, buffer, output_bytes, &written));
    return complete(irp, status, written);
}

// A system thread: Windows is shutting down. Programs, perhaps the controller too, have been asked to end by now. Held
// processes must not delay the shutdown.
_IRQL_requires_(PASSIVE_LEVEL) NTSTATUS NTAPI on_shutdown(DEVICE_OBJECT*, IRP* irp) {
    PAGED_CODE();
    const RundownScope inside(requests);
    if (inside) gate.quiesce();
    return complete(irp, STATUS_SUCCESS);
}

}  // namespace

NTSTATUS device_start(DRIVER_OBJECT* driver) {
    PAGED_CODE();
    UNICODE_STRING name = device_name();
    NTSTATUS status = IoCreateDevice(driver, 0, &name, wire::kDeviceType, FILE_DEVICE_SECURE_OPEN, FALSE, &device);
    if (!NT_SUCCESS(status)) return status;
    status = secure_device(device);
    if (NT_SUCCESS(status)) status = IoRegisterShutdownNotification(device);
    if (!NT_SUCCESS(status)) {
        IoDeleteDevice(device);
        device = nullptr;
        return status;
    }
    driver->MajorFunction[IRP_MJ_CREATE] = on_open;
    driver->MajorFunction[IRP_MJ_CLEANUP] = on_closed;
    driver->MajorFunction[IRP_MJ_CLOSE] = on_closed;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = on_control;
    driver->MajorFunction[IRP_MJ_SHUTDOWN] = on_shutdown;
    return STATUS_SUCCESS;
}

void device_stop() {
    PAGED_CODE();
    IoUnregisterShutdownNotification(device);
    IoDeleteDevice(device);
    device = nullptr;
}

// On NT no request can be in progress when a driver is unloaded; Wine unloads at any time.
NTSTATUS requests_start(DRIVER_OBJECT*) {
    requests.open();
    return STATUS_SUCCESS;
}

void requests_stop() {
    PAGED_CODE();
    requests.close();
}

NTSTATUS link_start(DRIVER_OBJECT*) {
    PAGED_CODE();
    UNICODE_STRING link = link_name(), target = device_name();
    return IoCreateSymbolicLink(&link, &target);
}

void link_stop() {
    PAGED_CODE();
    UNICODE_STRING link = link_name();
    IoDeleteSymbolicLink(&link);
}

}  // namespace procmon::kernel
