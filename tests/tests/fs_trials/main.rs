//! Where virtiofsd 1.14 goes wrong when it migrates, what does our daemon do?
//!
//! Each trial is one sequence of requests, a migration in its middle, and what a guest has the right to see. Ours has to pass. The peer
//! goes through the same, to show that the trial is one: it is expected to fail, where the trial says so.

mod files;
mod names;
mod rig;
mod session;

use anyhow::{Result, ensure};

use rig::Maker;

/// What the peer does in a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Goes wrong, and the error has this in it.
    Fails(&'static str),
    /// Does right: the trial is one for others.
    Passes,
}

/// Ours passes, and the peer does what was seen of it.
fn judge(peer: Peer, trial: impl Fn(Maker) -> Result<()>) -> Result<()> {
    trial(Maker::Ours)?;
    let result = trial(Maker::Peer);
    println!("virtiofsd: {result:?}");
    match (peer, result) {
        (Peer::Passes, result) => result,
        (Peer::Fails(text), Ok(())) => {
            anyhow::bail!("the peer passes this trial, and was to fail with {text:?}")
        }
        (Peer::Fails(text), Err(error)) => {
            let error = format!("{error:#}");
            ensure!(
                error.contains(text),
                "the peer fails in another way: {error}"
            );
            Ok(())
        }
    }
}
