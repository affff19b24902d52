/*
 * What differs between the versions of QEMU that this is built for, and nothing else.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VHOST_USER_STATEFUL_COMPAT_H
#define VHOST_USER_STATEFUL_COMPAT_H

#define QEMU_AT_LEAST(major, minor) \
    (QEMU_VERSION_MAJOR > (major) || \
     (QEMU_VERSION_MAJOR == (major) && QEMU_VERSION_MINOR >= (minor)))

#if QEMU_AT_LEAST(11, 0)
#include "hw/core/qdev-properties.h"
#else
#include "hw/qdev-properties.h"
#endif

/* The second argument of a class_init. */
#if QEMU_AT_LEAST(10, 1)
typedef const void ClassData;
#else
typedef void ClassData;
#endif

/* QEMU's end of a character device. */
#if QEMU_AT_LEAST(10, 2)
typedef CharFrontend CharEnd;
#else
typedef CharBackend CharEnd;
#endif

/* VirtioDeviceClass.set_status: since 10.1 a device can fail to stop. */
#if QEMU_AT_LEAST(10, 1)
typedef int SetStatusResult;
#define SET_STATUS(function, vdev, status) ((function)((vdev), (status)))
#else
typedef void SetStatusResult;
#define SET_STATUS(function, vdev, status) ((function)((vdev), (status)), 0)
#endif
#if QEMU_AT_LEAST(10, 1)
#define RETURN_SET_STATUS(result) return (result)
#else
#define RETURN_SET_STATUS(result) ((void)(result))
#endif

#endif
