//! Real files.

use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;

fn image(bytes: usize) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&vec![7; bytes]).unwrap();
    file
}

fn config(file: &NamedTempFile) -> UnitConfig {
    UnitConfig::new(file.path(), 0)
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let file = image(1000);
    assert!(matches!(
        Backing::open(&config(&file)),
        Err(BackingError::Size { size: 1000, .. })
    ));
    let empty = image(0);
    assert!(matches!(
        Backing::open(&config(&empty)),
        Err(BackingError::Size { size: 0, .. })
    ));
    assert!(matches!(
        Backing::open(&UnitConfig::new("/dev/null", 0)),
        Err(BackingError::Kind)
    ));
    assert!(matches!(
        Backing::open(&UnitConfig::new("/nonexistent", 0)),
        Err(BackingError::Open(_))
    ));
    let blocks = image(4096 + 512);
    let large = UnitConfig {
        block_size: 4096,
        ..config(&blocks)
    };
    assert!(matches!(
        Backing::open(&large),
        Err(BackingError::Size { .. })
    ));
}

#[test]
fn a_writer_is_alone_and_readers_are_not() {
    let file = image(4096);
    let writer = Backing::open(&config(&file)).unwrap();
    let other = Backing::open(&config(&file)).unwrap();
    let readonly = UnitConfig {
        readonly: true,
        ..config(&file)
    };
    let [reader, another] = [(); 2].map(|()| Backing::open(&readonly).unwrap());
    writer.lock().unwrap();
    writer.lock().unwrap();
    assert!(matches!(other.lock(), Err(BackingError::Locked)));
    assert!(matches!(reader.lock(), Err(BackingError::Locked)));
    writer.unlock();
    reader.lock().unwrap();
    another.lock().unwrap();
    assert!(matches!(writer.lock(), Err(BackingError::Locked)));
    drop((reader, another));
    writer.lock().unwrap();
}

/// The bytes that QEMU takes for a disk of a guest: permissions read and write, and no other writers.
#[test]
fn a_qemu_is_noticed() {
    let file = image(4096);
    let qemu = File::open(file.path()).unwrap();
    assert!(lock::acquire(qemu.as_fd(), true).unwrap());
    let ours = Backing::open(&config(&file)).unwrap();
    assert!(matches!(ours.lock(), Err(BackingError::Locked)));
    lock::release(qemu.as_fd()).unwrap();
    ours.lock().unwrap();
}

#[test]
fn holes_are_zeros_and_are_found() {
    let file = image(1 << 20);
    let backing = Backing::open(&config(&file)).unwrap();
    let hole = Extent {
        at: 64 << 10,
        len: 128 << 10,
    };
    assert!(backing.zero(hole, true).unwrap());
    assert_eq!(backing.next(0, false).unwrap(), Some(64 << 10));
    assert_eq!(backing.next(64 << 10, true).unwrap(), Some(192 << 10));
    assert_eq!(backing.size().unwrap(), 1 << 20);
    let bytes = std::fs::read(file.path()).unwrap();
    assert!(bytes[64 << 10..192 << 10].iter().all(|byte| *byte == 0));
    assert_eq!((bytes[(64 << 10) - 1], bytes[192 << 10]), (7, 7));
}

/// The kernel tells of pages that it could not write once, and forgets them.
#[test]
fn after_data_was_lost_no_sync_succeeds() {
    let file = image(4096);
    let backing = Backing::open(&config(&file)).unwrap();
    backing.note_written();
    backing.note_lost(libc::EINTR);
    backing.sync().unwrap();
    backing.note_lost(libc::EIO);
    backing.sync().unwrap(); // nothing was written since
    backing.note_written();
    for _ in 0..2 {
        let failed = |result| matches!(result, Err(BackingError::Sync(_)));
        assert!(failed(backing.sync()));
        assert!(failed(backing.sync_now()));
        assert!(backing.is_dirty());
    }
}
