//! Confines itself as the file system daemon does and then does something that the daemon never does, to see who stops it. For
//! `tests/tests/sandbox.rs`. Prints `done`, or the error; a system call that is filtered kills it.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use common::sandbox::{ConfinementArgs, Namespaces, Place, Share, confine, enter};
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, linkat, mkdirat, renameat_with, unlinkat};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Gid, Uid};
use vhost_device_fs::sandbox::policy;

#[derive(Parser)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent switches of the test's"
)]
struct Args {
    /// The share.
    #[arg(long)]
    share: PathBuf,
    /// Changes nothing first: what is done must succeed then, or its failure elsewhere says nothing.
    #[arg(long)]
    unconfined: bool,
    /// In namespaces, too.
    #[arg(long)]
    namespaces: bool,
    #[arg(long)]
    readonly: bool,
    /// Without the layer that knows paths.
    #[arg(long)]
    no_landlock: bool,
    #[command(flatten)]
    confinement: ConfinementArgs,
    deed: Deed,
    /// A path, an address or a process.
    argument: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Deed {
    /// Reads a file.
    Read,
    /// Makes a file.
    Write,
    /// What a daemon does all day: files, directories, threads, sockets.
    Serve,
    /// Runs a program.
    Run,
    /// Makes a socket of another family than UNIX.
    Internet,
    /// Connects to a TCP port.
    Connect,
    /// Connects to an abstract socket.
    Abstract,
    /// Looks whether a process could be sent a signal.
    Signal,
    /// Enters another root.
    Chroot,
    /// Gives a file to somebody else.
    GiveAway,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if !args.unconfined
        && let Some(code) = confine_as(&args)?
    {
        return Ok(code);
    }
    let argument = args.argument.as_deref().unwrap_or_default();
    match perform(args.deed, argument) {
        Ok(()) => println!("done"),
        Err(error) => println!("{error}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code is that of the process outside.
fn confine_as(args: &Args) -> Result<Option<ExitCode>> {
    let namespaces = Namespaces::new(Share {
        directory: args.share.clone(),
        readonly: args.readonly,
    });
    let share = if args.namespaces {
        if let Place::Outside(inside) = enter(&namespaces)? {
            return Ok(Some(match inside.wait() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    println!("{error}");
                    ExitCode::FAILURE
                }
            }));
        }
        namespaces.inside()
    } else {
        &args.share
    };
    let mut policy = policy(share, args.readonly);
    if args.no_landlock {
        policy.paths = None;
    }
    confine(&policy, &args.confinement, "as asked")?;
    Ok(None)
}

fn perform(deed: Deed, argument: &str) -> io::Result<()> {
    match deed {
        Deed::Read => fs::read(argument).map(drop),
        Deed::Write => fs::write(argument, "text"),
        Deed::Serve => serve(Path::new(argument)),
        Deed::Run => Err(Command::new(argument).exec()),
        Deed::Internet => {
            rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            Ok(())
        }
        Deed::Connect => TcpStream::connect(argument).map(drop),
        Deed::Abstract => {
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(argument)?).map(drop)
        }
        Deed::Signal => {
            let process = argument.parse().map_err(io::Error::other)?;
            let process = rustix::process::Pid::from_raw(process);
            let process = process.ok_or(io::ErrorKind::InvalidInput)?;
            Ok(rustix::process::test_kill_process(process)?)
        }
        Deed::Chroot => Ok(rustix::process::chroot("/")?),
        Deed::GiveAway => {
            let somebody = (Some(Uid::from_raw(1)), Some(Gid::from_raw(1)));
            let file = fs::File::open(argument)?;
            Ok(rustix::fs::fchown(file, somebody.0, somebody.1)?)
        }
    }
}

/// By the system calls of the daemon, which are not those of the standard library.
fn serve(folder: &Path) -> io::Result<()> {
    let at = |name: &str| folder.join(name);
    mkdirat(CWD, at("one"), Mode::RWXU)?;
    mkdirat(CWD, at("two"), Mode::RWXU)?;
    fs::write(at("one/file"), "text")?;
    let flags = RenameFlags::NOREPLACE;
    renameat_with(CWD, at("one/file"), CWD, at("two/file"), flags)?;
    linkat(CWD, at("two/file"), CWD, at("one/link"), AtFlags::empty())?;
    fs::File::options()
        .write(true)
        .open(at("two/file"))?
        .set_len(1)?;
    let thread = std::thread::spawn(UnixStream::pair);
    let pair = thread.join().map_err(|_| io::Error::other("a panic"))?;
    let read = fs::read(at("one/link"))?;
    unlinkat(CWD, at("one/link"), AtFlags::empty())?;
    unlinkat(CWD, at("two/file"), AtFlags::empty())?;
    unlinkat(CWD, at("one"), AtFlags::REMOVEDIR)?;
    unlinkat(CWD, at("two"), AtFlags::REMOVEDIR)?;
    pair?;
    if read == b"t" {
        Ok(())
    } else {
        Err(io::Error::other("the file has other contents"))
    }
}
