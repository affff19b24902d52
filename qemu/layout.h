/*
 * Are the structs of QEMU that are part of ours laid out as the headers say?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VHOST_USER_STATEFUL_LAYOUT_H
#define VHOST_USER_STATEFUL_LAYOUT_H

/* The first type that is not, or NULL. Loads what modules the types are in. */
const char *vhost_user_stateful_layout_mismatch(void);

#endif
