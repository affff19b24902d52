//! The device as `common` drives it: rings to the renderer, questions to the display, the config space, and the verbs of the
//! lifecycle.
//!
//! Knows neither what commands do nor how the display socket speaks. Outside of the rings, only the display's thread works; while
//! the device is suspended it is silent.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, NoDisplay, SaveError, StateSupport,
    SuspendError, read_config_space,
};
use common::protocol::messages::feature::RING_RESET;
use common::report::Sparse;
use common::request::Request;
use common::ring::Ring;
use common::state::DeviceKind;

use crate::config::Config;
use crate::display::{Display, Question, Reply};
use crate::load::Load;
use crate::memory::GuestRam;
use crate::renderer::Renderer;
use crate::save::Save;
use crate::screens::Screens;
use crate::state::GpuState;
use crate::two_d::{Core, Limits};
use crate::uuid;
use crate::wire::{self, Answer, CONTROL_RING, Command, Header, RINGS, Refusal, feature};

/// QEMU has 64 and 16, or 256.
const RING_SIZE_MAX: u16 = 1024;
/// `events_read`, `events_clear`, `num_scanouts`, `num_capsets` (virtio 1.3, 5.7.4).
const CONFIG_SPACE_BYTES: usize = 16;
const EVENTS_CLEAR_AT: u32 = 4;

/// A graphics adapter as a virtio device.
pub struct GpuDevice<R = Core> {
    config: Config,
    pub(crate) renderer: Arc<Mutex<R>>,
    pub(crate) display: Arc<Display>,
    /// What the driver accepted of the features that are the device's own.
    pub(crate) features: AtomicU64,
    /// Our way to the guest, from the first resume on.
    guest: OnceLock<Guest>,
    /// Commands that were refused.
    refused: Sparse,
}

impl GpuDevice {
    /// A device that no guest has used.
    pub fn new(config: Config) -> std::io::Result<Self> {
        let limits = Limits {
            bytes_max: config.host_bytes_max,
            scanouts: config.outputs_max,
        };
        let screens = Screens::new(config.host_bytes_max);
        Ok(Self {
            renderer: Arc::new(Mutex::new(Core::new(limits, uuid::random))),
            display: Arc::new(Display::new(screens, config.headless)?),
            features: AtomicU64::new(0),
            guest: OnceLock::new(),
            refused: Sparse::new(),
            config,
        })
    }
}

impl<R: Renderer> GpuDevice<R> {
    /// The screens.
    pub fn display(&self) -> &Arc<Display> {
        &self.display
    }

    /// What the operator wants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn renderer(&self) -> MutexGuard<'_, R> {
        lock(&self.renderer)
    }

    /// Has the rest of a load done while the guest runs already. A command that comes first does it itself.
    fn catch_up(&self) {
        let (renderer, display) = (Arc::clone(&self.renderer), Arc::clone(&self.display));
        let helper = thread::Builder::new().name("screens".into());
        let started = helper.spawn(move || lock(&renderer).catch_up(display.as_ref()));
        if let Err(error) = started {
            log::warn!("host: no thread for the screens, the guest waits for them: {error}");
            self.renderer().catch_up(self.display.as_ref());
        }
    }

    /// Guest memory as it is now; none before the device has run.
    pub(crate) fn memory(&self) -> GuestRam {
        GuestRam(self.guest.get().map_or_else(Arc::default, Guest::memory))
    }

    /// Serves a command; `None` if there is no answer yet.
    fn serve(&self, ring: usize, request: &Request) -> Option<u32> {
        let (header, command) = wire::parse(request.reader());
        let result = match command.and_then(|command| self.admit(command)) {
            // One question at a time waits for its answer: those of two rings would take each other's place for ever.
            Ok(Command::GetDisplayInfo | Command::GetEdid { .. }) if ring != CONTROL_RING => {
                Err(Refusal::Unspecified)
            }
            Ok(Command::GetDisplayInfo) => self.ask(Question::DisplayInfo)?,
            Ok(Command::GetEdid { scanout }) => match usize::try_from(scanout) {
                Ok(scanout) if scanout < self.config.outputs_max => {
                    self.ask(Question::Edid(scanout))?
                }
                _ => Err(Refusal::InvalidScanoutId),
            },
            Ok(command) => self
                .renderer()
                .execute(command, &self.memory(), self.display.as_ref()),
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &result {
            self.complain(&header, *refusal);
        }
        Some(wire::write(&header, &result, &mut request.writer()))
    }

    /// Refuses commands of features that the driver did not accept.
    fn admit(&self, command: Command) -> Result<Command, Refusal> {
        let needed = if matches!(command, Command::GetEdid { .. }) {
            feature::EDID
        } else if matches!(command, Command::AssignUuid { .. }) {
            feature::RESOURCE_UUID
        } else if matches!(
            command,
            Command::CreateBlob { .. } | Command::SetScanoutBlob { .. }
        ) {
            feature::RESOURCE_BLOB
        } else {
            0
        };
        if self.features.load(Ordering::Relaxed) & needed == needed {
            Ok(command)
        } else {
            Err(Refusal::Unspecified)
        }
    }

    fn ask(&self, question: Question) -> Option<Result<Answer, Refusal>> {
        Some(match self.display.ask(question)? {
            Reply::DisplayInfo(info) => Ok(Answer::DisplayInfo(info)),
            Reply::Edid(edid) => Ok(Answer::Edid(edid)),
            Reply::NoSuchScanout => Err(Refusal::InvalidScanoutId),
        })
    }

    fn complain(&self, header: &Header, refusal: Refusal) {
        if let Some(count) = self.refused.count() {
            log::warn!(
                "command {:#x} refused ({count} so far): {refusal}",
                header.kind
            );
        }
    }

    fn config_space(&self) -> [u8; CONFIG_SPACE_BYTES] {
        let mut space = [0; CONFIG_SPACE_BYTES];
        let [_, _, _, _, _, _, _, _, outputs, ..] = &mut space;
        *outputs = u8::try_from(self.config.outputs_max).unwrap_or(u8::MAX);
        space
    }
}

fn lock<R>(renderer: &Mutex<R>) -> MutexGuard<'_, R> {
    renderer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Renderer + Save + Load> Device for GpuDevice<R> {
    type State = GpuState;

    /// `RING_RESET` is offered because QEMU does not ask: it accepts that feature for this device whatever the back-end says
    /// (hw/display/virtio-gpu-base.c, `virtio_gpu_base_get_features`), and the stock handler ends a connection over it. QEMU
    /// resets rings of other devices only, so nothing of it arrives here.
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "gpu",
            kind: DeviceKind::Gpu,
            rings: RINGS,
            ring_size_max: RING_SIZE_MAX,
            features: R::FEATURES | RING_RESET,
            config_space: true,
            dirty_log: self.config.migratable,
            resubmits: false,
        }
    }

    fn state_support(&self) -> StateSupport {
        StateSupport::Savable
    }

    fn ack_features(&self, features: u64) {
        self.features
            .store(features & R::FEATURES, Ordering::Relaxed);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_config_space(&self.config_space(), offset, data);
    }

    /// Events are the front-end's own: it sets them and clears them, we only see that it does.
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        if offset == EVENTS_CLEAR_AT && data.len() == 4 {
            return Ok(());
        }
        Err(ConfigError {
            offset,
            len: data.len(),
            reason: "only events_clear can be written",
        })
    }

    fn set_display_socket(&self, socket: UnixStream) -> Result<(), NoDisplay> {
        self.display.set_socket(socket);
        Ok(())
    }

    /// One thread for both rings: a cursor's image comes from a resource that the control ring fills.
    fn worker_of(&self, _ring: usize) -> usize {
        0
    }

    fn process(&self, ring: &mut Ring<'_>) {
        while let Some(request) = ring.pop() {
            if let Some(written) = self.serve(ring.index(), &request) {
                ring.complete(request, written);
                continue;
            }
            // Its answer has to come from the front-end; until then it was never popped.
            if let Err(request) = ring.put_back(request) {
                log::error!("a command cannot be put back, please report this");
                ring.complete(request, 0);
            }
            return;
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        self.display.suspend();
        Ok(())
    }

    fn resume(&self, guest: &Guest) {
        let guest = self.guest.get_or_init(|| guest.clone());
        let memory = self.memory();
        let is_behind = self.renderer().resume(&memory, self.display.as_ref());
        self.display.resume(guest);
        if is_behind {
            self.catch_up();
        }
    }

    fn save(&self) -> Result<GpuState, SaveError> {
        let features = self.features.load(Ordering::Relaxed);
        let (renderer, memory) = (self.renderer(), self.memory());
        Ok(self.display.with(|screens, known| {
            renderer.save(&memory, self.config.state_pixels, features, screens, known)
        }))
    }

    fn check(&self, state: &GpuState) -> Result<(), LoadError> {
        let renderer = self.renderer();
        self.display
            .with(|screens, _| renderer.check(state, screens))
    }

    fn load(&self, state: GpuState) -> Result<(), LoadError> {
        let mut renderer = self.renderer();
        let features = self
            .display
            .with(|screens, known| renderer.load(state, screens, known))?;
        self.features.store(features, Ordering::Relaxed);
        Ok(())
    }

    fn reset(&self) {
        self.features.store(0, Ordering::Relaxed);
        self.renderer().reset(self.display.as_ref());
        self.display.with(|_, known| known.forget());
    }
}
