//! Numbers in as few bytes as they need: seven bits in each, the low ones first; the highest bit says that another byte follows.
//!
//! Every number has one encoding. Knows nothing of what the numbers mean.

use super::PackedError;

/// Bits of a number in each byte, and the bit beside them.
const BITS: usize = 7;
const MORE: u8 = 1 << BITS;

/// Appends `number`.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= u64::from(MORE) {
        let [low, ..] = number.to_le_bytes();
        bytes.push(low | MORE);
        number >>= BITS;
    }
    let [low, ..] = number.to_le_bytes();
    bytes.push(low);
}

/// Takes the number at the beginning of `bytes` from them.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, PackedError> {
    // Most are that small.
    if let [byte, rest @ ..] = *bytes
        && *byte < MORE
    {
        *bytes = rest;
        return Ok((*byte).into());
    }
    take_long(bytes)
}

fn take_long(bytes: &mut &[u8]) -> Result<u64, PackedError> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(BITS) {
        let (byte, rest) = bytes.split_first().ok_or(PackedError::Cut)?;
        *bytes = rest;
        let bits = u64::from(byte & !MORE);
        number |= bits << shift;
        let is_whole = (bits << shift) >> shift == bits;
        let is_needed = *byte != 0 || shift == 0;
        if !is_whole || !is_needed {
            return Err(PackedError::Number);
        }
        if *byte < MORE {
            return Ok(number);
        }
    }
    Err(PackedError::Number)
}

/// Appends `number` as what it is more or less than `before`: small either way.
pub(super) fn put_difference(bytes: &mut Vec<u8>, number: u64, before: u64) {
    let difference = number.wrapping_sub(before).cast_signed();
    // The sign goes to the lowest bit.
    put(
        bytes,
        ((difference << 1) ^ (difference >> 63)).cast_unsigned(),
    );
}

/// Takes a number that was put as the difference from `before`.
#[inline]
pub(super) fn take_difference(bytes: &mut &[u8], before: u64) -> Result<u64, PackedError> {
    let difference = take(bytes)?;
    let sign = (difference & 1).wrapping_neg();
    Ok(before.wrapping_add((difference >> 1) ^ sign))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, number);
        bytes
    }

    #[test]
    fn a_number_has_the_bytes_that_it_needs() {
        for (number, bytes) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[128, 1]),
            (300, &[172, 2]),
            (u64::MAX, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            assert_eq!(bytes_of(number), bytes);
        }
    }

    #[test]
    fn other_encodings_are_refused() {
        let refused = |mut bytes: &[u8]| take(&mut bytes).unwrap_err();
        assert_eq!(refused(&[]), PackedError::Cut);
        assert_eq!(refused(&[128]), PackedError::Cut);
        assert_eq!(refused(&[255; 9]), PackedError::Cut);
        // Longer than need be.
        assert_eq!(refused(&[128, 0]), PackedError::Number);
        assert_eq!(refused(&[255, 128, 0]), PackedError::Number);
        // More than 64 bits.
        assert_eq!(
            refused(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
            PackedError::Number
        );
        assert_eq!(refused(&[255; 11]), PackedError::Number);
    }

    proptest! {
        #[test]
        fn what_was_put_is_taken(shift in 0..64_u32, number: u64, before: u64) {
            let number = number >> shift;
            let mut bytes = bytes_of(number);
            put_difference(&mut bytes, number, before);
            bytes.push(42);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Ok(number));
            prop_assert_eq!(take_difference(&mut rest, before), Ok(number));
            prop_assert_eq!(rest, [42]);
        }
    }
}
