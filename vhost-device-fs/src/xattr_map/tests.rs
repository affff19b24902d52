//! Every type of rule in every scope, and every way to write one wrong.

use super::*;

fn map(text: &str) -> XattrMap {
    text.parse().unwrap()
}

/// The name on the host, or what the guest is told instead.
fn host(text: &str, name: &str) -> String {
    match map(text).to_host(name.as_bytes()) {
        HostName::Named(name) => String::from_utf8(name.into_owned()).unwrap(),
        HostName::Denied => "denied".to_owned(),
        HostName::Unsupported => "unsupported".to_owned(),
    }
}

/// The name in the guest, if it sees one.
fn guest(text: &str, name: &str) -> String {
    let map = map(text);
    let seen = map.to_guest(name.as_bytes()).unwrap_or(b"hidden");
    String::from_utf8(seen.to_vec()).unwrap()
}

#[track_caller]
fn refused(text: &str, rule: usize, offset: usize, complaint: Complaint) {
    let expected = XattrMapError {
        rule,
        offset,
        complaint,
    };
    assert_eq!(text.parse::<XattrMap>(), Err(expected));
}

#[test]
fn prefixes_are_put_on_and_taken_off() {
    let all = ":prefix:all:trusted.:user.vm.::ok:all:::";
    assert_eq!(host(all, "trusted.a"), "user.vm.trusted.a");
    assert_eq!(host(all, "user.a"), "user.a");
    assert_eq!(guest(all, "user.vm.trusted.a"), "trusted.a");
    assert_eq!(guest(all, "user.a"), "user.a");
    let client = ":prefix:client:trusted.:user.vm.::ok:all:::";
    assert_eq!(host(client, "trusted.a"), "user.vm.trusted.a");
    assert_eq!(guest(client, "user.vm.trusted.a"), "user.vm.trusted.a");
    let server = ":prefix:server:trusted.:user.vm.::ok:all:::";
    assert_eq!(host(server, "trusted.a"), "trusted.a");
    assert_eq!(guest(server, "user.vm.trusted.a"), "trusted.a");
}

#[test]
fn a_name_that_is_only_the_prefix_is_not_seen() {
    assert_eq!(
        guest(":prefix:all::user.vm.::bad:all:::", "user.vm."),
        "hidden"
    );
}

#[test]
fn what_is_ok_passes_before_later_rules() {
    let text = ":ok:client:user.::  :ok:server::security.:  :bad:all:::";
    assert_eq!(host(text, "user.a"), "user.a");
    assert_eq!(host(text, "security.a"), "denied");
    assert_eq!(guest(text, "security.a"), "security.a");
    assert_eq!(guest(text, "user.a"), "hidden");
}

#[test]
fn what_is_bad_is_denied_and_hidden() {
    let text = "/bad/all/security./security./ /ok/all///";
    assert_eq!(host(text, "security.selinux"), "denied");
    assert_eq!(guest(text, "security.selinux"), "hidden");
    assert_eq!(host(text, "user.a"), "user.a");
    let server = ":bad:server::security.::ok:all:::";
    assert_eq!(host(server, "security.selinux"), "security.selinux");
    assert_eq!(guest(server, "security.selinux"), "hidden");
}

#[test]
fn what_is_unsupported_is_told_so_and_hidden() {
    let text = ":unsupported:all:system.:system.::ok:all:::";
    assert_eq!(host(text, "system.posix_acl_access"), "unsupported");
    assert_eq!(guest(text, "system.posix_acl_access"), "hidden");
}

#[test]
fn a_map_of_everything_is_two_rules() {
    assert_eq!(
        map(":map::user.vm.:"),
        map(":prefix:all::user.vm.::bad:all:::")
    );
    assert_eq!(host(":map::user.vm.:", "security.a"), "user.vm.security.a");
    assert_eq!(guest(":map::user.vm.:", "security.a"), "hidden");
}

#[test]
fn a_map_of_some_names_keeps_both_sides_apart() {
    let long = "/prefix/all/trusted./user.vm./
                /bad/server//trusted./
                /bad/client/user.vm.//
                /ok/all///";
    let short = "/map/trusted./user.vm./";
    for text in [long, short] {
        assert_eq!(host(text, "trusted.a"), "user.vm.trusted.a");
        assert_eq!(host(text, "user.vm.trusted.a"), "denied", "{text}");
        assert_eq!(guest(text, "trusted.a"), "hidden");
        assert_eq!(guest(text, "user.vm.trusted.a"), "trusted.a");
        assert_eq!(host(text, "user.a"), "user.a");
        assert_eq!(guest(text, "user.a"), "user.a");
    }
}

#[test]
fn each_rule_has_a_separator_of_its_own() {
    let text = "\n\t:prefix:all:a.:b.:/ok/all///  ";
    assert_eq!(map(text).rules().len(), 2);
    assert_eq!(
        host("\u{2192}ok\u{2192}all\u{2192}\u{2192}\u{2192}", "x"),
        "x"
    );
}

#[test]
fn mistakes_are_named_with_their_place() {
    refused("", 1, 0, Complaint::NoRules);
    refused(" \n", 1, 0, Complaint::NoRules);
    refused("ok:all:::", 1, 0, Complaint::Separator('o'));
    refused(":ok:all:::x", 2, 10, Complaint::Separator('x'));
    refused(":okay:all:::", 1, 0, Complaint::Type("okay".to_owned()));
    refused(":ok:both:::", 1, 0, Complaint::Scope("both".to_owned()));
    refused(":ok:all:a", 1, 0, Complaint::Unfinished("key", ':'));
    refused(":ok:all:a:b", 1, 0, Complaint::Unfinished("prepend", ':'));
    refused("  /ok/all:", 1, 2, Complaint::Unfinished("scope", '/'));
    refused(":ok", 1, 0, Complaint::Unfinished("type", ':'));
    refused(":map:a:b::ok:all:::", 1, 0, Complaint::MapNotLast);
    refused(":ok:all:a:\0::ok:all:::", 1, 0, Complaint::Nul("prepend"));
    let long = "x".repeat(256);
    let too_long = Complaint::TooLong {
        field: "key",
        bytes: 256,
    };
    refused(&format!(":ok:all:{long}::"), 1, 0, too_long);
    let shown = ":ok:all:::  /bad/some///".parse::<XattrMap>().unwrap_err();
    assert_eq!(
        shown.to_string(),
        "rule 2 (byte 12): the scope is \"some\", and must be client, server or all"
    );
}

#[test]
fn every_name_must_match_a_rule() {
    let unterminated = |from| Complaint::Unterminated { from };
    refused(":ok:all:user.:user.:", 1, 0, unterminated(Side::Guest));
    refused(":ok:server:::", 1, 0, unterminated(Side::Guest));
    refused(" :ok:client:::", 1, 1, unterminated(Side::Host));
    // The prefix is what the host's names would have to begin with.
    refused(":prefix:all::user.vm.:", 1, 0, unterminated(Side::Host));
    assert!(":ok:client::: :bad:server:::".parse::<XattrMap>().is_ok());
}

#[test]
fn there_are_not_too_many_rules() {
    let many = ":ok:all:::".repeat(RULES_MAX);
    assert_eq!(map(&many).rules().len(), RULES_MAX);
    let offset = many.len();
    refused(
        &(many + ":ok:all:::"),
        RULES_MAX + 1,
        offset,
        Complaint::TooManyRules,
    );
    let by_shorthand = ":ok:all:::".repeat(RULES_MAX - 2) + ":map:a:b:";
    assert!(
        by_shorthand.parse::<XattrMap>().is_err(),
        "it is three rules"
    );
}
