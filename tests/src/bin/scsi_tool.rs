//! Runs a SCSI tool against our daemon by hand: `scsi_tool sg_inq /dev/sg0` or `scsi_tool iscsi-inq URL`, with a fresh image, or one that is named.
//!
//! The tool is one that is installed. Knows no SCSI.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use tests::scsi_suite::gateway::{Gateway, Moves};
use tests::scsi_suite::port::{Backend, Port};

/// Runs a SCSI tool against a daemon of its own; /dev/sgN is LUN N, and the word URL is replaced by that of LUN 0 over iSCSI.
#[derive(Debug, Parser)]
struct Arguments {
    /// Image of LUN 0 [default: 100 MiB of zeros]
    #[arg(long)]
    image: Option<PathBuf>,
    /// One more argument for the daemon
    #[arg(long, allow_hyphen_values = true)]
    argument: Vec<String>,
    /// Migrate before about one command in N, less and less often
    #[arg(long, value_name = "N")]
    migrate_every: Option<u64>,
    /// Where the random moments of migration begin
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the daemon's log afterwards
    #[arg(long)]
    log: bool,
    /// The tool and its arguments
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    tool: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let image = arguments
        .image
        .unwrap_or_else(|| folder.path().join("image"));
    if !image.exists() {
        std::fs::File::create_new(&image)?.set_len(100 << 20)?;
    }
    let image = image.to_str().context("a path that is not UTF-8")?;
    let options = arguments.argument.into_iter().chain([image.to_owned()]);
    let mut gateway = Gateway::new(vec![Port::new(Backend::new()?.with(options))?])?;
    gateway.moves = arguments
        .migrate_every
        .map(|every| Moves::new(arguments.seed, every));
    let (program, rest) = arguments.tool.split_first().context("no tool")?;
    let url = gateway.url()?;
    let rest = rest
        .iter()
        .map(|word| if word == "URL" { &url } else { word });
    let finished = gateway.run(Command::new(program).args(rest), Duration::from_mins(10))?;
    print!("{}", finished.output);
    for port in &mut gateway.ports {
        if arguments.log {
            eprint!("{}", port.daemon().log()?);
        }
        if port.migrations() > 0 {
            eprintln!("{} migrations", port.migrations());
        }
    }
    let code = finished.status.code().and_then(|code| code.try_into().ok());
    Ok(ExitCode::from(code.unwrap_or(255)))
}
