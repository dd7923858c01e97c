//! A panic in the core, or in a store that it asks, takes along what is under way, and nothing else. E1

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use weld_solver::{
    JobOptions, KeyId, KeyMatches, KeyQuery, KeyStore, RecordId, SaveKey, SolveError,
    SolverOptions, TraceEvent,
    keystore::{Answer, KeyEntry},
};

use crate::support::*;

/// What panics next, once.
#[derive(Default)]
struct Armed {
    query: AtomicBool,
    save: AtomicBool,
}

struct Panicking {
    keys: Arc<dyn KeyStore>,
    armed: Arc<Armed>,
}

impl KeyStore for Panicking {
    fn query(&self, query: KeyQuery) -> Answer<KeyMatches> {
        assert!(
            !self.armed.query.swap(false, Ordering::SeqCst),
            "the query is broken"
        );
        self.keys.query(query)
    }

    fn save(&self, entry: SaveKey) {
        assert!(
            !self.armed.save.swap(false, Ordering::SeqCst),
            "the save is broken"
        );
        self.keys.save(entry);
    }

    fn drop_record(&self, record: RecordId) {
        self.keys.drop_record(record);
    }

    fn entry(&self, key: KeyId) -> Answer<Option<KeyEntry>> {
        self.keys.entry(key)
    }

    fn keys_of(&self, record: RecordId) -> Answer<Vec<KeyId>> {
        self.keys.keys_of(record)
    }
}

fn world() -> (World, Arc<Armed>) {
    let armed = Arc::<Armed>::default();
    let given = Arc::clone(&armed);
    let world = World::on(SolverOptions::default(), |keys| {
        Arc::new(Panicking { keys, armed: given })
    });
    (world, armed)
}

fn is_broken(error: &SolveError<Value>, by: &str) -> bool {
    matches!(error, SolveError::Invariant { invariant, .. } if invariant.contains(by))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_what_is_under_way_and_the_solver_goes_on() {
    for (arm, by) in [
        (
            (|armed: &Armed| &armed.query) as fn(&Armed) -> &AtomicBool,
            "the query is broken",
        ),
        (|armed| &armed.save, "the save is broken"),
    ] {
        let (world, armed) = world();
        let gate = Gate::new();
        let slow = vtx("slow", "s", "x").exec_gate(&gate).done();
        let waiting = world.solver.new_job(JobOptions::new("waiting")).await;
        let (waiting, request) = spawn(waiting.unwrap(), &slow).await;
        let mut progress = waiting.progress();
        gate.arrivals(1).await;

        let job = world.job().await;
        arm(&armed).store(true, Ordering::SeqCst);
        let outcome = job
            .solve(definition_of(&vtx("v", "v", "y").done(), 0))
            .await;
        if by == "the save is broken" {
            // It was answered before its keys were saved.
            assert_eq!(*outcome.unwrap().value, "y");
        } else {
            let error = outcome.unwrap_err();
            assert!(is_broken(&error, by), "{error}");
        }
        let error = request.await.unwrap().unwrap_err();
        assert!(is_broken(&error, by), "{error}");
        while progress.next().await.is_some() {}
        assert_eq!(
            world.saw(|event| matches!(event, TraceEvent::Broken { .. })),
            1
        );

        // What was begun before asks in vain, and disturbs nothing that has its id.
        let error = failure(&job, &vtx("w", "w", "z").done()).await;
        assert!(is_broken(&error, "started anew"), "{error}");
        let again = world.solver.new_job(JobOptions::new("waiting")).await;
        let again = again.unwrap();
        end(waiting).await;
        job.discard().await;
        while slow.runs() {
            tokio::task::yield_now().await;
        }
        gate.open();
        assert_eq!(solve(&again, &vtx("v", "v", "y").done()).await, "y");
        assert_eq!(solve(&again, &slow).await, "x");
        again.discard().await;
        world.emptied().await;
        assert_eq!(slow.counts().1, 1, "the old run ended at the gate");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_broken_core_are_released() {
    let (world, armed) = world();
    let job = world.job().await;
    let base = vtx("base", "b", "x").done();
    assert_eq!(solve(&job, &base).await, "x");
    // Its keys are saved when the solver answers the next question.
    world.solver.census().await.unwrap();
    armed.save.store(true, Ordering::SeqCst);
    assert_eq!(
        solve(&job, &vtx("top", "t", "y").on(&base).done()).await,
        "y"
    );
    // The new core answers when the old one is gone.
    world.emptied().await;
    assert_eq!(world.results.released.load(Ordering::SeqCst), 2);
    drop(job);
    // What was saved before is found.
    assert_eq!(world.once(&base).await, "x");
    assert_eq!(base.counts(), (2, 1));
}
