//! What calls wait for: slots to execute in, and builds of their own.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::time::Duration;

use weld_trace::{Filter, Reader, Trace, Tracer};

fn named(name: &str) -> Filter {
    Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    }
}

/// The time that calls took cannot be more than there was, where one executes at a time.
fn takes_no_longer_than_it_did(summary: &weld_trace::Summary) {
    let exec = &summary.calls["exec"];
    assert!(exec.micros <= summary.micros, "{summary}");
    assert!(exec.longest <= exec.micros, "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_slot_is_no_work() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let tracer = Tracer::new();
    tracer.start(&file).unwrap();
    let solver = support::solver_of(&tracer, Some(1));
    let (first, second, gone) = (
        support::job(&solver, "first").await,
        support::job(&solver, "second").await,
        support::job(&solver, "gone").await,
    );
    let works = first.solve(support::chain("f", &["a while"]));
    let waits = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let waits = second.solve(support::chain("s", &["source"]));
        let never = async {
            tokio::select! {
                biased;
                _ = gone.solve(support::chain("g", &["never"])) => panic!("there is no slot"),
                () = tokio::time::sleep(Duration::from_millis(50)) => gone.discard().await,
            }
        };
        tokio::join!(waits, never).0.unwrap();
    };
    tokio::join!(works, waits).0.unwrap();
    first.discard().await;
    second.discard().await;
    support::empty(&solver).await;
    tracer.stop().unwrap();

    let check = weld_trace::check(Reader::open(&file).unwrap()).unwrap();
    assert!(check.is_good(), "{check}");
    let trace = Trace::read(&file).unwrap();
    let timeline = weld_trace::timeline(&trace, &Filter::default()).unwrap();
    for entry in &timeline.vertices {
        let waited = entry.name != "a while";
        assert_eq!(entry.slot > 0.0, waited, "{timeline}");
        assert!(entry.worked + entry.slot <= entry.end - entry.start + 1e-5);
    }
    assert!(timeline.to_string().contains(" for a slot)"), "{timeline}");
    let of_second = Filter {
        job: Some("second".to_owned()),
        ..Filter::default()
    };
    let path = weld_trace::critical_path(&trace, &of_second).unwrap();
    let step = &path.steps[0];
    assert!(step.slot > 0, "{path}");
    assert!(
        step.busy + step.slot + step.waiting <= path.micros,
        "{path}"
    );
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert!(summary.calls["exec"].slot > 0, "{summary}");
    takes_no_longer_than_it_did(&summary);
    let page = weld_trace::html(&trace, &Filter::default()).unwrap();
    assert!(page.contains("\"a while\""));

    // A wait has its beginning, its end and a call that executes.
    let text = std::fs::read_to_string(&file).unwrap();
    let broken = |change: &dyn Fn(&str) -> Option<String>| {
        let lines = text.lines().filter_map(change);
        let lines: String = lines.map(|line| line + "\n").collect();
        std::fs::write(&file, lines).unwrap();
        let check = weld_trace::check(Reader::open(&file).unwrap()).unwrap();
        check
            .violations
            .iter()
            .any(|found| found.rule == weld_trace::Rule::Call)
    };
    let own = |line: &str| Some(line.to_owned());
    assert!(!broken(&own));
    assert!(broken(
        &|line| own(line).filter(|_| !line.contains("slot-wait"))
    ));
    assert!(broken(&|line| Some(
        line.replace("slot-taken", "slot-wait")
    )));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_what_others_hold_is_no_work() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let tracer = Tracer::new();
    tracer.start(&file).unwrap();
    let solver = support::solver_of(&tracer, Some(1));
    let (first, second) = (
        support::job(&solver, "first").await,
        support::job(&solver, "second").await,
    );
    let waits = first.solve(support::chain("f", &["waits for a lock"]));
    // It has no slot meanwhile, and so another one has it then.
    let works = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        second.solve(support::chain("s", &["a while"])).await
    };
    let (waits, works) = tokio::join!(waits, works);
    waits.unwrap();
    works.unwrap();
    first.discard().await;
    second.discard().await;
    support::empty(&solver).await;
    tracer.stop().unwrap();

    let check = weld_trace::check(Reader::open(&file).unwrap()).unwrap();
    assert!(check.is_good(), "{check}");
    let trace = Trace::read(&file).unwrap();
    let timeline = weld_trace::timeline(&trace, &named("waits for a lock")).unwrap();
    let entry = &timeline.vertices[0];
    assert!(entry.lock >= 0.1 && entry.lock < 0.3, "{timeline}");
    assert!(entry.slot > 0.1, "{timeline}");
    assert!(entry.worked < 0.1, "{timeline}");
    let text = timeline.to_string();
    assert!(text.contains(" for a slot)") && text.contains(" for a lock)"));
    let of_first = Filter {
        job: Some("first".to_owned()),
        ..Filter::default()
    };
    let path = weld_trace::critical_path(&trace, &of_first).unwrap();
    assert!(path.steps[0].lock >= 100_000, "{path}");
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert!(summary.calls["exec"].lock >= 100_000, "{summary}");
    takes_no_longer_than_it_did(&summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_operations_are_entered_and_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let tracer = Tracer::new();
    tracer.start(&file).unwrap();
    let solver = support::solver_of(&tracer, Some(1));
    let job = support::job(&solver, "a").await;
    job.solve(support::chain("a", &["source", "nests", "last"]))
        .await
        .unwrap();
    job.discard().await;
    support::empty(&solver).await;
    tracer.stop().unwrap();

    let check = weld_trace::check(Reader::open(&file).unwrap()).unwrap();
    assert!(check.is_good(), "{check}");
    let trace = Trace::read(&file).unwrap();
    let path = weld_trace::critical_path(&trace, &Filter::default()).unwrap();
    let steps: Vec<_> = path
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.depth))
        .collect();
    assert_eq!(
        steps,
        [
            ("source", 0),
            ("inner source", 1),
            ("innermost", 2),
            ("nests more", 1),
            ("inner step", 1),
            ("nests", 0),
            ("last", 0),
        ],
        "{path}"
    );
    for step in &path.steps {
        let nests = step.name.starts_with("nests");
        assert_eq!(step.builds > 0, nests, "{path}");
        let all = step.busy + step.slot + step.builds + step.waiting;
        let whole = (step.complete - step.ready) * 1e6;
        assert_eq!(all, whole.round() as u64, "{path}");
    }
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert!(summary.calls["exec"].builds > 0, "{summary}");
    takes_no_longer_than_it_did(&summary);
    // Also where only the step is meant that waits.
    let filter = named("nests");
    let selection = trace.select(&filter).unwrap();
    let narrow = weld_trace::summary_of(Reader::open(&file).unwrap(), &selection).unwrap();
    assert!(narrow.calls["exec"].builds > 0, "{narrow}");
    let timeline = weld_trace::timeline(&trace, &named("nests")).unwrap();
    let entry = &timeline.vertices[0];
    let waited: f64 = entry
        .calls
        .iter()
        .flat_map(|call| &call.builds)
        .map(|(start, end)| end - start)
        .sum();
    assert!(
        waited > 0.0 && entry.worked + waited <= entry.end - entry.start + 1e-5,
        "{timeline}"
    );
}
