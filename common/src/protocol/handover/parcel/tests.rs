//! Records that come back, and records that were damaged on the way.

use std::os::fd::AsFd as _;

use super::*;
use crate::protocol::messages::{
    DEVICE_STATE_NO_FILE, DEVICE_STATE_REFUSED, MemoryRegion, RingState, encode_u64, feature,
    protocol_feature,
};

/// A session with a ring that is started, and one that was stopped, over more memory than fits into one table.
fn record() -> Record {
    let mut record = Record::new();
    let message = |request, body| Message::new(request, body);
    record.note(message(
        Request::SET_PROTOCOL_FEATURES,
        encode_u64(protocol_feature::SUSPEND),
    ));
    record.note(message(Request::SET_OWNER, Vec::new()));
    record.note(message(
        Request::SET_FEATURES,
        encode_u64(feature::LOG_ALL | feature::VERSION_1),
    ));
    for guest_address in 0..10 {
        let region = MemoryRegion {
            guest_address,
            size: 1,
            user_address: 2,
            file_offset: 3,
        };
        let mut added = message(Request::ADD_MEM_REG, region.encode_single());
        added.files.push(file());
        record.note(added);
    }
    for ring in 0..2 {
        for request in [Request::SET_VRING_NUM, Request::SET_VRING_BASE] {
            let state = RingState {
                index: ring,
                value: 7,
            };
            record.note(message(request, state.encode()));
        }
        let mut kick = message(Request::SET_VRING_KICK, encode_u64(u64::from(ring)));
        kick.files.push(file());
        record.note(kick);
    }
    let stop = RingState { index: 1, value: 0 };
    record.note(message(Request::GET_VRING_BASE, stop.encode()));
    record
}

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn parcel() -> Parcel {
    let record = record();
    let (front_end, _other) = UnixStream::pair().unwrap();
    let state = file();
    let (bytes, files) = pack(DeviceKind::Null, &record, front_end.as_fd(), state.as_fd()).unwrap();
    Parcel {
        record: bytes,
        files: files
            .iter()
            .map(|file| file.try_clone_to_owned().unwrap())
            .collect(),
    }
}

#[test]
fn what_lasts_is_said_again_in_an_order_that_a_new_daemon_understands() {
    let found = parcel().unpack(DeviceKind::Null).unwrap();
    let said: Vec<_> = found
        .messages
        .iter()
        .map(|message| (message.request, message.files.len()))
        .collect();
    assert_eq!(
        said,
        [
            (Request::SET_PROTOCOL_FEATURES, 0),
            (Request::SET_OWNER, 0),
            (Request::SET_FEATURES, 0),
            (Request::SET_MEM_TABLE, 8),
            (Request::ADD_MEM_REG, 1),
            (Request::ADD_MEM_REG, 1),
            (Request::SET_FEATURES, 0),
            (Request::SET_VRING_NUM, 0),
            (Request::SET_VRING_BASE, 0),
            (Request::SET_VRING_KICK, 1),
            (Request::SET_VRING_NUM, 0),
        ]
    );
    let features: Vec<_> = [2, 6].map(|at: usize| found.messages[at].value()).into();
    let all = feature::LOG_ALL | feature::VERSION_1;
    assert_eq!(features, [Some(feature::VERSION_1), Some(all)]);
    assert_eq!(record().started(), [0]);
}

#[test]
fn a_transfer_begins_when_it_is_accepted_and_is_over_when_it_was_checked_or_when_a_ring_starts() {
    let mut record = record();
    let begin = |record: &mut Record, answer| {
        record.note(Message::new(Request::SET_DEVICE_STATE_FD, vec![0; 8]));
        record.note_reply(&Message::reply(Request::SET_DEVICE_STATE_FD, answer));
    };
    let ends: [fn(&mut Record); 2] = [
        |record| record.note_reply(&Message::reply(Request::CHECK_DEVICE_STATE, 1)),
        |record| record.note(Message::new(Request::SET_VRING_KICK, encode_u64(0))),
    ];
    for end in ends {
        begin(&mut record, DEVICE_STATE_REFUSED);
        assert!(!record.is_transferring());
        begin(&mut record, DEVICE_STATE_NO_FILE);
        assert!(record.is_transferring());
        begin(&mut record, DEVICE_STATE_REFUSED);
        assert!(record.is_transferring(), "the one before goes on");
        end(&mut record);
        assert!(!record.is_transferring());
    }
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let whole = parcel();
    let refused = |record: Vec<u8>| {
        let files = whole.files.iter().map(|file| file.try_clone().unwrap());
        let files = files.collect();
        let result = Parcel { record, files }.unpack(DeviceKind::Null);
        assert!(result.is_err());
    };
    for length in 0..whole.record.len() {
        refused(whole.record[..length].to_vec());
    }
    for bit in 0..whole.record.len() * 8 {
        let mut bytes = whole.record.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refused(bytes);
    }
}

#[test]
fn a_record_of_something_else_is_refused() {
    let error = parcel().unpack(DeviceKind::Fs).unwrap_err();
    assert!(matches!(error, HandoverError::Device { .. }), "{error}");

    let mut short = parcel();
    short.files.pop();
    let error = short.unpack(DeviceKind::Null).unwrap_err();
    assert!(matches!(error, HandoverError::Files { .. }), "{error}");

    let mut no_connection = parcel();
    no_connection.files[0] = file();
    let error = no_connection.unpack(DeviceKind::Null).unwrap_err();
    assert!(matches!(error, HandoverError::NoConnection), "{error}");

    let forged = ConnectionV1 {
        device: DeviceKind::Null.as_u16(),
        suspended: false,
        messages: vec![MessageV1 {
            request: Request::GET_FEATURES.0,
            body: Vec::new(),
            files: 0,
        }],
    };
    let mut record = Vec::new();
    write_state(&forged, 1, &mut record).unwrap();
    let mut files = parcel().files;
    files.truncate(LEADING);
    let error = Parcel { record, files }
        .unpack(DeviceKind::Null)
        .unwrap_err();
    assert!(matches!(error, HandoverError::Message { .. }), "{error}");
}

/// Messages that the stock daemon refuses are noted, too, and a front-end may go on after a refusal.
#[test]
fn a_front_end_cannot_make_a_record_grow_for_ever() {
    let region = |guest_address| MemoryRegion {
        guest_address,
        size: 1,
        user_address: 2,
        file_offset: 3,
    };
    let add = |record: &mut Record, address| {
        let mut added = Message::new(Request::ADD_MEM_REG, region(address).encode_single());
        added.files.push(file());
        record.note(added);
    };
    let remove = |record: &mut Record, address| {
        let body = region(address).encode_single();
        record.note(Message::new(Request::REM_MEM_REG, body));
    };
    let refused = |record: &Record| {
        let (front_end, _other) = UnixStream::pair().unwrap();
        pack(DeviceKind::Null, record, front_end.as_fd(), file().as_fd()).is_err()
    };
    let mut record = Record::new();
    for address in 0..400 {
        add(&mut record, address);
    }
    assert!(record.messages().len() <= PARCEL_FILES_MAX && refused(&record));
    // One of those that were not noted may still be there.
    (0..400).for_each(|address| remove(&mut record, address));
    assert!(refused(&record));
    record.note(Message::new(
        Request::SET_MEM_TABLE,
        MemoryRegion::encode_table(&[]),
    ));
    add(&mut record, 1);
    assert!(!refused(&record));

    for index in 0..1_000 {
        let state = RingState { index, value: 1 };
        record.note(Message::new(Request::SET_VRING_NUM, state.encode()));
    }
    assert_eq!(record.ring_messages().count(), 256);
}
