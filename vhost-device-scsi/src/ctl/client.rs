//! `vhost-device-scsi ctl`: says one thing to a daemon that runs, and shows the answer.
//!
//! Knows the protocol and how to print; knows no device.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{self, PathBuf};

use clap::{Parser, Subcommand};

use super::{
    ANSWER_BYTES_MAX, Answer, Command, Remove, Reply, Request, Resize, Shown, ShownUnit, VERSION,
};
use crate::args::{UnitError, UnitOptions};

/// The command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The unit is not described well.
    #[error("{description}")]
    Unit {
        /// What was given.
        description: String,
        /// Why.
        #[source]
        source: UnitError,
    },
    /// No daemon there.
    #[error("host: no daemon takes commands at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("host: no answer from the daemon")]
    Connection(#[source] io::Error),
    /// The daemon speaks something else.
    #[error("daemon: not an answer")]
    Answer(#[source] serde_json::Error),
    /// The daemon speaks another version.
    #[error("daemon: version {0} of the protocol, and {VERSION} is spoken here")]
    Version(u16),
    /// The daemon does not want to.
    #[error("refused: {0}")]
    Refused(String),
}

/// Adds, removes, resizes and shows logical units of a daemon that runs.
#[derive(Debug, Parser)]
#[command(name = "vhost-device-scsi ctl", version)]
pub struct CtlArgs {
    /// The daemon's --control-socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Adds a logical unit
    Add {
        /// As for --lun; lun is the lowest free number if it is not given
        #[arg(value_name = "KEY=VALUE,...")]
        unit: String,
    },
    /// Removes a logical unit
    Remove {
        /// Its number
        lun: u16,
    },
    /// Tells the guest that a logical unit has another size
    Resize {
        /// Its number
        lun: u16,
        /// Logical blocks [default: as many as the file has now]
        blocks: Option<u64>,
    },
    /// Shows the logical units
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Carries out a command line; returns what is to be printed.
pub fn run(args: &CtlArgs) -> Result<String, ClientError> {
    let command = command(&args.action)?;
    let answer = ask(&args.socket, command)?;
    Ok(match (answer, &args.action) {
        (Answer::Refused(reason), _) => return Err(ClientError::Refused(reason)),
        (Answer::Shown(shown), Action::Show { json: true }) => {
            let text = serde_json::to_string_pretty(&shown).map_err(ClientError::Answer)?;
            text + "\n"
        }
        (Answer::Shown(shown), _) => in_words(&shown),
        (Answer::Resized { lun, blocks }, _) => {
            format!("logical unit {lun} has {blocks} blocks\n")
        }
        (Answer::Unit { lun }, Action::Remove { .. }) => format!("logical unit {lun} removed\n"),
        (Answer::Unit { lun }, _) => format!("logical unit {lun} added\n"),
    })
}

fn command(action: &Action) -> Result<Command, ClientError> {
    Ok(match action {
        Action::Add { unit } => Command::Add(Box::new(options(unit)?)),
        Action::Remove { lun } => Command::Remove(Remove { lun: *lun }),
        Action::Resize { lun, blocks } => Command::Resize(Resize {
            lun: *lun,
            blocks: *blocks,
        }),
        Action::Show { .. } => Command::Show,
    })
}

/// What the daemon gets to see. Its working directory may be another one.
fn options(description: &str) -> Result<UnitOptions, ClientError> {
    let refused = |source| ClientError::Unit {
        description: description.to_owned(),
        source,
    };
    let mut options: UnitOptions = description.parse().map_err(refused)?;
    options.config(Some(0)).map_err(refused)?;
    let paths = [&mut options.path, &mut options.reservations];
    for path in paths.into_iter().flatten() {
        *path = path::absolute(&path).map_err(ClientError::Connection)?;
    }
    Ok(options)
}

fn ask(socket: &path::Path, command: Command) -> Result<Answer, ClientError> {
    let refused = |source| ClientError::Connect {
        path: socket.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(refused)?;
    let request = Request {
        version: VERSION,
        command,
    };
    let mut line = serde_json::to_vec(&request).map_err(ClientError::Answer)?;
    line.push(b'\n');
    // A daemon that is busy says so and closes, without having read this.
    let sent = stream.write_all(&line);
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX as u64))
        .read_until(b'\n', &mut answer)
        .map_err(ClientError::Connection)?;
    if answer.is_empty() {
        let gone = sent.err().unwrap_or(io::ErrorKind::UnexpectedEof.into());
        return Err(ClientError::Connection(gone));
    }
    let Reply { version, answer } = serde_json::from_slice(&answer).map_err(ClientError::Answer)?;
    if version == VERSION {
        Ok(answer)
    } else {
        Err(ClientError::Version(version))
    }
}

fn in_words(shown: &Shown) -> String {
    let missed = if shown.events_missed {
        ", and some lost"
    } else {
        ""
    };
    let mut text = format!(
        "target {}, initiator {}, {} events waiting{missed}\n",
        shown.target, shown.initiator, shown.events_waiting
    );
    for unit in &shown.units {
        let _a_string_takes_all = writeln!(text, "{}", unit_in_words(unit));
    }
    text
}

fn unit_in_words(unit: &ShownUnit) -> String {
    let ShownUnit {
        lun,
        path,
        serial,
        wwn,
        block_size,
        blocks,
        readonly,
        write_cache,
        stopped,
        attentions,
        registrations,
        reserved,
    } = unit;
    let mut text =
        format!("{lun:>5}  {path}  {blocks} x {block_size} bytes  serial {serial}  wwn {wwn}");
    let flags = [
        (*readonly, "read-only"),
        (*write_cache, "write cache"),
        (*stopped, "stopped"),
        (*reserved, "reserved"),
    ];
    for (_, word) in flags.iter().filter(|(is_set, _)| *is_set) {
        text = text + "  " + word;
    }
    if *registrations > 0 {
        text = format!("{text}  {registrations} registered");
    }
    if !attentions.is_empty() {
        text = text + "  unit attention " + &attentions.join(" ");
    }
    text
}
