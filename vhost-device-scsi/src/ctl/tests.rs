//! A server with a device that only notes what it is asked, and clients that behave or do not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use common::device::DeviceError;
use tempfile::TempDir;

use super::*;

/// What it was asked for, and the units that it has.
#[derive(Default)]
struct Notes {
    units: Mutex<Vec<UnitConfig>>,
}

impl Administer for Notes {
    fn add(&self, unit: UnitConfig) -> Result<(), DeviceError> {
        if unit.path.ends_with("absent") {
            return Err("the file is not there".into());
        }
        self.units.lock().unwrap().push(unit);
        Ok(())
    }

    fn remove(&self, lun: u16) -> Result<(), DeviceError> {
        let mut units = self.units.lock().unwrap();
        let at = units.iter().position(|unit| unit.lun == lun);
        units.remove(at.ok_or("there is none")?);
        Ok(())
    }

    fn resize(&self, _lun: u16, blocks: Option<u64>) -> Result<u64, DeviceError> {
        Ok(blocks.unwrap_or(77))
    }

    fn show(&self) -> Shown {
        let units = self.units.lock().unwrap();
        Shown {
            target: 3,
            initiator: "iqn.x".into(),
            events_waiting: 2,
            events_missed: true,
            units: units
                .iter()
                .map(|unit| ShownUnit {
                    lun: unit.lun,
                    path: unit.path.display().to_string(),
                    serial: unit.serial.clone(),
                    wwn: "3000000000000001".into(),
                    block_size: unit.block_size,
                    blocks: 8,
                    readonly: unit.readonly,
                    write_cache: true,
                    stopped: false,
                    attentions: vec!["29/00".into(), "2a/09".into()],
                    registrations: 2,
                    reserved: true,
                })
                .collect(),
        }
    }
}

struct Rig {
    _folder: TempDir,
    socket: PathBuf,
    device: Arc<Notes>,
    server: Option<Server>,
}

impl Rig {
    fn new() -> Self {
        Self::with_patience(Duration::from_mins(1))
    }

    fn with_patience(patience: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ctl.sock");
        let device = Arc::new(Notes::default());
        let administer = Arc::clone(&device) as Arc<dyn Administer>;
        let server = Server::with_patience(&socket, administer, patience).unwrap();
        Self {
            _folder: folder,
            socket,
            device,
            server: Some(server),
        }
    }

    fn run(&self, line: &[&str]) -> Result<String, ClientError> {
        let socket = self.socket.to_str().unwrap();
        let line = [&["ctl", "--socket", socket], line].concat();
        run(&CtlArgs::try_parse_from(line).unwrap())
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        let turns_a_hang_into_a_failure = Some(Duration::from_mins(1));
        stream
            .set_read_timeout(turns_a_hang_into_a_failure)
            .unwrap();
        stream
    }
}

fn ask(stream: &UnixStream, request: &str) -> Answer {
    let mut writer = stream;
    writer.write_all(request.as_bytes()).unwrap();
    writer.write_all(b"\n").unwrap();
    answer(stream)
}

fn answer(stream: &UnixStream) -> Answer {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str::<Reply>(&line).unwrap().answer
}

/// The end of the connection, whatever came before it.
fn is_closed(mut stream: &UnixStream) -> bool {
    stream.read_to_end(&mut Vec::new()).is_ok()
}

#[test]
fn the_command_line_is_consistent() {
    CtlArgs::command().debug_assert();
}

#[test]
fn units_are_added_resized_shown_and_removed() {
    let rig = Rig::new();
    assert_eq!(
        rig.run(&["add", "path=/a,lun=1"]).unwrap(),
        "logical unit 1 added\n"
    );
    let added = rig.run(&["add", "path=b,readonly"]).unwrap();
    assert_eq!(added, "logical unit 0 added\n", "the lowest free number");
    let here = std::env::current_dir().unwrap().join("b");
    assert_eq!(rig.device.units.lock().unwrap()[1].path, here);
    assert_eq!(
        rig.run(&["resize", "1"]).unwrap(),
        "logical unit 1 has 77 blocks\n"
    );
    let resized = rig.run(&["resize", "1", "5"]).unwrap();
    assert_eq!(resized, "logical unit 1 has 5 blocks\n");
    assert_eq!(
        rig.run(&["remove", "0"]).unwrap(),
        "logical unit 0 removed\n"
    );
    assert_eq!(
        rig.run(&["show"]).unwrap(),
        "target 3, initiator iqn.x, 2 events waiting, and some lost\n\
         \x20   1  /a  8 x 512 bytes  serial VHOST-SCSI-00001  wwn 3000000000000001  write cache  reserved  2 registered  \
         unit attention 29/00 2a/09\n"
    );
    let json = rig.run(&["show", "--json"]).unwrap();
    assert_eq!(
        serde_json::from_str::<Shown>(&json).unwrap(),
        rig.device.show()
    );
}

#[track_caller]
fn refused(result: Result<String, ClientError>, words: &str) {
    let text = common::report::chain(&result.unwrap_err());
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[test]
fn what_is_refused_says_why() {
    let rig = Rig::new();
    refused(
        rig.run(&["remove", "4"]),
        "logical unit 4 is not removed: there is none",
    );
    refused(
        rig.run(&["add", "path=/absent"]),
        "not added: the file is not there",
    );
    refused(rig.run(&["add", "lun=3"]), "needs a path");
    rig.run(&["add", "path=/a,serial=s"]).unwrap();
    refused(
        rig.run(&["add", "path=/b,serial=s"]),
        "logical unit 0 has the serial number s already",
    );
    assert_eq!(rig.device.units.lock().unwrap().len(), 1);
    let socket = rig.socket.clone();
    drop(rig);
    let line = ["ctl", "--socket", socket.to_str().unwrap(), "show"];
    refused(
        run(&CtlArgs::try_parse_from(line).unwrap()),
        "no daemon takes commands",
    );
}

#[test]
fn lines_that_are_no_requests_are_answered_and_the_next_one_too() {
    let rig = Rig::new();
    let stream = rig.connect();
    let is_refused = |request: &str, words: &str| {
        let answer = ask(&stream, request);
        let Answer::Refused(reason) = &answer else {
            panic!("{request}: {answer:?}");
        };
        assert!(reason.contains(words), "{request}: {reason}");
    };
    is_refused("", "not a request");
    is_refused("\u{0}\u{1}", "not a request");
    is_refused("[1]", "not a request");
    is_refused(&"[".repeat(60_000), "not a request");
    is_refused(r#"{"version":1}"#, "command");
    is_refused(r#"{"version":2,"command":"fly"}"#, "version 2");
    is_refused(r#"{"version":1,"command":"fly"}"#, "unknown variant");
    is_refused(
        r#"{"version":1,"command":"show","more":1}"#,
        "unknown field",
    );
    is_refused(
        r#"{"version":1,"command":{"remove":{"lun":65536}}}"#,
        "65536",
    );
    is_refused(
        r#"{"version":1,"command":{"add":{"path":"a"}}}"#,
        "not an absolute path",
    );
    is_refused(
        r#"{"version":1,"command":{"add":{"path":"/a","size":1}}}"#,
        "unknown field",
    );
    is_refused(
        r#"{"version":1,"command":{"add":{"path":"/a","lun":16384}}}"#,
        "lun=16384",
    );
    let relative = r#"{"version":1,"command":{"add":{"path":"/a","reservations":"b"}}}"#;
    is_refused(relative, "b is not an absolute path");
    let shown = ask(&stream, r#"{"version":1,"command":"show"}"#);
    assert_eq!(shown, Answer::Shown(rig.device.show()));
}

#[test]
fn two_requests_in_one_piece_get_two_answers() {
    let rig = Rig::new();
    let show = r#"{"version":1,"command":"show"}"#;
    let mut stream = rig.connect();
    stream
        .write_all(format!("{show}\n{show}\n").as_bytes())
        .unwrap();
    let mut lines = BufReader::new(&stream).lines();
    assert_eq!(
        lines.next().unwrap().unwrap(),
        lines.next().unwrap().unwrap()
    );
}

#[test]
fn a_line_without_end_ends_the_connection() {
    let rig = Rig::new();
    let mut stream = rig.connect();
    assert!(stream.write_all(&vec![b' '; 32 << 20]).is_err());
    assert!(rig.run(&["show"]).is_ok());
}

#[test]
fn a_slow_client_is_not_waited_for_by_others_nor_for_ever() {
    let rig = Rig::with_patience(Duration::from_secs(2));
    let mut slow = rig.connect();
    slow.write_all(b"{").unwrap();
    assert!(rig.run(&["show"]).is_ok());
    assert!(is_closed(&slow));
}

#[test]
fn too_many_clients_are_told_so() {
    let rig = Rig::new();
    let clients: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    for client in &clients {
        // All of them have been accepted now.
        assert!(matches!(
            ask(client, r#"{"version":1,"command":"show"}"#),
            Answer::Shown(_)
        ));
    }
    refused(rig.run(&["show"]), "8 clients are being served already");
    drop(clients);
    // Threads take a moment to see that their clients have left.
    while rig.run(&["show"]).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn only_the_owner_gets_to_the_socket_and_a_stale_one_is_replaced() {
    let mut rig = Rig::new();
    let mode = std::fs::metadata(&rig.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let device = Arc::clone(&rig.device) as Arc<dyn Administer>;
    assert!(
        Server::start(&rig.socket, Arc::clone(&device)).is_err(),
        "it is in use"
    );
    rig.server = None;
    assert!(!rig.socket.exists());
    drop(UnixListener::bind(&rig.socket).unwrap());
    assert!(rig.socket.exists(), "stale");
    rig.server = Some(Server::start(&rig.socket, device).unwrap());
    assert!(rig.run(&["show"]).is_ok());
}
