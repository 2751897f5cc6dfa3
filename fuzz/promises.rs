//! What each reader of foreign bytes promises, whatever the bytes are: it answers, and what it accepts is whole.
//! Used by the fuzz targets, and in a bounded run by `tests/foreign_bytes.rs`.
#![allow(dead_code, reason = "each fuzz target uses one")]

use pcache::engine::gguf::Header;
use pcache::format::sequence::{Expected, check};
use pcache::format::{Codec, Encoded, Layout, MAX_RATIO, Record, Room, decode};
use pcache::key::KvType;

/// An object that is accepted lies within its bytes, and is written back as what it was read as. Its state is decoded to
/// the size that it says, or refused; no memory is taken beyond what its own size allows.
pub fn object(bytes: &[u8]) {
    let Ok(object) = decode(bytes) else { return };
    assert_eq!(object.state.end, bytes.len());
    assert!(object.state.start >= 8 + object.tokens.len() * 4);
    let stored = &bytes[object.state.clone()];
    assert!(object.stored.raw_bytes(stored.len()) as u64 <= MAX_RATIO * stored.len() as u64);
    let mut room = Room::default();
    let Ok(state) = object.stored.raw(stored, &mut room) else { return };
    assert_eq!(state.len(), object.stored.raw_bytes(stored.len()));
    let written = Encoded::with(Codec::Zstd { level: 1 }, &object.meta, &object.tokens, state);
    let again = decode(&written.parts().concat()).expect("what was accepted can be written");
    assert_eq!((again.meta, again.tokens), (object.meta, object.tokens));
}

/// A record that is accepted gives its own key, and is written back as what it was read as.
pub fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    assert!(record.is_whole());
    let again = Record::decode(&record.encode().parts().concat()).expect("what was accepted can be written");
    assert!(again.says_the_same_as(&record));
}

/// A sequence state that is accepted has its last byte where it says: no shorter or longer one of the same numbers.
/// The first bytes say what is expected.
pub fn sequence(bytes: &[u8]) {
    let Some((head, state)) = bytes.split_first_chunk::<8>() else { return };
    let expected = Expected {
        layout: if head[0] & 1 == 0 { Layout::Segment } else { Layout::Snapshot },
        transposed: head[0] & 2 != 0,
        kv_type: [KvType::F16, KvType::Q8_0, KvType::Q4_0][usize::from(head[1] % 3)],
        sequence: i32::from(head[2] & 1),
        layers: head[3].into(),
        first: u16::from_le_bytes([head[4], head[5]]).into(),
        count: u16::from_le_bytes([head[6], head[7]]).into(),
    };
    if check(state, &expected).is_ok() {
        let longer = [state, &[0]].concat();
        assert!(check(&longer, &expected).is_err());
        let elsewhere = Expected { first: expected.first + 1, ..expected };
        assert!(check(state, &elsewhere).is_err());
    }
}

/// A header is read or refused.
pub fn gguf(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let _ = (header.context(), header.parts(), header.short_context(), header.quantisation());
    let _ = (header.is_adapter(), header.is_causal(), header.has_template(), header.architecture().len());
}
