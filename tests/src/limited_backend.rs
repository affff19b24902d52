//! A socket before a daemon's that hides protocol features from the front-end: the daemon as it was before it had them.
//!
//! Passes every message on, with its descriptors; knows no device.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use common::protocol::codec::{CodecError, receive, send};
use common::protocol::messages::{Request, encode_u64};

/// Listens at `listen` for one front-end, and offers it what the daemon at `daemon` offers, without the protocol features
/// `hidden`.
pub fn hide(daemon: &Path, listen: &Path, hidden: u64) -> Result<()> {
    let listener =
        UnixListener::bind(listen).with_context(|| format!("listening at {}", listen.display()))?;
    let daemon = UnixStream::connect(daemon)?;
    // They end with the two ends of the connection, whose users report what is wrong.
    thread::spawn(move || -> Result<()> {
        let (front_end, _) = listener.accept()?;
        let (requests, replies) = (front_end.try_clone()?, daemon.try_clone()?);
        thread::spawn(move || pass_on(&replies, &front_end, hidden));
        Ok(pass_on(&requests, &daemon, 0)?)
    });
    Ok(())
}

fn pass_on(from: &UnixStream, to: &UnixStream, hidden: u64) -> Result<(), CodecError> {
    while let Some(mut message) = receive(from)? {
        if message.request == Request::GET_PROTOCOL_FEATURES
            && let Some(features) = message.value()
        {
            message.body = encode_u64(features & !hidden);
        }
        send(to, &message)?;
    }
    // One end has closed: the other one has to learn of it.
    let _closed_already = to.shutdown(std::net::Shutdown::Both);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon_runner::Daemon;
    use common::frontend::Frontend;
    use common::protocol::messages::protocol_feature::{DEVICE_STATE, MQ};

    #[test]
    fn what_is_hidden_is_not_offered_and_the_rest_is() {
        let share = tempfile::tempdir().unwrap();
        let arguments = ["--shared-dir", share.path().to_str().unwrap()];
        let mut daemon = Daemon::start("vhost-device-fs", arguments).unwrap();
        let listen = share.path().join("limited");
        hide(daemon.socket(), &listen, DEVICE_STATE).unwrap();
        let mut front_end = Frontend::connect(&listen).unwrap();
        let offer = front_end.negotiate(0).unwrap();
        assert_eq!(offer.protocol_features & (DEVICE_STATE | MQ), MQ);
        drop(front_end);
        assert!(daemon.wait().unwrap().success());
    }
}
