// SPDX-License-Identifier: Apache-2.0
// The multicast address of a group's memory: an object of the driver to which every member adds its
// device and then binds its memory. Devices from sm_90 on behind an NVSwitch have it.
#include "collectives/cuda/driver.cuh"

#if PHX_EMU || CUDART_VERSION >= 12010

namespace
{

#define MULTICAST_FUNCTIONS(X)                                                                     \
    X(cuDeviceGet)                                                                                 \
    X(cuDeviceGetAttribute)                                                                        \
    X(cuMulticastGetGranularity)                                                                   \
    X(cuMulticastCreate)                                                                           \
    X(cuMulticastAddDevice)                                                                        \
    X(cuMulticastBindMem)                                                                          \
    X(cuMulticastUnbind)

struct multicast_driver {
    driver base;
#define X(name) decltype(&::name) name;
    MULTICAST_FUNCTIONS(X)
#undef X
};

enum status load(multicast_driver *d, struct error *err)
{
    TRY(driver_load(&d->base, err));
#define X(name) TRY(driver_find(#name, reinterpret_cast<void **>(&d->name), 12010, err));
    MULTICAST_FUNCTIONS(X)
#undef X
    return STATUS_OK;
}

enum status outcome(const multicast_driver &d, CUresult r, const char *what, struct error *err)
{
    return r == CUDA_SUCCESS ? STATUS_OK : driver_failed(d.base, r, what, err);
}

int device_of(void *context)
{
    return static_cast<const share_context *>(context)->device;
}

CUmulticastObjectProp properties(uint32_t size, size_t bytes)
{
    CUmulticastObjectProp p = {};
    p.numDevices = size;
    p.size = bytes;
    p.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    return p;
}

} // namespace

enum status share_multicast_probe(void *context, struct error *err)
{
    multicast_driver d;
    CUdevice device = 0;
    int has = 0;
    TRY(load(&d, err));
    TRY(outcome(d, d.cuDeviceGet(&device, device_of(context)), "cuDeviceGet", err));
    TRY(outcome(d, d.cuDeviceGetAttribute(&has, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, device),
        "cuDeviceGetAttribute", err));
    return has != 0 ? STATUS_OK
                    : status_fail(err, STATUS_UNSUPPORTED,
                          "device %d is behind no switch that sums", device_of(context));
}

enum status share_multicast_make(void *context, uint32_t size, size_t bytes,
    struct coll_peer_memory *out, int *fd, struct error *err)
{
    (void)context;
    multicast_driver d;
    CUmemGenericAllocationHandle handle = 0;
    CUmulticastObjectProp p = properties(size, bytes);
    size_t granularity = 0;
    TRY(load(&d, err));
    TRY(outcome(d, d.cuMulticastGetGranularity(&granularity, &p, CU_MULTICAST_GRANULARITY_MINIMUM),
        "cuMulticastGetGranularity", err));
    if (granularity == 0 || bytes % granularity != 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "%zu bytes are no multiple of the %zu of multicast memory", bytes, granularity);
    TRY(outcome(d, d.cuMulticastCreate(&handle, &p), "cuMulticastCreate", err));
    *out = {};
    out->bytes = bytes;
    out->handle = handle;
    return outcome(d,
        d.base.cuMemExportToShareableHandle(
            fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        "cuMemExportToShareableHandle", err);
}

enum status share_multicast_join(
    void *context, int fd, size_t bytes, struct coll_peer_memory *out, struct error *err)
{
    (void)context;
    multicast_driver d;
    CUmemGenericAllocationHandle handle = 0;
    TRY(load(&d, err));
    TRY(outcome(d,
        d.base.cuMemImportFromShareableHandle(&handle,
            reinterpret_cast<void *>(static_cast<uintptr_t>(fd)),
            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "cuMemImportFromShareableHandle", err));
    *out = {};
    out->bytes = bytes;
    out->handle = handle;
    out->imported = true;
    return STATUS_OK;
}

enum status share_multicast_enter(
    void *context, const struct coll_peer_memory *m, struct error *err)
{
    multicast_driver d;
    CUdevice device = 0;
    TRY(load(&d, err));
    TRY(outcome(d, d.cuDeviceGet(&device, device_of(context)), "cuDeviceGet", err));
    return outcome(d, d.cuMulticastAddDevice(m->handle, device), "cuMulticastAddDevice", err);
}

enum status share_multicast_bind(void *context, struct coll_peer_memory *m,
    const struct coll_peer_memory *own, struct error *err)
{
    multicast_driver d;
    TRY(load(&d, err));
    TRY(outcome(d, d.cuMulticastBindMem(m->handle, 0, own->handle, 0, m->bytes, 0),
        "cuMulticastBindMem", err));
    return driver_map(d.base, device_of(context), m, err);
}

void share_multicast_give(void *context, struct coll_peer_memory *m)
{
    multicast_driver d;
    CUdevice device = 0;
    if (m->handle == 0 || load(&d, nullptr) != STATUS_OK)
        return;
    (void)cudaDeviceSynchronize();
    if (m->p != nullptr) {
        CUdeviceptr at = reinterpret_cast<CUdeviceptr>(m->p);
        (void)d.base.cuMemUnmap(at, m->bytes);
        (void)d.base.cuMemAddressFree(at, m->bytes);
        if (d.cuDeviceGet(&device, device_of(context)) == CUDA_SUCCESS)
            (void)d.cuMulticastUnbind(m->handle, device, 0, m->bytes);
    }
    (void)d.base.cuMemRelease(m->handle);
    *m = {};
}

#else

enum status share_multicast_probe(void *, struct error *err)
{
    return status_fail(err, STATUS_UNSUPPORTED, "this build's CUDA is older than multicast, 12.1");
}

enum status share_multicast_make(
    void *c, uint32_t, size_t, struct coll_peer_memory *, int *, struct error *err)
{
    return share_multicast_probe(c, err);
}

enum status share_multicast_join(void *c, int, size_t, struct coll_peer_memory *, struct error *err)
{
    return share_multicast_probe(c, err);
}

enum status share_multicast_enter(void *c, const struct coll_peer_memory *, struct error *err)
{
    return share_multicast_probe(c, err);
}

enum status share_multicast_bind(
    void *c, struct coll_peer_memory *, const struct coll_peer_memory *, struct error *err)
{
    return share_multicast_probe(c, err);
}

void share_multicast_give(void *, struct coll_peer_memory *)
{
}

#endif
