//! Asking, being answered, and not being answered.

use super::super::protocol::{HEADER_BYTES, words};
use super::*;

const INFO: Question = Question::DisplayInfo;

fn info(width: u32) -> DisplayInfo {
    let mut info = DisplayInfo::default();
    info[0] = Mode {
        rect: Rect::of_size(width, 9),
        enabled: true,
        flags: 0,
    };
    info
}

fn info_bytes(width: u32) -> Vec<u8> {
    let modes = info(width).map(Mode::to_bytes).concat();
    [vec![0; Header::BYTES], modes].concat()
}

fn edid_bytes(size: u32) -> Vec<u8> {
    let mut bytes = vec![0; Header::BYTES];
    bytes.extend(size.to_le_bytes());
    bytes.resize(1056, 0x55);
    bytes
}

/// Requests that are to be sent now.
fn sent(questions: &mut Questions) -> Vec<u32> {
    let mut out = Vec::new();
    let mut requests = Vec::new();
    while questions.compose(&mut out) == Composed::Message {
        let mut rest = out.as_slice();
        while let Some(header) = rest.get(..HEADER_BYTES) {
            let [request, _, size] = words(header);
            requests.push(request);
            rest = &rest[HEADER_BYTES + size as usize..];
        }
    }
    requests
}

/// One whose front-end has said what it understands.
fn met(features: u64) -> Questions {
    let mut questions = Questions::new(false);
    assert_eq!(sent(&mut questions), [1]);
    assert_eq!(questions.take_reply(1, &features.to_le_bytes()), Ok(false));
    assert_eq!(sent(&mut questions), [2]);
    questions
}

#[test]
fn a_question_is_asked_once_and_answered_once() {
    let now = Instant::now();
    let mut questions = met(3);
    assert_eq!(questions.ask(INFO, now), None);
    assert_eq!(sent(&mut questions), [3]);
    assert_eq!(questions.ask(INFO, now), None);
    assert_eq!(sent(&mut questions), [0; 0]);
    assert_eq!(questions.take_reply(3, &info_bytes(77)), Ok(true));
    let reply = Reply::DisplayInfo(Box::new(info(77)));
    assert_eq!(questions.ask(INFO, now), Some(reply));
    assert_eq!(questions.ask(INFO, now), None, "it is asked anew each time");

    let edid = Question::Edid(4);
    assert_eq!(questions.ask(edid, now), None, "instead of the one before");
    assert_eq!(sent(&mut questions), [11, 1]);
    assert_eq!(questions.take_reply(11, &edid_bytes(128)), Ok(true));
    assert_eq!(questions.take_reply(1, &[0; 8]), Ok(false));
    let reply = Reply::Edid(vec![0x55; 128]);
    assert_eq!(questions.ask(edid, now), Some(reply));
    assert_eq!(questions.edids[4], Some(vec![0x55; 128]));
}

/// QEMU says nothing about the EDID of a scanout that it does not have.
#[test]
fn a_scanout_that_there_is_not_is_found_out_by_what_follows() {
    let now = Instant::now();
    let mut questions = met(1);
    assert_eq!(questions.ask(Question::Edid(7), now), None);
    sent(&mut questions);
    assert_eq!(questions.take_reply(1, &[0; 8]), Ok(true));
    let reply = questions.ask(Question::Edid(7), now);
    assert_eq!(reply, Some(Reply::NoSuchScanout));

    // It logs an error for each such question, so there is one; until another front-end may have more.
    let reply = questions.ask(Question::Edid(7), now);
    assert_eq!(reply, Some(Reply::NoSuchScanout));
    assert_eq!(sent(&mut questions), [0; 0]);
    assert_eq!(questions.ask(Question::Edid(6), now), None);
    assert_eq!(sent(&mut questions), [11, 1]);
    questions.reconnect();
    questions.ask(Question::Edid(7), now);
    assert_eq!(sent(&mut questions), [1]);
    assert_eq!(questions.take_reply(1, &1_u64.to_le_bytes()), Ok(false));
    assert_eq!(sent(&mut questions), [2, 11, 1]);
}

#[test]
fn a_front_end_without_edid_is_not_asked_for_one() {
    let mut questions = met(2);
    let now = Instant::now();
    assert_eq!(questions.ask(Question::Edid(0), now), None);
    let mut out = Vec::new();
    assert_eq!(questions.compose(&mut out), Composed::Answered);
    let reply = questions.ask(Question::Edid(0), now);
    assert_eq!(reply, Some(Reply::Edid(edid::generate(0, 1280, 800))));
}

#[test]
fn what_was_asked_is_asked_again_on_another_socket() {
    let now = Instant::now();
    let mut questions = met(1);
    questions.ask(INFO, now);
    assert_eq!(sent(&mut questions), [3]);
    questions.reconnect();
    assert_eq!(sent(&mut questions), [1, 3]);
    assert_eq!(questions.take_reply(1, &[0; 8]), Ok(false));
    assert_eq!(questions.take_reply(3, &info_bytes(5)), Ok(true));

    // A suspension forgets the question, and a late reply to it is no answer to the next one.
    questions.forget();
    questions.ask(INFO, now);
    assert_eq!(sent(&mut questions), [2, 3]);
    questions.forget();
    questions.ask(INFO, now);
    assert_eq!(sent(&mut questions), [3]);
    assert_eq!(questions.take_reply(3, &info_bytes(6)), Ok(false));
    assert_eq!(questions.ask(INFO, now), None);
    assert_eq!(questions.take_reply(3, &info_bytes(7)), Ok(true));
    let reply = Reply::DisplayInfo(Box::new(info(7)));
    assert_eq!(questions.ask(INFO, now), Some(reply));
}

#[test]
fn a_front_end_that_does_not_answer_is_waited_for_so_long_and_no_longer() {
    let now = Instant::now();
    let mut questions = met(1);
    questions.ask(INFO, now);
    sent(&mut questions);
    assert_eq!(questions.deadline(), Some(now + PATIENCE));
    assert!(!questions.expire(now, true));
    assert!(questions.expire(now + PATIENCE, true));
    assert_eq!(questions.deadline(), None);
    let reply = Some(Reply::DisplayInfo(default_info()));
    assert_eq!(questions.ask(INFO, now), reply);
    assert_eq!(questions.ask(INFO, now), None, "it is asked the next time");
    // Without a socket nobody is.
    assert!(questions.expire(now + PATIENCE, false));
    assert_eq!(questions.ask(INFO, now), reply);
    assert_eq!(questions.ask(INFO, now), reply);
    questions.trust();
    assert_eq!(questions.ask(INFO, now), None);
}

#[test]
fn headless_everything_is_known_at_once() {
    let now = Instant::now();
    let mut questions = Questions::new(true);
    let reply = Some(Reply::DisplayInfo(default_info()));
    assert_eq!(questions.ask(INFO, now), reply);
    questions.info = Some(Box::new(info(640)));
    questions.edids[1] = Some(vec![1]);
    let edid = |questions: &mut Questions, scanout| questions.ask(Question::Edid(scanout), now);
    let generated = Reply::Edid(edid::generate(0, 640, 9));
    assert_eq!(edid(&mut questions, 0), Some(generated));
    assert_eq!(edid(&mut questions, 1), Some(Reply::Edid(vec![1])));
}

#[test]
fn replies_that_make_no_sense_are_refused() {
    let now = Instant::now();
    for (request, payload) in [
        (3, info_bytes(1)[..407].to_vec()),
        (1, vec![0; 8]),
        (8, Vec::new()),
        (u32::MAX, Vec::new()),
    ] {
        let mut questions = met(1);
        questions.ask(INFO, now);
        sent(&mut questions);
        assert!(
            questions.take_reply(request, &payload).is_err(),
            "{request}"
        );
        assert_eq!(questions.ask(INFO, now), None);
    }
    let long = [edid_bytes(1025), vec![0; 8]].concat();
    for payload in [edid_bytes(1025), long, edid_bytes(u32::MAX), vec![0; 31]] {
        let mut questions = met(1);
        questions.ask(Question::Edid(0), now);
        sent(&mut questions);
        assert!(questions.take_reply(11, &payload).is_err());
    }
    assert!(met(1).take_reply(1, &[0; 8]).is_err(), "nothing was asked");
}

/// A guest that asks one thing after the other without waiting makes nothing grow.
#[test]
fn only_so_many_questions_are_open() {
    let now = Instant::now();
    let mut questions = met(1);
    for round in 0..100 {
        questions.ask(Question::Edid(round % 16), now);
        sent(&mut questions);
    }
    assert!(questions.owed.len() <= OWED_MAX + 1);
}
