/*
 * Registers the stateful device types in the QEMU into which this object is preloaded.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qapi-commands-control.h"
#include "qapi/qapi-types-control.h"
#include "qemu/module.h"

#include "layout.h"
#include "stateful.h"

/* What a QEMU calls itself: version, and package version in parentheses. */
static char *running_version(void)
{
    VersionInfo *info = qmp_query_version(NULL);
    char *version = g_strdup_printf(
        "%" PRId64 ".%" PRId64 ".%" PRId64 "%s%s%s", info->qemu->major,
        info->qemu->minor, info->qemu->micro, *info->package ? " (" : "",
        info->package, *info->package ? ")" : "");

    qapi_free_VersionInfo(info);
    return version;
}

/* QEMU is not ready for error_report() and exit() yet. */
static G_NORETURN void refuse(const char *how, const char *what)
{
    fprintf(stderr, "vhost-user-stateful was built for QEMU %s, %s %s\n",
            BUILT_FOR, how, what);
    _exit(EXIT_FAILURE);
}

/* Structs of QEMU are part of ours; those of another build may have another layout. */
static void require_version(void)
{
    g_autofree char *version = running_version();

    if (strcmp(version, BUILT_FOR) != 0) {
        refuse("and this is", version);
    }
}

static void register_types(void)
{
    require_version();
    vhost_user_stateful_register();
    vhost_user_scsi_stateful_register();
    vhost_user_fs_stateful_register();
}

type_init(register_types)

/*
 * Runs right after type_init(), during which no module of QEMU can be loaded: that would add to the
 * list of functions that is being worked through.
 */
static void register_types_of_modules(void)
{
    const char *mismatch;

    vhost_user_gpu_stateful_register();
    mismatch = vhost_user_stateful_layout_mismatch();
    if (mismatch) {
        refuse("and the layout differs of", mismatch);
    }
}

migration_init(register_types_of_modules)
