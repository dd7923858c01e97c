//! Cache chains: the keys that lead to the results of a build, and the results, as a thing of its own that can be carried away.
//!
//! [`Job::cache_chains`](crate::Job::cache_chains) collects them from what the job solved and from what the stores know;
//! [`import`] makes a [`KeyStore`](crate::KeyStore) of them again. The form is BuildKit's: an item is a digest (of an operation and its
//! output, or of a content), per input the items that can stand there, and results. Items never form a circle, and everything here is
//! linear in the number of links.

mod collect;
mod import;
mod order;
mod walk;

pub(crate) use collect::SolvedEdge;
pub use import::{ImportError, ImportedKeys, import};
pub(crate) use walk::{Stores, walk};

use crate::{Digest, Record, Root};

/// Items, inputs before what uses them; `R` is a result, or how it is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheChains<R> {
    /// The items.
    pub items: Vec<ChainItem<R>>,
}

impl<R> Default for CacheChains<R> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

/// One key, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainItem<R> {
    /// What the key is of, whatever its inputs are: [`KeyId::root`](crate::KeyId::root) of an operation and its output, or the key of a
    /// content.
    pub class: Digest,
    /// Per input, the items that can stand there.
    pub inputs: Vec<Vec<ChainLink>>,
    /// Results, best first.
    pub results: Vec<ChainResult<R>>,
}

/// An item that can stand for an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainLink {
    /// Position of the item.
    pub item: u32,
    /// What part of the input is used.
    pub selector: Option<Digest>,
}

/// A result of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainResult<R> {
    /// The result.
    pub value: R,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created: u64,
}

/// A record that may be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The record; [`Solver::load_record`](crate::Solver::load_record) gives its result.
    pub record: Record,
    /// Whether what can be carried away of it may be made; otherwise it is exported only if that is there already.
    pub make: bool,
    /// How the job asks for what it is a record of: where the result cannot be carried away since it is lost, [`Job::build`](crate::Job::build)
    /// and [`Job::rebuild`](crate::Job::rebuild) have another one made, which chains that are collected then have. `None` where that is not known.
    pub root: Option<Root>,
}

/// Which results are exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainMode {
    /// Those that were asked for, and of what they are made of those that can be carried away already.
    #[default]
    Min,
    /// All.
    Max,
    /// Only those that can be carried away already.
    RemoteOnly,
}

/// What is collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainOptions {
    /// Which results.
    pub mode: ChainMode,
    /// Only the keys that this very build solved, without the others that stores know to lead to the same.
    pub ignore_back_links: bool,
    /// Results of operations without inputs as well: those are had from where they came from, as a rule.
    pub export_roots: bool,
}

impl<R> CacheChains<R> {
    /// Number of links.
    pub fn links(&self) -> usize {
        let links = |item: &ChainItem<R>| item.inputs.iter().map(Vec::len).sum::<usize>();
        self.items.iter().map(links).sum()
    }

    /// The same chains with other results, which `change` tells per item.
    pub fn with_results<S>(
        self,
        mut change: impl FnMut(Vec<ChainResult<R>>) -> Vec<ChainResult<S>>,
    ) -> CacheChains<S> {
        let items = self.items.into_iter().map(|item| ChainItem {
            class: item.class,
            inputs: item.inputs,
            results: change(item.results),
        });
        CacheChains {
            items: items.collect(),
        }
    }

    /// Without the items that lead to no result.
    pub fn useful(self) -> Self {
        let mut kept: Vec<bool> = self
            .items
            .iter()
            .map(|item| !item.results.is_empty())
            .collect();
        for at in (0..self.items.len()).rev() {
            if kept[at] {
                for link in self.items[at].inputs.iter().flatten() {
                    kept[link.item as usize] = true;
                }
            }
        }
        let mut places = Vec::with_capacity(kept.len());
        let mut next = 0;
        for kept in &kept {
            places.push(next);
            next += u32::from(*kept);
        }
        let mut items = self.items;
        let mut at = 0;
        items.retain(|_| {
            at += 1;
            kept[at - 1]
        });
        for link in items
            .iter_mut()
            .flat_map(|item| item.inputs.iter_mut().flatten())
        {
            link.item = places[link.item as usize];
        }
        Self { items }
    }
}
