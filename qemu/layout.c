/*
 * Are the structs of QEMU that are part of ours laid out as the headers say?
 *
 * A switch of QEMU's configuration that changes a struct would go unnoticed: the compiler sees only
 * our side. QEMU's side can be asked: a property tells at which byte of the instance it is kept.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/virtio/vhost-user-fs.h"
#include "hw/virtio/vhost-user-scsi.h"
#include "hw/virtio/virtio-gpu.h"
#include "hw/virtio/virtio-pci.h"

#include "layout.h"

typedef struct Expected {
    const char *type;
    const char *property;
    size_t offset;
} Expected;

/* Close to the end of each parent's struct. */
static const Expected expected[] = {
    { TYPE_VIRTIO_PCI, "page-per-vq", offsetof(VirtIOPCIProxy, flags) },
    { TYPE_VHOST_USER_SCSI, "hotplug", offsetof(VHostSCSICommon, host_features) },
    { TYPE_VHOST_USER_FS, "queue-size", offsetof(VHostUserFS, conf.queue_size) },
    { TYPE_VHOST_USER_GPU, "max_outputs", offsetof(VirtIOGPUBase, conf.max_outputs) },
};

static const Property *find(DeviceClass *class, const char *name)
{
    for (size_t i = 0; i < class->props_count_; i++) {
        if (strcmp(class->props_[i].name, name) == 0) {
            return &class->props_[i];
        }
    }
    return NULL;
}

const char *vhost_user_stateful_layout_mismatch(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        const Expected *here = &expected[i];
        ObjectClass *class = object_class_by_name(here->type);
        const Property *there;

        if (!class) {
            /* A QEMU without this device. */
            continue;
        }
        there = find(DEVICE_CLASS(class), here->property);
        if (!there || there->offset != here->offset) {
            return here->type;
        }
    }
    return NULL;
}
