//! Mode pages (SPC-5, 7.5; SBC-4, 6.5): what they say, and what may be changed.
//!
//! Nothing is saved over a power loss (PS is 0), so there are no saved values.

/// What MODE SELECT can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeValues {
    /// WCE of the caching page: writes may be answered before they are on stable storage.
    pub write_cache: bool,
    /// `D_SENSE` of the control page: sense data in descriptor format.
    pub descriptor_sense: bool,
    /// SWP of the control page: writes are refused.
    pub write_protect: bool,
}

/// Codes of the pages, in the order in which they are reported.
pub(super) const PAGES: [u8; 6] = [0x01, 0x02, 0x08, 0x0a, 0x1a, 0x1c];

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
/// WCE, in byte 2 of the caching page.
const WRITE_CACHE: u8 = 0x04;
/// `D_SENSE`, in byte 2 of the control page.
const DESCRIPTOR_SENSE: u8 = 0x04;
/// SWP, in byte 4 of the control page.
const WRITE_PROTECT: u8 = 0x08;

/// Bytes of a page, its header of two included; 0 for a page that there is not.
fn length(page: u8) -> usize {
    match page {
        0x01 | 0x0a | 0x1a | 0x1c => 12,
        0x02 => 16,
        0x08 => 20,
        _ => 0,
    }
}

impl ModeValues {
    /// A page with these values.
    pub(super) fn page(self, page: u8) -> Option<Vec<u8>> {
        let mut bytes = empty(page)?;
        let mut set = |at: usize, value: u8| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte |= value;
            }
        };
        match page {
            0x01 => set(2, 0xc0), // AWRE, ARRE: the host takes care of it
            CACHING if self.write_cache => set(2, WRITE_CACHE),
            CONTROL => {
                set(
                    2,
                    if self.descriptor_sense {
                        DESCRIPTOR_SENSE
                    } else {
                        0
                    },
                );
                set(3, 0x10); // unrestricted reordering: commands run in parallel
                set(4, if self.write_protect { WRITE_PROTECT } else { 0 });
                set(8, 0xff); // busy time-out period: no limit
                set(9, 0xff);
            }
            _ => {}
        }
        Some(bytes)
    }

    /// Takes over a page. An error is the byte that may not be changed.
    pub(super) fn set_page(&mut self, page: u8, new: &[u8]) -> Result<(), u16> {
        let current = self.page(page).unwrap_or_default();
        let changeable = changeable(page).unwrap_or_default();
        let bytes = new.iter().zip(current.iter().zip(&changeable));
        for (at, (new, (old, mask))) in (0..).zip(bytes) {
            if (new ^ old) & !mask != 0 && at >= 2 {
                return Err(at);
            }
        }
        let is_set = |at: usize, bit: u8| new.get(at).is_some_and(|byte| byte & bit != 0);
        match page {
            CACHING => self.write_cache = is_set(2, WRITE_CACHE),
            CONTROL => {
                self.descriptor_sense = is_set(2, DESCRIPTOR_SENSE);
                self.write_protect = is_set(4, WRITE_PROTECT);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A page of zeros behind its header.
fn empty(page: u8) -> Option<Vec<u8>> {
    let length = length(page);
    let follow = u8::try_from(length.checked_sub(2)?).ok()?;
    let mut bytes = vec![page, follow];
    bytes.resize(length, 0);
    Some(bytes)
}

/// The page as a mask of what can be changed.
pub(super) fn changeable(page: u8) -> Option<Vec<u8>> {
    let mut bytes = empty(page)?;
    let masks: &[(usize, u8)] = match page {
        CACHING => &[(2, WRITE_CACHE)],
        CONTROL => &[(2, DESCRIPTOR_SENSE), (4, WRITE_PROTECT)],
        _ => &[],
    };
    for (at, mask) in masks {
        if let Some(byte) = bytes.get_mut(*at) {
            *byte = *mask;
        }
    }
    Some(bytes)
}
