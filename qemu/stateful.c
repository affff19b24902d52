/*
 * What the stateful device types have in common.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "hw/virtio/vhost-user.h"
#include "migration/blocker.h"

#include "stateful.h"
#include "suspend.h"

/* A name that tells the user which device is meant: its id, or its place. */
static const char *name_of(VirtIODevice *vdev)
{
    DeviceState *dev = DEVICE(vdev);
    BusState *bus = qdev_get_parent_bus(dev);

    if (!dev->id && bus && bus->parent && bus->parent->id) {
        return bus->parent->id;
    }
    return dev->id ? dev->id : dev->canonical_path;
}

static bool has_state(VirtIODevice *vdev)
{
    struct vhost_dev *dev = VHOST_USER_STATEFUL_GET_CLASS(vdev)->vhost(vdev);

    /* Without a connection there are no operations. */
    return dev->vhost_ops && vhost_supports_device_state(dev);
}

bool vhost_user_stateful_needed(void *opaque)
{
    return true;
}

int vhost_user_stateful_check(void *opaque)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(opaque);

    if (!VHOST_USER_STATEFUL_GET_CLASS(vdev)->vhost(vdev)->vhost_ops) {
        error_report("%s device %s has no connection to its back-end",
                     object_get_typename(OBJECT(vdev)), name_of(vdev));
        return -ENOTCONN;
    }
    if (!has_state(vdev)) {
        error_report("The back-end of %s device %s cannot save or load its "
                     "state: it does not offer "
                     "VHOST_USER_PROTOCOL_F_DEVICE_STATE",
                     object_get_typename(OBJECT(vdev)), name_of(vdev));
        return -ENOTSUP;
    }
    return 0;
}

static int save_back_end(QEMUFile *file, void *opaque, size_t size,
                         const VMStateField *field, JSONWriter *vmdesc)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(opaque);
    struct vhost_dev *dev = VHOST_USER_STATEFUL_GET_CLASS(vdev)->vhost(vdev);
    Error *err = NULL;
    int ret = vhost_save_backend_state(dev, file, &err);

    if (ret < 0) {
        error_reportf_err(err, "Saving the state of %s device %s: ",
                          object_get_typename(OBJECT(vdev)), name_of(vdev));
    }
    return ret;
}

/* Who is told of a connection's events, and what was kept from it. */
typedef struct Deferred {
    IOEventHandler *handler;
    void *opaque;
    bool closed;
    bool opened;
} Deferred;

static void defer_event(void *opaque, QEMUChrEvent event)
{
    Deferred *deferred = opaque;

    if (event == CHR_EVENT_CLOSED) {
        deferred->closed = true;
        deferred->opened = false;
    } else if (event == CHR_EVENT_OPENED) {
        deferred->opened = true;
    }
}

/*
 * Loading waits for more of the state every now and then. A parent type that
 * hears meanwhile that its back-end has gone takes the operations away that
 * loading goes on to call.
 */
static void defer_events(CharEnd *chr, Deferred *deferred)
{
    *deferred = (Deferred) {
        .handler = chr->chr_event,
        .opaque = chr->opaque,
    };
    if (deferred->handler) {
        chr->chr_event = defer_event;
        chr->opaque = deferred;
    }
}

static void deliver_events(CharEnd *chr, const Deferred *deferred)
{
    if (!deferred->handler) {
        return;
    }
    chr->chr_event = deferred->handler;
    chr->opaque = deferred->opaque;
    if (deferred->closed) {
        deferred->handler(deferred->opaque, CHR_EVENT_CLOSED);
    }
    if (deferred->opened) {
        deferred->handler(deferred->opaque, CHR_EVENT_OPENED);
    }
}

static int load_back_end(QEMUFile *file, void *opaque, size_t size,
                         const VMStateField *field)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(opaque);
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_GET_CLASS(vdev);
    Deferred deferred;
    Error *err = NULL;
    int ret;

    defer_events(class->chardev(vdev), &deferred);
    ret = vhost_load_backend_state(class->vhost(vdev), file, &err);
    deliver_events(class->chardev(vdev), &deferred);
    if (ret < 0) {
        error_reportf_err(err, "Loading the state of %s device %s: ",
                          object_get_typename(OBJECT(vdev)), name_of(vdev));
    }
    return ret;
}

const VMStateInfo vmstate_info_back_end = {
    .name = "vhost-user back-end state",
    .get = load_back_end,
    .put = save_back_end,
};

static void stateful_realize(DeviceState *qdev, Error **errp)
{
    ERRP_GUARD();
    VirtIODevice *vdev = VIRTIO_DEVICE(qdev);
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_GET_CLASS(qdev);
    VhostUserStateful *state = class->state(vdev);

    if (VIRTIO_DEVICE_GET_CLASS(vdev)->get_vhost(vdev) != class->vhost(vdev)) {
        error_setg(errp, "%s was compiled with headers of another QEMU",
                   object_get_typename(OBJECT(vdev)));
        return;
    }
    class->parent_realize(qdev, errp);
    if (*errp || has_state(vdev)) {
        return;
    }
    /* Said at `migrate`, before the machine is stopped for it. */
    error_setg(&state->blocker, "Migration disabled: the back-end of %s device "
               "%s does not offer VHOST_USER_PROTOCOL_F_DEVICE_STATE",
               object_get_typename(OBJECT(vdev)), name_of(vdev));
    if (migrate_add_blocker(&state->blocker, errp) < 0 &&
        class->parent_unrealize) {
        class->parent_unrealize(qdev);
    }
}

static void stateful_unrealize(DeviceState *qdev)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_GET_CLASS(qdev);

    migrate_del_blocker(&class->state(VIRTIO_DEVICE(qdev))->blocker);
    if (class->parent_unrealize) {
        class->parent_unrealize(qdev);
    }
}

/* Before the rings start or stop. */
static void prepare(VirtIODevice *vdev, uint8_t status)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_GET_CLASS(vdev);
    VhostUserStateful *state = class->state(vdev);
    struct vhost_dev *dev = class->vhost(vdev);
    Error *err = NULL;
    int ret = 0;

    if (!vhost_dev_is_started(dev)) {
        if (dev->vhost_ops && virtio_device_should_start(vdev, status)) {
            ret = vhost_user_suspend_negotiate(dev, class->chardev(vdev), &err);
        }
    } else if (!vdev->vm_running && vhost_user_suspend_negotiated(dev)) {
        ret = vhost_user_suspend(dev, class->chardev(vdev), &err);
        state->suspended = ret == 0;
    }
    if (ret < 0) {
        /* The rings are stopped all the same, and a back-end is silent without rings. */
        warn_reportf_err(err, "%s device %s: ",
                         object_get_typename(OBJECT(vdev)), name_of(vdev));
    }
}

/* After the rings have started or stopped. */
static void conclude(VirtIODevice *vdev)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_GET_CLASS(vdev);
    VhostUserStateful *state = class->state(vdev);
    struct vhost_dev *dev = class->vhost(vdev);
    Error *err = NULL;

    if (!state->suspended || !vhost_dev_is_started(dev)) {
        return;
    }
    state->suspended = false;
    /* Not so on a new connection, which has never been suspended. */
    if (vhost_user_suspend_negotiated(dev) &&
        vhost_user_resume(dev, class->chardev(vdev), &err) < 0) {
        error_reportf_err(err, "%s device %s: ",
                          object_get_typename(OBJECT(vdev)), name_of(vdev));
    }
}

static SetStatusResult stateful_set_status(VirtIODevice *vdev, uint8_t status)
{
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_GET_CLASS(vdev);
    int ret;

    prepare(vdev, status);
    ret = SET_STATUS(class->parent_set_status, vdev, status);
    conclude(vdev);
    RETURN_SET_STATUS(ret);
}

void vhost_user_stateful_class_init(ObjectClass *klass)
{
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);
    VhostUserStatefulClass *class = VHOST_USER_STATEFUL_CLASS(klass);

    /* Inherited from the parent until now. */
    class->parent_realize = vdc->realize;
    class->parent_unrealize = vdc->unrealize;
    class->parent_set_status = vdc->set_status;
    vdc->realize = stateful_realize;
    vdc->unrealize = stateful_unrealize;
    vdc->set_status = stateful_set_status;
}

static const TypeInfo stateful_info = {
    .name = TYPE_VHOST_USER_STATEFUL,
    .parent = TYPE_INTERFACE,
    .class_size = sizeof(VhostUserStatefulClass),
};

void vhost_user_stateful_register(void)
{
    type_register_static(&stateful_info);
}
