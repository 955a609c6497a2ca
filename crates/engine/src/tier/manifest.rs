//! What a kept tier holds, written when the process ends and read when the next one starts.
//!
//! The manifest is removed as soon as it is read: from then on the file changes under it. A process
//! that does not end in order leaves no manifest, and the next one starts with an empty tier.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use kvist_base::TokenId;

use super::Slot;
use super::checksum::checksum;

const MAGIC: &[u8; 8] = b"KVISTKV1";
/// A damaged count must not become an allocation.
const ENTRIES_MAX: u64 = 1 << 24;
const TOKENS_MAX: u64 = 1 << 12;

/// What KV content depends on besides tokens: SHA-256 over model, KV format and program version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) [u8; 32]);

impl Identity {
    /// Its beginning, in hexadecimal: enough to tell a handful of models apart.
    pub(crate) fn fingerprint(&self) -> String {
        let digits = self.0[..8].iter().map(|byte| format!("{byte:02x}"));
        digits.collect()
    }
}

/// One block of the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEntry {
    pub(crate) slot: Slot,
    /// Sum of its bytes.
    pub(crate) sum: u64,
    /// Identity of its content, and of the content before it.
    pub(crate) content: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) hash: u128,
    pub(crate) tokens: Vec<TokenId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) identity: Identity,
    /// Parents before children.
    pub(crate) entries: Vec<StoredEntry>,
}

impl Manifest {
    /// Writes a file beside `path` and renames it there: `path` is whole or absent.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = self.encode();
        let partial = path.with_extension("partial");
        let mut file = fs::File::create(&partial)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    }

    /// Reads and removes the manifest. `None`: there is none, or it is damaged or for another
    /// model; the tier then starts empty.
    pub(crate) fn take(path: &Path, identity: Identity) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        fs::remove_file(path)?;
        Ok(Self::decode(&bytes).filter(|manifest| manifest.identity == identity))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.identity.0);
        out.extend((self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            out.extend(entry.slot.to_le_bytes());
            out.extend(entry.sum.to_le_bytes());
            out.extend(entry.content.to_le_bytes());
            out.push(u8::from(entry.parent.is_some()));
            out.extend(entry.parent.unwrap_or_default().to_le_bytes());
            out.extend(entry.hash.to_le_bytes());
            out.extend((entry.tokens.len() as u64).to_le_bytes());
            for token in &entry.tokens {
                out.extend(token.0.to_le_bytes());
            }
        }
        out.extend(checksum(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let mut reader = Reader(body);
        if reader.array::<8>()? != *MAGIC {
            return None;
        }
        let identity = Identity(reader.array()?);
        let count = reader.u64().filter(|count| *count <= ENTRIES_MAX)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry()?);
        }
        reader.0.is_empty().then_some(Self { identity, entries })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn entry(&mut self) -> Option<StoredEntry> {
        let slot = self.u32()?;
        let sum = self.u64()?;
        let content = self.u64()?;
        let [has_parent] = self.array::<1>()?;
        let parent = self.u64()?;
        let hash = self.array().map(u128::from_le_bytes)?;
        let count = self.u64().filter(|count| *count <= TOKENS_MAX)?;
        let tokens = (0..count).map(|_| self.u32().map(TokenId));
        Some(StoredEntry {
            slot,
            sum,
            content,
            parent: (has_parent == 1).then_some(parent),
            hash,
            tokens: tokens.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let entry = |slot: u32, parent| StoredEntry {
            slot,
            sum: u64::MAX - u64::from(slot),
            content: u64::from(slot) + 100,
            parent,
            hash: u128::MAX / 3,
            tokens: vec![TokenId(slot), TokenId(7)],
        };
        Manifest {
            identity: Identity([9; 32]),
            entries: vec![entry(3, None), entry(1, Some(103))],
        }
    }

    #[test]
    fn what_is_written_is_read_once() {
        let path = std::env::temp_dir().join(format!("kvist-manifest-{}", std::process::id()));
        manifest().write(&path).unwrap();
        let read = Manifest::take(&path, Identity([9; 32])).unwrap();
        assert_eq!(read, Some(manifest()));
        assert_eq!(Manifest::take(&path, Identity([9; 32])).unwrap(), None);
        manifest().write(&path).unwrap();
        let other = Manifest::take(&path, Identity([8; 32])).unwrap();
        assert_eq!(other, None, "another model's manifest is not used");
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_manifest_is_no_manifest() {
        let bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes), Some(manifest()));
        for len in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..len]), None);
        }
        for idx in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[idx] ^= 1;
            assert_eq!(Manifest::decode(&damaged), None, "byte {idx}");
        }
    }
}
