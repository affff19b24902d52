//! Is it still true what the README says of others? The two things that cost a guest of virtiofsd its data or its whole share when it
//! moves, in a real Linux guest under stock QEMU; and the same with ours.
//!
//! `cargo xtask e2e --peers` observes much more, and takes longer.

use anyhow::{Result, bail};
use tests::peers::{Device, Observation, Special, Stage, Verdict, fs};

/// What comes of something with virtiofsd's defaults, and with ours.
fn observe(special: &Special) -> Result<(Observation, Observation)> {
    let participants = Device::Fs.participants()?;
    let [peer, .., ours] = participants.as_slice() else {
        bail!("nobody takes part");
    };
    let peer = Stage::new(peer.clone())?.observe_special(special);
    let ours = Stage::new(ours.clone())?.observe_special(special);
    println!("{}: virtiofsd: {peer:?}, ours: {ours:?}", special.title);
    Ok((peer, ours))
}

fn says(observation: &Observation, text: &str) -> bool {
    let mut messages = observation.messages.iter();
    messages.any(|message| message.contains(text))
}

/// If this ever fails because of virtiofsd, the README has to be changed.
#[test]
fn an_open_file_without_a_name_moves_with_ours_only() -> Result<()> {
    let (peer, ours) = observe(&fs::NAMELESS)?;
    assert_eq!(peer.verdict, Verdict::Refused);
    assert!(says(&peer, "has lost inode"), "{peer:?}");
    assert_eq!(ours.verdict, Verdict::Works, "{ours:?}");
    Ok(())
}

/// As above.
#[test]
fn a_moved_guest_ends_virtiofsd_with_an_attribute() -> Result<()> {
    let (peer, ours) = observe(&fs::ATTRIBUTE)?;
    assert_eq!(peer.verdict, Verdict::Fails);
    assert!(peer.text.contains("daemon exits with 1"), "{peer:?}");
    assert_eq!(ours.verdict, Verdict::Works, "{ours:?}");
    Ok(())
}
