//! Options that mean something, and those that are refused by name.

use clap::CommandFactory as _;

use super::*;

fn config(args: &[&str]) -> Result<Config, ArgsError> {
    let line = ["vhost-device-scsi"].iter().chain(args);
    Config::try_from(&ScsiArgs::try_parse_from(line).unwrap())
}

#[test]
fn the_command_is_consistent() {
    ScsiArgs::command().debug_assert();
}

#[test]
fn defaults_are_those_of_the_configuration() {
    assert_eq!(config(&[]), Ok(Config::new(Vec::new())));
    let one = Config::new(vec![UnitConfig::new("a.img", 0)]);
    assert_eq!(config(&["a.img"]), Ok(one.clone()));
    assert_eq!(config(&["--lun", "path=a.img"]), Ok(one.clone()));
    assert_eq!(config(&["--solid-state", "a.img"]), Ok(one));
}

#[test]
fn options_reach_the_configuration() {
    let line = [
        "--num-queues=3",
        "--workers=5",
        "--engine=io-uring",
        "--threads=7",
        "--busy-poll-us=50",
        "--initiator=iqn.2026-01.org.example:vm7",
        "--require-state",
        "--control-socket=/run/scsi.ctl",
        "--target=9",
        "--lun=path=/a,,b.img,lun=300,serial=S 1,wwn=5000c50012345678,readonly,block-size=4096,rotation-rate=7200,thin=off,\
         direct=on,lock=off,write-cache=off,vendor=ACME,product=DISK,reservations=/a.pr",
    ];
    let unit = UnitConfig {
        path: "/a,b.img".into(),
        lun: 300,
        serial: "S 1".into(),
        wwn: Some(0x5000_c500_1234_5678),
        readonly: true,
        block_size: 4096,
        rotation_rate: 7200,
        thin: false,
        direct: true,
        lock: false,
        write_cache: false,
        vendor: "ACME".into(),
        product: "DISK".into(),
        reservations: Some("/a.pr".into()),
    };
    let expected = Config {
        units: vec![unit],
        target: 9,
        request_rings: 3,
        workers: 5,
        engine: Engine::IoUring,
        threads: 7,
        busy_poll: Duration::from_micros(50),
        sync_limit: Duration::from_secs(5),
        initiator: "iqn.2026-01.org.example:vm7".into(),
        require_state: true,
        control_socket: Some("/run/scsi.ctl".into()),
    };
    assert_eq!(config(&line), Ok(expected));
}

#[test]
fn images_get_the_numbers_that_are_left() {
    let line = [
        "a",
        "--lun=path=d",
        "--lun=path=b,lun=1",
        "c",
        "--read-only",
    ];
    let units = config(&line).unwrap().units;
    let seen: Vec<_> = units
        .iter()
        .map(|unit| (unit.lun, unit.path.to_str().unwrap(), unit.readonly))
        .collect();
    let expected = [
        (0, "d", false),
        (1, "b", false),
        (2, "a", true),
        (3, "c", true),
    ];
    assert_eq!(seen, expected);
}

#[track_caller]
fn refused(description: &str, words: &str) {
    let error = config(&["--lun", description]).unwrap_err();
    let ArgsError::Unit { source, .. } = &error else {
        panic!("{error:?}");
    };
    let text = source.to_string();
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[test]
fn what_is_wrong_with_a_unit_is_named() {
    refused("lun=1", "needs a path");
    refused("path", "path needs a value");
    refused("path=", "path needs a value");
    refused("path=a,", "\"\" is not known");
    refused("path=a,size=3", "\"size\" is not known");
    refused("path=a,path=b", "path is there twice");
    refused("path=a,lun=16384", "lun=16384 must be");
    refused("path=a,lun=70000", "lun=70000 must be");
    refused("path=a,lun=x", "lun=x must be");
    refused("path=a,serial=", "serial needs a value");
    refused("path=a,serial=\u{e9}", "serial=\u{e9} must be");
    refused(
        &format!("path=a,serial={}", "x".repeat(37)),
        "1 to 36 printable",
    );
    refused("path=a,vendor=123456789", "vendor=123456789 must be");
    refused("path=a,product=12345678901234567", "1 to 16 printable");
    refused(
        "path=a,block-size=1024",
        "block-size=1024 must be 512 or 4096",
    );
    refused("path=a,rotation-rate=2", "rotation-rate=2 must be");
    refused("path=a,rotation-rate=65535", "rotation-rate=65535 must be");
    refused("path=a,thin=yes", "thin=yes must be on or off");
    refused("path=a,reservations", "reservations needs a value");
    for wwn in [
        "5",
        "6000c50012345678",
        "+000c50012345678",
        "5000c5001234567g",
    ] {
        refused(&format!("path=a,wwn={wwn}"), &format!("wwn={wwn} must be"));
    }
    config(&["--lun=path=a,wwn=0x3000000000000001"]).unwrap();
}

#[test]
fn units_that_a_guest_would_take_for_one_are_refused() {
    let two = |first: &str, second: &str| config(&["--lun", first, "--lun", second]);
    assert_eq!(
        two("path=a,lun=1", "path=b,lun=1"),
        Err(ArgsError::LunTwice(1))
    );
    let same = |what, value: &str| {
        Err(ArgsError::Twins {
            first: 0,
            second: 1,
            what,
            value: value.to_owned(),
        })
    };
    let serials = two("path=a,serial=s", "path=b,serial=s");
    assert_eq!(serials, same("serial number", "s"));
    let wwn = "wwn=3000000000000001";
    let names = two(&format!("path=a,{wwn}"), &format!("path=b,{wwn}"));
    assert_eq!(names, same("world wide name", "3000000000000001"));
}

#[test]
fn numbers_out_of_range_are_refused_by_clap() {
    for option in [
        "--num-queues=0",
        "--num-queues=63",
        "--workers=0",
        "--threads=257",
        "--busy-poll-us=10001",
        "--target=256",
        "--engine=magic",
    ] {
        let line = ["vhost-device-scsi", option];
        assert!(ScsiArgs::try_parse_from(line).is_err(), "{option}");
    }
}

#[test]
fn options_of_a_unit_survive_json() {
    let text = "path=/a,lun=3,readonly,wwn=3000000000000001,block-size=4096";
    let options: UnitOptions = text.parse().unwrap();
    let json = serde_json::to_string(&options).unwrap();
    let expected =
        r#"{"path":"/a","lun":3,"wwn":"3000000000000001","readonly":true,"block-size":4096}"#;
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_str::<UnitOptions>(&json).unwrap(), options);
    assert!(serde_json::from_str::<UnitOptions>(r#"{"size":3}"#).is_err());
}
