//! Frames written by hand, to play an agent or an API that loses, repeats or garbles them.

use bytes::Bytes;

pub const HEAD: u8 = 1;
pub const BODY: u8 = 2;
pub const KEEP_ALIVE: u8 = 4;
pub const CANCEL: u8 = 5;
pub const ERROR: u8 = 6;
pub const LAST: u8 = 1;

/// Where the parts of a frame begin.
const ID: std::ops::Range<usize> = 16..32;

pub struct Raw {
    pub kind: u8,
    pub flags: u8,
    pub number: u32,
    pub epoch: u64,
    pub id: [u8; 16],
    pub content: Vec<u8>,
}

impl Raw {
    pub fn new(kind: u8, number: u32, id: [u8; 16], content: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags: 0,
            number,
            epoch: super::nats::EPOCH.0,
            id,
            content: content.into(),
        }
    }

    pub fn last(mut self) -> Self {
        self.flags = LAST;
        self
    }

    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    pub fn bytes(&self) -> Bytes {
        let mut bytes = vec![1, self.kind, self.flags, 0];
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.id);
        bytes.extend(&self.content);
        bytes.into()
    }
}

/// A head's content.
pub fn head(credit: u64, meta: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = credit.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(meta.len()).unwrap().to_le_bytes());
    bytes.extend(meta.as_bytes());
    bytes.extend(body);
    bytes
}

pub fn kind(payload: &[u8]) -> u8 {
    payload[1]
}

pub fn is_last(payload: &[u8]) -> bool {
    payload[2] & LAST != 0
}

pub fn id(payload: &[u8]) -> [u8; 16] {
    payload[ID].try_into().unwrap()
}
