/*
 * vhost-user-fs-stateful: vhost-user-fs, and its back-end is told when the machine stops.
 *
 * The back-end's state travels with the stock type, too, in its format: machines with the stock type
 * and with this one can be migrated to each other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/virtio/vhost-user-fs.h"
#include "hw/virtio/virtio-pci.h"

#include "stateful.h"

#define TYPE_VHOST_USER_FS_STATEFUL "vhost-user-fs-stateful"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserFSStateful, VHOST_USER_FS_STATEFUL)

struct VhostUserFSStateful {
    VHostUserFS parent_obj;
    VhostUserStateful state;
};

#define TYPE_VHOST_USER_FS_STATEFUL_PCI "vhost-user-fs-stateful-pci-base"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserFSStatefulPCI, VHOST_USER_FS_STATEFUL_PCI)

struct VhostUserFSStatefulPCI {
    VirtIOPCIProxy parent_obj;
    VhostUserFSStateful vdev;
};

static VhostUserStateful *fs_state(VirtIODevice *vdev)
{
    return &VHOST_USER_FS_STATEFUL(vdev)->state;
}

static struct vhost_dev *fs_vhost(VirtIODevice *vdev)
{
    return &VHOST_USER_FS(vdev)->vhost_dev;
}

static CharEnd *fs_chardev(VirtIODevice *vdev)
{
    return &VHOST_USER_FS(vdev)->conf.chardev;
}

static void fs_class_init(ObjectClass *klass, ClassData *data)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_CLASS(klass);

    class->state = fs_state;
    class->vhost = fs_vhost;
    class->chardev = fs_chardev;
    vhost_user_stateful_class_init(klass);
}

static const TypeInfo fs_info = {
    .name = TYPE_VHOST_USER_FS_STATEFUL,
    .parent = TYPE_VHOST_USER_FS,
    .instance_size = sizeof(VhostUserFSStateful),
    .class_init = fs_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_VHOST_USER_STATEFUL },
        { }
    },
};

static const Property pci_properties[] = {
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors,
                       DEV_NVECTORS_UNSPECIFIED),
};

/* The stock wrapper cannot be a parent: it creates the stock device. */
static void pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    VhostUserFSStatefulPCI *pci = VHOST_USER_FS_STATEFUL_PCI(proxy);

    if (proxy->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        /* One for each queue, the priority queue, and changes of the configuration. */
        proxy->nvectors = VHOST_USER_FS(&pci->vdev)->conf.num_request_queues + 2;
    }
    qdev_realize(DEVICE(&pci->vdev), BUS(&proxy->bus), errp);
}

static void pci_class_init(ObjectClass *klass, ClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    VIRTIO_PCI_CLASS(klass)->realize = pci_realize;
    set_bit(DEVICE_CATEGORY_STORAGE, dc->categories);
    device_class_set_props(dc, pci_properties);
    pc->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pc->class_id = PCI_CLASS_STORAGE_OTHER;
}

static void pci_init(Object *obj)
{
    VhostUserFSStatefulPCI *pci = VHOST_USER_FS_STATEFUL_PCI(obj);

    virtio_instance_init_common(obj, &pci->vdev, sizeof(pci->vdev),
                                TYPE_VHOST_USER_FS_STATEFUL);
    object_property_add_alias(obj, "bootindex", OBJECT(&pci->vdev),
                              "bootindex");
}

static const VirtioPCIDeviceTypeInfo pci_info = {
    .base_name = TYPE_VHOST_USER_FS_STATEFUL_PCI,
    .non_transitional_name = "vhost-user-fs-stateful-pci",
    .instance_size = sizeof(VhostUserFSStatefulPCI),
    .instance_init = pci_init,
    .class_init = pci_class_init,
};

void vhost_user_fs_stateful_register(void)
{
    type_register_static(&fs_info);
    virtio_pci_types_register(&pci_info);
}
