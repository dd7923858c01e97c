//! Cache chains in another solver: found, exported again from there, and sources that answer late.

use std::{sync::Arc, time::Duration};

use weld_solver::{
    CacheSource, CacheSourceId, KeyId, KeyStore, LoadError, RecordId, ResultStore, SolverOptions,
    StoreError, TraceEvent,
    chain::{CacheChains, Candidate, ChainResult, import},
    keystore::{self, Answer, KeyEntry, KeyQuery, SaveKey},
};

use crate::{
    chains::{MAX, MIN, chains_of},
    support::*,
};

/// Moves the chains of a world into a source of another one: the results are those of the first.
async fn carry(
    from: &World,
    chains: CacheChains<Candidate>,
    to: &World,
) -> (CacheSourceId, Arc<Carried>) {
    let mut made = Vec::new();
    for result in chains.items.iter().flat_map(|item| &item.results) {
        let value = from.solver.load_record(result.value.record).await.unwrap();
        made.push((result.value.record.id, (*value).clone()));
    }
    let chains = chains.with_results(|results| {
        results
            .into_iter()
            .map(|result| ChainResult {
                value: made
                    .iter()
                    .find(|(id, _)| *id == result.value.record.id)
                    .map(|(_, value)| value.clone())
                    .unwrap(),
                created: result.created,
            })
            .collect()
    });
    let (keys, values) = import(chains).unwrap();
    let results = Arc::new(Carried {
        values,
        loads: Default::default(),
    });
    let id = to.solver.add_cache_source(CacheSource {
        keys: Arc::new(keys),
        results: Arc::clone(&results) as Arc<dyn ResultStore<Value>>,
    });
    (id, results)
}

struct Carried {
    values: Vec<Value>,
    loads: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl ResultStore<Value> for Carried {
    fn save(&self, _: &Value) -> Result<RecordId, StoreError> {
        Err(StoreError::new("save a result", "it is imported"))
    }

    async fn load(&self, record: RecordId) -> Result<Value, LoadError> {
        self.loads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let value = self.values.get(record.0 as usize);
        value.cloned().ok_or(LoadError::Gone(record))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_are_found_elsewhere_and_exported_again_from_there() {
    // C7, [CMB-6], EXP-2 over an imported source
    let (world, other) = (World::new(), World::new());
    let graph = |sources: Vec<CacheSourceId>| {
        let sources = |options: &mut weld_solver::VertexOptions| {
            options.cache_sources = sources.clone();
        };
        let base = vtx("base", "base", "b").options(sources).done();
        let left = vtx("left", "left", "l").on(&base).options(sources).done();
        let right = vtx("right", "right", "r")
            .on(&base)
            .selector(0, "part")
            .slow(0)
            .options(sources)
            .done();
        vtx("top", "top", "t")
            .on(&left)
            .on(&right)
            .options(sources)
            .done()
    };
    let chains = chains_of(&world, &graph(Vec::new()), MAX).await;
    let (source, carried) = carry(&world, chains.clone(), &other).await;
    let first = graph(vec![source]);
    let again = chains_of(&other, &first, MAX).await;
    assert_eq!(first.counts(), (4, 0));
    assert_eq!(carried.loads.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(bare(again), bare(chains), "nothing is lost on the way");
    // The source goes: what came from it is found here, through the definition alone.
    other.solver.remove_cache_source(source);
    let second = graph(Vec::new());
    assert_eq!(other.once(&second).await, "t");
    assert_eq!(second.counts(), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_source_has_results_of_is_exported_where_the_keys_are_known_by_other_names() {
    let (world, other) = (World::new(), World::new());
    let graph = |sources: Vec<CacheSourceId>| {
        let sources = |options: &mut weld_solver::VertexOptions| {
            options.cache_sources = sources.clone();
        };
        let base = vtx("base", "base", "b").options(sources).done();
        let middle = vtx("middle", "middle", "m").on(&base).options(sources);
        vtx("top", "top", "t")
            .on(&middle.done())
            .options(sources)
            .done()
    };
    let chains = chains_of(&world, &graph(Vec::new()), MAX).await;
    // The other one made all of it itself, and lost the results.
    let own = chains_of(&other, &graph(Vec::new()), MAX).await;
    for result in own.items.iter().flat_map(|item| &item.results) {
        other.keys.drop_record(result.value.record.id);
    }
    let results = |chains: &CacheChains<Candidate>| {
        let items = chains.items.iter();
        let mut results: Vec<_> = items.map(|item| (item.class, item.results.len())).collect();
        results.sort();
        results
    };
    let (source, _) = carry(&world, chains.clone(), &other).await;
    let found = graph(vec![source]);
    let again = chains_of(&other, &found, MAX).await;
    assert_eq!(found.counts().1, 0, "all of it was found");
    let with_results = |chains| {
        let all: Vec<_> = results(chains);
        let having = all.into_iter().filter(|(_, count)| *count > 0);
        having.map(|(class, _)| class).collect::<Vec<_>>()
    };
    assert_eq!(with_results(&again), with_results(&chains));
}

/// Per item what it is of, how many links each of its inputs has, and whether it has no result; sorted.
fn bare(chains: CacheChains<Candidate>) -> Vec<(weld_solver::Digest, Vec<usize>, bool)> {
    let items = chains.items.into_iter().map(|item| {
        let links = item.inputs.iter().map(Vec::len).collect();
        (item.class, links, item.results.is_empty())
    });
    let mut items: Vec<_> = items.collect();
    items.sort();
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_only_a_source_knows_are_exported_again_by_whichever_name_a_key_is_known() {
    // Which of its names is a key's first one is a matter of digests.
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let (world, other) = (World::new(), World::new());
        let graph = |sources: Vec<CacheSourceId>| {
            let sources = |options: &mut weld_solver::VertexOptions| {
                options.cache_sources = sources.clone();
            };
            let base = vtx("base", "base", "b").options(sources).done();
            let middle = vtx("middle", name, "m").on(&base).options(sources).done();
            let top = vtx("top", "top", "t").on(&middle).selector(0, "part");
            top.slow(0).options(sources).done()
        };
        let chains = chains_of(&world, &graph(Vec::new()), MAX).await;
        let (source, _) = carry(&world, chains.clone(), &other).await;
        let found = graph(vec![source]);
        let again = chains_of(&other, &found, MAX).await;
        assert_eq!(found.counts().1, 0, "all of it was found");
        assert_eq!(
            bare(again),
            bare(chains.clone()),
            "{name}: by nothing but the source"
        );
        // The other one has made it itself, and finds out only now that it lost the results.
        let other = World::new();
        chains_of(&other, &graph(Vec::new()), MAX).await;
        other.results.clear();
        let (source, _) = carry(&world, chains.clone(), &other).await;
        let found = graph(vec![source]);
        let again = chains_of(&other, &found, MAX).await;
        assert_eq!(found.counts().1, 0, "all of it was found");
        assert_eq!(bare(again), bare(chains), "{name}: by own names");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn min_chains_give_the_top_and_nothing_below() {
    let (world, other) = (World::new(), World::new());
    let graph = |top: &str, sources: Vec<CacheSourceId>| {
        let options = |options: &mut weld_solver::VertexOptions| {
            options.cache_sources = sources.clone();
        };
        let below = vtx("below", "below", "b")
            .on(&constant(1))
            .options(options)
            .done();
        vtx("top", top, "t").on(&below).options(options).done()
    };
    let chains = chains_of(&world, &graph("top", Vec::new()), MIN).await;
    let chains = chains.with_results(|mut results| {
        results.retain(|result| result.value.make);
        results
    });
    let (source, _) = carry(&world, chains.useful(), &other).await;
    let same = graph("top", vec![source]);
    assert_eq!(other.once(&same).await, "t");
    assert_eq!(same.counts().1, 0);
    let changed = graph("changed", vec![source]);
    assert_eq!(other.once(&changed).await, "t");
    assert_eq!(changed.counts().1, 3);
}

/// Answers late, or never.
pub(crate) struct Slow(pub(crate) Option<Duration>);

impl Slow {
    fn later<R: Send + 'static + Default>(&self) -> Answer<R> {
        let wait = self.0;
        Answer::Later(Box::pin(async move {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
            Ok(R::default())
        }))
    }
}

impl KeyStore for Slow {
    fn query(&self, _: KeyQuery) -> Answer<keystore::KeyMatches> {
        self.later()
    }
    fn save(&self, _: SaveKey) {}
    fn drop_record(&self, _: RecordId) {}
    fn entry(&self, _: KeyId) -> Answer<Option<KeyEntry>> {
        self.later()
    }
    fn keys_of(&self, _: RecordId) -> Answer<Vec<KeyId>> {
        self.later()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_answers_costs_its_time_once() {
    // C7
    let world = World::with(SolverOptions {
        source_timeout: Duration::from_millis(200),
        ..SolverOptions::default()
    });
    let source = world.solver.add_cache_source(CacheSource {
        keys: Arc::new(Slow(None)),
        results: Arc::clone(&world.results) as Arc<dyn ResultStore<Value>>,
    });
    let mut chain = constant(0);
    for step in 0..20 {
        let step = format!("step {step}");
        chain = vtx(&step, &step, "r")
            .on(&chain)
            .options(|options| options.cache_sources = vec![source])
            .done();
    }
    let chains = chains_of(&world, &chain, MAX).await;
    assert_eq!(chains.items.len(), 21);
    // Some forty queries and look-ups were made of it, or would have been.
    let failures = world.saw(|event| matches!(event, TraceEvent::SourceFailed { .. }));
    assert!((1..12).contains(&failures), "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_source_delays_only_who_asked_it() {
    // Queries are effects: the core goes on
    let world = World::new();
    let source = world.solver.add_cache_source(CacheSource {
        keys: Arc::new(Slow(None)),
        results: Arc::clone(&world.results) as Arc<dyn ResultStore<Value>>,
    });
    let waits = vtx("waits", "w", "w")
        .options(|options| options.cache_sources = vec![source])
        .done();
    let (job, request) = spawn(world.job().await, &waits).await;
    for round in 0..50 {
        let seed = format!("{round}");
        assert_eq!(world.once(&vtx(&seed, &seed, "r").done()).await, "r");
    }
    assert!(!request.is_finished());
    request.abort();
    end(job).await;
    world.emptied().await;
}
