//! What is saved, and what goes with a record that is dropped.

use super::{
    super::{Record, SaveKey, pool::NONE},
    Key, Link, Name, Stored, Tables, add, entry_of, hash_record,
};
use crate::{Digest, RecordId};

impl Tables {
    /// Saves a key; links that are `distinct` are not looked for first.
    pub(super) fn save(&mut self, entry: SaveKey, distinct: bool) {
        let to = self.find_or_insert(entry.key, entry.op, entry.output);
        // It may have come into being as the input of another key.
        if self.keys[to].links == NONE {
            (self.keys[to].op, self.keys[to].output) = (entry.op, entry.output);
        }
        for input in &entry.inputs {
            for name in &input.keys {
                let from = self.find_or_insert(name.key, name.key.0, 0);
                // A key never leads to itself: chains end.
                if from == to {
                    continue;
                }
                if distinct || !self.is_linked(from, to, input.input, name.selector) {
                    self.link(from, to, input.input, name.selector);
                }
            }
        }
        if let Some(record) = entry.record {
            self.add_record(to, record);
        }
    }

    /// Whether there is such a link. The links that lead to the key and those of the name are followed in step, so a long list costs
    /// nothing where the other one is short.
    fn is_linked(&self, from: u32, to: u32, input: u32, selector: Option<Digest>) -> bool {
        let Key { op, output, .. } = &self.keys[to];
        let name = Name {
            from,
            input,
            selector: selector.as_ref(),
            op,
            output: *output,
        };
        let head = self.head(name.hash(), name);
        let mut named = std::iter::successors(head, |link| {
            Some(self.links[*link].next).filter(|next| *next != NONE)
        });
        let mut leading = self.links_to(to);
        while let (Some(named), Some(leading)) = (named.next(), leading.next()) {
            let leading = &self.links[leading];
            if self.links[named].to == to || (leading.from == from && self.name(leading) == name) {
                return true;
            }
        }
        false
    }

    fn link(&mut self, from: u32, to: u32, input: u32, selector: Option<Digest>) {
        let next_to = self.keys[to].links;
        let link = Link {
            from,
            to,
            input,
            selector: selector.map(Box::new),
            next: NONE,
            previous: NONE,
            next_to,
        };
        let hash = self.name(&link).hash();
        let at = self.links.insert(link);
        self.keys[to].links = at;
        self.keys[from].children += 1;
        match self.head(hash, self.name(&self.links[at])) {
            // Behind the first one, so that the table need not change.
            Some(head) => {
                let second = std::mem::replace(&mut self.links[head].next, at);
                (self.links[at].previous, self.links[at].next) = (head, second);
                if second != NONE {
                    self.links[second].previous = at;
                }
            }
            None => add(&mut self.by_name, hash, at),
        }
    }

    fn add_record(&mut self, key: u32, record: Record) {
        if self.has_record(key, record.id) {
            return;
        }
        let Record {
            id,
            created,
            priority,
            ..
        } = record;
        let last = self.keys[key].records;
        let at = self.records.insert(Stored {
            id,
            created,
            priority,
            key,
            next: NONE,
            previous: last,
        });
        let first = match last {
            NONE => at,
            last => std::mem::replace(&mut self.records[last].next, at),
        };
        self.records[at].next = first;
        self.records[first].previous = at;
        self.keys[key].records = at;
        let records = &self.records;
        self.by_record
            .insert_unique(hash_record(id), at, |at| hash_record(records[*at].id));
    }

    /// Whether a key has a record. The records of the key and the keys of the record are followed in step, as in [`Self::is_linked`].
    fn has_record(&self, key: u32, record: RecordId) -> bool {
        let mut of_key = self.records_of(key);
        let mut of_record = self.by_record.iter_hash(hash_record(record));
        while let (Some(one), Some(other)) = (of_key.next(), of_record.next()) {
            let other = &self.records[*other];
            if self.records[one].id == record || (other.id == record && other.key == key) {
                return true;
            }
        }
        false
    }

    pub(super) fn stored(&self, record: RecordId) -> Vec<u32> {
        let entries = self.by_record.iter_hash(hash_record(record));
        entries
            .copied()
            .filter(|at| self.records[*at].id == record)
            .collect()
    }

    pub(super) fn drop_record(&mut self, record: RecordId) {
        for at in self.stored(record) {
            let Stored {
                key,
                next,
                previous,
                ..
            } = self.records[at];
            let hash = hash_record(record);
            if let Ok(entry) = self.by_record.find_entry(hash, |other| *other == at) {
                entry.remove();
            }
            self.records[previous].next = next;
            self.records[next].previous = previous;
            if self.keys[key].records == at {
                self.keys[key].records = if previous == at { NONE } else { previous };
            }
            self.records.remove(at);
            self.prune(key);
        }
    }

    /// Removes a key that has no record and leads nowhere, and then what only led to it.
    fn prune(&mut self, key: u32) {
        let mut work = vec![key];
        while let Some(key) = work.pop() {
            if self.keys[key].records != NONE || self.keys[key].children > 0 {
                continue;
            }
            let links: Vec<u32> = self.links_to(key).collect();
            for link in links {
                let from = self.unlink(link);
                if self.keys[from].children == 0 && self.keys[from].records == NONE {
                    work.push(from);
                }
            }
            let hash = self.keys[key].id.0.short();
            if let Some(entry) = entry_of(&mut self.by_id, hash, key) {
                entry.remove();
                self.keys.remove(key);
            }
        }
    }

    /// Takes a link out of everything but the list of the key that it leads to. Returns where it starts.
    fn unlink(&mut self, at: u32) -> u32 {
        let Link {
            from,
            next,
            previous,
            ..
        } = self.links[at];
        self.keys[from].children -= 1;
        if next != NONE {
            self.links[next].previous = previous;
        }
        if previous == NONE {
            let hash = self.name(&self.links[at]).hash();
            if let Some(mut entry) = entry_of(&mut self.by_name, hash, at) {
                if next == NONE {
                    entry.remove();
                } else {
                    entry.get_mut().at = next;
                }
            }
        } else {
            self.links[previous].next = next;
        }
        self.links[at].selector = None;
        self.links.remove(at);
        from
    }
}
