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
        self.unique().hash(state);
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

enum Slot<T> {
    Free { next: u8 },
    Used(T),
}

struct Page<T> {
    slots: Box<[(u32, Slot<T>)]>,
    free: u8,
    used: u8,
}

enum PageState<T> {
    /// Given back; no generation up to this one may be used again.
    Absent {
        generation: u32,
    },
    Present(Page<T>),
}

/// Storage of `T`, addressed by `Id<K>`; `K` only keeps ids of different arenas apart.
pub(crate) struct Arena<K, T> {
    pages: Vec<PageState<T>>,
    /// Pages with room; the last one is filled first.
    open: Vec<u32>,
    len: usize,
    kind: PhantomData<fn() -> K>,
}

impl<K, T> Default for Arena<K, T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            open: Vec::new(),
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
        let PageState::Present(page) = &mut self.pages[number as usize] else {
            unreachable!("page_with_room makes it present")
        };
        let position = page.free;
        let (generation, slot) = &mut page.slots[usize::from(position)];
        let Slot::Free { next } = *slot else {
            unreachable!("the free list holds free slots")
        };
        *slot = Slot::Used(value);
        page.free = next;
        page.used += 1;
        if page.free == NONE {
            self.open.pop();
        }
        self.len += 1;
        Id {
            index: number * PAGE as u32 + u32::from(position),
            generation: *generation,
            kind: PhantomData,
        }
    }

    /// The number of a page with room, which is then the last of the open ones.
    fn page_with_room(&mut self) -> u32 {
        let number = self.open.last().copied().unwrap_or_else(|| {
            let number = self.pages.len() as u32;
            self.pages.push(PageState::Absent { generation: 0 });
            self.open.push(number);
            number
        });
        let state = &mut self.pages[number as usize];
        if let PageState::Absent { generation } = *state {
            let slots = (0..PAGE)
                .map(|i| {
                    (
                        generation + 1,
                        Slot::Free {
                            next: if i + 1 == PAGE { NONE } else { (i + 1) as u8 },
                        },
                    )
                })
                .collect();
            *state = PageState::Present(Page {
                slots,
                free: 0,
                used: 0,
            });
        }
        number
    }

    #[inline]
    pub(crate) fn get(&self, id: Id<K>) -> Option<&T> {
        match self.pages.get(id.index as usize / PAGE)? {
            PageState::Present(page) => match &page.slots[id.index as usize % PAGE] {
                (generation, Slot::Used(value)) if *generation == id.generation => Some(value),
                _ => None,
            },
            PageState::Absent { .. } => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        match self.pages.get_mut(id.index as usize / PAGE)? {
            PageState::Present(page) => match &mut page.slots[id.index as usize % PAGE] {
                (generation, Slot::Used(value)) if *generation == id.generation => Some(value),
                _ => None,
            },
            PageState::Absent { .. } => None,
        }
    }

    pub(crate) fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    pub(crate) fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        let number = id.index as usize / PAGE;
        let PageState::Present(page) = &mut self.pages[number] else {
            return None;
        };
        let position = id.index as usize % PAGE;
        let full = page.free == NONE;
        let (generation, slot) = &mut page.slots[position];
        let Slot::Used(value) = std::mem::replace(slot, Slot::Free { next: page.free }) else {
            return None;
        };
        *generation += 1;
        page.free = position as u8;
        page.used -= 1;
        self.len -= 1;
        if full {
            self.open.push(number as u32);
        }
        if page.used == 0 {
            let generation = page
                .slots
                .iter()
                .map(|(generation, _)| *generation)
                .max()
                .unwrap_or(0);
            self.pages[number] = PageState::Absent { generation };
        }
        Some(value)
    }

    /// Every live entry, in the order of its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.pages.iter().enumerate().flat_map(|(number, state)| {
            let slots: &[(u32, Slot<T>)] = match state {
                PageState::Present(page) => &page.slots,
                PageState::Absent { .. } => &[],
            };
            slots
                .iter()
                .enumerate()
                .filter_map(move |(position, (generation, slot))| match slot {
                    Slot::Used(value) => {
                        let index = (number * PAGE + position) as u32;
                        Some((
                            Id {
                                index,
                                generation: *generation,
                                kind: PhantomData,
                            },
                            value,
                        ))
                    }
                    Slot::Free { .. } => None,
                })
        })
    }
}

impl<K, T> Index<Id<K>> for Arena<K, T> {
    type Output = T;

    /// For ids whose owner is alive; anything else is a broken invariant, which the driver contains.
    #[inline]
    fn index(&self, id: Id<K>) -> &T {
        match self.get(id) {
            Some(value) => value,
            None => stale(id),
        }
    }
}

impl<K, T> IndexMut<Id<K>> for Arena<K, T> {
    #[inline]
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
