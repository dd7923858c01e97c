//! Whose turn it is to sync a tree that is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// How long nothing may happen to a tree before who waits for it has a tree of its own: a client that is frozen keeps its turn.
const STILL: Duration = Duration::from_secs(5);
/// How many trees there may be in place of one.
const BESIDE: usize = 8;
/// How many there may be of directories of which nothing tells whose they are.
const UNKNOWN: usize = 64;

/// One turn for each tree that is kept: only one sync of a tree at a time.
#[derive(Default)]
pub(crate) struct Trees(Mutex<HashMap<String, Weak<Tree>>>);

struct Tree {
    turn: Arc<tokio::sync::Mutex<()>>,
    moved: Mutex<Instant>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            turn: Arc::default(),
            moved: Mutex::new(Instant::now()),
        }
    }
}

impl Tree {
    fn moved(&self) -> MutexGuard<'_, Instant> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn for as long as something happens.
    async fn take(self: &Arc<Self>) -> Option<OwnedMutexGuard<()>> {
        loop {
            let until = *self.moved() + STILL;
            let turn = Arc::clone(&self.turn).lock_owned();
            if let Ok(turn) = tokio::time::timeout_at(until, turn).await {
                *self.moved() = Instant::now();
                return Some(turn);
            }
            if *self.moved() + STILL <= Instant::now() {
                return None;
            }
        }
    }
}

/// The right to sync a tree, until it is dropped.
pub(crate) struct Turn {
    /// What the tree is called.
    pub(crate) key: String,
    tree: Arc<Tree>,
    _turn: OwnedMutexGuard<()>,
}

impl Turn {
    /// What is to be called when the sync gets on.
    pub(crate) fn mover(&self) -> impl Fn() + Send + Sync + use<> {
        let tree = Arc::clone(&self.tree);
        move || *tree.moved() = Instant::now()
    }
}

impl Trees {
    /// Waits for the turn at a tree, or at one beside it where nothing happens to that.
    pub(crate) async fn take(&self, key: &str) -> Turn {
        for beside in 0..BESIDE {
            let key = beside_name(key, beside);
            let tree = self.tree(&key);
            if let Some(turn) = tree.take().await {
                return Turn {
                    key,
                    tree,
                    _turn: turn,
                };
            }
        }
        let tree = self.tree(key);
        Turn {
            key: key.to_owned(),
            _turn: Arc::clone(&tree.turn).lock_owned().await,
            tree,
        }
    }

    /// The turn at a tree that nobody syncs now, or, where there are very many, at one that somebody does: the directories that are kept
    /// under this name may have nothing in common.
    pub(crate) async fn take_any(&self, key: &str) -> Turn {
        for beside in 0..UNKNOWN {
            let key = beside_name(key, beside);
            let tree = self.tree(&key);
            if let Ok(turn) = Arc::clone(&tree.turn).try_lock_owned() {
                *tree.moved() = Instant::now();
                return Turn {
                    key,
                    tree,
                    _turn: turn,
                };
            }
        }
        self.take(key).await
    }

    fn tree(&self, key: &str) -> Arc<Tree> {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = trees.get(key).and_then(Weak::upgrade) {
            return tree;
        }
        trees.retain(|_, tree| tree.strong_count() > 0);
        let tree = Arc::default();
        trees.insert(key.to_owned(), Arc::downgrade(&tree));
        tree
    }
}

/// What a tree is called that is kept in place of another one.
fn beside_name(key: &str, beside: usize) -> String {
    match beside {
        0 => key.to_owned(),
        beside => format!("{key} beside {beside}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_frozen_client_has_a_tree_of_its_own() {
        let trees = Trees::default();
        let first = trees.take("a").await;
        let moves = first.mover();
        // As long as something happens, it is waited for.
        let begun = Instant::now();
        let second = {
            let waiting = trees.take("a");
            tokio::pin!(waiting);
            for _ in 0..10 {
                let second = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
                assert!(
                    second.is_err(),
                    "it has the turn of another one that gets on"
                );
                moves();
            }
            waiting.await
        };
        assert_eq!(begun.elapsed(), Duration::from_secs(10) + STILL);
        assert_eq!(second.key, "a beside 1");
        drop(first);
        assert_eq!(trees.take("a").await.key, "a");
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn directories_of_unknown_origin_wait_for_nobody() {
        let trees = Trees::default();
        let begun = Instant::now();
        let first = trees.take_any("a").await;
        let second = trees.take_any("a").await;
        assert_eq!([first.key.as_str(), &second.key], ["a", "a beside 1"]);
        drop(first);
        assert_eq!(trees.take_any("a").await.key, "a");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
