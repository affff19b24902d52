//! What a scenario cost: what QEMU and the daemons tell of its migrations.

use std::time::Duration;

use anyhow::Result;
use common::state::DeviceKind;

use crate::qemu::whole_machine::WholeMachine;
use crate::transfer_log::StateCost;

/// What a scenario cost.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// The longest that the guest stood still, as QEMU tells it; of live migrations only.
    pub downtime: Option<Duration>,
    /// Migrations that have completed.
    pub completed: u32,
    /// Migrations that have failed, were cancelled or refused, as they should.
    pub failed: u32,
    /// What each device's state was, the last time; none if none was saved.
    pub states: Vec<(DeviceKind, StateCost)>,
}

impl Cost {
    /// A live migration has completed.
    pub(super) fn add_migration(
        &mut self,
        downtime: Duration,
        source: &WholeMachine,
        destination: &WholeMachine,
    ) -> Result<()> {
        self.completed += 1;
        self.downtime = self.downtime.max(Some(downtime));
        let pairs = source.kinds().map(|kind| {
            let cost = StateCost::moved(source.daemon(kind)?, destination.daemon(kind)?)?;
            Ok((kind, cost))
        });
        self.states = pairs.collect::<Result<_>>()?;
        Ok(())
    }

    /// A machine was saved to a file.
    pub(super) fn add_snapshot(&mut self, source: &WholeMachine) -> Result<()> {
        self.completed += 1;
        let kinds = source.kinds();
        let states = kinds.map(|kind| Ok((kind, StateCost::saved(source.daemon(kind)?)?)));
        self.states = states.collect::<Result<_>>()?;
        Ok(())
    }
}
