//! What a trace is told that begins while work is under way.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use weld_solver::{
    JobOptions, MemoryKeyStore, Solver, SolverOptions, TraceEvent, TraceSink, TraceStamp,
};

use crate::support::*;

/// Keeps what it is told, from when it is switched on.
#[derive(Default)]
struct Late {
    recording: AtomicU64,
    told: Mutex<Vec<TraceEvent>>,
}

impl Late {
    fn told<R>(&self, find: impl Fn(&TraceEvent) -> Option<R>) -> Vec<R> {
        self.told.lock().unwrap().iter().filter_map(find).collect()
    }
}

impl TraceSink for Late {
    fn event(&self, recording: u64, _: TraceStamp, event: TraceEvent) {
        if recording != 0 {
            self.told.lock().unwrap().push(event);
        }
    }

    fn recording(&self) -> u64 {
        self.recording.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_say_since_when_and_which_wait_for_a_slot() {
    let sink = Arc::new(Late::default());
    let options = SolverOptions {
        parallelism: Some(1),
        trace: Some(Arc::clone(&sink) as Arc<dyn TraceSink>),
        ..SolverOptions::default()
    };
    let keys = Arc::<MemoryKeyStore>::default();
    let solver = Solver::new(options, keys, Arc::<Results>::default());
    let job = async |id: &str| solver.new_job(JobOptions::new(id)).await.unwrap();
    let gate = Gate::new();
    let holds = vtx("holds", "s holds", "h").exec_gate(&gate).done();
    let (_holder, holder) = spawn(job("a").await, &holds).await;
    gate.arrivals(1).await;
    let (_other, other) = spawn(job("b").await, &vtx("waits", "s", "w").done()).await;
    let before = Duration::from_millis(20);
    // Both have asked for the slot long before that.
    tokio::time::sleep(5 * before).await;
    sink.recording.store(1, Ordering::SeqCst);
    solver.census().await.unwrap();
    solver.census().await.unwrap();
    let under_way = sink.told(|event| match event {
        TraceEvent::UnderWay { micros, .. } => Some(*micros),
        _ => None,
    });
    assert_eq!(under_way.len(), 2, "{:?}", sink.told);
    assert!(
        under_way
            .iter()
            .all(|micros| u128::from(*micros) > before.as_micros()),
        "{under_way:?}"
    );
    let awaited = || {
        sink.told(|event| match event {
            TraceEvent::SlotAwaited { task, .. } => Some(*task),
            _ => None,
        })
    };
    let waiting = awaited();
    assert_eq!(waiting.len(), 1, "{:?}", sink.told);
    gate.open();
    assert_eq!(*holder.await.unwrap().unwrap().value, "h");
    assert_eq!(*other.await.unwrap().unwrap().value, "w");
    let taken = sink.told(|event| match event {
        TraceEvent::SlotTaken { task, .. } => Some(*task),
        _ => None,
    });
    assert_eq!(taken, waiting);
    assert_eq!(awaited(), waiting, "told once");
}
