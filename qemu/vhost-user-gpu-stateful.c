/*
 * vhost-user-gpu-stateful: vhost-user-gpu, and its back-end's state travels with the machine.
 *
 * The parents are in modules of QEMU, which are loaded first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/module.h"
#include "hw/virtio/virtio-gpu-pci.h"
#include "hw/display/virtio-vga.h"
#include "system/vhost-user-backend.h"

#include "stateful.h"

#define TYPE_VHOST_USER_GPU_STATEFUL "vhost-user-gpu-stateful"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserGPUStateful, VHOST_USER_GPU_STATEFUL)

struct VhostUserGPUStateful {
    VhostUserGPU parent_obj;
    VhostUserStateful state;
};

#define TYPE_VHOST_USER_GPU_STATEFUL_PCI "vhost-user-gpu-stateful-pci"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserGPUStatefulPCI, VHOST_USER_GPU_STATEFUL_PCI)

struct VhostUserGPUStatefulPCI {
    VirtIOGPUPCIBase parent_obj;
    VhostUserGPUStateful vdev;
};

#define TYPE_VHOST_USER_VGA_STATEFUL "vhost-user-vga-stateful"
OBJECT_DECLARE_SIMPLE_TYPE(VhostUserVGAStateful, VHOST_USER_VGA_STATEFUL)

struct VhostUserVGAStateful {
    VirtIOVGABase parent_obj;
    VhostUserGPUStateful vdev;
};

static const VMStateDescription vmstate_back_end = {
    .name = TYPE_VHOST_USER_GPU_STATEFUL "/back-end",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = vhost_user_stateful_needed,
    .pre_save = vhost_user_stateful_check,
    .pre_load = vhost_user_stateful_check,
    .fields = (const VMStateField[]) {
        /* The one field of the configuration that QEMU keeps and that changes by itself. */
        VMSTATE_UINT32(parent_obj.parent_obj.virtio_config.events_read,
                       VhostUserGPUStateful),
        VMSTATE_BACK_END,
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_gpu = {
    .name = TYPE_VHOST_USER_GPU_STATEFUL,
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

static VhostUserStateful *gpu_state(VirtIODevice *vdev)
{
    return &VHOST_USER_GPU_STATEFUL(vdev)->state;
}

static struct vhost_dev *gpu_vhost(VirtIODevice *vdev)
{
    return &VHOST_USER_GPU(vdev)->vhost->dev;
}

static CharEnd *gpu_chardev(VirtIODevice *vdev)
{
    return &VHOST_USER_GPU(vdev)->vhost->chr;
}

static void gpu_class_init(ObjectClass *klass, ClassData *data)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_CLASS(klass);

    class->state = gpu_state;
    class->vhost = gpu_vhost;
    class->chardev = gpu_chardev;
    vhost_user_stateful_class_init(klass);
    DEVICE_CLASS(klass)->vmsd = &vmstate_gpu;
}

static const TypeInfo gpu_info = {
    .name = TYPE_VHOST_USER_GPU_STATEFUL,
    .parent = TYPE_VHOST_USER_GPU,
    .instance_size = sizeof(VhostUserGPUStateful),
    .class_init = gpu_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_VHOST_USER_STATEFUL },
        { }
    },
};

static VirtIOGPUBase *create(Object *obj, VhostUserGPUStateful *vdev)
{
    virtio_instance_init_common(obj, vdev, sizeof(*vdev),
                                TYPE_VHOST_USER_GPU_STATEFUL);
    object_property_add_alias(obj, "chardev", OBJECT(vdev), "chardev");
    return VIRTIO_GPU_BASE(vdev);
}

static void pci_create(Object *obj)
{
    VhostUserGPUStatefulPCI *pci = VHOST_USER_GPU_STATEFUL_PCI(obj);

    VIRTIO_GPU_PCI_BASE(obj)->vgpu = create(obj, &pci->vdev);
}

static const VirtioPCIDeviceTypeInfo pci_info = {
    .generic_name = TYPE_VHOST_USER_GPU_STATEFUL_PCI,
    .parent = TYPE_VIRTIO_GPU_PCI_BASE,
    .instance_size = sizeof(VhostUserGPUStatefulPCI),
    .instance_init = pci_create,
};

static void vga_create(Object *obj)
{
    VhostUserVGAStateful *vga = VHOST_USER_VGA_STATEFUL(obj);

    VIRTIO_VGA_BASE(obj)->vgpu = create(obj, &vga->vdev);
}

static const VirtioPCIDeviceTypeInfo vga_info = {
    .generic_name = TYPE_VHOST_USER_VGA_STATEFUL,
    .parent = TYPE_VIRTIO_VGA_BASE,
    .instance_size = sizeof(VhostUserVGAStateful),
    .instance_init = vga_create,
};

/* False without a message if this QEMU was installed without the module. */
static bool is_loaded(const char *type)
{
    Error *err = NULL;

    if (module_load_qom(type, &err) < 0) {
        /* QEMU is not ready for warn_report() yet. */
        fprintf(stderr, "no stateful variant of %s: %s\n", type,
                error_get_pretty(err));
        error_free(err);
        return false;
    }
    return object_class_by_name(type) != NULL;
}

void vhost_user_gpu_stateful_register(void)
{
    if (!is_loaded(TYPE_VHOST_USER_GPU)) {
        return;
    }
    type_register_static(&gpu_info);
    if (is_loaded(TYPE_VIRTIO_GPU_PCI_BASE)) {
        virtio_pci_types_register(&pci_info);
    }
    if (is_loaded(TYPE_VIRTIO_VGA_BASE)) {
        virtio_pci_types_register(&vga_info);
    }
}
