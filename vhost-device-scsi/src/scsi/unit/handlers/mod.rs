//! What each command means. One function for each entry of the table; none of them does I/O.

#![expect(
    clippy::unnecessary_wraps,
    reason = "the table has one type for all of them"
)]

mod blocks;
mod inquiry;
mod mode;
mod provisioning;
mod reservations;
mod supported;
mod various;

pub(crate) use blocks::{
    compare_and_write, or_write, pre_fetch, read, synchronize_cache, verify, write,
    write_and_verify,
};
pub(crate) use inquiry::inquiry;
pub(crate) use mode::{mode_parameters, mode_select, mode_sense};
pub(crate) use provisioning::{lba_status, unmap, unmap_list, write_same, write_same_block};
pub(crate) use reservations::{
    persistent_in, persistent_out, persistent_parameters, release, reserve,
};
pub(crate) use supported::{supported_codes, supported_tasks};
pub(crate) use various::{
    log_sense, prevent_allow, read_capacity_10, read_capacity_16, read_defect_data, report_luns,
    request_sense, start_stop, test_unit_ready,
};
