/*
 * SUSPEND and RESUME, a provisional extension of vhost-user.
 *
 * QEMU's own vhost-user code knows nothing of it: the messages are written to the character device
 * between two of its own, from the main loop's thread, under the big lock, as all of those are.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/virtio/vhost-user.h"

#include "suspend.h"

/* Provisional numbers, defined in common/src/protocol/messages.rs; the rest is vhost-user.rst's. */
enum {
    PROTOCOL_F_SUSPEND = 56,

    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    SUSPEND = 0x10000001,
    RESUME = 0x10000002,

    FLAG_VERSION = 0x1,
    FLAG_REPLY = 0x4,
    FLAG_NEED_REPLY = 0x8,
};

typedef struct QEMU_PACKED Header {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
} Header;

typedef struct QEMU_PACKED Message {
    Header header;
    uint64_t value;
} Message;

/* A message without a payload, or with one number. */
static int send_message(CharEnd *chr, uint32_t request, uint32_t flags,
                        const uint64_t *value, Error **errp)
{
    Message message = {
        .header.request = request,
        .header.flags = FLAG_VERSION | flags,
        .header.size = value ? sizeof(*value) : 0,
        .value = value ? *value : 0,
    };
    int size = sizeof(message.header) + message.header.size;
    int written = qemu_chr_fe_write_all(chr, (const uint8_t *)&message, size);

    if (written != size) {
        error_setg(errp, "vhost-user request 0x%x cannot be sent", request);
        return -EIO;
    }
    return 0;
}

/* The answer to a request; every answer here is one number. */
static int receive_reply(CharEnd *chr, uint32_t request, uint64_t *value,
                         Error **errp)
{
    Message message;
    int size = sizeof(message.header);

    if (qemu_chr_fe_read_all(chr, (uint8_t *)&message.header, size) != size) {
        error_setg(errp, "no reply to vhost-user request 0x%x", request);
        return -EIO;
    }
    if (message.header.request != request ||
        !(message.header.flags & FLAG_REPLY) ||
        message.header.size != sizeof(message.value)) {
        error_setg(errp, "vhost-user request 0x%x, flags 0x%x, %u bytes where "
                   "a reply to 0x%x was expected", message.header.request,
                   message.header.flags, message.header.size, request);
        return -EPROTO;
    }
    size = sizeof(message.value);
    if (qemu_chr_fe_read_all(chr, (uint8_t *)&message.value, size) != size) {
        error_setg(errp, "the reply to vhost-user request 0x%x ends early",
                   request);
        return -EIO;
    }
    *value = message.value;
    return 0;
}

bool vhost_user_suspend_negotiated(const struct vhost_dev *dev)
{
    return virtio_has_feature(dev->protocol_features, PROTOCOL_F_SUSPEND);
}

int vhost_user_suspend_negotiate(struct vhost_dev *dev, CharEnd *chr,
                                 Error **errp)
{
    uint64_t offered, features;
    int ret;

    /*
     * Without acknowledgements, nobody would know when the device is silent.
     * They are a protocol feature, so there are such features to ask for.
     */
    if (vhost_user_suspend_negotiated(dev) ||
        !virtio_has_feature(dev->protocol_features,
                            VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
        return 0;
    }
    ret = send_message(chr, GET_PROTOCOL_FEATURES, 0, NULL, errp);
    if (ret == 0) {
        ret = receive_reply(chr, GET_PROTOCOL_FEATURES, &offered, errp);
    }
    if (ret < 0 || !virtio_has_feature(offered, PROTOCOL_F_SUSPEND)) {
        return ret;
    }
    /* With it, QEMU would set the status to 0 at every stop, and that is a reset. */
    features = dev->protocol_features & ~(1ULL << VHOST_USER_PROTOCOL_F_STATUS);
    features |= 1ULL << PROTOCOL_F_SUSPEND;
    ret = send_message(chr, SET_PROTOCOL_FEATURES, 0, &features, errp);
    if (ret == 0) {
        /* vhost_dev_init() sets it anew: it is valid for this connection only. */
        dev->protocol_features = features;
    }
    return ret;
}

static int suspend_or_resume(CharEnd *chr, uint32_t request, const char *name,
                             Error **errp)
{
    uint64_t refused;
    int ret;

    ret = send_message(chr, request, FLAG_NEED_REPLY, NULL, errp);
    if (ret == 0) {
        ret = receive_reply(chr, request, &refused, errp);
    }
    if (ret == 0 && refused) {
        error_setg(errp, "the back-end refuses to %s", name);
        ret = -EBUSY;
    }
    return ret;
}

int vhost_user_suspend(struct vhost_dev *dev, CharEnd *chr, Error **errp)
{
    assert(vhost_user_suspend_negotiated(dev));
    return suspend_or_resume(chr, SUSPEND, "suspend", errp);
}

int vhost_user_resume(struct vhost_dev *dev, CharEnd *chr, Error **errp)
{
    assert(vhost_user_suspend_negotiated(dev));
    return suspend_or_resume(chr, RESUME, "resume", errp);
}
