//! Bytes of commands and answers.

use common::request::Request;

use super::*;

/// A command of these words, and room for an answer.
fn request(words: &[u32], room: usize) -> Request {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // Cut at an odd place: a guest may.
    let (head, tail) = bytes.split_at(bytes.len().min(13));
    Request::in_memory(&[head, tail], &[room])
}

const RECT: Rect = Rect {
    x: 1,
    y: 2,
    width: 3,
    height: 4,
};

/// A number, the words behind the header, and what they mean.
type Case = (u32, Vec<u32>, Command);

fn entries() -> Vec<BackingEntry> {
    vec![BackingEntry {
        address: 0x2_0000_0001,
        len: 3,
    }]
}

fn of_images() -> Vec<Case> {
    vec![
        (0x100, vec![], Command::GetDisplayInfo),
        (
            0x101,
            vec![1, 2, 3, 4],
            Command::Create2d {
                resource: 1,
                format: 2,
                width: 3,
                height: 4,
            },
        ),
        (0x102, vec![1, 0], Command::Unref { resource: 1 }),
        (
            0x103,
            vec![1, 2, 3, 4, 5, 6],
            Command::SetScanout {
                scanout: 5,
                resource: 6,
                rect: RECT,
            },
        ),
        (
            0x104,
            vec![1, 2, 3, 4, 5, 0],
            Command::Flush {
                resource: 5,
                rect: RECT,
            },
        ),
        (
            0x105,
            vec![1, 2, 3, 4, 5, 6, 7, 0],
            Command::TransferToHost {
                resource: 7,
                rect: RECT,
                offset: 0x6_0000_0005,
            },
        ),
        (
            0x106,
            vec![1, 1, 1, 2, 3, 0],
            Command::AttachBacking {
                resource: 1,
                entries: entries(),
            },
        ),
        (0x107, vec![1, 0], Command::DetachBacking { resource: 1 }),
    ]
}

fn of_others() -> Vec<Case> {
    let layout = Layout {
        format: 9,
        width: 7,
        height: 8,
        stride: 10,
        offset: 14,
    };
    vec![
        (0x10a, vec![1, 0], Command::GetEdid { scanout: 1 }),
        (0x10b, vec![1, 0], Command::AssignUuid { resource: 1 }),
        (
            0x10c,
            vec![1, 2, 3, 1, 4, 5, 6, 7, 1, 2, 3, 0],
            Command::CreateBlob {
                resource: 1,
                memory: 2,
                flags: 3,
                blob: 0x5_0000_0004,
                size: 0x7_0000_0006,
                entries: entries(),
            },
        ),
        (
            0x10d,
            vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 10, 11, 12, 13, 14, 15, 16, 17],
            Command::SetScanoutBlob {
                scanout: 5,
                resource: 6,
                rect: RECT,
                layout,
            },
        ),
        (
            0x300,
            vec![1, 2, 3, 0, 4, 5, 6, 0],
            Command::UpdateCursor {
                scanout: 1,
                position: (2, 3),
                resource: 4,
                hot: (5, 6),
            },
        ),
        (
            0x301,
            vec![1, 2, 3, 0, 4, 0, 0, 0],
            Command::MoveCursor {
                scanout: 1,
                position: (2, 3),
                resource: 4,
            },
        ),
    ]
}

#[test]
fn every_command_is_read_and_none_is_read_half() {
    for (kind, words, expected) in [of_images(), of_others()].concat() {
        let all = [&[kind, 1, 2, 3, 4, 5][..], &words].concat();
        let (header, command) = parse(request(&all, 0).reader());
        assert_eq!(command, Ok(expected));
        let expected = Header {
            kind,
            flags: 1,
            fence: 0x3_0000_0002,
            context: 4,
            timeline: 5,
        };
        assert_eq!(header, expected);
        for len in 6..all.len() {
            let (header, command) = parse(request(&all[..len], 0).reader());
            assert_eq!(command, Err(Refusal::InvalidParameter), "{kind:#x}: {len}");
            assert_eq!(header, expected);
        }
    }
    for len in 0..6 {
        let parsed = parse(request(&[0x100; 6][..len], 0).reader());
        assert_eq!(parsed, (Header::default(), Err(Refusal::InvalidParameter)));
    }
}

#[test]
fn what_is_not_there_is_refused_and_so_are_too_many_entries() {
    for kind in [0, 0x108, 0x109, 0x10e, 0x200, 0x207, 0x302, u32::MAX] {
        let (_, command) = parse(request(&[kind, 0, 0, 0, 0, 0, 0, 0], 0).reader());
        assert_eq!(command, Err(Refusal::Unspecified), "{kind:#x}");
    }
    for (said, there, sound) in [
        (16384, 16384, true),
        (16385, 16385, false),
        (u32::MAX, 16385, false),
        (2, 1, false),
    ] {
        let mut all = vec![0x106, 0, 0, 0, 0, 0, 1, said];
        all.resize(8 + there * 4, 7);
        let (_, command) = parse(request(&all, 0).reader());
        let expected = if sound {
            Ok(there)
        } else {
            Err(Refusal::InvalidParameter)
        };
        let count = command.map(|command| {
            let Command::AttachBacking { entries, .. } = command else {
                unreachable!("another command");
            };
            entries.len()
        });
        assert_eq!(count, expected, "{said} said, {there} there");
    }
}

fn answered(flags: u32, result: &Result<Answer, Refusal>, room: usize) -> Vec<u8> {
    let request = request(&[], room);
    let header = Header {
        kind: 0x100,
        flags,
        fence: 0x1_0000_0002,
        context: 3,
        timeline: 4,
    };
    let written = write(&header, result, &mut request.writer());
    request.written(written as usize)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let four = bytes.as_chunks().0.iter();
    four.map(|four| u32::from_le_bytes(*four)).collect()
}

#[test]
fn answers_have_their_numbers_and_repeat_fences() {
    let done = Ok(Answer::Done);
    let with_fence = words(&answered(1, &done, 24));
    assert_eq!(with_fence, [0x1100, 1, 2, 1, 3, 4]);
    let with_timeline = words(&answered(0xff, &done, 1000));
    assert_eq!(with_timeline, [0x1100, 3, 2, 1, 3, 4]);
    let without = words(&answered(2, &done, 24));
    assert_eq!(without, [0x1100, 0, 0, 0, 0, 0]);

    let uuid = answered(0, &Ok(Answer::Uuid([9; 16])), 40);
    assert_eq!((words(&uuid)[0], &uuid[24..]), (0x1105, &[9; 16][..]));
    let edid = answered(0, &Ok(Answer::Edid(vec![1, 2, 3])), 1056);
    assert_eq!(edid.len(), 1056);
    assert_eq!((words(&edid)[0], words(&edid)[6]), (0x1104, 3));
    assert_eq!(edid[32..36], [1, 2, 3, 0]);
    let mut info = DisplayInfo::default();
    info[1] = Mode {
        rect: RECT,
        enabled: true,
        flags: 0,
    };
    let info = answered(0, &Ok(Answer::DisplayInfo(Box::new(info))), 408);
    assert_eq!((words(&info)[0], info.len()), (0x1101, 408));
    assert_eq!(words(&info)[12..18], [1, 2, 3, 4, 1, 0]);

    let refusals = [
        (Refusal::Unspecified, 0x1200),
        (Refusal::OutOfMemory, 0x1201),
        (Refusal::InvalidScanoutId, 0x1202),
        (Refusal::InvalidResourceId, 0x1203),
        (Refusal::InvalidParameter, 0x1205),
    ];
    for (refusal, number) in refusals {
        assert_eq!(words(&answered(1, &Err(refusal), 24))[..2], [number, 1]);
    }
}

#[test]
fn without_room_for_an_answer_there_is_an_error_or_nothing() {
    let edid = Ok(Answer::Edid(vec![1]));
    let short = answered(0, &edid, 1055);
    assert_eq!((words(&short)[0], short.len()), (0x1200, 24));
    assert_eq!(answered(0, &edid, 23), []);
    assert_eq!(answered(0, &Ok(Answer::Done), 0), []);
}

#[test]
fn rectangles_do_not_overflow() {
    let far = Rect {
        x: u32::MAX,
        y: u32::MAX,
        width: u32::MAX,
        height: u32::MAX,
    };
    assert!(!far.is_within(u32::MAX, u32::MAX));
    assert!(Rect::of_size(u32::MAX, 1).is_within(u32::MAX, 1));
    assert_eq!(far.intersection(&RECT), None);
    assert_eq!(far.intersection(&far), Some(far));
    assert_eq!(RECT.intersection(&Rect::of_size(2, 9)).unwrap().width, 1);
    assert_eq!(
        RECT.intersection(&Rect::of_size(1, 9)),
        None,
        "only touches"
    );
    let union = RECT.union(&Rect::of_size(1, 1));
    assert_eq!(union, Rect::of_size(4, 6));
    assert!(far.union(&RECT).width >= u32::MAX - 1);
}
