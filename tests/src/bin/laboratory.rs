//! Does an experiment on the machine that it runs on, a guest: see `tests/src/laboratory/`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use tests::laboratory::Experiment;
use tests::qemu::provision::Tree;

#[derive(Parser)]
struct Args {
    /// The folder of unpacked programs.
    #[arg(long)]
    tools: PathBuf,
    experiment: Experiment,
}

fn main() -> Result<()> {
    let args = Args::parse();
    args.experiment.run(&Tree::new(args.tools))
}
