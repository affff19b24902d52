//! Structures as bytes: little-endian integers one after the other, padding spelled out as fields.
//!
//! Safe code only: no structure is ever laid over memory of the guest. Knows no structure of the protocol.

/// Something with a fixed layout on the wire.
pub trait Wire: Sized {
    /// Size in bytes.
    const SIZE: usize;

    /// Takes the value off the front of `bytes`; `None`, and `bytes` of no more use, if they are too few.
    fn take(bytes: &mut &[u8]) -> Option<Self>;

    /// Puts the value at the front of `room`, unless that is too small, and returns what is behind it.
    fn put<'a>(&self, room: &'a mut [u8]) -> &'a mut [u8];

    /// Appends the value to `out`.
    fn append(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + Self::SIZE, 0);
        if let Some(room) = out.get_mut(start..) {
            self.put(room);
        }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const SIZE: usize = size_of::<Self>();

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (head, tail) = bytes.split_first_chunk()?;
                *bytes = tail;
                Some(Self::from_le_bytes(*head))
            }

            fn put<'a>(&self, room: &'a mut [u8]) -> &'a mut [u8] {
                let (place, rest) = room.split_at_mut(Self::SIZE.min(room.len()));
                if let Ok(place) = place.try_into() {
                    let place: &mut [u8; Self::SIZE] = place;
                    *place = self.to_le_bytes();
                }
                rest
            }
        }
    )*};
}

integers!(u16, u32, u64, i32, i64);

impl<T: Wire + Copy + Default, const N: usize> Wire for [T; N] {
    const SIZE: usize = N * T::SIZE;

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut array = [T::default(); N];
        for element in &mut array {
            *element = T::take(bytes)?;
        }
        Some(array)
    }

    fn put<'a>(&self, mut room: &'a mut [u8]) -> &'a mut [u8] {
        for element in self {
            room = element.put(room);
        }
        room
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const SIZE: usize = A::SIZE + B::SIZE;

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::take(bytes)?, B::take(bytes)?))
    }

    fn put<'a>(&self, room: &'a mut [u8]) -> &'a mut [u8] {
        self.1.put(self.0.put(room))
    }
}

/// Declares structures and implements [`Wire`] for them, field by field in the order given.
macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::fuse::wire::Wire for $name {
            const SIZE: usize = 0 $(+ <$type as $crate::fuse::wire::Wire>::SIZE)*;

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self {
                    $($field: $crate::fuse::wire::Wire::take(bytes)?,)*
                })
            }

            fn put<'a>(&self, room: &'a mut [u8]) -> &'a mut [u8] {
                $(let room = $crate::fuse::wire::Wire::put(&self.$field, room);)*
                room
            }

            // At once: field by field, the end of `out` would be looked up for each of them.
            fn append(&self, out: &mut Vec<u8>) {
                let mut bytes = [0; <Self as $crate::fuse::wire::Wire>::SIZE];
                $crate::fuse::wire::Wire::put(self, &mut bytes);
                out.extend_from_slice(&bytes);
            }
        }
    )*};
}

pub(crate) use wire;
