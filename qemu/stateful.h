/*
 * What the stateful device types have in common: their back-end's state travels with the machine,
 * and the back-end is told when the machine stops and when it goes on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VHOST_USER_STATEFUL_H
#define VHOST_USER_STATEFUL_H

#include "chardev/char-fe.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/virtio.h"
#include "migration/vmstate.h"
#include "qom/object.h"

#include "compat.h"

#define TYPE_VHOST_USER_STATEFUL "vhost-user-stateful"
typedef struct VhostUserStatefulClass VhostUserStatefulClass;
DECLARE_CLASS_CHECKERS(VhostUserStatefulClass, VHOST_USER_STATEFUL,
                       TYPE_VHOST_USER_STATEFUL)

/* Beside the instance struct of the parent type. */
typedef struct VhostUserStateful {
    /* Why the device cannot be migrated, or NULL. */
    Error *blocker;
    /* SUSPEND was acknowledged, and there was no RESUME since. */
    bool suspended;
} VhostUserStateful;

/* An interface: the parent types have no class in common but virtio-device. */
struct VhostUserStatefulClass {
    InterfaceClass parent_class;

    /* Where things are in an instance, by the headers this was compiled with. */
    VhostUserStateful *(*state)(VirtIODevice *vdev);
    struct vhost_dev *(*vhost)(VirtIODevice *vdev);
    CharEnd *(*chardev)(VirtIODevice *vdev);

    /* What the parent type does. */
    DeviceRealize parent_realize;
    DeviceUnrealize parent_unrealize;
    SetStatusResult (*parent_set_status)(VirtIODevice *vdev, uint8_t status);
};

/* For class_init, after state, vhost and chardev have been set. */
void vhost_user_stateful_class_init(ObjectClass *klass);

/* For the subsection of a VMStateDescription: the device needs a back-end that has its state. */
int vhost_user_stateful_check(void *opaque);
bool vhost_user_stateful_needed(void *opaque);
extern const VMStateInfo vmstate_info_back_end;
#define VMSTATE_BACK_END { .name = "back-end", .info = &vmstate_info_back_end }

void vhost_user_stateful_register(void);
void vhost_user_scsi_stateful_register(void);
void vhost_user_fs_stateful_register(void);
void vhost_user_gpu_stateful_register(void);

#endif
