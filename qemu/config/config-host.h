/*
 * What QEMU's headers ask about the host. QEMU's own build generates a file of this name from its
 * whole configuration; no more than this of it reaches the headers that are included here, and
 * layout.c finds out whether it has become more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define CONFIG_ATOMIC64 1
#define CONFIG_INT128 1
#define CONFIG_INT128_TYPE 1
#define CONFIG_IOVEC 1
#define CONFIG_LINUX 1
#define CONFIG_PIXMAN 1
#define CONFIG_POSIX 1
#define CONFIG_SYSMACROS 1
#define CONFIG_VHOST 1
#define CONFIG_VHOST_USER 1
#define HOST_X86_64 1
