/*
 * SUSPEND and RESUME, a provisional extension of vhost-user.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VHOST_USER_SUSPEND_H
#define VHOST_USER_SUSPEND_H

#include "chardev/char-fe.h"
#include "hw/virtio/vhost.h"

#include "compat.h"

/*
 * Agrees on the extension, if the back-end offers it and that has not been done on this connection.
 */
int vhost_user_suspend_negotiate(struct vhost_dev *dev, CharEnd *chr,
                                 Error **errp);

/* Whether the extension was agreed on. */
bool vhost_user_suspend_negotiated(const struct vhost_dev *dev);

/*
 * The whole device becomes silent, not only its rings. Waits until it is; on an error it goes on.
 */
int vhost_user_suspend(struct vhost_dev *dev, CharEnd *chr, Error **errp);

/* The device goes on with the rings that are started by now. */
int vhost_user_resume(struct vhost_dev *dev, CharEnd *chr, Error **errp);

#endif
