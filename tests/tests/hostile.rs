//! Front-ends that are broken or malicious: their connection ends, and nothing else.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Result, ensure};
use common::frontend::FrontendError;
use common::protocol::messages::{
    DirtyLog, Header, MemoryRegion, Request, RingAddress, RingState, encode_u64, feature, flag,
    protocol_feature,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tests::in_process::{Host, Machine, WANTED};
use tests::null_device::NullDevice;

fn bytes(request: Request, body: &[u8]) -> Vec<u8> {
    let header = Header {
        request,
        flags: flag::VERSION | flag::NEED_REPLY,
        size: u32::try_from(body.len()).unwrap_or(u32::MAX),
    };
    [header.encode().as_slice(), body].concat()
}

/// Sends `bytes`; the connection must have ended before the answer to a question that follows.
fn ends_the_connection(
    host: &Host<NullDevice>,
    name: &str,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> Result<()> {
    let mut machine = host.machine()?;
    machine.start()?;
    machine.frontend().send_raw(bytes, files)?;
    // A refusal may be answered first.
    let gone = (0..3).any(|_| {
        matches!(
            machine.frontend().features(),
            Err(FrontendError::Closed { .. } | FrontendError::Connection { .. })
        )
    });
    ensure!(gone, "{name}: the connection goes on");
    let _how = machine.leave()?;
    still_works(host)
}

fn still_works(host: &Host<NullDevice>) -> Result<()> {
    let mut machine = host.machine()?;
    machine.start()?;
    machine.call(0, &0_u64.to_le_bytes(), 8)?;
    machine.leave()??;
    Ok(())
}

fn memfd(len: u64) -> Result<OwnedFd> {
    memfd_called("hostile", len)
}

fn memfd_called(name: &str, len: u64) -> Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
    ftruncate(&file, len)?;
    Ok(file)
}

#[test]
fn messages_of_the_wrong_form_end_the_connection() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let eight = [0; 8];
    let state = RingState {
        index: 99,
        value: 0,
    }
    .encode();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unknown request", bytes(Request(0x99), &[])),
        ("request 0", bytes(Request(0), &[])),
        ("the greatest request", bytes(Request(u32::MAX), &eight)),
        ("not offered: status", bytes(Request::GET_STATUS, &[])),
        (
            "a body too short",
            bytes(Request::SET_FEATURES, &eight[..7]),
        ),
        ("a body too long", bytes(Request::SET_VRING_NUM, &[0; 9])),
        ("a body where none is", bytes(Request::SUSPEND, &[1])),
        (
            "features not offered",
            bytes(Request::SET_FEATURES, &encode_u64(u64::MAX)),
        ),
        ("no such ring", bytes(Request::GET_VRING_BASE, &state)),
        ("no such ring", bytes(Request::SET_VRING_ENABLE, &state)),
        (
            "a ring of no descriptors",
            bytes(
                Request::SET_VRING_NUM,
                &RingState { index: 0, value: 0 }.encode(),
            ),
        ),
        (
            "a ring too large",
            bytes(
                Request::SET_VRING_NUM,
                &RingState {
                    index: 0,
                    value: 257,
                }
                .encode(),
            ),
        ),
        (
            "a table without files",
            bytes(Request::SET_MEM_TABLE, &[1, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("a huge table", bytes(Request::SET_MEM_TABLE, &[0xff; 264])),
        (
            "a kick without a file",
            bytes(Request::SET_VRING_KICK, &encode_u64(0)),
        ),
        (
            "a transfer without a file",
            bytes(Request::SET_DEVICE_STATE_FD, &eight),
        ),
        (
            "no version",
            [&[1, 0, 0, 0, 0, 0, 0, 0], [0; 4].as_slice()].concat(),
        ),
        (
            "a size out of bounds",
            [&[1, 0, 0, 0, 1, 0, 0, 0], [0xff; 4].as_slice()].concat(),
        ),
    ];
    for (name, bytes) in cases {
        ends_the_connection(&host, name, &bytes, &[])?;
    }
    Ok(())
}

#[test]
fn half_a_message_ends_the_connection() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let whole = bytes(Request::SET_FEATURES, &[0; 8]);
    for len in 1..whole.len() {
        let mut machine = host.machine()?;
        machine.frontend().send_raw(&whole[..len], &[])?;
        let _how = machine.leave()?;
    }
    still_works(&host)
}

#[test]
fn files_where_none_belong_and_too_many_files_do_no_harm() -> Result<()> {
    const NAME: &str = "where none belongs";
    let host = Host::new(NullDevice::default());
    let file = memfd_called(NAME, 0)?;
    let files = [file.as_fd(); 32];
    for request in [Request::GET_FEATURES, Request::SET_OWNER, Request::SUSPEND] {
        let mut machine = host.machine()?;
        machine.frontend().send_raw(&bytes(request, &[]), &files)?;
        let _how = machine.leave()?;
    }
    still_works(&host)?;
    assert_eq!(open_files(NAME)?, 1, "files stayed open");
    Ok(())
}

/// The process of this test serves all of them, so none may leave anything open: but other tests run beside this one, so only
/// files of one name count.
fn open_files(name: &str) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let target = std::fs::read_link(entry?.path());
        count += usize::from(target.is_ok_and(|target| target.to_string_lossy().contains(name)));
    }
    Ok(count)
}

fn region(size: u64, file_offset: u64) -> MemoryRegion {
    MemoryRegion {
        guest_address: 1 << 41,
        size,
        user_address: 1 << 41,
        file_offset,
    }
}

#[test]
fn memory_that_is_not_there_ends_the_connection_and_not_the_process() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let file = memfd(0x1000)?;
    for (name, layout) in [
        ("longer than its file", region(0x2000, 0)),
        ("behind its file", region(0x1000, 0x1000)),
        ("of no bytes", region(0, 0)),
        ("of all bytes", region(u64::MAX, 0)),
        ("over all addresses", region(0x1000, u64::MAX)),
    ] {
        let body = layout.encode_single();
        let message = bytes(Request::ADD_MEM_REG, &body);
        ends_the_connection(&host, name, &message, &[file.as_fd()])?;
        let message = bytes(
            Request::SET_MEM_TABLE,
            &MemoryRegion::encode_table(&[layout]),
        );
        ends_the_connection(&host, name, &message, &[file.as_fd()])?;
    }
    let twice = MemoryRegion::encode_table(&[region(0x1000, 0); 2]);
    let files = [file.as_fd(), file.as_fd()];
    ends_the_connection(
        &host,
        "twice",
        &bytes(Request::SET_MEM_TABLE, &twice),
        &files,
    )
}

#[test]
fn a_dirty_log_that_is_too_small_or_not_there_ends_the_connection() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let file = memfd(0x1000)?;
    for (name, size, file_offset) in [
        ("longer than its file", 0x2000, 0),
        ("too small for memory", 1, 0),
        ("of no bytes", 0, 0),
        ("at an odd place", 0x10, 0x10),
    ] {
        let log = DirtyLog { size, file_offset };
        let message = bytes(Request::SET_LOG_BASE, &log.encode());
        ends_the_connection(&host, name, &message, &[file.as_fd()])?;
    }
    Ok(())
}

#[test]
fn rings_before_memory_and_kicks_before_rings_do_no_harm() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let mut connection = host.connect()?;
    let frontend = &mut connection.frontend;
    frontend.negotiate(WANTED)?;
    let kick = eventfd(1, EventfdFlags::CLOEXEC)?;
    let features = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
    frontend.set_features(features)?;
    frontend.set_ring_kick(0, &kick)?;
    frontend.set_ring_enabled(0, true)?;
    frontend.suspend()?;
    frontend.resume()?;
    frontend.stop_ring(0)?;
    let address = RingAddress {
        index: 0,
        flags: 0,
        descriptors: 0x1000,
        used: 0x2000,
        available: 0x3000,
        log: 0,
    };
    assert!(
        frontend.set_ring_address(address).is_err(),
        "no memory table"
    );
    let _how = connection.leave()?;
    still_works(&host)
}

#[test]
fn memory_that_goes_away_under_a_running_ring_does_no_harm() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let mut machine = host.machine()?;
    machine.start()?;
    machine.call(0, &0_u64.to_le_bytes(), 8)?;
    let layouts: Vec<_> = machine
        .memory
        .regions()
        .iter()
        .map(|region| region.layout)
        .collect();
    for layout in &layouts {
        machine.frontend().remove_memory(*layout)?;
    }
    machine.submit(0, &0_u64.to_le_bytes(), 8)?;
    machine.frontend().suspend()?;
    machine.frontend().resume()?;
    machine.leave()??;
    still_works(&host)
}

#[test]
fn suspend_without_the_feature_ends_the_connection() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let mut connection = host.connect()?;
    connection
        .frontend
        .negotiate(WANTED & !protocol_feature::SUSPEND)?;
    connection
        .frontend
        .send_raw(&bytes(Request::SUSPEND, &[]), &[])?;
    assert!(connection.frontend.features().is_err());
    let _how = connection.leave()?;
    still_works(&host)
}

#[test]
fn random_bytes_never_end_the_process() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let file = memfd(0x1000)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let mut machine: Machine = host.machine()?;
        if random() % 2 == 0 {
            machine.start()?;
        }
        for _ in 0..3 {
            let id = u32::try_from(random() % 46)?;
            let len = usize::try_from(random() % 48)?;
            let body: Vec<u8> = (0..len)
                .map(|_| {
                    if random() % 3 == 0 {
                        random().to_le_bytes()[0]
                    } else {
                        0
                    }
                })
                .collect();
            let files = vec![file.as_fd(); usize::try_from(random() % 3)?];
            if machine
                .frontend()
                .send_raw(&bytes(Request(id), &body), &files)
                .is_err()
            {
                break;
            }
        }
        let _how = machine.leave()?;
    }
    still_works(&host)
}
