//! Pixel formats, and how a row of one becomes a row of the display protocol.
//!
//! All eight formats of virtio (1.3, 5.7.6.8) have 32 bits and differ in the order of their bytes only. The display protocol knows
//! x8r8g8b8, and a8r8g8b8 for cursors (vhost-user-gpu.rst): as a little-endian number, so that the bytes are B, G, R and X or A.

/// Bytes of a pixel, in every format.
pub const PIXEL_BYTES: u32 = 4;

/// A format; the name tells the order of the bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are virtio's and tell all there is")]
pub enum PixelFormat {
    B8G8R8A8 = 1,
    B8G8R8X8 = 2,
    A8R8G8B8 = 3,
    X8R8G8B8 = 4,
    R8G8B8A8 = 67,
    X8B8G8R8 = 68,
    A8B8G8R8 = 121,
    R8G8B8X8 = 134,
}

impl PixelFormat {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::B8G8R8A8,
        Self::B8G8R8X8,
        Self::A8R8G8B8,
        Self::X8R8G8B8,
        Self::R8G8B8A8,
        Self::X8B8G8R8,
        Self::A8B8G8R8,
        Self::R8G8B8X8,
    ];

    /// The format with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|format| *format as u32 == number)
    }

    /// Whether the fourth byte says how opaque a pixel is.
    pub fn has_alpha(self) -> bool {
        match self {
            Self::B8G8R8A8 | Self::A8R8G8B8 | Self::R8G8B8A8 | Self::A8B8G8R8 => true,
            Self::B8G8R8X8 | Self::X8R8G8B8 | Self::X8B8G8R8 | Self::R8G8B8X8 => false,
        }
    }

    /// Puts the bytes of a row of this format into the order of the display protocol.
    pub fn to_display(self, row: &mut [u8]) {
        // Each arm has a loop of its own, which the compiler turns into shuffles of many pixels at once.
        match self {
            Self::B8G8R8A8 | Self::B8G8R8X8 => {}
            Self::A8R8G8B8 | Self::X8R8G8B8 => each_pixel(row, u32::swap_bytes),
            Self::R8G8B8A8 | Self::R8G8B8X8 => each_pixel(row, |pixel| {
                pixel & 0xff00_ff00 | (pixel & 0xff) << 16 | pixel >> 16 & 0xff
            }),
            Self::A8B8G8R8 | Self::X8B8G8R8 => each_pixel(row, |pixel| pixel.rotate_right(8)),
        }
    }

    /// The same for a cursor, which is opaque where its format says nothing.
    pub fn to_cursor(self, row: &mut [u8]) {
        self.to_display(row);
        if !self.has_alpha() {
            each_pixel(row, |pixel| pixel | 0xff00_0000);
        }
    }
}

#[inline]
fn each_pixel(row: &mut [u8], change: impl Fn(u32) -> u32) {
    for pixel in row.as_chunks_mut().0 {
        *pixel = change(u32::from_le_bytes(*pixel)).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each format a pixel with red 1, green 2, blue 3 and the rest 4.
    #[test]
    fn every_format_becomes_the_displays() {
        let pixels: [(PixelFormat, [u8; 4]); 8] = [
            (PixelFormat::B8G8R8A8, [3, 2, 1, 4]),
            (PixelFormat::B8G8R8X8, [3, 2, 1, 4]),
            (PixelFormat::A8R8G8B8, [4, 1, 2, 3]),
            (PixelFormat::X8R8G8B8, [4, 1, 2, 3]),
            (PixelFormat::R8G8B8A8, [1, 2, 3, 4]),
            (PixelFormat::X8B8G8R8, [4, 3, 2, 1]),
            (PixelFormat::A8B8G8R8, [4, 3, 2, 1]),
            (PixelFormat::R8G8B8X8, [1, 2, 3, 4]),
        ];
        for (format, pixel) in pixels {
            let mut row = [pixel, pixel].concat();
            format.to_display(&mut row);
            assert_eq!(row, [3, 2, 1, 4, 3, 2, 1, 4], "{format:?}");
            let mut cursor = pixel;
            format.to_cursor(&mut cursor);
            let alpha = if format.has_alpha() { 4 } else { 0xff };
            assert_eq!(cursor, [3, 2, 1, alpha], "{format:?}");
            assert_eq!(PixelFormat::from_number(format as u32), Some(format));
        }
        let known = (0..1000).filter_map(PixelFormat::from_number).count();
        assert_eq!(known, 8);
    }
}
