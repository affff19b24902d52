//! The vhost-user side: the only place, with `daemon.rs`, that names the stock crates' types.

pub mod messages;
