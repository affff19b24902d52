/*
 * Identifiers that must not be used in code that serves every target: none of ours depends on one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
