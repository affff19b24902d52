/*
 * vhost-user-scsi-stateful: vhost-user-scsi, and its back-end's state travels with the machine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/virtio/vhost-user-scsi.h"
#include "hw/virtio/virtio-pci.h"
#include "standard-headers/linux/virtio_pci.h"

#include "stateful.h"

#define TYPE_VHOST_USER_SCSI_STATEFUL "vhost-user-scsi-stateful"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserSCSIStateful, VHOST_USER_SCSI_STATEFUL)

struct VhostUserSCSIStateful {
    VHostUserSCSI parent_obj;
    VhostUserStateful state;
};

#define TYPE_VHOST_USER_SCSI_STATEFUL_PCI "vhost-user-scsi-stateful-pci-base"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserSCSIStatefulPCI,
                           VHOST_USER_SCSI_STATEFUL_PCI)

struct VhostUserSCSIStatefulPCI {
    VirtIOPCIProxy parent_obj;
    VhostUserSCSIStateful vdev;
};

static const VMStateDescription vmstate_back_end = {
    .name = TYPE_VHOST_USER_SCSI_STATEFUL "/back-end",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = vhost_user_stateful_needed,
    .pre_save = vhost_user_stateful_check,
    .pre_load = vhost_user_stateful_check,
    .fields = (const VMStateField[]) {
        VMSTATE_BACK_END,
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_scsi = {
    .name = TYPE_VHOST_USER_SCSI_STATEFUL,
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_VIRTIO_DEVICE,
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const[]) {
        &vmstate_back_end,
        NULL
    },
};

static VhostUserStateful *scsi_state(VirtIODevice *vdev)
{
    return &VHOST_USER_SCSI_STATEFUL(vdev)->state;
}

static struct vhost_dev *scsi_vhost(VirtIODevice *vdev)
{
    return &VHOST_SCSI_COMMON(vdev)->dev;
}

static CharEnd *scsi_chardev(VirtIODevice *vdev)
{
    return &VIRTIO_SCSI_COMMON(vdev)->conf.chardev;
}

static void scsi_class_init(ObjectClass *klass, ClassData *data)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_CLASS(klass);

    class->state = scsi_state;
    class->vhost = scsi_vhost;
    class->chardev = scsi_chardev;
    vhost_user_stateful_class_init(klass);
    DEVICE_CLASS(klass)->vmsd = &vmstate_scsi;
}

static const TypeInfo scsi_info = {
    .name = TYPE_VHOST_USER_SCSI_STATEFUL,
    .parent = TYPE_VHOST_USER_SCSI,
    .instance_size = sizeof(VhostUserSCSIStateful),
    .class_init = scsi_class_init,
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
    VhostUserSCSIStatefulPCI *pci = VHOST_USER_SCSI_STATEFUL_PCI(proxy);
    VirtIOSCSIConf *conf = &VIRTIO_SCSI_COMMON(&pci->vdev)->conf;

    if (conf->num_queues == VIRTIO_SCSI_AUTO_NUM_QUEUES) {
        conf->num_queues =
            virtio_pci_optimal_num_queues(VIRTIO_SCSI_VQ_NUM_FIXED);
    }
    if (proxy->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        /* One for each queue, one for changes of the configuration. */
        proxy->nvectors = conf->num_queues + VIRTIO_SCSI_VQ_NUM_FIXED + 1;
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
    pc->device_id = PCI_DEVICE_ID_VIRTIO_SCSI;
    pc->class_id = PCI_CLASS_STORAGE_SCSI;
}

static void pci_init(Object *obj)
{
    VhostUserSCSIStatefulPCI *pci = VHOST_USER_SCSI_STATEFUL_PCI(obj);

    virtio_instance_init_common(obj, &pci->vdev, sizeof(pci->vdev),
                                TYPE_VHOST_USER_SCSI_STATEFUL);
    object_property_add_alias(obj, "bootindex", OBJECT(&pci->vdev),
                              "bootindex");
}

static const VirtioPCIDeviceTypeInfo pci_info = {
    .base_name = TYPE_VHOST_USER_SCSI_STATEFUL_PCI,
    .generic_name = "vhost-user-scsi-stateful-pci",
    .instance_size = sizeof(VhostUserSCSIStatefulPCI),
    .instance_init = pci_init,
    .class_init = pci_class_init,
};

void vhost_user_scsi_stateful_register(void)
{
    type_register_static(&scsi_info);
    virtio_pci_types_register(&pci_info);
}
