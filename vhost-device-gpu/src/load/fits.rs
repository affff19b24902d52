//! Whether a state that makes sense fits this back-end as it is configured.

use super::backing;
use crate::renderer::Renderer as _;
use crate::screens::Screens;
use crate::state::{GpuState, HeadV1, ResourceKindV1, ResourceV1};
use crate::two_d::Core;
use crate::two_d::resource::image_bytes;

/// The state is sound, but not for this back-end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Features that this back-end does not have.
    #[error("the guest accepted features {features:#x}, and this back-end has {ours:#x}")]
    Features {
        /// Of the guest.
        features: u64,
        /// Ours.
        ours: u64,
    },
    /// More memory than the guest may have here.
    #[error("{what} take {wanted} bytes, and --max-hostmem is {limit}")]
    Memory {
        /// What.
        what: &'static str,
        /// How much.
        wanted: u64,
        /// The limit.
        limit: u64,
    },
    /// A screen that is not here.
    #[error("the guest uses scanout {number}, and --max-outputs is {outputs}")]
    Outputs {
        /// Its number.
        number: u32,
        /// How many there are.
        outputs: usize,
    },
}

pub(super) fn fits(core: &Core, state: &GpuState, screens: &Screens) -> Result<(), Mismatch> {
    let features = state.device.features;
    if features & !Core::FEATURES != 0 {
        return Err(Mismatch::Features {
            features,
            ours: Core::FEATURES,
        });
    }
    let within = |what, wanted: Option<u64>, limit| match wanted.unwrap_or(u64::MAX) {
        wanted if wanted <= limit => Ok(()),
        wanted => Err(Mismatch::Memory {
            what,
            wanted,
            limit,
        }),
    };
    let resources = sum(state.resources.iter().map(footprint));
    within("the guest's resources", resources, core.limits().bytes_max)?;
    let shown = state.heads.iter().filter_map(|head| head.scanout.as_ref());
    let pictures = sum(shown.map(|scanout| image_bytes(scanout.rect.width, scanout.rect.height)));
    within("the guest's screens", pictures, screens.bytes_max())?;
    let outputs = core.limits().scanouts;
    let beyond = |head: &&HeadV1| usize::try_from(head.number).is_ok_and(|it| it >= outputs);
    match state.heads.iter().find(beyond) {
        Some(HeadV1 { number, .. }) => Err(Mismatch::Outputs {
            number: *number,
            outputs,
        }),
        None => Ok(()),
    }
}

fn sum(mut sizes: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    sizes.try_fold(0_u64, |sum, size| sum.checked_add(size?))
}

/// Host memory that a resource will take, in bytes.
fn footprint(resource: &ResourceV1) -> Option<u64> {
    let pixels = match &resource.kind {
        ResourceKindV1::Image(image) => image_bytes(image.width, image.height)?,
        ResourceKindV1::Blob(_) => 0,
    };
    pixels.checked_add(backing(&resource.backing).map_or(0, |backing| backing.footprint()))
}
