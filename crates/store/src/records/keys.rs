//! The solver's cache keys, kept in the database.
//!
//! Keys are numbered in the order in which they came into being. Rows, in one table, told apart
//! by their first byte; numbers are big-endian:
//!
//! | row | key | value |
//! |---|---|---|
//! | `k` | key id | number, op, output |
//! | `n` | number | key id |
//! | `l` link | from, op, output, input, selector, to | – |
//! | `b` the same from its end | to, input, from, selector | – |
//! | `r` record | key, ordinal | record, created, priority |
//! | `o` the same by record | record, key | ordinal |

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{TableDefinition, WriteTransaction};
use weld_solver::keystore::{
    Answer, BackLink, Hits, InputKeys, KeyEntry, KeyMatches, KeyQuery, KeyStore, MatchedKey,
    Record, SaveKey,
};
use weld_solver::{CacheSourceId, Digest, KeyId, RecordId, StoreError};

use super::front::{self, Edit, Front, Rows};
use crate::db::{Db, DbError};
use crate::durability::Sequence;

const KEYS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("solver-keys");

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    front::create_table(tx, KEYS)
}

/// The solver's key store. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    front: Front,
    sequence: Arc<Sequence>,
    hidden: Arc<Hidden>,
}

/// Results that are gone and that keys still lead to: nobody is to find them until the keys forget them.
#[derive(Default)]
struct Hidden(RwLock<HashSet<RecordId>>);

impl Hidden {
    fn add(&self, records: impl IntoIterator<Item = RecordId>) {
        let mut hidden = self.0.write().unwrap_or_else(PoisonError::into_inner);
        hidden.extend(records);
    }

    fn remove(&self, records: &[RecordId]) {
        let mut hidden = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            hidden.remove(record);
        }
        if hidden.is_empty() {
            *hidden = HashSet::new();
        }
    }

    fn take_out_of(&self, records: &mut Vec<Record>) {
        let hidden = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !hidden.is_empty() {
            records.retain(|record| !hidden.contains(&record.id));
        }
    }
}

impl Keys {
    pub(crate) fn new(db: &Db, sequence: &Arc<Sequence>) -> Self {
        Self {
            front: Front::new(db, KEYS),
            sequence: sequence.clone(),
            hidden: Arc::default(),
        }
    }

    fn try_save(&self, entry: &SaveKey) -> Result<(), DbError> {
        self.front.edit(|rows| {
            let to = self.find_or_insert(rows, entry.key, entry.op, entry.output)?;
            // It may have come into being as the input of another key.
            if (to.op, to.output) != (entry.op, entry.output)
                && !rows.any(&[b"b", &to.at[..]].concat())?
            {
                rows.put(
                    key_row(entry.key),
                    key_value(&to.at, entry.op, entry.output),
                );
            }
            for input in &entry.inputs {
                for name in &input.keys {
                    let from = self.find_or_insert(rows, name.key, name.key.0, 0)?;
                    // A key never leads to itself: chains end.
                    if from.at != to.at {
                        let link = Link {
                            from: from.at,
                            op: entry.op,
                            output: entry.output,
                            input: input.input,
                            selector: name.selector,
                            to: to.at,
                        };
                        rows.put(link.row(), Vec::new());
                        rows.put(link.back_row(), Vec::new());
                    }
                }
            }
            match &entry.record {
                Some(record) => add_record(rows, &to.at, record),
                None => Ok(()),
            }
        })
    }

    /// All results that keys lead to.
    pub(crate) fn records(&self) -> Result<BTreeSet<RecordId>, DbError> {
        self.front.read(|rows| {
            rows.scan(b"o")?
                .map(|row| {
                    let (row, _) = row?;
                    let id = row.get(1..).and_then(|rest| rest.first_chunk());
                    Ok(RecordId(u64::from_be_bytes(*id.ok_or(MALFORMED)?)))
                })
                .collect()
        })
    }

    /// Has nobody find these results any more: they are gone, and are to be forgotten later.
    pub(crate) fn hide(&self, records: impl IntoIterator<Item = RecordId>) {
        self.hidden.add(records);
    }

    /// As [`KeyStore::drop_record`] for each, in one update.
    pub(crate) fn drop_records(&self, records: &[RecordId]) {
        if records.is_empty() {
            return;
        }
        let outcome = self.front.edit(|rows| {
            let mut records = records.iter();
            records.try_for_each(|record| drop_record(rows, *record))
        });
        log("drop records from the cache keys", outcome);
        self.hidden.remove(records);
    }

    fn find_or_insert(
        &self,
        rows: &mut Edit<'_>,
        id: KeyId,
        op: Digest,
        output: u32,
    ) -> Result<Key, DbError> {
        if let Some(key) = find(rows, id)? {
            return Ok(key);
        }
        let at = self.sequence.next()?.to_be_bytes();
        rows.put(key_row(id), key_value(&at, op, output));
        rows.put([b"n", &at[..]].concat(), id.0.0.to_vec());
        Ok(Key { at, op, output })
    }
}

/// A store that fails to save forgets: the step runs again next time.
fn log(action: &'static str, outcome: Result<(), DbError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot {action}");
    }
}

fn answer<T: Send + 'static>(action: &'static str, outcome: Result<T, DbError>) -> Answer<T> {
    match outcome {
        Ok(found) => Answer::Ready(found),
        Err(error) => {
            let error = StoreError::new(action, error);
            Answer::Later(Box::pin(std::future::ready(Err(error))))
        }
    }
}

impl KeyStore for Keys {
    fn query(&self, query: KeyQuery) -> Answer<KeyMatches> {
        let found = self.front.read(|rows| match &query {
            KeyQuery::Root { op, output } => find_root(rows, op, *output),
            KeyQuery::Probe { op, output, input } => {
                let hit = heads(op, *output, input, rows)?
                    .iter()
                    .try_fold(false, |hit, head| Ok::<_, DbError>(hit || rows.any(head)?))?;
                Ok(KeyMatches {
                    hits: [hit].into_iter().collect(),
                    keys: Vec::new(),
                })
            }
            KeyQuery::Match { op, output, inputs } => find_matches(rows, op, *output, inputs),
        });
        let found = found.map(|mut found| {
            for key in &mut found.keys {
                self.hidden.take_out_of(&mut key.records);
            }
            found
        });
        answer("look up a cache key", found)
    }

    fn save(&self, entry: SaveKey) {
        log("save a cache key", self.try_save(&entry));
    }

    fn drop_record(&self, record: RecordId) {
        self.drop_records(&[record]);
    }

    fn entry(&self, key: KeyId) -> Answer<Option<KeyEntry>> {
        let found = self.front.read(|rows| match find(rows, key)? {
            Some(found) => entry(rows, key, &found).map(Some),
            None => Ok(None),
        });
        let found = found.map(|mut found| {
            if let Some(entry) = &mut found {
                self.hidden.take_out_of(&mut entry.records);
            }
            found
        });
        answer("read a cache key", found)
    }

    fn keys_of(&self, record: RecordId) -> Answer<Vec<KeyId>> {
        let found = self.front.read(|rows| {
            let mut keys = keys_with(rows, record)?
                .iter()
                .map(|at| id_of(rows, at))
                .collect::<Result<Vec<_>, _>>()?;
            keys.sort_unstable();
            Ok(keys)
        });
        answer("read the cache keys of a record", found)
    }
}

/// A key's number, as it is in rows.
type Number = [u8; 8];

struct Key {
    at: Number,
    op: Digest,
    output: u32,
}

struct Link {
    from: Number,
    op: Digest,
    output: u32,
    input: u32,
    selector: Option<Digest>,
    to: Number,
}

impl Link {
    fn row(&self) -> Vec<u8> {
        let mut row = head(&self.from, &self.op, self.output, self.input, self.selector);
        row.extend_from_slice(&self.to);
        row
    }

    fn back_row(&self) -> Vec<u8> {
        let mut row = [b"b", &self.to[..], &self.input.to_be_bytes(), &self.from].concat();
        push_selector(&mut row, self.selector);
        row
    }
}

/// What links with the same name start with.
fn head(from: &Number, op: &Digest, output: u32, input: u32, selector: Option<Digest>) -> Vec<u8> {
    let mut row = Vec::with_capacity(96);
    row.push(b'l');
    row.extend_from_slice(from);
    row.extend_from_slice(&op.0);
    row.extend_from_slice(&output.to_be_bytes());
    row.extend_from_slice(&input.to_be_bytes());
    push_selector(&mut row, selector);
    row
}

fn push_selector(row: &mut Vec<u8>, selector: Option<Digest>) {
    row.push(u8::from(selector.is_some()));
    if let Some(selector) = selector {
        row.extend_from_slice(&selector.0);
    }
}

fn key_row(id: KeyId) -> Vec<u8> {
    [b"k", &id.0.0[..]].concat()
}

fn key_value(at: &Number, op: Digest, output: u32) -> Vec<u8> {
    [&at[..], &op.0, &output.to_be_bytes()].concat()
}

/// Takes rows apart; what is too short or too long was not written by this.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], DbError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(field)
    }

    fn number(&mut self) -> Result<u32, DbError> {
        Ok(u32::from_be_bytes(*self.take()?))
    }

    fn selector(&mut self) -> Result<Option<Digest>, DbError> {
        match self.take()? {
            [0] => Ok(None),
            [1] => Ok(Some(Digest(*self.take()?))),
            _ => Err(MALFORMED),
        }
    }

    fn end(&self) -> Result<(), DbError> {
        self.0.is_empty().then_some(()).ok_or(MALFORMED)
    }
}

const MALFORMED: DbError = DbError::MalformedKey {
    what: "a cache key's row",
};

fn find(rows: &impl Rows, id: KeyId) -> Result<Option<Key>, DbError> {
    let Some(value) = rows.get(&key_row(id))? else {
        return Ok(None);
    };
    let mut fields = Fields(&value);
    let key = Key {
        at: *fields.take()?,
        op: Digest(*fields.take()?),
        output: fields.number()?,
    };
    fields.end()?;
    Ok(Some(key))
}

fn id_of(rows: &impl Rows, at: &Number) -> Result<KeyId, DbError> {
    let value = rows.get(&[b"n", &at[..]].concat())?.ok_or(MALFORMED)?;
    Ok(KeyId(Digest(*Fields(&value).take()?)))
}

fn find_root(rows: &impl Rows, op: &Digest, output: u32) -> Result<KeyMatches, DbError> {
    let found = find(rows, KeyId::root(*op, output))?;
    let keys = found.map(|key| matched(rows, &key.at)).transpose()?;
    Ok(KeyMatches {
        hits: Hits::new(),
        keys: keys.into_iter().collect(),
    })
}

/// What the links start with that an input's keys can have.
fn heads(
    op: &Digest,
    output: u32,
    input: &InputKeys,
    rows: &impl Rows,
) -> Result<Vec<Vec<u8>>, DbError> {
    let mut heads = Vec::new();
    for name in &input.keys {
        if let Some(from) = find(rows, name.key)? {
            heads.push(head(&from.at, op, output, input.input, name.selector));
        }
    }
    Ok(heads)
}

fn find_matches(
    rows: &impl Rows,
    op: &Digest,
    output: u32,
    inputs: &[InputKeys],
) -> Result<KeyMatches, DbError> {
    let mut lists = Vec::with_capacity(inputs.len());
    let mut hits = Hits::new();
    for input in inputs {
        let mut found = Vec::new();
        for head in heads(op, output, input, rows)? {
            if rows.any(&head)? {
                found.push(head);
            }
        }
        hits.push(!found.is_empty());
        lists.push(found);
    }
    if hits.contains(&false) {
        return Ok(KeyMatches {
            hits,
            keys: Vec::new(),
        });
    }
    let mut matching = BTreeSet::new();
    for at in shortest(rows, &lists)? {
        let mut leads_from_all = true;
        for input in inputs {
            leads_from_all = leads_from_all && leads(rows, input, &at)?;
        }
        if leads_from_all {
            matching.insert(at);
        }
    }
    let keys = matching
        .iter()
        .map(|at| matched(rows, at))
        .collect::<Result<_, _>>()?;
    Ok(KeyMatches { hits, keys })
}

/// The keys behind the input that has the fewest. All inputs are followed in step, so that a long
/// list costs nothing.
fn shortest(rows: &impl Rows, inputs: &[Vec<Vec<u8>>]) -> Result<Vec<Number>, DbError> {
    let mut lists = Vec::with_capacity(inputs.len());
    for heads in inputs {
        let scans = heads
            .iter()
            .map(|head| rows.scan(head))
            .collect::<Result<Vec<_>, _>>()?;
        lists.push((scans.into_iter().flatten(), Vec::new()));
    }
    while !lists.is_empty() {
        for (links, seen) in &mut lists {
            let Some(link) = links.next() else {
                return Ok(std::mem::take(seen));
            };
            let (row, _) = link?;
            seen.push(*row.last_chunk().ok_or(MALFORMED)?);
        }
    }
    Ok(Vec::new())
}

/// Whether any key of the input leads to the key.
fn leads(rows: &impl Rows, input: &InputKeys, at: &Number) -> Result<bool, DbError> {
    let prefix = [b"b", &at[..], &input.input.to_be_bytes()].concat();
    for row in rows.scan(&prefix)? {
        let (row, _) = row?;
        let mut fields = Fields(row.get(prefix.len()..).ok_or(MALFORMED)?);
        let from = fields.take()?;
        let selector = fields.selector()?;
        let id = id_of(rows, from)?;
        if input
            .keys
            .iter()
            .any(|name| name.key == id && name.selector == selector)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn matched(rows: &impl Rows, at: &Number) -> Result<MatchedKey, DbError> {
    Ok(MatchedKey {
        key: id_of(rows, at)?,
        records: records_of(rows, at)?,
    })
}

fn records_of(rows: &impl Rows, at: &Number) -> Result<Vec<Record>, DbError> {
    let prefix = [b"r", &at[..]].concat();
    let mut records = Vec::new();
    for row in rows.scan(&prefix)? {
        let (_, value) = row?;
        let mut fields = Fields(&value);
        let record = Record {
            id: RecordId(u64::from_be_bytes(*fields.take()?)),
            created: u64::from_be_bytes(*fields.take()?),
            priority: fields.take::<1>()?[0],
            source: CacheSourceId::LOCAL,
        };
        fields.end()?;
        records.push(record);
    }
    Ok(records)
}

fn back_links(
    rows: &impl Rows,
    at: &Number,
) -> Result<Vec<(u32, Number, Option<Digest>)>, DbError> {
    let prefix = [b"b", &at[..]].concat();
    let mut links = Vec::new();
    for row in rows.scan(&prefix)? {
        let (row, _) = row?;
        let mut fields = Fields(row.get(prefix.len()..).ok_or(MALFORMED)?);
        links.push((fields.number()?, *fields.take()?, fields.selector()?));
        fields.end()?;
    }
    Ok(links)
}

fn entry(rows: &impl Rows, id: KeyId, key: &Key) -> Result<KeyEntry, DbError> {
    let mut inputs = Vec::new();
    for (input, from, selector) in back_links(rows, &key.at)? {
        inputs.push(BackLink {
            input,
            key: id_of(rows, &from)?,
            selector,
        });
    }
    inputs.sort_unstable();
    Ok(KeyEntry {
        class: if inputs.is_empty() {
            id.0
        } else {
            KeyId::root(key.op, key.output).0
        },
        inputs,
        records: records_of(rows, &key.at)?,
    })
}

fn add_record(rows: &mut Edit<'_>, at: &Number, record: &Record) -> Result<(), DbError> {
    let id = record.id.0.to_be_bytes();
    let by_record = [b"o", &id[..], at].concat();
    if rows.get(&by_record)?.is_some() {
        return Ok(());
    }
    let prefix = [b"r", &at[..]].concat();
    let mut ordinal = 0;
    for row in rows.scan(&prefix)? {
        let (row, _) = row?;
        ordinal = u64::from_be_bytes(*row.last_chunk().ok_or(MALFORMED)?) + 1;
    }
    let ordinal = ordinal.to_be_bytes();
    let value = [&id[..], &record.created.to_be_bytes(), &[record.priority]].concat();
    rows.put([&prefix[..], &ordinal].concat(), value);
    rows.put(by_record, ordinal.to_vec());
    Ok(())
}

/// The keys that lead to a record.
fn keys_with(rows: &impl Rows, record: RecordId) -> Result<Vec<Number>, DbError> {
    let prefix = [b"o", &record.0.to_be_bytes()[..]].concat();
    rows.scan(&prefix)?
        .map(|row| row.and_then(|(row, _)| row.last_chunk().copied().ok_or(MALFORMED)))
        .collect()
}

fn drop_record(rows: &mut Edit<'_>, record: RecordId) -> Result<(), DbError> {
    let prefix = [b"o", &record.0.to_be_bytes()[..]].concat();
    let found: Vec<_> = rows.scan(&prefix)?.collect::<Result<_, _>>()?;
    for (by_record, ordinal) in found {
        let at: Number = *by_record.last_chunk().ok_or(MALFORMED)?;
        rows.remove([b"r", &at[..], &ordinal].concat());
        rows.remove(by_record);
        prune(rows, at)?;
    }
    Ok(())
}

/// Removes a key that has no record and leads nowhere, and then what only led to it.
fn prune(rows: &mut Edit<'_>, at: Number) -> Result<(), DbError> {
    let mut work = vec![at];
    while let Some(at) = work.pop() {
        let number_row = [b"n", &at[..]].concat();
        let Some(id) = rows.get(&number_row)? else {
            continue;
        };
        let kept = rows.any(&[b"r", &at[..]].concat())? || rows.any(&[b"l", &at[..]].concat())?;
        if kept {
            continue;
        }
        let key = KeyId(Digest(*Fields(&id).take()?));
        let Some(Key { op, output, .. }) = find(rows, key)? else {
            return Err(MALFORMED);
        };
        for (input, from, selector) in back_links(rows, &at)? {
            let link = Link {
                from,
                op,
                output,
                input,
                selector,
                to: at,
            };
            rows.remove(link.row());
            rows.remove(link.back_row());
            work.push(from);
        }
        rows.remove(key_row(key));
        rows.remove(number_row);
    }
    Ok(())
}
