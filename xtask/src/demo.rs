//! `cargo xtask demo`: a program works on our file system while its machine is stopped, saved,
//! moved and mistreated, and notices nothing.
//!
//! Tells one of two stories, and ends with a table of what was done, what it
//! cost and what was checked. Exit codes: 0 every check passed, 1 one did not.

mod contents;
mod in_qemu;
mod on_host;
mod story;

use std::process::ExitCode;

use clap::Args;

use story::Story;

#[derive(Args)]
pub(crate) struct Options {
    /// Without a VM: this host's kernel is the guest (needs root and /dev/fuse)
    #[arg(long)]
    no_qemu: bool,
}

/// Tells the story.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut story = Story::new();
    let told = if options.no_qemu {
        on_host::tell(&mut story)
    } else {
        in_qemu::tell(&mut story)
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
