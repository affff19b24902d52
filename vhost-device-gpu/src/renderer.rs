//! A renderer: what turns commands into pictures on screens.
//!
//! There is one, the 2D [`Core`](crate::two_d::Core). Another one (3D) takes its place as a type parameter of
//! [`GpuDevice`](crate::device::GpuDevice), together with how it is saved and loaded; rings, display socket and suspension stay.

use crate::screens::Screens;
use crate::two_d::GuestBytes;
use crate::wire::{Answer, Command, Refusal};

/// Where the screens are, which others look at as well.
pub trait Stage {
    /// Changes them; others see all of the change or nothing of it.
    fn change<R>(&self, change: impl FnOnce(&mut Screens) -> R) -> R;
}

/// What turns commands into pictures. All that is asked of it is done when a method returns, so fences are kept by order.
pub trait Renderer: Send + 'static {
    /// Device-specific features of virtio that it serves.
    const FEATURES: u64;

    /// Does what the guest asks; a refusal has changed nothing.
    fn execute(
        &mut self,
        command: Command,
        guest: &impl GuestBytes,
        stage: &impl Stage,
    ) -> Result<Answer, Refusal>;

    /// The guest is about to run, and its memory is there: what a load could not do without that is done now. True if there is more to do
    /// that can wait until the guest runs, see [`catch_up`](Self::catch_up).
    fn resume(&mut self, guest: &impl GuestBytes, stage: &impl Stage) -> bool;

    /// Does what a resumption has left. It needs no guest, and is done before any command at the latest; until then the screens that it
    /// concerns are not shown.
    fn catch_up(&mut self, stage: &impl Stage);

    /// Forgets the guest.
    fn reset(&mut self, stage: &impl Stage);
}
