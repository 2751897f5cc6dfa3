use super::*;
use crate::record::Record;
use crate::{KvType, ObjectId, Params, StateKey};
use proptest::prelude::*;

fn meta(layout: Layout, first: usize) -> Meta {
    Meta {
        chain: ChainKey::from([1; 32]),
        parent: ChainKey::from([2; 32]),
        model: ModelHash::from([3; 32]),
        params: "kv_type=f16\n".into(),
        layout,
        first,
        lineage: Lineage::Unknown,
        parent_lineage: Lineage::Unknown,
    }
}

fn bytes_of(encoded: &Encoded<'_>) -> Vec<u8> {
    encoded.parts().concat()
}

#[test]
fn what_is_written_is_safetensors_and_reads_back() {
    let (meta, tokens, state) = (meta(Layout::Segment, 256), [7, -1, i32::MAX], [5u8; 1000]);
    let encoded = Encoded::raw(&meta, &tokens, &state);
    let bytes = bytes_of(&encoded);
    assert_eq!(bytes.len() as u64, encoded.len());
    assert_eq!(encoded.id(), ObjectId::from(blake3::hash(&bytes)));

    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("tokens").unwrap().shape(), [3]);

    let object = decode(&bytes).unwrap();
    assert_eq!(object.meta, meta);
    assert_eq!(object.tokens, tokens);
    assert_eq!(&bytes[object.state], &state);
}

#[test]
fn the_same_segment_has_the_same_bytes() {
    let meta = meta(Layout::Snapshot, 0);
    let first = bytes_of(&Encoded::raw(&meta, &[1], b"state"));
    assert_eq!(first, bytes_of(&Encoded::raw(&meta, &[1], b"state")));
}

#[test]
fn a_refusal_names_what_is_wrong() {
    let bytes = bytes_of(&Encoded::raw(&meta(Layout::Segment, 0), &[1], b"state"));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let refuse = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        decode(text.replace(from, to).as_bytes()).unwrap_err().to_string()
    };
    assert!(refuse("object v1", "object v9").contains("expected pcache object v1"));
    assert!(refuse("\"raw\"", "\"zip\"").contains("codec"));
    assert!(refuse("\"chain\"", "\"chaim\"").contains("chain"));
    assert!(refuse("segment\"", "pigment\"").contains("layout"));
    assert!(refuse("\"count\":\"1\"", "\"count\":\"2\"").contains("tokens"));
    assert!(refuse("\"count\":\"1\"", "\"count\":\"0\"").contains("token"));
    assert!(refuse("\"raw_bytes\":\"5\"", "\"raw_bytes\":\"6\"").contains("state"));
}

fn record() -> Record {
    let mut record = Record {
        key: StateKey::from([0; 32]),
        name: Some("menu".into()),
        model: ModelHash::from([4; 32]),
        model_path: "m.gguf".into(),
        params: Params::new(KvType::F16, false),
        layout: Layout::Segment,
        tokens: vec![1, 2, 3],
        carried: String::new(),
        suffix: String::new(),
        framing: "raw".into(),
        own: Some((0, 5)),
        text: None,
        digest: None,
        origin: "menu.txt".into(),
        created: 1_800_000_000,
        expires: Some(i64::MAX),
        pinned: false,
        build_s: 1.5,
        evaluated: 3,
        revision: 1,
    };
    record.key = record.chain().state_key("", "");
    record
}

/// Forged records once made an index that could not be read, or wrote escape sequences to the terminal.
#[test]
fn a_record_that_the_index_or_a_terminal_could_not_hold_is_refused() {
    let read = |record: &Record| Record::decode(&bytes_of(&record.encode()));
    assert_eq!(read(&record()), Ok(record()));
    type Forge = fn(&mut Record);
    let forgeries: [(&str, Forge); 11] = [
        ("revision", |r| r.revision = 1 << 63),
        ("revision", |r| r.revision = i64::MAX as u64),
        ("evaluated", |r| r.evaluated = usize::MAX),
        ("building", |r| r.created = i64::MIN),
        ("prompt's text", |r| r.own = Some((1 << 63, 5))),
        ("cost", |r| r.build_s = -1.0),
        ("cost", |r| r.build_s = 1e300),
        ("name", |r| r.name = Some("\x1b]0;owned\x07".into())),
        ("name", |r| r.name = Some("0123456789ab".into())),
        ("name", |r| r.name = Some("x".repeat(65))),
        ("name", |r| r.name = Some(String::new())),
    ];
    for (what, forge) in forgeries {
        let mut forged = record();
        forge(&mut forged);
        let error = read(&forged).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_read() {
    let object =
        |first: usize| decode(&bytes_of(&Encoded::raw(&meta(Layout::Segment, first), &[1], &[9; 64])));
    assert!(object(1 << 20).is_ok());
    assert!(object(1 << 40).is_err() && object(usize::MAX).is_err());
    let tokens = vec![1; (1 << 24) + 1];
    assert!(decode(&bytes_of(&Encoded::raw(&meta(Layout::Segment, 0), &tokens, &[9; 64]))).is_err());
    let mut header = (50u64 << 20).to_le_bytes().to_vec();
    header.resize(51 << 20, b' ');
    let error = decode(&header).unwrap_err().to_string();
    assert!(error.contains("its header has"), "{error}");
}

proptest! {
    #[test]
    fn any_object_round_trips(
        tokens in prop::collection::vec(any::<i32>(), 1..300),
        state in prop::collection::vec(any::<u8>(), 1..5000),
        first in 0usize..1_000_000,
    ) {
        let meta = meta(Layout::Segment, first);
        let bytes = bytes_of(&Encoded::raw(&meta, &tokens, &state));
        let object = decode(&bytes).unwrap();
        prop_assert_eq!(object.meta, meta);
        prop_assert_eq!(object.tokens, tokens);
        prop_assert_eq!(&bytes[object.state], &state[..]);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_changed_byte_never_panics_and_never_lies_about_lengths(
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = bytes_of(&Encoded::raw(&meta(Layout::Segment, 0), &[1, 2], &[9; 64]));
        let i = at.index(bytes.len());
        bytes[i] = value;
        if let Ok(object) = decode(&bytes) {
            prop_assert_eq!(object.state.len(), 64);
            prop_assert_eq!(object.state.end, bytes.len());
        }
    }

    #[test]
    fn any_truncation_is_refused(cut in 0usize..500) {
        let bytes = bytes_of(&Encoded::raw(&meta(Layout::Segment, 0), &[1, 2], &[9; 64]));
        let cut = cut.min(bytes.len() - 1);
        prop_assert!(decode(&bytes[..cut]).is_err());
    }
}
