//! `cargo xtask demo`: programs work on our devices while their machine is stopped, saved, moved and mistreated, and notice nothing.
//!
//! Tells one of three stories, and ends with a table of what was done, what it
//! cost and what was checked. Exit codes: 0 every check passed, 1 one did not.

mod contents;
mod in_qemu;
mod on_host;
mod pictures;
mod story;
mod whole;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use story::Story;
pub(crate) use story::size;

#[derive(Args)]
pub(crate) struct Options {
    /// Without a VM: this host's kernel is the guest (needs root and /dev/fuse), and there is a file system only
    #[arg(long, conflicts_with = "device")]
    no_qemu: bool,

    /// Which devices the guest has
    #[arg(long, value_enum, default_value_t)]
    device: Devices,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Devices {
    /// A share, a disk and a screen, in a QEMU that our module has taught to carry their states
    #[default]
    All,
    /// A share, in an unmodified QEMU
    Fs,
}

/// Tells the story.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut story = Story::new();
    let told = match options.device {
        _ if options.no_qemu => on_host::tell(&mut story),
        Devices::All => tell_all(&mut story),
        Devices::Fs => in_qemu::tell(&mut story),
    };
    println!("\n{story}");
    match told {
        Ok(()) => {
            println!("Every check passed.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// With all devices where that is possible: our module takes the source of the QEMU that it is for.
fn tell_all(story: &mut Story) -> Result<()> {
    match whole::prepare(story) {
        Ok(rig) => whole::tell(story, rig),
        Err(error) => {
            println!("      not here: {error:#}");
            println!("      so this is the story of the file system alone, in an unmodified QEMU");
            in_qemu::tell(story)
        }
    }
}
