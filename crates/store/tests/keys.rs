//! The solver's key store against a plain model.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;
use weld_solver::keystore::{
    Answer, BackLink, InputKey, InputKeys, KeyEntry, KeyMatches, KeyQuery, KeyStore, MatchedKey,
    Record, SaveKey,
};
use weld_solver::{CacheSourceId, Digest, KeyId, RecordId};
use weld_store::Keys;
use world::{Made, make_result, open};

fn now<T>(answer: Answer<T>) -> T {
    match answer {
        Answer::Ready(found) => found,
        Answer::Later(_) => panic!("the store failed"),
    }
}

/// What was saved, looked up by walking all of it.
#[derive(Default)]
struct Model {
    /// In the order in which they came into being.
    keys: Vec<(KeyId, Digest, u32)>,
    links: BTreeSet<(KeyId, BackLink)>,
    records: BTreeMap<KeyId, Vec<Record>>,
}

impl Model {
    fn insert(&mut self, id: KeyId, op: Digest, output: u32) {
        if !self.keys.iter().any(|(known, ..)| *known == id) {
            self.keys.push((id, op, output));
        }
    }

    fn save(&mut self, entry: &SaveKey) {
        self.insert(entry.key, entry.op, entry.output);
        if !self.links.iter().any(|(to, _)| *to == entry.key) {
            let key = self
                .keys
                .iter_mut()
                .find(|(id, ..)| *id == entry.key)
                .unwrap();
            (key.1, key.2) = (entry.op, entry.output);
        }
        for input in &entry.inputs {
            for name in &input.keys {
                self.insert(name.key, name.key.0, 0);
                if name.key != entry.key {
                    let link = BackLink {
                        input: input.input,
                        key: name.key,
                        selector: name.selector,
                    };
                    self.links.insert((entry.key, link));
                }
            }
        }
        if let Some(record) = entry.record {
            let records = self.records.entry(entry.key).or_default();
            if !records.iter().any(|known| known.id == record.id) {
                records.push(record);
            }
        }
    }

    fn drop_record(&mut self, record: RecordId) {
        for records in self.records.values_mut() {
            records.retain(|known| known.id != record);
        }
        let mut touched: BTreeSet<_> = self.records.keys().copied().collect();
        self.records.retain(|_, records| !records.is_empty());
        touched.retain(|key| !self.records.contains_key(key));
        let mut work: Vec<_> = touched.into_iter().collect();
        while let Some(key) = work.pop() {
            let leads_on = self.links.iter().any(|(_, link)| link.key == key);
            if self.records.contains_key(&key) || leads_on {
                continue;
            }
            work.extend(
                self.links
                    .iter()
                    .filter(|(to, _)| *to == key)
                    .map(|(_, link)| link.key),
            );
            self.links.retain(|(to, _)| *to != key);
            self.keys.retain(|(id, ..)| *id != key);
        }
    }

    fn leads(&self, input: &InputKeys, op: Digest, output: u32, key: KeyId) -> bool {
        let of_op = self.keys.contains(&(key, op, output));
        of_op
            && input.keys.iter().any(|name| {
                let link = BackLink {
                    input: input.input,
                    key: name.key,
                    selector: name.selector,
                };
                self.links.contains(&(key, link))
            })
    }

    fn query(&self, query: &KeyQuery) -> KeyMatches {
        let matched = |(key, ..): &(KeyId, Digest, u32)| MatchedKey {
            key: *key,
            records: self.records.get(key).cloned().unwrap_or_default(),
        };
        let hit = |input: &InputKeys, op, output| {
            self.keys
                .iter()
                .any(|(key, ..)| self.leads(input, op, output, *key))
        };
        match query {
            KeyQuery::Root { op, output } => {
                let root = KeyId::root(*op, *output);
                let is_it = |key: &&(KeyId, Digest, u32)| key.0 == root;
                KeyMatches {
                    hits: Vec::new().into(),
                    keys: self.keys.iter().filter(is_it).map(matched).collect(),
                }
            }
            KeyQuery::Probe { op, output, input } => KeyMatches {
                hits: vec![hit(input, *op, *output)].into(),
                keys: Vec::new(),
            },
            KeyQuery::Match { op, output, inputs } => {
                let all = |key: &&(KeyId, Digest, u32)| {
                    let leads = |input| self.leads(input, *op, *output, key.0);
                    !inputs.is_empty() && inputs.iter().all(leads)
                };
                KeyMatches {
                    hits: inputs
                        .iter()
                        .map(|input| hit(input, *op, *output))
                        .collect(),
                    keys: self.keys.iter().filter(all).map(matched).collect(),
                }
            }
        }
    }

    fn entry(&self, key: KeyId) -> Option<KeyEntry> {
        let (_, op, output) = self.keys.iter().find(|(id, ..)| *id == key)?;
        let links = self.links.iter().filter(|(to, _)| *to == key);
        let inputs: Vec<_> = links.map(|(_, link)| *link).collect();
        Some(KeyEntry {
            class: if inputs.is_empty() {
                key.0
            } else {
                KeyId::root(*op, *output).0
            },
            inputs,
            records: self.records.get(&key).cloned().unwrap_or_default(),
        })
    }
}

fn digest(number: u8) -> Digest {
    Digest::of([number])
}

fn input_keys() -> impl Strategy<Value = Vec<InputKeys>> {
    let name = (0..6_u8, proptest::option::of(20..22_u8)).prop_map(|(key, selector)| InputKey {
        key: KeyId(digest(key)),
        selector: selector.map(digest),
    });
    let keys = proptest::collection::vec(name, 1..3);
    proptest::collection::vec(keys, 0..3).prop_map(|inputs| {
        (0..)
            .zip(inputs)
            .map(|(input, keys)| InputKeys {
                input,
                keys: keys.into(),
            })
            .collect()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Save(SaveKey),
    Drop(RecordId),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..5_u64).prop_map(|id| Record {
        id: RecordId(id),
        created: id * 10,
        priority: 1,
        source: CacheSourceId::LOCAL,
    });
    // A key's op and inputs follow from its id, as they do in the solver, but for which of its
    // inputs' keys are known.
    let save =
        (0..6_u8, input_keys(), proptest::option::of(record)).prop_map(|(key, inputs, record)| {
            Step::Save(SaveKey {
                key: KeyId(digest(key)),
                op: digest(key / 2 + 10),
                output: u32::from(key % 2),
                inputs,
                record,
            })
        });
    prop_oneof![
        6 => save,
        2 => (0..5_u64).prop_map(|id| Step::Drop(RecordId(id))),
        1 => Just(Step::Flush),
    ]
}

fn compare(keys: &Keys, model: &Model, inputs: &[InputKeys]) -> Result<(), TestCaseError> {
    for key in 0..6_u8 {
        let id = KeyId(digest(key));
        prop_assert_eq!(now(keys.entry(id)), model.entry(id));
        let (op, output) = (digest(key / 2 + 10), u32::from(key % 2));
        let mut queries = vec![
            KeyQuery::Root { op, output },
            KeyQuery::Match {
                op,
                output,
                inputs: inputs.to_vec(),
            },
        ];
        queries.extend(inputs.iter().map(|input| KeyQuery::Probe {
            op,
            output,
            input: input.clone(),
        }));
        for query in queries {
            let expected = model.query(&query);
            prop_assert_eq!(now(keys.query(query)), expected);
        }
    }
    for record in (0..5).map(RecordId) {
        let has = |key: &&KeyId| model.records[*key].iter().any(|known| known.id == record);
        let expected: Vec<_> = model.records.keys().filter(has).copied().collect();
        prop_assert_eq!(now(keys.keys_of(record)), expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn does_what_a_plain_model_does(
        steps in proptest::collection::vec((step(), input_keys()), 1..25),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut store = open(root.path());
        let mut model = Model::default();
        for (step, inputs) in &steps {
            match step {
                Step::Save(entry) => {
                    store.keys().save(entry.clone());
                    model.save(entry);
                }
                Step::Drop(record) => {
                    store.keys().drop_record(*record);
                    model.drop_record(*record);
                }
                Step::Flush => store.db().flush().unwrap(),
            }
            compare(store.keys(), &model, inputs)?;
        }
        drop(store);
        store = open(root.path());
        compare(store.keys(), &model, &steps[0].1)?;
    }
}

fn root_key(op: Digest, record: u64) -> SaveKey {
    SaveKey {
        key: KeyId::root(op, 0),
        op,
        output: 0,
        inputs: Vec::new(),
        record: Some(Record {
            id: RecordId(record),
            created: 1,
            priority: 0,
            source: CacheSourceId::LOCAL,
        }),
    }
}

#[test]
fn a_root_is_found_in_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    let op = digest(1);
    open(root.path()).keys().save(root_key(op, 7));
    let store = open(root.path());
    let found = now(store.keys().query(KeyQuery::Root { op, output: 0 }));
    assert_eq!(found.keys[0].records[0].id, RecordId(7));
    let other = now(store.keys().query(KeyQuery::Root { op, output: 1 }));
    assert!(other.keys.is_empty());
}

#[test]
fn keys_go_when_what_they_lead_to_is_pruned() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (pin, result) = make_result(&store, &Made::default());
    let op = digest(1);
    store.keys().save(root_key(op, result));
    drop(pin);
    store.db().flush().unwrap();
    store.prune(&weld_store::PruneOptions::default()).unwrap();
    let found = now(store.keys().query(KeyQuery::Root { op, output: 0 }));
    assert!(found.keys.is_empty());
}

/// Prints what a look-up costs among many keys, with `--nocapture`.
#[test]
fn look_ups_among_many_keys() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let op_of = |number: u32| Digest::of(number.to_le_bytes());
    let key_of = |number: u32| KeyId::root(op_of(number), 0);
    let inputs = |number: u32| {
        vec![InputKeys {
            input: 0,
            keys: vec![InputKey {
                key: key_of(number),
                selector: None,
            }]
            .into(),
        }]
    };
    const COUNT: u32 = 5_000;
    let start = Instant::now();
    for number in 0..COUNT {
        let mut entry = root_key(op_of(number), u64::from(number));
        if number > 0 {
            entry.inputs = inputs(number - 1);
        }
        store.keys().save(entry);
    }
    println!("save: {:?} each", start.elapsed() / COUNT);
    store.db().flush().unwrap();
    let start = Instant::now();
    for number in 1..COUNT {
        let query = KeyQuery::Match {
            op: op_of(number),
            output: 0,
            inputs: inputs(number - 1),
        };
        assert_eq!(now(store.keys().query(query)).keys.len(), 1);
    }
    println!("match: {:?} each", start.elapsed() / COUNT);
    let start = Instant::now();
    for number in 0..COUNT {
        let op = op_of(COUNT + number);
        assert!(
            now(store.keys().query(KeyQuery::Root { op, output: 0 }))
                .keys
                .is_empty()
        );
    }
    println!("miss: {:?} each", start.elapsed() / COUNT);
}
