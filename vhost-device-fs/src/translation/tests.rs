//! Every type of translation, its borders, and every way to write one wrong.

use super::*;

fn translation(texts: &[&str]) -> Result<Translation, TranslationError> {
    let options: Vec<TranslationOption> = texts.iter().map(|text| text.parse().unwrap()).collect();
    Translation::new("--translate-uid", &options)
}

fn to_host(texts: &[&str], id: u32) -> Result<u32, Forbidden> {
    translation(texts).unwrap().to_host(id)
}

fn to_guest(texts: &[&str], id: u32) -> u32 {
    translation(texts).unwrap().to_guest(id)
}

#[test]
fn without_ranges_ids_are_the_same() {
    assert!(translation(&[]).unwrap().is_empty());
    for id in [0, 1, 65_534, u32::MAX] {
        assert_eq!(to_host(&[], id), Ok(id));
        assert_eq!(to_guest(&[], id), id);
    }
}

#[test]
fn guest_and_host_are_one_direction_each() {
    let guest = ["guest:1000:5000:10"];
    assert_eq!(to_host(&guest, 999), Ok(999));
    assert_eq!(to_host(&guest, 1000), Ok(5000));
    assert_eq!(to_host(&guest, 1009), Ok(5009));
    assert_eq!(to_host(&guest, 1010), Ok(1010));
    assert_eq!(to_guest(&guest, 5000), 5000);
    let host = ["host:5000:1000:10"];
    assert_eq!(to_guest(&host, 5009), 1009);
    assert_eq!(to_guest(&host, 5010), 5010);
    assert_eq!(to_host(&host, 1000), Ok(1000));
}

#[test]
fn map_is_both_directions() {
    let map = ["map:0:100000:65536"];
    assert_eq!(to_host(&map, 65_535), Ok(165_535));
    assert_eq!(to_guest(&map, 165_535), 65_535);
    let both = ["guest:0:100000:65536", "host:100000:0:65536"];
    assert_eq!(translation(&map), translation(&both));
}

#[test]
fn squashed_ids_become_one() {
    let all = ["squash-guest:0:1001:4294967295", "squash-host:5:7:2"];
    for id in [0, 1001, u32::MAX - 1] {
        assert_eq!(to_host(&all, id), Ok(1001));
    }
    assert_eq!(to_host(&all, u32::MAX), Ok(u32::MAX), "it is no id");
    let seen: Vec<u32> = (4..=7).map(|id| to_guest(&all, id)).collect();
    assert_eq!(seen, [4, 7, 7, 7]);
}

#[test]
fn forbidden_ids_are_not_translated() {
    let forbidden = ["forbid-guest:0:1", "guest:1:11:1"];
    assert_eq!(to_host(&forbidden, 0), Err(Forbidden));
    assert_eq!(to_host(&forbidden, 1), Ok(11));
    assert_eq!(to_guest(&forbidden, 0), 0);
}

#[test]
fn ranges_are_found_in_any_order() {
    let ranges = ["guest:300:3:10", "guest:100:1:10", "guest:200:2:10"];
    let expected = [
        (99, 99),
        (100, 1),
        (109, 10),
        (110, 110),
        (205, 7),
        (309, 12),
        (310, 310),
    ];
    for (guest, host) in expected {
        assert_eq!(to_host(&ranges, guest), Ok(host), "{guest}");
    }
}

#[test]
fn separators_and_case_are_free() {
    for text in ["MAP/1/2/3", "Map,1,2,3", "map 1 2 3"] {
        assert_eq!(text.parse::<TranslationOption>(), "map:1:2:3".parse());
    }
    assert_eq!(
        "map/1/2/3"
            .parse::<TranslationOption>()
            .unwrap()
            .to_string(),
        "map:1:2:3"
    );
    let forbidden = "forbid-guest:1:2";
    assert_eq!(
        forbidden.parse::<TranslationOption>().unwrap().to_string(),
        forbidden
    );
}

#[test]
fn ranges_of_one_direction_do_not_overlap() {
    let overlapping = [
        ["guest:10:0:10", "guest:19:0:1"],
        ["guest:19:0:1", "guest:10:0:10"],
        ["guest:10:0:10", "forbid-guest:10:1"],
        ["guest:10:0:10", "squash-guest:5:0:6"],
        ["map:0:10:5", "host:14:0:1"],
        ["squash-guest:0:1:4294967295", "guest:4294967294:0:1"],
    ];
    for texts in overlapping {
        let error = translation(&texts).unwrap_err();
        assert_eq!(
            (error.complaint, error.text.as_str()),
            (Complaint::Overlap, texts[1])
        );
    }
    assert!(
        translation(&[
            "guest:10:0:10",
            "guest:20:0:1",
            "guest:9:0:1",
            "host:10:0:10"
        ])
        .is_ok()
    );
}

#[test]
fn mistakes_are_named() {
    let complaint = |text: &str| text.parse::<TranslationOption>().unwrap_err();
    let fields = |expected, found| Complaint::Fields { expected, found };
    assert_eq!(complaint(""), Complaint::Type(String::new()));
    assert_eq!(complaint("guest"), Complaint::Type("guest".to_owned()));
    assert_eq!(
        complaint("guests:1:2:3"),
        Complaint::Type("guests".to_owned())
    );
    assert_eq!(complaint(":1:2:3:"), Complaint::Type(String::new()));
    assert_eq!(complaint("guest:1:2"), fields(3, 2));
    assert_eq!(complaint("map:1:2:3:4"), fields(3, 4));
    assert_eq!(complaint("forbid-guest:1:2:3"), fields(2, 3));
    assert_eq!(complaint("map:1:2:"), Complaint::Number(String::new()));
    assert_eq!(complaint("map:1:-2:3"), Complaint::Number("-2".to_owned()));
    assert_eq!(
        complaint("map:1:2:4294967296"),
        Complaint::Number("4294967296".to_owned())
    );
    assert_eq!(complaint("guest:1:2:0"), Complaint::Empty);
    for text in [
        "guest:4294967295:0:1",
        "guest:0:4294967295:1",
        "guest:1:0:4294967295",
        "map:0:1:4294967295",
        "squash-guest:0:4294967295:1",
        "forbid-guest:2:4294967294",
    ] {
        assert_eq!(complaint(text), Complaint::Beyond, "{text}");
    }
}

#[test]
fn there_are_not_too_many() {
    let one = |at: usize| format!("guest:{at}:0:1").parse().unwrap();
    let most: Vec<TranslationOption> = (0..RANGES_MAX).map(one).collect();
    assert!(Translation::new("--translate-gid", &most).is_ok());
    let more: Vec<TranslationOption> = (0..=RANGES_MAX).map(one).collect();
    let error = Translation::new("--translate-gid", &more).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--translate-gid guest:1024:0:1: there are more than 1024 ranges in one direction"
    );
}
