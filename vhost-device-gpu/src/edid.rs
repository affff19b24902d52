//! An EDID for a monitor that no front-end describes (VESA E-EDID 1.4): one mode, at 60 Hz or what comes near to it.
//!
//! Knows the layout of the 128 bytes; whoever has a better one is asked first.

/// Length in bytes.
const BYTES: usize = 128;
/// Three letters of five bits each: VHD.
const MANUFACTURER: u16 = 22 << 10 | 8 << 5 | 4;
const PRODUCT: u16 = 0x1680;
/// 2026, counted from 1990.
const YEAR: u8 = 36;
/// The primaries and the white of sRGB.
const CHROMATICITY: [u8; 10] = [0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54];
/// Greatest width and height of a detailed timing: 12 bits.
const SIDE_MAX: u32 = 4095;
/// What a monitor without a size, or with one that is too large, gets.
const DEFAULT: (u32, u32) = (1280, 800);
/// Blanking in pixels, front porch and sync pulse of CVT with reduced blanking.
const BLANK: (u32, u32, u32) = (160, 48, 32);
const REFRESH_HZ: u64 = 60;

/// The EDID of the monitor at `scanout`.
pub fn generate(scanout: usize, width: u32, height: u32) -> Vec<u8> {
    let sides = 1..=SIDE_MAX;
    let (width, height) = if sides.contains(&width) && sides.contains(&height) {
        (width, height)
    } else {
        DEFAULT
    };
    let mut edid = Vec::with_capacity(BYTES);
    edid.extend([0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    let [low, high] = MANUFACTURER.to_le_bytes();
    edid.extend([high, low]); // the one field in this order
    edid.extend(PRODUCT.to_le_bytes());
    edid.extend(u32::try_from(scanout + 1).unwrap_or(0).to_le_bytes());
    edid.extend([0, YEAR, 1, 4]);
    // Digital, 8 bits per colour; size in cm; gamma 2.2; sRGB, and the first timing is the native one.
    edid.extend([0xa5, centimetres(width), centimetres(height), 120, 0x06]);
    edid.extend(CHROMATICITY);
    edid.extend([0; 3]); // established timings
    edid.extend([1; 16]); // standard timings
    edid.extend(timing(width, height));
    edid.extend(descriptor(0xfc, b"vhost-user\n  "));
    edid.extend(descriptor(0x10, &[0; 13]));
    edid.extend(descriptor(0x10, &[0; 13]));
    edid.push(0); // no extension
    let sum = edid.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    edid.push(sum.wrapping_neg());
    edid
}

/// At 96 dpi.
fn millimetres(pixels: u32) -> u32 {
    pixels * 254 / 960
}

fn centimetres(pixels: u32) -> u8 {
    u8::try_from(millimetres(pixels) / 10).unwrap_or(u8::MAX)
}

fn descriptor(kind: u8, text: &[u8; 13]) -> [u8; 18] {
    let mut descriptor = [0; 18];
    let [_, _, _, tag, _, rest @ ..] = &mut descriptor;
    *tag = kind;
    *rest = *text;
    descriptor
}

/// A detailed timing: words of 12 bits are cut in two.
fn timing(width: u32, height: u32) -> [u8; 18] {
    let (blank, front, sync) = BLANK;
    let (rows_blank, rows_front, rows_sync) = (height / 32 + 12, 3, 6);
    let total = u64::from(width + blank) * u64::from(height + rows_blank);
    // In units of 10 kHz. Should it not fit, the monitor is a slower one.
    let clock = u16::try_from(total * REFRESH_HZ / 10_000).unwrap_or(u16::MAX);
    let (across, down) = (millimetres(width), millimetres(height));
    let low = |word: u32| word.to_le_bytes()[0];
    let high = |word: u32| low(word >> 8);
    let [clock_low, clock_high] = clock.to_le_bytes();
    [
        clock_low,
        clock_high,
        low(width),
        low(blank),
        high(width) << 4 | high(blank),
        low(height),
        low(rows_blank),
        high(height) << 4 | high(rows_blank),
        low(front),
        low(sync),
        low(rows_front) << 4 | low(rows_sync),
        0,
        low(across),
        low(down),
        high(across) << 4 | high(down),
        0,
        0,
        0x1a, // digital sync, horizontal positive
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a driver makes of it.
    fn mode(edid: &[u8]) -> (u32, u32, u32) {
        let word = |low: usize, high: usize, shift: u32| {
            u32::from(edid[54 + low]) | (u32::from(edid[54 + high]) >> shift & 0xf) << 8
        };
        let (width, height) = (word(2, 4, 4), word(5, 7, 4));
        let total = (width + word(3, 4, 0)) * (height + word(6, 7, 0));
        let clock = u32::from(u16::from_le_bytes([edid[54], edid[55]])) * 10_000;
        (width, height, (clock + total / 2) / total)
    }

    #[test]
    fn an_edid_is_sound_and_has_the_mode() {
        for (width, height) in [
            (640, 480),
            (1280, 800),
            (1920, 1080),
            (3840, 2160),
            (16, 16),
        ] {
            let edid = generate(2, width, height);
            assert_eq!(edid.len(), BYTES);
            assert_eq!(
                edid.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
                0
            );
            let (found_width, found_height, hertz) = mode(&edid);
            assert_eq!((found_width, found_height), (width, height));
            assert!((57..=60).contains(&hertz), "{width}x{height} at {hertz}");
            assert_eq!(edid[12..16], [3, 0, 0, 0]);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_have_another_mode() {
        for (width, height) in [(0, 0), (4096, 1), (u32::MAX, u32::MAX)] {
            assert_eq!(mode(&generate(0, width, height)), (1280, 800, 60));
        }
        let (width, height, hertz) = mode(&generate(0, 4095, 4095));
        assert_eq!((width, height), (4095, 4095));
        assert!(hertz < 60);
    }
}
