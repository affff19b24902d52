//! The body of a request, taken apart from front to back. Knows the structure of names and extensions; what is in
//! a name is for the file system to judge.
//!
//! Works on a copy of what the guest wrote, so nothing changes under the checks. A body that is shorter than its
//! opcode needs is `EINVAL`; bytes beyond what we know are left alone, since the protocol grows at the end.

use rustix::io::Errno;

use super::abi::{
    EXTENSION_GROUPS, EXTENSION_SECURITY_CONTEXTS_MAX, ExtensionHeader, SecurityContextHeader, init,
};
use super::session::SessionOptions;
use super::wire::Wire;
use crate::operations::{Extensions, FsResult, SecurityContext};

/// Extensions are padded to units of this many bytes.
const EXTENSION_UNIT: usize = 8;

/// What is left of a request's body.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

/// What came behind the names of a request that creates something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creation<'a> {
    /// What is for the file system.
    pub extensions: Extensions<'a>,
    /// The caller's supplementary group that matters here.
    pub supplementary_group: Option<u32>,
}

impl<'a> Input<'a> {
    /// The whole body, without the request's header.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// A structure.
    pub fn take<T: Wire>(&mut self) -> FsResult<T> {
        T::take(&mut self.0).ok_or(Errno::INVAL)
    }

    /// A string that ends with a NUL, without it.
    pub fn name(&mut self) -> FsResult<&'a [u8]> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Errno::INVAL)?;
        let name = self.bytes(end)?;
        self.bytes(1)?;
        Ok(name)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> FsResult<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Errno::INVAL)?;
        self.0 = tail;
        Ok(head)
    }

    /// All the rest, as extensions of a request that creates something.
    ///
    /// Guests before 7.38 send a security context without announcing it in the header, so what was agreed on in
    /// INIT decides, not the header.
    pub fn creation(&mut self, session: &SessionOptions) -> FsResult<Creation<'a>> {
        let mut creation = Creation::default();
        if session.flags & (init::SECURITY_CTX | init::CREATE_SUPP_GROUP) == 0 {
            return Ok(creation);
        }
        while !self.0.is_empty() {
            let header: ExtensionHeader = self.take()?;
            let size = usize::try_from(header.size).map_err(|_| Errno::INVAL)?;
            let padded = size
                .checked_next_multiple_of(EXTENSION_UNIT)
                .ok_or(Errno::INVAL)?;
            let payload = size
                .checked_sub(ExtensionHeader::SIZE)
                .ok_or(Errno::INVAL)?;
            let mut extension = Self(self.bytes(payload)?);
            self.bytes(padded - size)?;
            if header.kind <= EXTENSION_SECURITY_CONTEXTS_MAX {
                creation.extensions.security_context = extension.security_context(header.kind)?;
            } else if header.kind == EXTENSION_GROUPS {
                creation.supplementary_group = extension.supplementary_group()?;
            } else {
                return Err(Errno::INVAL);
            }
        }
        Ok(creation)
    }

    /// Linux sends at most one context, whichever security module is in charge.
    fn security_context(&mut self, count: u32) -> FsResult<Option<SecurityContext<'a>>> {
        match count {
            0 => Ok(None),
            1 => {
                let header: SecurityContextHeader = self.take()?;
                let name = self.name()?;
                let size = usize::try_from(header.size).map_err(|_| Errno::INVAL)?;
                Ok(Some(SecurityContext {
                    name,
                    value: self.bytes(size)?,
                }))
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Linux sends at most one group: that of the directory, if the caller is in it.
    fn supplementary_group(&mut self) -> FsResult<Option<u32>> {
        match self.take::<u32>()? {
            0 => Ok(None),
            1 => self.take().map(Some),
            _ => Err(Errno::INVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(flags: u64) -> SessionOptions {
        SessionOptions {
            minor: 45,
            flags_offered: flags,
            flags,
            max_readahead: 0,
            max_write: 0,
            max_pages: 0,
            max_background: 0,
            congestion_threshold: 0,
            time_granularity_ns: 1,
        }
    }

    fn both() -> SessionOptions {
        session(init::SECURITY_CTX | init::CREATE_SUPP_GROUP)
    }

    fn extension(kind: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let size = u32::try_from(ExtensionHeader::SIZE + payload.len()).unwrap();
        ExtensionHeader { size, kind }.append(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(EXTENSION_UNIT), 0);
        bytes
    }

    fn label() -> Vec<u8> {
        let mut payload = Vec::new();
        SecurityContextHeader {
            size: 5,
            padding: 0,
        }
        .append(&mut payload);
        payload.extend_from_slice(b"security.selinux\0label");
        extension(1, &payload)
    }

    fn group(groups: &[u32]) -> Vec<u8> {
        let mut payload = Vec::new();
        u32::try_from(groups.len()).unwrap().append(&mut payload);
        for group in groups {
            group.append(&mut payload);
        }
        extension(EXTENSION_GROUPS, &payload)
    }

    #[test]
    fn names_end_with_a_nul() {
        let mut input = Input::new(b"one\0\xff\xfe\0\0rest");
        assert_eq!(input.name(), Ok(&b"one"[..]));
        assert_eq!(input.name(), Ok(&b"\xff\xfe"[..]));
        assert_eq!(input.name(), Ok(&b""[..]));
        assert_eq!(input.name(), Err(Errno::INVAL));
        assert_eq!(input.bytes(5), Err(Errno::INVAL));
        assert_eq!(input.bytes(4), Ok(&b"rest"[..]));
    }

    #[test]
    fn a_label_and_a_group_come_in_any_order() {
        for bytes in [
            [label(), group(&[77])].concat(),
            [group(&[77]), label()].concat(),
        ] {
            let creation = Input::new(&bytes).creation(&both()).unwrap();
            let context = creation.extensions.security_context.unwrap();
            assert_eq!(
                (context.name, context.value),
                (&b"security.selinux"[..], &b"label"[..])
            );
            assert_eq!(creation.supplementary_group, Some(77));
        }
    }

    #[test]
    fn nothing_is_read_that_was_not_agreed_on() {
        let label = label();
        assert_eq!(
            Input::new(&label).creation(&session(0)),
            Ok(Creation::default())
        );
    }

    #[test]
    fn empty_extensions_are_none() {
        let bytes = [group(&[]), extension(0, &[])].concat();
        assert_eq!(
            Input::new(&bytes).creation(&both()),
            Ok(Creation::default())
        );
    }

    #[test]
    fn extensions_that_make_no_sense_are_refused() {
        let too_long = {
            let mut bytes = label();
            bytes[0] = 255;
            bytes
        };
        let size_zero = vec![0; 8];
        let huge = vec![0xff; 8];
        let label_too_long = {
            let mut bytes = label();
            bytes[8] = 200;
            bytes
        };
        let refused = [
            too_long,
            size_zero,
            huge,
            label_too_long,
            group(&[1, 2]),
            extension(2, &[0; 64]),
            extension(33, &[]),
            vec![0; 7],
        ];
        for bytes in refused {
            assert_eq!(
                Input::new(&bytes).creation(&both()),
                Err(Errno::INVAL),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn every_truncation_of_an_extension_is_refused() {
        let whole = label();
        for len in 1..whole.len() {
            assert_eq!(
                Input::new(&whole[..len]).creation(&both()),
                Err(Errno::INVAL),
                "{len}"
            );
        }
    }
}
