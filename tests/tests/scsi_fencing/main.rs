//! Do initiators on different daemons fence each other, as clusters expect it, also while one of them is being migrated?
//!
//! Each initiator has a daemon of its own; what the daemons share is the image and a store of reservations. Reservations are made by the
//! real `sg_persist`. Everything is asked twice: with nobody migrated, and with one of two initiators migrated between any two steps.

mod commands;
mod events;
mod restart;
mod rig;
