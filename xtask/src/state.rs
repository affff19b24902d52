//! `cargo xtask state`: what is in a saved device state, and what is wrong with it.
//!
//! Reads with the daemons' own decoder. Shows the framing, so it can tell of any device in any version,
//! and never what is inside a section, which is a tenant's data. Where the device's schema is known, it
//! decodes the sections as well, to find what the framing cannot tell.
//!
//! Exit codes: 0 whole and sound, 1 the file cannot be read, 2 usage, 3 damaged, 4 of an unknown
//! version, 5 of another or of an unknown device.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::tests::null_device::NullState;
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use common::state::{
    DeviceKind, Fault, Header, Importance, Inspection, Limits, StateError, StateSchema, inspect,
    read_state,
};
use serde_json::{Value, json};
use vhost_device_fs::state::FsState;
use vhost_device_gpu::state::GpuState;
use vhost_device_scsi::state::ScsiState;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show header and sections, up to where the state is damaged
    Show(Options),
    /// Only tell whether the state is whole and sound
    Verify(Options),
}

#[derive(Args)]
pub(crate) struct Options {
    /// The state, `-` for the standard input
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The device whose state it has to be
    #[arg(long)]
    device: Option<Device>,
    /// Read no more than this many bytes, as a daemon would
    #[arg(long, default_value_t = Limits::default().total_bytes_max)]
    bytes_max: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Fs,
    Gpu,
    Scsi,
    Null,
}

impl From<Device> for DeviceKind {
    fn from(device: Device) -> Self {
        match device {
            Device::Fs => Self::Fs,
            Device::Gpu => Self::Gpu,
            Device::Scsi => Self::Scsi,
            Device::Null => Self::Null,
        }
    }
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let (report, code) = report(command)?;
    io::stdout()
        .write_all(report.as_bytes())
        .context("cannot print the report")?;
    Ok(code.into())
}

fn report(command: &Command) -> anyhow::Result<(String, u8)> {
    let (Command::Show(options) | Command::Verify(options)) = command;
    let limits = Limits {
        total_bytes_max: options.bytes_max,
        ..Limits::default()
    };
    let bytes = read(&options.file, options.bytes_max)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let inspection = inspect(&mut bytes.as_slice(), &limits);
    let decoded = decode(&bytes, &inspection, &limits);
    let verdict = judge(&inspection, &decoded, options.device.map(DeviceKind::from));
    let with_sections = matches!(command, Command::Show(_));
    let report = match (options.json, with_sections) {
        (true, _) => format!("{:#}\n", in_json(&inspection, &verdict, with_sections)),
        (false, true) => in_words(&inspection) + &verdict.text + "\n",
        (false, false) => verdict.text + "\n",
    };
    Ok((report, verdict.code))
}

/// Reads one byte more than is wanted at most, so that too many are noticed.
fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path)?)
    };
    let mut bytes = Vec::new();
    input
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the device's own schema says.
enum Decoded {
    /// Not asked: the framing is not sound, or the schema is not known here.
    No,
    Yes,
    Refused(StateError),
}

fn decode(bytes: &[u8], inspection: &Inspection, limits: &Limits) -> Decoded {
    let Some(header) = inspection.header.filter(|_| inspection.problem.is_none()) else {
        return Decoded::No;
    };
    match DeviceKind::from_u16(header.kind) {
        Some(DeviceKind::Fs) => decode_as::<FsState>(bytes, limits),
        Some(DeviceKind::Gpu) => decode_as::<GpuState>(bytes, limits),
        Some(DeviceKind::Null) => decode_as::<NullState>(bytes, limits),
        Some(DeviceKind::Scsi) => decode_as::<ScsiState>(bytes, limits),
        Some(DeviceKind::Connection) | None => Decoded::No,
    }
}

fn decode_as<S: StateSchema>(mut bytes: &[u8], limits: &Limits) -> Decoded {
    match read_state::<S>(&mut bytes, limits) {
        Ok(_) => Decoded::Yes,
        Err(error) => Decoded::Refused(error),
    }
}

struct Verdict {
    code: u8,
    text: String,
}

fn judge(inspection: &Inspection, decoded: &Decoded, device: Option<DeviceKind>) -> Verdict {
    if let Some(Header { kind, .. }) = inspection.header {
        let wrong = match (DeviceKind::from_u16(kind), device) {
            (None, _) => Some(format!("unknown device: {kind:#06x} is none of ours")),
            (Some(found), Some(wanted)) if found != wanted => Some(format!(
                "wrong device: the state of {found}, not of {wanted}"
            )),
            (Some(_), _) => None,
        };
        if let Some(text) = wrong {
            return Verdict { code: 5, text };
        }
    }
    let (sections, bytes) = (inspection.sections.len(), inspection.bytes);
    let sound = |how: &str| Verdict {
        code: 0,
        text: format!("whole and sound: {sections} sections, {bytes} bytes, {how}"),
    };
    let error = match (&inspection.problem, decoded) {
        (Some(error), _) | (None, Decoded::Refused(error)) => error,
        (None, Decoded::Yes) => return sound("every section decodes"),
        (None, Decoded::No) => {
            return sound("sections not decoded: no schema for this device here");
        }
    };
    let (code, what) = match error.fault() {
        Fault::Damaged => (3, "damaged"),
        Fault::Version => (4, "unknown version"),
        Fault::Device => (5, "wrong device"),
        Fault::Host => (1, "not readable"),
    };
    let chain: Vec<String> = anyhow::Chain::new(error).map(ToString::to_string).collect();
    Verdict {
        code,
        text: format!("{what}: {}", chain.join(": ")),
    }
}

fn name_of(number: u16) -> String {
    DeviceKind::from_u16(number).map_or_else(|| "unknown".to_owned(), |kind| kind.to_string())
}

fn in_words(inspection: &Inspection) -> String {
    let Some(header) = inspection.header else {
        return String::new();
    };
    let mut lines = vec![
        format!("device   {} ({:#x})", name_of(header.kind), header.kind),
        format!(
            "version  {}, for readers from version {}",
            header.version, header.reader_oldest
        ),
        String::new(),
        format!(
            "{:>11}  {:<10}  {:>7}  {:<8}  {:>11}",
            "byte", "tag", "version", "", "length"
        ),
    ];
    for section in &inspection.sections {
        lines.push(format!(
            "{:>11}  {:<10}  {:>7}  {:<8}  {:>11}",
            section.offset,
            section.tag,
            section.version,
            name_of_importance(section.importance),
            section.length,
        ));
    }
    lines.push("\n".to_owned());
    lines.join("\n")
}

fn name_of_importance(importance: Importance) -> &'static str {
    match importance {
        Importance::Critical => "critical",
        Importance::Optional => "optional",
    }
}

fn in_json(inspection: &Inspection, verdict: &Verdict, with_sections: bool) -> Value {
    let header = inspection.header.map(|header| {
        json!({
            "device": name_of(header.kind),
            "device_number": header.kind,
            "version": header.version,
            "reader_oldest": header.reader_oldest,
        })
    });
    let sections = inspection.sections.iter().map(|section| {
        json!({
            "tag": section.tag.to_string(),
            "version": section.version,
            "importance": name_of_importance(section.importance),
            "offset": section.offset,
            "length": section.length,
        })
    });
    json!({
        "sound": verdict.code == 0,
        "exit_code": verdict.code,
        "verdict": verdict.text,
        "bytes_read": inspection.bytes,
        "header": header,
        "section_count": inspection.sections.len(),
        "sections": with_sections.then(|| sections.collect::<Value>()),
    })
}

#[cfg(test)]
mod tests {
    use common::state::{NoState, SchemaSupport, StateReader, StateWriter, Tag, write_state};

    use super::*;

    struct Sample;

    impl StateSchema for Sample {
        const KIND: DeviceKind = DeviceKind::Scsi;
        const VERSION: u16 = 2;
        const VERSION_OLDEST: u16 = 1;
        const SUPPORT: SchemaSupport = SchemaSupport::Savable;

        fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
            out.section(Tag::new(*b"SESS"), 1, Importance::Critical, &(1_u64, 2_u32))?;
            out.raw(Tag::new(*b"HINT"), 3, Importance::Optional, b"abcde")
        }

        fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
            while input.next_section()?.is_some() {}
            Ok(Self)
        }
    }

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_state(&Sample, 2, &mut bytes).unwrap();
        bytes
    }

    fn judged(bytes: &[u8], device: Option<DeviceKind>) -> (u8, String) {
        let limits = Limits::default();
        let inspection = inspect(&mut &*bytes, &limits);
        let decoded = decode(bytes, &inspection, &limits);
        let Verdict { code, text } = judge(&inspection, &decoded, device);
        (code, text)
    }

    /// By the framing alone, as if the schema were not known: the sample's is no device's.
    fn framed(bytes: &[u8], device: Option<DeviceKind>) -> (u8, String) {
        let inspection = inspect(&mut &*bytes, &Limits::default());
        let Verdict { code, text } = judge(&inspection, &Decoded::No, device);
        (code, text)
    }

    #[test]
    fn a_sound_state_is_shown_whole() {
        let inspection = inspect(&mut &*sample(), &Limits::default());
        assert_eq!(
            in_words(&inspection),
            "device   scsi (0x8)\n\
             version  2, for readers from version 2\n\
             \n\
             \x20      byte  tag         version                 length\n\
             \x20        32  SESS              1  critical           12\n\
             \x20        68  HINT              3  optional            5\n\
             \n"
        );
        let (code, text) = framed(&sample(), None);
        assert_eq!(code, 0);
        assert!(text.starts_with("whole and sound: 2 sections, 137 bytes, sections not decoded"));
    }

    #[test]
    fn a_damaged_state_is_shown_up_to_the_damage() {
        let mut bytes = sample();
        bytes[68 + 24] ^= 1;
        let inspection = inspect(&mut &*bytes, &Limits::default());
        assert!(in_words(&inspection).contains("SESS"));
        assert!(!in_words(&inspection).contains("HINT"));
        let (code, text) = framed(&bytes, None);
        assert_eq!(code, 3);
        assert!(
            text.contains("payload of section HINT at byte 92 is damaged"),
            "{text}"
        );
    }

    #[test]
    fn the_exit_code_says_what_kind_of_fault_it_is() {
        let sound = sample();
        assert_eq!(framed(&sound, Some(DeviceKind::Scsi)).0, 0);
        assert_eq!(framed(&sound[..100], None).0, 3);
        assert_eq!(framed(&[], None).0, 3);
        assert_eq!(
            framed(b"something else, and longer than a header", None).0,
            3
        );
        assert_eq!(framed(&sound, Some(DeviceKind::Gpu)).0, 5);

        let with_header = |offset: usize, value: u16| {
            let mut bytes = sound.clone();
            bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
            let checksum = crc32c::crc32c(&bytes[..28]);
            bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
            bytes
        };
        assert_eq!(framed(&with_header(8, 2), None).0, 4);
        assert_eq!(framed(&with_header(10, 77), None).0, 5);
    }

    #[test]
    fn json_says_the_same() {
        let inspection = inspect(&mut &*sample(), &Limits::default());
        let verdict = judge(&inspection, &Decoded::No, None);
        let value = in_json(&inspection, &verdict, true);
        assert_eq!(value["sound"], true);
        assert_eq!(value["header"]["device"], "scsi");
        assert_eq!(value["sections"][1]["tag"], "HINT");
        assert_eq!(value["sections"][1]["offset"], 68);
        assert_eq!(
            in_json(&inspection, &verdict, false)["sections"],
            Value::Null
        );
    }

    #[test]
    fn a_known_schema_is_asked_as_well() {
        let mut bytes = Vec::new();
        write_state(&NullState { sum: 7 }, 1, &mut bytes).unwrap();
        let (code, text) = judged(&bytes, None);
        assert_eq!(
            (code, text.as_str()),
            (
                0,
                "whole and sound: 1 sections, 104 bytes, every section decodes"
            )
        );

        for (device, kind) in [("fs", DeviceKind::Fs), ("scsi", DeviceKind::Scsi)] {
            let golden = format!("../vhost-device-{device}/golden/v1");
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(golden);
            for file in std::fs::read_dir(golden).unwrap() {
                let path = file.unwrap().path();
                if path.extension() == Some("state".as_ref()) {
                    let (code, text) = judged(&std::fs::read(&path).unwrap(), Some(kind));
                    assert!(
                        code == 0 && text.ends_with("every section decodes"),
                        "{text}"
                    );
                }
            }
        }

        let mut bytes = Vec::new();
        write_state(&NoState::<{ DeviceKind::Null.as_u16() }>, 1, &mut bytes).unwrap();
        let (code, text) = judged(&bytes, None);
        assert_eq!(
            (code, text.as_str()),
            (3, "damaged: section SUM_ is missing from the state stream")
        );
    }

    #[test]
    fn a_file_is_reported_on_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        let mut bytes = Vec::new();
        write_state(&NullState { sum: 7 }, 1, &mut bytes).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let options = |file, bytes_max| Options {
            file,
            json: false,
            device: None,
            bytes_max,
        };
        let (text, code) = report(&Command::Verify(options(file.clone(), 104))).unwrap();
        assert_eq!((text.lines().count(), code), (1, 0));
        let (text, code) = report(&Command::Verify(options(file.clone(), 103))).unwrap();
        assert_eq!(
            (text.as_str(), code),
            (
                "damaged: the state stream goes on past the limit of 103 bytes\n",
                3
            )
        );
        assert!(report(&Command::Show(options(file.with_extension("absent"), 1))).is_err());
    }
}
