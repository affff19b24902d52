//! Does an experiment on the machine that it runs on, a guest: see `tests/src/laboratory/`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use tests::laboratory::{Experiment, Tools};
use tests::qemu::provision::Tree;

#[derive(Parser)]
struct Args {
    /// The folder of unpacked programs that make file systems and serve them.
    #[arg(long)]
    storage: PathBuf,
    /// That of systemd.
    #[arg(long)]
    services: PathBuf,
    experiment: Experiment,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tools = Tools {
        of_storage: Tree::new(args.storage),
        of_services: Tree::new(args.services),
    };
    args.experiment.run(&tools)
}
