//! Trees of which the copy has a list of all there is, and the files that were asked for.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use weld_fileset::{InodeId, PatternMatcher, Timestamp, compare_paths};
use weld_proto::Message;

use super::ends::{ProviderError, TreeProvider};
use super::index::TreeIndex;
use super::stat::{Change, Stat};
use super::wire::to_wire;

/// Where the list is in the copy, as BuildKit's frontends look for it. A file of this name is not
/// transferred.
///
/// It has all stats in path order, each as fsutil's message behind its length in four bytes, the
/// lowest first.
pub const LISTING: &str = ".fsutil-metadata";

/// Provides of another's tree a list of all paths, and the files that patterns name with the
/// directories that they are in.
pub struct MetadataOnly {
    inner: Arc<dyn TreeProvider>,
    transferred: PatternMatcher,
    listed: OnceLock<Listed>,
}

struct Listed {
    content: Bytes,
    /// For each stat its number in the inner tree; the list has none.
    numbers: Vec<Option<usize>>,
}

impl MetadataOnly {
    /// Provides of `inner` a list, and the files that `transferred` matches.
    pub fn new(inner: Arc<dyn TreeProvider>, transferred: PatternMatcher) -> Self {
        Self {
            inner,
            transferred,
            listed: OnceLock::new(),
        }
    }

    fn number(&self, number: usize) -> Option<usize> {
        *self.listed.get()?.numbers.get(number)?
    }

    /// The numbers of what is transferred, in path order.
    fn chosen(&self, stats: &[Stat]) -> BTreeSet<usize> {
        let find = |path: &Path| {
            stats
                .binary_search_by(|stat| compare_paths(&stat.path, path))
                .ok()
        };
        let mut chosen = BTreeSet::new();
        for (number, stat) in stats.iter().enumerate() {
            if self.transferred.matches_or_parent_matches(&stat.path) {
                // A further name is nothing without the first.
                let first = stat.hard_link.as_deref().and_then(find);
                let dirs = |number: usize| {
                    let path = stats.get(number).map(|stat| stat.path.as_path());
                    let parents = path.into_iter().flat_map(|path| path.ancestors().skip(1));
                    parents.filter_map(find)
                };
                for file in std::iter::once(number).chain(first) {
                    chosen.insert(file);
                    chosen.extend(dirs(file));
                }
            }
        }
        chosen
    }
}

impl TreeProvider for MetadataOnly {
    fn stats(&self, known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        let all = self.inner.stats(known)?;
        let is_listed = |stat: &Stat| !stat.path.starts_with(LISTING);
        let mut content = Vec::new();
        let mut latest = Timestamp::default();
        for stat in all.iter().filter(|stat| is_listed(stat)) {
            latest = latest.max(stat.mtime);
            let message = to_wire(stat).map_err(ProviderError::new)?;
            let length = u32::try_from(message.encoded_len());
            let length = length.map_err(ProviderError::new)?;
            content.extend_from_slice(&length.to_le_bytes());
            content.extend_from_slice(&message.encode_to_vec());
        }
        let list = listing(content.len() as u64, latest);
        let mut numbers: Vec<_> = self.chosen(&all).into_iter().map(Some).collect();
        numbers.retain(|number| {
            number
                .and_then(|number| all.get(number))
                .is_some_and(is_listed)
        });
        let before = |number: &Option<usize>| {
            let stat = number.and_then(|number| all.get(number));
            stat.is_some_and(|stat| compare_paths(&stat.path, &list.path).is_lt())
        };
        numbers.insert(numbers.partition_point(before), None);
        let mut all: Vec<_> = all.into_iter().map(Some).collect();
        let mut list = Some(list);
        let stats = numbers.iter().filter_map(|number| match number {
            Some(number) => all.get_mut(*number)?.take(),
            None => list.take(),
        });
        let stats = stats.collect();
        // Whoever asks again gets another list, and what is asked for is by the first.
        let content = Bytes::from(content);
        let _ = self.listed.set(Listed { content, numbers });
        Ok(stats)
    }

    fn announce(&self, wanted: &[usize]) {
        let wanted = wanted.iter().filter_map(|number| self.number(*number));
        self.inner.announce(&wanted.collect::<Vec<_>>());
    }

    fn open(&self, number: usize, stat: &Stat) -> io::Result<Box<dyn Read + Send>> {
        match (self.number(number), self.listed.get()) {
            (Some(number), _) => self.inner.open(number, stat),
            (None, Some(listed)) => Ok(Box::new(Cursor::new(listed.content.clone()))),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn finish(&self) -> Result<(), ProviderError> {
        self.inner.finish()
    }

    fn cancel(&self) {
        self.inner.cancel();
    }

    fn parallel(&self) -> usize {
        self.inner.parallel()
    }
}

/// The list's own stat. It is as new as what is newest in it, and tells nothing of whether it is
/// another list than the last time: it is always to be compared.
fn listing(size: u64, latest: Timestamp) -> Stat {
    Stat {
        path: LISTING.into(),
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        size,
        mtime: latest,
        link_target: None,
        hard_link: None,
        rdev: (0, 0),
        xattrs: Vec::new(),
        change: Some(Change {
            ctime: Timestamp {
                seconds: i64::MAX,
                nanoseconds: 0,
            },
            inode: InodeId {
                device: (0, 0),
                inode: 0,
            },
        }),
    }
}
