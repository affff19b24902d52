//! What a state says of the operator's options that decide what names and numbers mean.

use common::id_map::IdMap;

use crate::config::Config;
use crate::state::{
    ConfigurationV1, IdMapV1, IdMapsV1, IdRangeV1, IdTargetV1, XattrActionV1, XattrRuleV1,
};
use crate::translation::{Range, Target};
use crate::xattr_map::{Action, Rule, XattrMap};

/// The options as they are saved, and as the destination's are compared.
pub(crate) fn configuration(config: &Config) -> ConfigurationV1 {
    let users = &config.translations.users;
    let groups = &config.translations.groups;
    let ranges = |ranges: &[Range]| ranges.iter().map(range).collect();
    ConfigurationV1 {
        xattr_rules: config
            .xattr_map
            .iter()
            .flat_map(XattrMap::rules)
            .map(rule)
            .collect(),
        users_to_host: ranges(users.ranges_to_host()),
        users_to_guest: ranges(users.ranges_to_guest()),
        groups_to_host: ranges(groups.ranges_to_host()),
        groups_to_guest: ranges(groups.ranges_to_guest()),
    }
}

/// The ids of the daemon's user namespace, likewise.
pub(crate) fn id_maps(config: &Config) -> IdMapsV1 {
    let sorted = |maps: &[IdMap]| {
        let maps = maps.iter().map(|map| IdMapV1 {
            inside: map.inside,
            outside: map.outside,
            count: map.count,
        });
        let mut maps: Vec<_> = maps.collect();
        maps.sort_unstable();
        maps
    };
    IdMapsV1 {
        users: sorted(&config.id_maps.users),
        groups: sorted(&config.id_maps.groups),
    }
}

fn rule(rule: &Rule) -> XattrRuleV1 {
    let Rule {
        action,
        client,
        server,
        key,
        prepend,
    } = rule;
    XattrRuleV1 {
        action: match action {
            Action::Prefix => XattrActionV1::Prefix,
            Action::Ok => XattrActionV1::Ok,
            Action::Bad => XattrActionV1::Bad,
            Action::Unsupported => XattrActionV1::Unsupported,
        },
        client: *client,
        server: *server,
        key: key.clone(),
        prepend: prepend.clone(),
    }
}

fn range(range: &Range) -> IdRangeV1 {
    let Range {
        first,
        count,
        target,
    } = *range;
    IdRangeV1 {
        first,
        count,
        target: match target {
            Target::From(first) => IdTargetV1::From(first),
            Target::Squash(to) => IdTargetV1::Squash(to),
            Target::Forbidden => IdTargetV1::Forbidden,
        },
    }
}
