//! Names for resources: random UUIDs (RFC 9562, version 4).

use rustix::rand::{GetRandomFlags, getrandom};

/// A name that nothing else has.
pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom(&mut bytes, GetRandomFlags::empty()) {
        log::error!("host: no random bytes for a name: {error}");
    }
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_say_what_they_are() {
        let (one, other) = (random(), random());
        assert_ne!(one, other);
        for name in [one, other] {
            assert_eq!((name[6] >> 4, name[8] >> 6), (4, 2));
        }
    }
}
