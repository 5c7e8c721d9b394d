//! Digests of files whose metadata did not change, so that a second look at a tree reads no content.
//!
//! Anything in here can be made again: a damaged file is thrown away without a word. Knows no spec.

use std::path::Path;

use crate::plan::Digest;
use crate::world::fs;

const MAGIC: &[u8] = b"lane-files 1\n";
/// How much newer than the look itself a change may be dated: file systems keep time in steps of up to two seconds.
const RACY_NS: i64 = 2_000_000_000;

/// What tells a changed file from an unchanged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) inode: u64,
    /// Modified, in nanoseconds since 1970.
    pub(super) mtime: i64,
    /// Its inode changed; no tool can set this one.
    pub(super) ctime: i64,
}

impl Stamp {
    /// Tells whether a change right after a look at `now` would show in the stamp (gitformat-index(5), "racy git").
    pub(super) fn is_settled(&self, now: i64) -> bool {
        self.mtime.max(self.ctime) < now.saturating_sub(RACY_NS)
    }
}

/// A file as it was when it was digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cached<'a> {
    pub(super) path: &'a str,
    pub(super) stamp: Stamp,
    pub(super) digest: [u8; 32],
}

/// Reads the cache's bytes: entries in order of path; nothing for bytes that are not a whole cache.
pub(super) fn parse(bytes: &[u8]) -> Vec<Cached<'_>> {
    parse_whole(bytes).unwrap_or_default()
}

fn parse_whole(bytes: &[u8]) -> Option<Vec<Cached<'_>>> {
    let (body, seal) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body).raw()? != *seal {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut entries = Vec::with_capacity(rest.len() / 96);
    while !rest.is_empty() {
        let length = u32::from_le_bytes(take(&mut rest)?);
        let (path, after) = rest.split_at_checked(length as usize)?;
        rest = after;
        entries.push(Cached {
            path: std::str::from_utf8(path).ok()?,
            stamp: Stamp {
                size: u64::from_le_bytes(take(&mut rest)?),
                inode: u64::from_le_bytes(take(&mut rest)?),
                mtime: i64::from_le_bytes(take(&mut rest)?),
                ctime: i64::from_le_bytes(take(&mut rest)?),
            },
            digest: take(&mut rest)?,
        });
    }
    Some(entries)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Writes entries, in order of path; a cache that cannot be written costs time and nothing else.
pub(super) fn save(file: &Path, entries: &[Cached<'_>]) {
    let Some(bytes) = encode(entries) else { return };
    let made = file.parent().map_or(Ok(()), fs::create_dir_private);
    drop(made.and_then(|()| fs::write_atomic(file, &bytes, fs::Mode::Private)));
}

fn encode(entries: &[Cached<'_>]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(entries.len() * 128 + 64);
    bytes.extend_from_slice(MAGIC);
    for Cached { path, stamp, digest } in entries {
        bytes.extend_from_slice(&u32::try_from(path.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        bytes.extend_from_slice(&stamp.size.to_le_bytes());
        bytes.extend_from_slice(&stamp.inode.to_le_bytes());
        bytes.extend_from_slice(&stamp.mtime.to_le_bytes());
        bytes.extend_from_slice(&stamp.ctime.to_le_bytes());
        bytes.extend_from_slice(digest);
    }
    let seal = Digest::of(&bytes).raw()?;
    bytes.extend_from_slice(&seal);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_entry() -> impl Strategy<Value = (String, Stamp, [u8; 32])> {
        (".{0,20}", any::<[u64; 2]>(), any::<[i64; 2]>(), any::<[u8; 32]>()).prop_map(
            |(path, [size, inode], [mtime, ctime], digest)| {
                (path, Stamp { size, inode, mtime, ctime }, digest)
            },
        )
    }

    proptest! {
        #[test]
        fn round_trips_and_any_damage_empties_it(
            owned in proptest::collection::vec(any_entry(), 0..5),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let entries: Vec<Cached<'_>> =
                owned.iter().map(|(path, stamp, digest)| Cached { path, stamp: *stamp, digest: *digest }).collect();
            let bytes = encode(&entries).unwrap();
            prop_assert_eq!(parse_whole(&bytes), Some(entries));
            let at = at.index(bytes.len());
            prop_assert_eq!(parse_whole(&bytes[..at]), None);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert_eq!(parse_whole(&flipped), None);
        }

        #[test]
        fn sealed_nonsense_is_nothing(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool) {
            if magic {
                bytes.splice(0..0, MAGIC.iter().copied());
            }
            bytes.extend(Digest::of(&bytes).raw().unwrap());
            drop(parse(&bytes));
        }
    }

    #[test]
    fn a_change_within_the_clocks_step_is_not_settled() {
        let stamp = |mtime, ctime| Stamp { size: 0, inode: 0, mtime, ctime };
        let now = 10_000_000_000;
        assert!(stamp(7_999_999_999, 7_000_000_000).is_settled(now));
        assert!(!stamp(8_000_000_000, 7_000_000_000).is_settled(now));
        assert!(!stamp(1, 9_000_000_000).is_settled(now), "a date set back by hand");
        assert!(!stamp(20_000_000_000, 1).is_settled(now), "a date to come");
    }
}
