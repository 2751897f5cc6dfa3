//! Reading objects with proof: every byte that is used was hashed where it lies.
//!
//! A file is read into memory of this process and hashed there; what was verified is what the model gets, whatever becomes of
//! the file meanwhile. What is beyond the memory that a reader may keep is read and hashed again when it is used.

use std::ops::Range;

use pcache_format::object;
use pcache_format::{DecodeBuffers, FormatError, ModelHash, ObjectId, Stored};

use super::disk::Source;
use super::index::SegmentRow;
use super::memory::Memory;
use super::{Store, layout};

/// Why an object could not be used. Always a miss, never a failure: the state is evaluated again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// The index does not know the segment.
    #[error("not saved")]
    NotSaved,
    /// It is saved, and only what this machine and program computed is wanted.
    #[error("saved, but not computed by this machine and program alone")]
    Foreign,
    /// The file is gone, or cannot be read.
    #[error("object {} cannot be read: {reason}", object.short())]
    Unreadable {
        /// Object.
        object: ObjectId,
        /// Answer of the operating system.
        reason: String,
    },
    /// The file has another size than was written.
    #[error("object {} is damaged: it has {bytes} bytes, not {expected}", object.short())]
    Resized {
        /// Object.
        object: ObjectId,
        /// Size of the file.
        bytes: u64,
        /// Size that was written.
        expected: u64,
    },
    /// The file's bytes are not those that were written.
    #[error("object {} is damaged: its {bytes} bytes hash to {}", object.short(), found.short())]
    Damaged {
        /// Object, and so the expected hash.
        object: ObjectId,
        /// Hash found.
        found: ObjectId,
        /// Size of the file.
        bytes: u64,
    },
    /// The bytes are as they were written, and are not what the index says.
    #[error("object {} is not the segment that the index names: {reason}", object.short())]
    Mismatch {
        /// Object.
        object: ObjectId,
        /// Difference.
        reason: String,
    },
    /// A manifest or label is gone, damaged, or not what the index says.
    #[error("its {file}: {reason}")]
    Description {
        /// `manifest`, `label` or `record`.
        file: &'static str,
        /// Reason.
        reason: String,
        /// The file is gone or cannot be read.
        missing: bool,
    },
}

impl Miss {
    /// Something is gone, and not damaged.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NotSaved | Self::Unreadable { .. } | Self::Description { missing: true, .. })
    }
}

/// Memory for reading and decoding, reused from object to object.
#[derive(Debug, Default)]
pub struct ReadBuffers {
    file: Memory,
    decoded: DecodeBuffers,
}

/// An open object whose hash has not been checked.
pub(crate) struct FoundObject {
    row: SegmentRow,
    source: Box<dyn Source>,
}

/// Properties that an object must have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) tokens: &'a [i32],
    pub(crate) model: &'a ModelHash,
    pub(crate) params: &'a str,
}

impl FoundObject {
    /// Size of the file that the index expects.
    pub(crate) fn bytes(&self) -> u64 {
        self.row.file_bytes
    }

    /// Reads all bytes, hashes them, and compares them and the description with what the index says. With `keep` they stay
    /// in memory until the object is used; without, `buffer` is used, and they are read again when they are wanted.
    pub(crate) fn verify(
        self,
        wanted: Wanted<'_>,
        keep: bool,
        buffer: &mut Memory,
    ) -> Result<VerifiedObject, Miss> {
        let mut own = Memory::default();
        let memory = if keep { &mut own } else { buffer };
        let bytes = read_hashed(self.source.as_ref(), &self.row.object, self.row.file_bytes, memory)?;
        let (state, stored, raw_blake3) = check(bytes, &self.row, wanted)?;
        let row = SegmentRow { raw_blake3: Some(raw_blake3), ..self.row };
        let bytes = if keep { Bytes::Kept(own) } else { Bytes::InFile(self.source) };
        Ok(VerifiedObject { row, bytes, state, stored })
    }

    /// Reads all bytes and looks at nothing: for measurements.
    pub(crate) fn touch(&self, buffer: &mut Memory) {
        let _ = buffer.room(self.row.file_bytes).and_then(|bytes| self.source.read_at(0, bytes));
    }
}

/// Bytes that are read and then hashed while they are in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;

/// Reads a file of a size and hash that are known.
fn read_hashed<'m>(
    source: &dyn Source,
    object: &ObjectId,
    expected: u64,
    memory: &'m mut Memory,
) -> Result<&'m [u8], Miss> {
    let unreadable = |e: std::io::Error| Miss::Unreadable { object: *object, reason: e.to_string() };
    let resized = |bytes| Miss::Resized { object: *object, bytes, expected };
    // Compared first: a sparse file of terabytes is not read.
    let bytes = source.size().map_err(unreadable)?;
    if bytes != expected {
        return Err(resized(bytes));
    }
    let room = memory.room(expected).map_err(unreadable)?;
    let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
    for chunk in room.chunks_mut(CHUNK_BYTES) {
        let read = source.read_at(done, chunk).map_err(unreadable)?;
        done += read as u64;
        if read < chunk.len() {
            return Err(resized(done));
        }
        hasher.update(chunk);
    }
    let found = ObjectId::from(hasher.finalize());
    if found != *object {
        return Err(Miss::Damaged { object: *object, found, bytes });
    }
    Ok(room)
}

/// Compares a description with its row. Returns where the state lies, how it is stored, and its hash.
fn check(
    bytes: &[u8],
    row: &SegmentRow,
    wanted: Wanted<'_>,
) -> Result<(Range<usize>, Stored, ObjectId), Miss> {
    let mismatch = |reason: String| Miss::Mismatch { object: row.object, reason };
    let decoded = object::decode(bytes).map_err(|e: FormatError| mismatch(e.to_string()))?;
    let meta = &decoded.meta;
    let raw_blake3 = ObjectId::from(decoded.raw_blake3);
    let differences = [
        ("chain key", meta.chain == row.chain),
        ("parent", meta.parent == row.parent),
        ("lineage", meta.lineage == row.lineage && meta.parent_lineage == row.parent_lineage),
        ("layout", meta.layout == row.layout),
        ("position", meta.first == row.first),
        ("model", meta.model == *wanted.model),
        ("parameters", meta.params == wanted.params),
        ("tokens", decoded.tokens == wanted.tokens),
        ("state", row.raw_blake3.is_none_or(|expected| expected == raw_blake3)),
    ];
    if let Some((what, _)) = differences.iter().find(|(_, same)| !same) {
        return Err(mismatch(format!("its {what} differs")));
    }
    Ok((decoded.state, decoded.stored, raw_blake3))
}

/// Place of an object's bytes.
enum Bytes {
    Kept(Memory),
    InFile(Box<dyn Source>),
}

/// An object whose every byte was compared with its name, and whose description with the index.
pub struct VerifiedObject {
    pub(crate) row: SegmentRow,
    bytes: Bytes,
    state: Range<usize>,
    stored: Stored,
}

impl VerifiedObject {
    /// llama.cpp's sequence state: as it was verified in memory, or read and verified again; decoded where it is encoded.
    ///
    /// # Errors
    /// When it is no longer what it was, or cannot be decoded.
    pub fn state<'a>(&'a self, buffers: &'a mut ReadBuffers) -> Result<&'a [u8], Miss> {
        let row = &self.row;
        let bytes = match &self.bytes {
            Bytes::Kept(memory) => memory.bytes(),
            Bytes::InFile(source) => {
                read_hashed(source.as_ref(), &row.object, row.file_bytes, &mut buffers.file)?
            }
        };
        let mismatch = |e: FormatError| Miss::Mismatch { object: row.object, reason: e.to_string() };
        self.stored.raw(&bytes[self.state.clone()], &mut buffers.decoded).map_err(mismatch)
    }

    /// Decodes the state and compares it with the hash that it had before it was stored: what `verify` does beyond what
    /// every ask does.
    ///
    /// # Errors
    /// The [`Miss`] that it is, if it differs.
    pub fn prove(&self, buffers: &mut ReadBuffers) -> Result<(), Miss> {
        let state = self.state(buffers)?;
        if self.row.raw_blake3 != Some(ObjectId::from(blake3::hash(state))) {
            let reason = "its state is not the one that was stored".into();
            return Err(Miss::Mismatch { object: self.row.object, reason });
        }
        Ok(())
    }

    /// Storage of the state.
    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// Row that names it.
    pub fn row(&self) -> &SegmentRow {
        &self.row
    }
}

/// Bytes at the beginning of an object in which its description lies, for all but absurd ones.
const HEAD_BYTES: u64 = 64 << 10;

impl Store {
    /// Opens the object of a segment.
    pub(crate) fn open_object(&self, row: &SegmentRow) -> Result<FoundObject, Miss> {
        let source = self.source_of(&row.object)?;
        Ok(FoundObject { row: row.clone(), source })
    }

    /// Path of an object. A pure function of its name.
    pub fn object_path(&self, object: &ObjectId) -> std::path::PathBuf {
        layout::object(&self.root, object)
    }

    fn source_of(&self, object: &ObjectId) -> Result<Box<dyn Source>, Miss> {
        let path = layout::object(&self.root, object);
        let unreadable = |reason: String| Miss::Unreadable { object: *object, reason };
        if self.is_behind_a_link(&path) {
            return Err(unreadable("its folder is a link".into()));
        }
        self.disk.open(&path).map_err(|e| unreadable(e.to_string()))
    }

    /// Codec that an object says it is stored in. For people: nothing is verified.
    pub fn codec_of(&self, object: &ObjectId) -> Option<&'static str> {
        let codec = self.peek(object, "codec")?;
        ["raw", "zstd"].into_iter().find(|name| *name == codec)
    }

    /// BLAKE3 of the raw state that an object says it has. Nothing is verified.
    pub(crate) fn raw_blake3_of(&self, object: &ObjectId) -> Option<ObjectId> {
        self.peek(object, "raw_blake3")?.parse().ok()
    }

    fn peek(&self, object: &ObjectId, name: &str) -> Option<String> {
        let mut head = Vec::new();
        self.source_of(object).ok()?.read(HEAD_BYTES, &mut head).ok()?;
        object::peek(&head, name)
    }

    /// Reads a whole file of which only the hash is known: for what has no row.
    pub(crate) fn read_named<'m>(
        &self,
        object: &ObjectId,
        bytes: u64,
        buffer: &'m mut Memory,
    ) -> Result<&'m [u8], Miss> {
        let source = self.source_of(object)?;
        read_hashed(source.as_ref(), object, bytes, buffer)
    }
}
