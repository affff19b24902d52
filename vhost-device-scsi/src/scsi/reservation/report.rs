//! PERSISTENT RESERVE IN: the table as data (SPC-5, 6.15).

use super::{Holder, Kind, Registration, Reservations};

impl Reservations {
    /// The data of a service action, whole; `None` if there is no such one. `persistence` is whether APTPL can be had.
    pub(in crate::scsi) fn report(&self, action: u8, persistence: bool) -> Option<Vec<u8>> {
        match action {
            0 => Some(self.with_header(self.keys())),
            1 => Some(self.with_header(self.reservation())),
            2 => Some(self.capabilities(persistence)),
            3 => Some(self.with_header(self.full_status())),
            _ => None,
        }
    }

    /// PRGENERATION and ADDITIONAL LENGTH.
    fn with_header(&self, body: Vec<u8>) -> Vec<u8> {
        let mut data = self.generation.to_be_bytes().to_vec();
        data.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        data.extend(body);
        data
    }

    fn keys(&self) -> Vec<u8> {
        self.registrations
            .iter()
            .flat_map(|registration| registration.key.to_be_bytes())
            .collect()
    }

    fn reservation(&self) -> Vec<u8> {
        let Some(Holder { kind, initiator }) = &self.holder else {
            return Vec::new();
        };
        let key = if kind.is_of_all() {
            0
        } else {
            self.key_of(initiator).unwrap_or(0)
        };
        let mut data = key.to_be_bytes().to_vec();
        data.extend_from_slice(&[0, 0, 0, 0, 0, *kind as u8, 0, 0]);
        data
    }

    fn capabilities(&self, persistence: bool) -> Vec<u8> {
        let supported = u8::from(persistence); // PTPL_C; neither SIP_C, ATP_C nor CRH
        let active = 0x80 | u8::from(self.aptpl); // TMV, PTPL_A
        let mask = Kind::ALL
            .into_iter()
            .fold([0_u8; 2], |[low, high], kind| match kind as u8 {
                code @ 0..8 => [low | 1 << code, high],
                code => [low, high | 1 << (code - 8)],
            });
        let [low, high] = mask;
        vec![0, 8, supported, active, low, high, 0, 0]
    }

    fn full_status(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for Registration { initiator, key } in &self.registrations {
            let kind = self
                .holder
                .as_ref()
                .filter(|_| self.holds(initiator))
                .map(|holder| holder.kind as u8);
            data.extend_from_slice(&key.to_be_bytes());
            data.extend_from_slice(&[0, 0, 0, 0]);
            data.extend_from_slice(&[u8::from(kind.is_some()), kind.unwrap_or(0)]);
            data.extend_from_slice(&[0, 0, 0, 0]);
            data.extend_from_slice(&1_u16.to_be_bytes()); // relative target port
            let id = initiator.transport_id();
            data.extend_from_slice(&u32::try_from(id.len()).unwrap_or(0).to_be_bytes());
            data.extend_from_slice(id);
        }
        data
    }
}
