//! A program that uses a file system in the ways that are hard to migrate, and notices every loss.
//!
//! `serve FOLDER SOCKET` prepares files, keeps some of them open (one for reading and writing, one
//! for appending, one unlinked, one renamed, one with a name that is not UTF-8, one folder), and
//! writes records to them until it is asked to stop. `ask SOCKET verify|stop` makes it read
//! everything back through the very descriptors it has held since its start; `ask SOCKET records` only
//! tells how far it is. `check FOLDER` looks at the same files from outside. Every record's content follows from its number.
//!
//! It needs nothing but `std`: it is compiled statically for a guest without libraries. It knows
//! neither virtio nor migration, and runs on a bare file system as well.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Not UTF-8, and not even an ending of it.
const ODD_NAME: &[u8] = b"caf\xe9-\xff\xfe";

const RECORD_BYTES: usize = 64;
/// Records that are read at once.
const BLOCK_RECORDS: usize = 1024;
const STEADY_FILES: u64 = 50;
const STEADY_RECORDS: u64 = 200;
const WRITE_INTERVAL: Duration = Duration::from_millis(1);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve", folder, socket] => serve(Path::new(folder), Path::new(socket)),
        ["ask", socket, question] => ask(Path::new(socket), question),
        ["check", folder] => check(Path::new(folder)),
        _ => Err(
            "usage: guest_workload serve FOLDER SOCKET | ask SOCKET records|verify|stop | check FOLDER"
                .into(),
        ),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Record `number` of stream `stream`: its number, then what a xorshift generator makes of both.
fn record(stream: u64, number: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let mut word = (stream << 48) ^ number ^ 0x9e37_79b9_7f4a_7c15;
    for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if index == 0 { number } else { word };
        chunk.copy_from_slice(&value.to_le_bytes());
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
    }
    bytes
}

/// Checks that a file holds exactly the records `0..count` of a stream.
fn check_records(what: &str, file: &File, stream: u64, count: u64) -> Result<(), Failure> {
    let bytes = file.metadata()?.len();
    let expected = count * RECORD_BYTES as u64;
    if bytes != expected {
        return Err(format!("{what}: {bytes} bytes instead of {expected}").into());
    }
    let mut found = vec![0; BLOCK_RECORDS * RECORD_BYTES];
    for block in (0..count).step_by(BLOCK_RECORDS) {
        let length = (expected - block * RECORD_BYTES as u64).min(found.len() as u64);
        let (found, _) = found.split_at_mut(usize::try_from(length)?);
        file.read_exact_at(found, block * RECORD_BYTES as u64)
            .map_err(|error| format!("{what}: reading from record {block}: {error}"))?;
        for (found, number) in found.chunks_exact(RECORD_BYTES).zip(block..) {
            if found != record(stream, number) {
                return Err(format!("{what}: record {number} is damaged: {found:02x?}").into());
            }
        }
    }
    Ok(())
}

/// The open files, in the order of their stream numbers, and how far each has been written.
struct Workload {
    folder: PathBuf,
    streams: Vec<Stream>,
    /// A folder that is held open.
    held: File,
    written: u64,
    failure: Option<String>,
    /// Nothing more is to be written: what was read back is what stays.
    finished: bool,
}

struct Stream {
    name: &'static str,
    file: File,
    appends: bool,
}

impl Workload {
    fn prepare(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder.join("steady"))?;
        for number in 0..STEADY_FILES {
            let content: Vec<u8> = (0..STEADY_RECORDS)
                .flat_map(|index| record(1000 + number, index))
                .collect();
            fs::write(folder.join(format!("steady/{number}")), content)?;
        }
        let open = |path: &Path, appends| {
            let mut options = OpenOptions::new();
            options.read(true).create_new(true);
            if appends {
                options.append(true).open(path)
            } else {
                options.write(true).open(path)
            }
        };
        let path = |name: &str| folder.join(name);
        let (unlinked, renamed) = (path("unlinked"), path("before-rename"));
        let files = [
            ("read-write", open(&path("read-write"), false)?),
            ("append", open(&path("append"), true)?),
            ("unlinked", open(&unlinked, false)?),
            ("renamed", open(&renamed, false)?),
            (
                "odd name",
                open(&folder.join(OsStr::from_bytes(ODD_NAME)), false)?,
            ),
        ];
        fs::remove_file(unlinked)?;
        fs::create_dir(path("moved"))?;
        fs::rename(renamed, path("moved/renamed"))?;
        let streams = files.map(|(name, file)| Stream {
            name,
            file,
            appends: name == "append",
        });
        Ok(Self {
            folder: folder.to_owned(),
            streams: streams.into(),
            held: File::open(path("steady"))?,
            written: 0,
            failure: None,
            finished: false,
        })
    }

    fn write(&mut self) -> io::Result<()> {
        let number = self.written;
        for (stream, index) in self.streams.iter_mut().zip(0..) {
            let bytes = record(index, number);
            if stream.appends {
                stream.file.write_all(&bytes)?;
            } else {
                let offset = number * RECORD_BYTES as u64;
                stream.file.write_all_at(&bytes, offset)?;
            }
        }
        self.written += 1;
        Ok(())
    }

    /// A line that says how much was written.
    fn progress(&self) -> Result<String, Failure> {
        match &self.failure {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(format!("OK records={}", self.written)),
        }
    }

    /// Reads everything back; a line that says what was read.
    fn verify(&mut self) -> Result<String, Failure> {
        self.progress()?;
        for (stream, index) in self.streams.iter().zip(0..) {
            stream.file.sync_all()?;
            check_records(stream.name, &stream.file, index, self.written)?;
            let links = stream.file.metadata()?.nlink();
            let expected = u64::from(stream.name != "unlinked");
            if links != expected {
                return Err(format!("{}: {links} links, not {expected}", stream.name).into());
            }
        }
        // The folder as it was opened, not as its path leads to it now.
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()));
        let entries = fs::read_dir(held)?.collect::<Result<Vec<_>, _>>()?.len();
        if entries as u64 != STEADY_FILES {
            return Err(format!("open folder: {entries} entries").into());
        }
        check_named(&self.folder, self.written)?;
        fs::write(self.folder.join("new"), record(99, self.written))?;
        Ok(format!(
            "OK records={} streams={} files={STEADY_FILES}",
            self.written,
            self.streams.len()
        ))
    }
}

/// What can be checked through names.
fn check_named(folder: &Path, written: u64) -> Result<(), Failure> {
    let odd = OsStr::from_bytes(ODD_NAME);
    let named = [
        (0, OsStr::new("read-write")),
        (1, OsStr::new("append")),
        (3, OsStr::new("moved/renamed")),
        (4, odd),
    ];
    for (stream, name) in named {
        check_records(
            &name.to_string_lossy(),
            &File::open(folder.join(name))?,
            stream,
            written,
        )?;
    }
    for number in 0..STEADY_FILES {
        let name = format!("steady/{number}");
        let file = File::open(folder.join(&name))?;
        check_records(&name, &file, 1000 + number, STEADY_RECORDS)?;
    }
    let mut names = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    names.retain(|entry| entry.file_name() == odd);
    if names.len() != 1 {
        return Err("the folder does not list the name that is not UTF-8".into());
    }
    if fs::exists(folder.join("unlinked"))? {
        return Err("the unlinked file has a name again".into());
    }
    Ok(())
}

/// The check from outside: all streams have the same length and hold what they should.
fn check(folder: &Path) -> Result<(), Failure> {
    let written = fs::metadata(folder.join("read-write"))?.len() / RECORD_BYTES as u64;
    check_named(folder, written)?;
    println!("OK records={written}");
    Ok(())
}

fn serve(folder: &Path, socket: &Path) -> Result<(), Failure> {
    let workload = Arc::new(Mutex::new(Workload::prepare(folder)?));
    let listener = UnixListener::bind(socket)?;
    let writer = Arc::clone(&workload);
    thread::spawn(move || write_until_the_end(&writer));
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut question = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut question)?;
        let mut workload = workload.lock().unwrap_or_else(PoisonError::into_inner);
        workload.finished = question.trim() == "stop";
        let answer = match question.trim() {
            "records" => workload.progress(),
            _ => workload.verify(),
        };
        let answer = match answer {
            Ok(text) => text,
            Err(error) => format!("FAILED: {error}"),
        };
        writeln!(stream, "{answer}")?;
        if workload.finished {
            return Ok(());
        }
    }
    Ok(())
}

fn write_until_the_end(workload: &Mutex<Workload>) {
    loop {
        thread::sleep(WRITE_INTERVAL);
        let mut workload = workload.lock().unwrap_or_else(PoisonError::into_inner);
        if workload.finished {
            return;
        }
        if let Err(error) = workload.write() {
            workload.failure = Some(format!("writing record {}: {error}", workload.written));
            return;
        }
    }
}

fn ask(socket: &Path, question: &str) -> Result<(), Failure> {
    // The server may still be preparing its files.
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    writeln!(stream, "{question}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim().strip_prefix("FAILED: ") {
        Some(failure) => Err(failure.into()),
        None if answer.starts_with("OK ") => {
            print!("{answer}");
            Ok(())
        }
        None => Err("the workload ended without an answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> (PathBuf, Workload) {
        let folder = std::env::temp_dir().join(format!(
            "workload-{}-{:?}",
            std::process::id(),
            thread::current().id()
        ));
        let mut workload = Workload::prepare(&folder).unwrap();
        for _ in 0..10 {
            workload.write().unwrap();
        }
        (folder, workload)
    }

    #[test]
    fn an_undisturbed_workload_verifies() {
        let (folder, mut workload) = workload();
        let answer = workload.verify().unwrap();
        assert_eq!(answer, "OK records=10 streams=5 files=50");
        assert_eq!(workload.progress().unwrap(), "OK records=10");
        check(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn every_kind_of_loss_is_noticed() {
        let (folder, mut workload) = workload();
        let mut noticed = |path: &str, damage: &dyn Fn(&Path), repair: &dyn Fn(&Path)| {
            damage(&folder.join(path));
            assert!(workload.verify().is_err(), "{path}");
            repair(&folder.join(path));
            workload.verify().unwrap();
        };
        let last = |stream: u64| record(stream, 9).to_vec();
        for (path, stream) in [("read-write", 0), ("append", 1), ("moved/renamed", 3)] {
            let put = |path: &Path, byte: u8| {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(&[byte], 639).unwrap();
            };
            let good = *last(stream).last().unwrap();
            noticed(path, &|path| put(path, !good), &|path| put(path, good));
        }
        let content = fs::read(folder.join("steady/7")).unwrap();
        noticed(
            "steady/7",
            &|path| fs::write(path, &content[1..]).unwrap(),
            &|path| fs::write(path, &content).unwrap(),
        );
        noticed(
            "steady/more",
            &|path| fs::write(path, "").unwrap(),
            &|path| fs::remove_file(path).unwrap(),
        );
        noticed("unlinked", &|path| fs::write(path, "").unwrap(), &|path| {
            fs::remove_file(path).unwrap();
        });
        fs::remove_dir_all(folder).unwrap();
    }
}
