//! Progress of builds inside of builds: whoever goes, those who stay hear all that their steps say. Work that a client who goes had begun may
//! be begun again, and is heard again then.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weld_solver::{
    JobOptions, MemoryKeyStore, OpError, ProgressEvent, ProgressStream, Session, Solver,
    SolverOptions, Status,
};

use crate::support::*;

/// A small generator of numbers.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn micros(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_long_for_a_slot_says_so() {
    let options = SolverOptions {
        parallelism: Some(1),
        ..SolverOptions::default()
    };
    let keys = Arc::<MemoryKeyStore>::default();
    let solver = Solver::new(options, keys, Arc::<Results>::default());
    let job = async |id: &str| solver.new_job(JobOptions::new(id)).await.unwrap();
    let gate = Gate::new();
    let holds = vtx("holds", "s holds", "h").exec_gate(&gate).done();
    let (holds_job, holder) = spawn(job("a").await, &holds).await;
    gate.arrivals(1).await;
    let other = job("b").await;
    let mut heard = other.progress();
    let waits = vtx("waits", "s", "w").done();
    let (other_job, other) = spawn(other, &waits).await;
    let mut told = async || loop {
        if let ProgressEvent::Status { vertex, status } = heard.next().await.unwrap() {
            assert_eq!(vertex, waits.digest());
            assert_eq!(&*status.id, "waiting for a free slot");
            return status;
        }
    };
    let waiting = told().await;
    assert!(waiting.started.is_some() && waiting.completed.is_none());
    gate.open();
    let over = told().await;
    assert!(over.started == waiting.started && over.completed.is_some());
    assert_eq!(*holder.await.unwrap().unwrap().value, "h");
    assert_eq!(*other.await.unwrap().unwrap().value, "w");
    // The one that had it did not wait, and says nothing.
    let mut heard = holds_job.progress();
    while let Some(event) = heard.try_next() {
        assert!(!matches!(event, ProgressEvent::Status { .. }), "{event:?}");
    }
    drop(other_job);
}

/// Clients tell the time of what a step says from its beginning: nothing is before that.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_says_something_had_begun_by_then() {
    let world = World::new();
    let job = world.job().await;
    let mut heard = job.progress();
    let began = SystemTime::now() - Duration::from_secs(5);
    let gate = Gate::new();
    // It is heard of before it executes, which would be its beginning otherwise.
    let step = vtx("says", "s", "r")
        .before_map(move |context| {
            context.status(Status {
                id: "resolve".into(),
                name: "".into(),
                current: 0,
                total: 0,
                started: Some(began),
                completed: None,
            });
            Box::pin(async { Ok(()) })
        })
        .exec_gate(&gate)
        .done();
    let (_job, built) = spawn(job, &step).await;
    loop {
        match heard.next().await.unwrap() {
            ProgressEvent::Vertex(vertex) if vertex.started.is_some() => {
                assert!(vertex.started.unwrap() <= began, "{vertex:?}");
                break;
            }
            _ => {}
        }
    }
    gate.open();
    assert_eq!(*built.await.unwrap().unwrap().value, "r");
}

/// A step that says its name when it begins, and takes its time.
fn says(name: &str, round: u64, time: Duration) -> Builder {
    let text = name.to_owned();
    vtx(name, &format!("{name} {round}"), "r").before_exec(move |context| {
        let text = text.clone();
        Box::pin(async move {
            context.log(1, text.into_bytes());
            tokio::time::sleep(time).await;
            Ok(())
        })
    })
}

/// A step that has another graph built, with one client after the other.
fn nested(name: &str, seed: &str, graph: &Vtx) -> Vtx {
    let graph = Arc::clone(graph);
    vtx(name, seed, "r")
        .before_exec(move |context| {
            let graph = Arc::clone(&graph);
            Box::pin(async move {
                context
                    .with_session(|_| {
                        let graph = Arc::clone(&graph);
                        async move {
                            let built = context.build(definition_of(&graph, 0)).await;
                            match built {
                                Ok(_) => Ok(()),
                                Err(error) => Err(OpError::failed(error)),
                            }
                        }
                    })
                    .await
            })
        })
        .done()
}

async fn round(world: &World, rng: &mut Rng, number: u64) {
    let (one, two) = (rng.micros(3_000), rng.micros(3_000));
    let first = says("one", number, one).done();
    let second = says("two", number, two).on(&first).done();
    let mut graphs = vec![Arc::clone(&second)];
    for level in 1..3 {
        let below = graphs.last().unwrap();
        let name = format!("nested {level}");
        let build = nested(&name, &format!("{name} {number}"), below);
        let after = says(&format!("after {level}"), number, rng.micros(1_000));
        graphs.push(after.on(&build).done());
    }
    let mut clients = Vec::new();
    for client in 0..5 {
        let depth = rng.below(3) as usize;
        let outer = nested(
            &format!("outer {client}"),
            &format!("outer {client} {number}"),
            &graphs[depth],
        );
        let session = Session::new(format!("{client} {number}"), Arc::new(client));
        let options = JobOptions {
            session: Some(session.clone()),
            ..JobOptions::new(format!("{client} {number}"))
        };
        let job = world.solver.new_job(options).await.unwrap();
        let stream = job.progress();
        let (job, request) = spawn(job, &outer).await;
        clients.push((job, request, session, stream, depth));
        tokio::time::sleep(rng.micros(2_000)).await;
    }
    let mut survivors = Vec::new();
    for (job, request, session, stream, depth) in clients {
        if rng.below(2) == 0 {
            tokio::time::sleep(rng.micros(1_500)).await;
            session.close();
            request.abort();
            let _ = request.await;
            end(job).await;
        } else {
            survivors.push((job, request, stream, depth));
        }
    }
    for (job, request, stream, depth) in survivors {
        let built = request.await.unwrap();
        assert!(built.is_ok(), "round {number}: {:?}", built.err());
        end(job).await;
        let mut heard = HashSet::new();
        let mut cached = HashSet::new();
        for event in rest(stream).await {
            match event {
                ProgressEvent::Log { chunk, .. } => {
                    heard.insert(String::from_utf8(chunk.data).unwrap());
                }
                ProgressEvent::Vertex(update) if update.cached => {
                    cached.insert(update.name.to_string());
                }
                _ => {}
            }
        }
        let mut wanted = vec!["one".to_owned(), "two".to_owned()];
        wanted.extend((1..=depth).map(|level| format!("after {level}")));
        // What had ended before it came is found, and says nothing any more.
        wanted.retain(|text| !cached.contains(text));
        for text in wanted {
            assert!(
                heard.contains(&text),
                "round {number}, {text}: {heard:?}, cached {cached:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_hears_all_of_nested_builds() {
    let world = World::new();
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let rounds = std::env::var("WELD_TEST_ROUNDS").map_or(100, |text| text.parse().unwrap());
    for number in 0..rounds {
        round(&world, &mut rng, number).await;
    }
    world.emptied().await;
}

/// Reads what waits, and holds that a step is told of before its words, and its end behind them.
fn names_come_first(stream: &mut ProgressStream) -> String {
    let (mut known, mut ended, mut heard) = (HashSet::new(), HashSet::new(), String::new());
    while let Some(event) = stream.try_next() {
        match event {
            ProgressEvent::Vertex(update) => {
                known.insert(update.digest);
                if update.completed.is_some() {
                    ended.insert(update.digest);
                }
            }
            ProgressEvent::Log { vertex, chunk } => {
                assert!(known.contains(&vertex), "words of a step that is not known");
                assert!(!ended.contains(&vertex), "words of a step that has ended");
                heard.push_str(&String::from_utf8(chunk.data).unwrap());
            }
            _ => {}
        }
    }
    heard
}

#[tokio::test]
async fn a_step_is_told_of_before_its_words_and_its_end_behind_them() {
    let world = World::new();
    let inner = says("inner", 0, Duration::from_millis(50)).done();
    let outer = nested("outer", "outer", &inner);
    let job = |name: &str| {
        let options = JobOptions {
            session: Some(Session::new(name.to_owned(), Arc::new(name.to_owned()))),
            ..JobOptions::new(name.to_owned())
        };
        world.solver.new_job(options)
    };
    // One that nobody reads until all has happened, one that comes when the words were said, and one that listens late.
    let first = job("first").await.unwrap();
    let slow = first.progress();
    let (first, request) = spawn(first, &outer).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = job("second").await.unwrap();
    let late = second.progress();
    let (second, again) = spawn(second, &outer).await;
    let third = job("third").await.unwrap();
    let (third, once_more) = spawn(third, &outer).await;
    for request in [request, again, once_more] {
        assert!(request.await.unwrap().is_ok());
    }
    let last = third.progress();
    world.solver.census().await.unwrap();
    for mut stream in [slow, late, last] {
        assert_eq!(names_come_first(&mut stream), "inner");
    }
    for job in [first, second, third] {
        end(job).await;
    }
    world.emptied().await;
}

/// What a stream tells of a step: the errors, the words, how often it ended.
pub(crate) async fn told(stream: ProgressStream) -> (Vec<String>, String, usize) {
    let (mut errors, mut words, mut ends) = (Vec::new(), String::new(), 0);
    for event in rest(stream).await {
        match event {
            ProgressEvent::Vertex(update) => {
                errors.extend(update.error.map(|error| error.to_string()));
                ends += usize::from(update.completed.is_some());
            }
            ProgressEvent::Log { chunk, .. } => {
                words.push_str(&String::from_utf8(chunk.data).unwrap());
            }
            _ => {}
        }
    }
    (errors, words, ends)
}

#[tokio::test]
async fn that_a_step_was_cancelled_is_told_to_those_who_gave_it_up() {
    // P1, J2: whoever comes later, and whoever waits, hears of the run that is for them
    let world = World::new();
    let gate = Gate::new();
    let step = vtx("step", "step", "r").begins(&gate).done();
    let gives_up = world.job().await;
    let gives_up_hears = gives_up.progress();
    let (gives_up, request) = spawn(gives_up, &step).await;
    gate.arrivals(1).await;
    request.abort();
    let _ = request.await;
    gate.left().await;
    end(gives_up).await;
    let comes = world.job().await;
    let comes_hears = comes.progress();
    gate.open();
    assert_eq!(solve(&comes, &step).await, "r");
    comes.discard().await;

    let (errors, ..) = told(gives_up_hears).await;
    assert_eq!(errors, ["cancelled"]);
    let (errors, words, ends) = told(comes_hears).await;
    assert_eq!((errors, words.as_str(), ends), (vec![], "begun", 1));
    world.emptied().await;
}
