//! What each reader of foreign bytes promises, whatever the bytes are: it answers, and what it accepts is whole.
//! Used by the fuzz targets, and in a bounded run by `tests/foreign_bytes.rs`.
#![allow(dead_code, reason = "each fuzz target uses one")]

use pcache_engine::gguf::Header;
use pcache_format::object::{MAX_RATIO, decode};
use pcache_format::record::Record;
use pcache_format::sequence::{Expected, Place, SequenceState, Window, join};
use pcache_format::{Codec, DecodeBuffers, Encoded, KvType, Label, Layout, Manifest};

/// An object that is accepted lies within its bytes, and is written back as what it was read as. Its state is decoded to
/// the size that it says, or refused; no memory is taken beyond what its own size allows.
pub fn object(bytes: &[u8]) {
    let Ok(object) = decode(bytes) else { return };
    assert_eq!(object.state.end, bytes.len());
    assert!(object.state.start >= 8 + object.tokens.len() * 4);
    let stored = &bytes[object.state.clone()];
    assert!(object.stored.raw_bytes(stored.len()) as u64 <= MAX_RATIO * stored.len() as u64);
    let mut room = DecodeBuffers::default();
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
        place: match head[2] >> 1 {
            0 => Place::unified(i32::from(head[2] & 1)),
            n => Place::in_stream(u32::from(n % 4), 1 + u32::from(n % 4) + u32::from(head[2] & 1)),
        },
        layers: head[3].into(),
        first: u16::from_le_bytes([head[4], head[5]]).into(),
        count: u16::from_le_bytes([head[6], head[7]]).into(),
    };
    let Ok(parsed) = SequenceState::parse(state, &expected) else { return };
    let longer = [state, &[0]].concat();
    assert!(SequenceState::parse(&longer, &expected).is_err());
    let elsewhere = Expected { first: expected.first + 1, ..expected.clone() };
    assert!(SequenceState::parse(state, &elsewhere).is_err());
    // Cut in two, where all of its caches hold all positions, and joined again, it is what it was.
    let (first, end) = (expected.first, expected.first + expected.count);
    let (mut left, mut right, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let to = Place::unified(1);
    let middle = first + expected.count / 2;
    if parsed.cut(first..middle, to, &mut left).is_err() || parsed.cut(middle..end, to, &mut right).is_err() {
        return;
    }
    let part = |first: usize, count: usize| Expected { place: to, first, count, ..expected.clone() };
    let parts = [
        SequenceState::parse(&left, &part(first, middle - first)).expect("a part of it is a state"),
        SequenceState::parse(&right, &part(middle, end - middle)).expect("a part of it is a state"),
    ];
    join(&parts, Window::None, expected.place, &mut whole).expect("parts of one state fit");
    assert!(whole == state, "joined, it is another state");
}

/// A manifest that is accepted gives its own key, and is written back as what it was read as.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert!(manifest.is_whole());
    let again =
        Manifest::decode(&manifest.encode().parts().concat()).expect("what was accepted can be written");
    assert_eq!(again, manifest);
}

/// A label that is accepted is written back as what it was read as.
pub fn label(bytes: &[u8]) {
    let Ok(label) = Label::decode(bytes) else { return };
    assert_eq!(Label::decode(&label.encode()), Ok(label));
}

/// A header is read or refused.
pub fn gguf(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let _ = (header.context(), header.parts(), header.short_context(), header.quantisation());
    let _ =
        (header.is_adapter(), header.problem(1 << 20), header.has_template(), header.architecture().len());
}
