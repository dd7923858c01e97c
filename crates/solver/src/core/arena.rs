//! Generational storage: things are referred to by id, and a stale id is detected, never dereferenced.
//!
//! Storage is paged, and a page without live entries is given back, so that memory follows what is live.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Index, IndexMut},
};

const PAGE: usize = 128;
const NONE: u8 = u8::MAX;

/// An id into an [`Arena`].
pub struct Id<K> {
    index: u32,
    generation: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// An id that no arena hands out.
    pub(crate) const NIL: Self = Self {
        index: u32::MAX,
        generation: 0,
        kind: PhantomData,
    };

    /// A number that is unique among all ids of the same arena, dead ones included.
    pub(crate) fn unique(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    /// The place in the arena; an id of another generation may have the same.
    pub(crate) fn place(self) -> usize {
        self.index as usize
    }

    pub(crate) fn is_nil(self) -> bool {
        self.index == u32::MAX
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.unique() == other.unique()
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.index, self.generation).cmp(&(other.index, other.generation))
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.unique());
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nil() {
            f.write_str("nil")
        } else {
            write!(f, "{}.{}", self.index, self.generation)
        }
    }
}

/// A look-up touches what tells whether the entry is meant and the first fields of the value: they are in one cache line.
#[repr(u32, align(64))]
enum Entry<T> {
    Free {
        /// Of the next value here.
        generation: u32,
        /// The next free entry of the page.
        next: u8,
    },
    Used {
        generation: u32,
        value: T,
    },
}

impl<T> Entry<T> {
    fn generation(&self) -> u32 {
        match self {
            Self::Free { generation, .. } | Self::Used { generation, .. } => *generation,
        }
    }

    fn value(&self) -> Option<&T> {
        match self {
            Self::Used { value, .. } => Some(value),
            Self::Free { .. } => None,
        }
    }
}

struct Page<T> {
    /// None where the page was given back. Its length is known, so that a look-up checks nothing but the generation.
    entries: Option<Box<[Entry<T>; PAGE]>>,
    /// Of a page that was given back: no generation up to this one may be used again.
    generation: u32,
    free: u8,
    used: u8,
}

/// Storage of `T`, addressed by `Id<K>`; `K` only keeps ids of different arenas apart.
pub(crate) struct Arena<K, T> {
    pages: Vec<Page<T>>,
    /// Pages with room; the last one is filled first.
    open: Vec<u32>,
    /// A page without live entries that is kept, so that a single entry that comes and goes costs no page each time.
    spare: Option<u32>,
    len: usize,
    kind: PhantomData<fn() -> K>,
}

impl<K, T> Default for Arena<K, T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            open: Vec::new(),
            spare: None,
            len: 0,
            kind: PhantomData,
        }
    }
}

impl<K, T> Arena<K, T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> Id<K> {
        let number = self.page_with_room();
        let page = &mut self.pages[number as usize];
        let position = page.free;
        let next_generation = page.generation + 1;
        let entries = page
            .entries
            .get_or_insert_with(|| new_page(next_generation));
        let entry = &mut entries[usize::from(position) % PAGE];
        let Entry::Free { generation, next } = *entry else {
            unreachable!("the list of free entries leads to free ones");
        };
        *entry = Entry::Used { generation, value };
        page.free = next;
        page.used += 1;
        let id = Id {
            index: number * PAGE as u32 + u32::from(position),
            generation,
            kind: PhantomData,
        };
        if page.free == NONE {
            self.open.pop();
        }
        if self.spare == Some(number) {
            self.spare = None;
        }
        self.len += 1;
        id
    }

    /// The number of a page with room, which is then the last of the open ones.
    fn page_with_room(&mut self) -> u32 {
        let number = self.open.last().copied().unwrap_or_else(|| {
            let number = self.pages.len() as u32;
            self.pages.push(Page {
                entries: None,
                generation: 0,
                free: 0,
                used: 0,
            });
            self.open.push(number);
            number
        });
        let page = &mut self.pages[number as usize];
        if page.entries.is_none() {
            page.free = 0;
        }
        number
    }

    #[inline(always)]
    pub(crate) fn get(&self, id: Id<K>) -> Option<&T> {
        let page = self.pages.get(id.index as usize / PAGE)?;
        match &page.entries.as_ref()?[id.index as usize % PAGE] {
            Entry::Used { generation, value } if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        let page = self.pages.get_mut(id.index as usize / PAGE)?;
        match &mut page.entries.as_mut()?[id.index as usize % PAGE] {
            Entry::Used { generation, value } if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    #[inline]
    pub(crate) fn remove(&mut self, id: Id<K>) -> Option<T> {
        let number = id.index as usize / PAGE;
        let page = self.pages.get_mut(number)?;
        let position = id.index as usize % PAGE;
        let entry = &mut page.entries.as_mut()?[position];
        if !matches!(entry, Entry::Used { generation, .. } if *generation == id.generation) {
            return None;
        }
        let free = Entry::Free {
            generation: id.generation + 1,
            next: page.free,
        };
        let Entry::Used { value, .. } = std::mem::replace(entry, free) else {
            return None;
        };
        let full = page.free == NONE;
        page.free = position as u8;
        page.used -= 1;
        self.len -= 1;
        if full {
            self.open.push(number as u32);
        }
        if self.pages[number].used == 0 {
            self.give_back(number);
        }
        Some(value)
    }

    /// Gives a page without live entries back, unless it is the only one.
    fn give_back(&mut self, number: usize) {
        if self.spare.is_none() {
            self.spare = Some(number as u32);
            return;
        }
        let page = &mut self.pages[number];
        let entries = page.entries.take();
        let generations = entries.iter().flat_map(|entries| entries.iter());
        let last = generations.map(Entry::generation).max();
        page.generation = last.unwrap_or(page.generation);
    }

    /// Every live entry, in the order of its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        let pages = self.pages.iter().enumerate();
        pages.flat_map(|(number, page)| {
            let entries = page.entries.iter().flat_map(|entries| entries.iter());
            entries.enumerate().filter_map(move |(position, entry)| {
                let id = Id {
                    index: (number * PAGE + position) as u32,
                    generation: entry.generation(),
                    kind: PhantomData,
                };
                Some((id, entry.value()?))
            })
        })
    }
}

/// Entries of which none is in use, each leading to the next.
fn new_page<T>(generation: u32) -> Box<[Entry<T>; PAGE]> {
    let entry = |at: usize| Entry::Free {
        generation,
        next: if at + 1 == PAGE { NONE } else { (at + 1) as u8 },
    };
    // On the heap from the start: a page does not fit on every stack.
    let entries: Box<[Entry<T>]> = (0..PAGE).map(entry).collect();
    match entries.try_into() {
        Ok(page) => page,
        Err(_) => unreachable!("a page has as many entries as a page"),
    }
}

impl<K, T> Index<Id<K>> for Arena<K, T> {
    type Output = T;

    /// For ids whose owner is alive; anything else is a broken invariant, which the driver contains.
    #[inline(always)]
    fn index(&self, id: Id<K>) -> &T {
        match self.get(id) {
            Some(value) => value,
            None => stale(id),
        }
    }
}

impl<K, T> IndexMut<Id<K>> for Arena<K, T> {
    #[inline(always)]
    fn index_mut(&mut self, id: Id<K>) -> &mut T {
        match self.get_mut(id) {
            Some(value) => value,
            None => stale(id),
        }
    }
}

#[cold]
fn stale<K>(id: Id<K>) -> ! {
    panic!(
        "a {} is referred to after it was freed ({id:?})",
        short_name::<K>()
    )
}

fn short_name<K>() -> &'static str {
    let name = std::any::type_name::<K>();
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_is_detected_also_after_its_page_was_given_back() {
        let mut arena = Arena::<(), _>::default();
        let first = arena.insert(1);
        assert_eq!(arena.remove(first), Some(1));
        let second = arena.insert(2);
        assert_ne!(first, second);
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena[second], 2);
    }

    #[test]
    fn one_page_is_kept_and_the_others_are_given_back() {
        let mut arena = Arena::<(), _>::default();
        let ids: Vec<_> = (0..1000).map(|n| arena.insert(n)).collect();
        for id in &ids {
            arena.remove(*id);
        }
        let present = arena.pages.iter().filter(|page| page.entries.is_some());
        assert_eq!(present.count(), 1);
        let again: Vec<_> = (0..1000).map(|n| arena.insert(n)).collect();
        assert!(ids.iter().all(|id| !arena.contains(*id)));
        assert!(again.iter().enumerate().all(|(n, id)| arena[*id] == n));
    }

    #[test]
    fn entries_are_kept_apart_over_many_pages() {
        let mut arena = Arena::<(), _>::default();
        let ids: Vec<_> = (0..1000).map(|n| arena.insert(n)).collect();
        for id in ids.iter().step_by(2) {
            arena.remove(*id);
        }
        assert_eq!(arena.len(), 500);
        let again: Vec<_> = (0..500).map(|n| arena.insert(10_000 + n)).collect();
        assert!(
            ids.iter()
                .skip(1)
                .step_by(2)
                .enumerate()
                .all(|(i, id)| arena[*id] == 2 * i + 1)
        );
        assert!(
            again
                .iter()
                .enumerate()
                .all(|(i, id)| arena[*id] == 10_000 + i)
        );
        assert_eq!(arena.iter().count(), 1000);
    }
}
