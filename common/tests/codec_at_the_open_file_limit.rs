//! A message whose files cannot all be taken is refused. In a process of its own, since the limit of
//! open files belongs to the process.

use std::fs::File;
use std::os::unix::net::UnixStream;

use common::protocol::codec::{CodecError, Message, receive, send};
use common::protocol::messages::Request;
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn files_that_the_kernel_dropped_are_missed() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut message = Message::new(Request::SET_MEM_TABLE, Vec::new());
    message.files = (0..8)
        .map(|_| File::open("/dev/null").unwrap().into())
        .collect();
    send(&near, &message).unwrap();

    let limit = Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - 3);

    assert!(matches!(receive(&far), Err(CodecError::TooManyFiles)));
}
