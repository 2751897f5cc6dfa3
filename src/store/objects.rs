//! Object files: publishing them, and mapping them back with proof.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Disk;
use super::index::SegmentRow;
use super::{OBJECTS, Result, STAGING, Store, StoreError};
use crate::format::{self, Encoded, FormatError, Room, Stored};
use crate::key::{ModelHash, ObjectId};
use crate::sys::map::Map;

/// Why an object could not be used. Always a miss, never a failure: the state is evaluated again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// The index does not know the segment.
    #[error("not saved")]
    NotSaved,
    /// The file is gone, or cannot be read.
    #[error("object {} cannot be read: {reason}", object.short())]
    Unreadable {
        /// The object.
        object: ObjectId,
        /// What the operating system said.
        reason: String,
    },
    /// The file has another size than was written.
    #[error("object {} is damaged: it has {bytes} bytes, not {expected}", object.short())]
    Resized {
        /// The object.
        object: ObjectId,
        /// The file's size.
        bytes: usize,
        /// The size that was written.
        expected: u64,
    },
    /// The file's bytes are not those that were written.
    #[error("object {} is damaged: its {bytes} bytes hash to {}", object.short(), found.short())]
    Damaged {
        /// The object, and so the expected hash.
        object: ObjectId,
        /// The hash found.
        found: ObjectId,
        /// The file's size.
        bytes: usize,
    },
    /// The bytes are as they were written, and are not what the index says.
    #[error("object {} is not the segment that the index names: {reason}", object.short())]
    Mismatch {
        /// The object.
        object: ObjectId,
        /// The difference.
        reason: String,
    },
}

/// An object whose every byte was compared with its name, and whose description with the index.
#[derive(Debug)]
pub struct Verified {
    map: Map,
    state: std::ops::Range<usize>,
    stored: Stored,
    object: ObjectId,
    raw_blake3: blake3::Hash,
}

impl Verified {
    /// llama.cpp's sequence state: in the map, or decoded into `room`.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub fn state<'a>(&'a self, room: &'a mut Room) -> Result<&'a [u8], FormatError> {
        self.stored.raw(&self.map[self.state.clone()], room)
    }

    /// Decodes the state and compares it with the hash that it had before it was stored: what `verify` does beyond what
    /// every ask does.
    ///
    /// # Errors
    /// The [`Miss`] that it is, if it differs.
    pub fn prove(&self, room: &mut Room) -> Result<(), Miss> {
        let mismatch = |reason: String| Miss::Mismatch { object: self.object, reason };
        let state = self.state(room).map_err(|e| mismatch(e.to_string()))?;
        if blake3::hash(state) != self.raw_blake3 {
            return Err(mismatch("its state is not the one that was stored".into()));
        }
        Ok(())
    }

    /// How the state is stored.
    pub fn stored(&self) -> Stored {
        self.stored
    }
}

/// A mapped object that nobody may read yet.
#[derive(Debug)]
pub struct Unverified {
    row: SegmentRow,
    map: Map,
}

impl Unverified {
    /// Brings every page into memory: what a reader waits for before it can look at anything.
    pub fn touch(&self) {
        // No system has smaller pages.
        let sum = self.map.iter().step_by(4096).fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        std::hint::black_box(sum);
    }

    /// Hashes all bytes and compares them and the description with what the index says.
    ///
    /// # Errors
    /// The [`Miss`] that says what differs. `tokens` are those of the segment.
    pub fn verify(self, tokens: &[i32], model: &ModelHash, params: &str) -> Result<Verified, Miss> {
        let object = self.row.object;
        let (bytes, expected) = (self.map.len(), self.row.file_bytes);
        if bytes as u64 != expected {
            return Err(Miss::Resized { object, bytes, expected });
        }
        let found = ObjectId::from(blake3::hash(&self.map));
        if found != object {
            return Err(Miss::Damaged { object, found, bytes: self.map.len() });
        }
        let mismatch = |reason: String| Miss::Mismatch { object, reason };
        let decoded = format::decode(&self.map).map_err(|e: FormatError| mismatch(e.to_string()))?;
        let meta = &decoded.meta;
        let differences = [
            ("chain key", meta.chain == self.row.chain),
            ("parent", meta.parent == self.row.parent),
            ("layout", meta.layout == self.row.layout),
            ("position", meta.first == self.row.first),
            ("model", meta.model == *model),
            ("parameters", meta.params == params),
            ("tokens", decoded.tokens == tokens),
        ];
        if let Some((what, _)) = differences.iter().find(|(_, same)| !same) {
            return Err(mismatch(format!("its {what} differs")));
        }
        let format::Object { state, stored, raw_blake3, .. } = decoded;
        Ok(Verified { map: self.map, state, stored, object, raw_blake3 })
    }
}

/// Puts objects into a store's folder; needs no index, so several threads can do it at once.
#[derive(Clone)]
pub struct Publisher {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Publisher {
    fn object_path(&self, id: &ObjectId) -> PathBuf {
        let name = id.to_hex();
        self.root.join(OBJECTS).join(&name[..2]).join(format!("{name}.safetensors"))
    }

    /// Puts an object into place: written to staging, synced, renamed, folder synced. A file that has the
    /// name already is replaced, which heals it if it was damaged. The row is the caller's next step.
    ///
    /// # Errors
    /// When the disk refuses; nothing is visible then.
    pub fn publish(&self, encoded: &Encoded<'_>) -> Result<ObjectId> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let id = encoded.id();
        let path = self.object_path(&id);
        let folder = path.parent().unwrap_or(&self.root);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let staged = self.root.join(STAGING).join(format!("{}-{serial}-{}", std::process::id(), id.short()));

        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Disk { action, path, source }
        };
        if std::fs::symlink_metadata(folder).is_ok_and(|m| !m.is_dir()) {
            // A file or a link where the folder should be; it goes with the next gc.
            let aside = staged.with_extension("in-the-way");
            self.disk.rename(folder, &aside).map_err(failed("move away", folder))?;
        }
        let new_folder = !folder.exists();
        self.disk.create_dir(folder).map_err(failed("create", folder))?;
        if new_folder && let Some(parent) = folder.parent() {
            self.disk.sync_dir(parent).map_err(failed("sync", parent))?;
        }
        let written = self
            .disk
            .write(&staged, &encoded.parts())
            .map_err(failed("write", &staged))
            .and_then(|()| self.put_into_place(&staged, &path).map_err(failed("rename", &staged)));
        if let Err(error) = written {
            // A full disk should not stay full: what was staged is of no use to anybody.
            let _ = self.disk.remove(&staged);
            return Err(error);
        }
        self.disk.sync_dir(folder).map_err(failed("sync", folder))?;
        Ok(id)
    }

    /// Renames a staged file to its name. A folder that has the name is moved out of the way, into staging.
    fn put_into_place(&self, staged: &Path, path: &Path) -> std::io::Result<()> {
        if std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
            let aside = staged.with_extension("in-the-way");
            self.disk.rename(path, &aside)?;
        }
        self.disk.rename(staged, path)
    }
}

impl Store {
    /// What puts objects into this store's folder.
    pub fn publisher(&self) -> Publisher {
        Publisher { root: self.root.clone(), disk: Arc::clone(&self.disk) }
    }

    /// Where an object lies. A pure function of its name.
    pub fn object_path(&self, id: &ObjectId) -> PathBuf {
        self.publisher().object_path(id)
    }

    /// See [`Publisher::publish`].
    ///
    /// # Errors
    /// When the disk refuses; nothing is visible then.
    pub fn publish(&self, encoded: &Encoded<'_>) -> Result<ObjectId> {
        self.publisher().publish(encoded)
    }

    /// Maps the object of a segment, for [`Unverified::verify`]. Call it under the shared lock.
    ///
    /// # Errors
    /// A [`Miss`] when the file is gone or cannot be mapped.
    pub fn map(&self, row: &SegmentRow) -> Result<Unverified, Miss> {
        let map = self.map_object(&row.object)?;
        map.read_in_order();
        Ok(Unverified { row: row.clone(), map })
    }

    /// The codec that an object says it is stored in. For people: nothing is verified.
    pub fn codec_of(&self, object: &ObjectId) -> Option<&'static str> {
        let map = self.map_object(object).ok()?;
        format::decode(&map).ok().map(|object| object.stored.codec())
    }

    pub(super) fn map_object(&self, object: &ObjectId) -> Result<Map, Miss> {
        let path = self.object_path(object);
        let unreadable = |reason: String| Miss::Unreadable { object: *object, reason };
        if path.parent().is_some_and(|folder| folder.is_symlink()) {
            return Err(unreadable("its folder is a link".into()));
        }
        self.disk.map(&path).map_err(|e| unreadable(e.to_string()))
    }
}
