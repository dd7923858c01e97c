//! What every report says of one recorded trace, held to files: `UPDATE_SNAPSHOTS=1 cargo test -p weld-trace --test reports` writes them,
//! `UPDATE_TRACE=1` also records the trace anew.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use weld_trace::{Filter, Reader, Trace};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

async fn recorded() -> PathBuf {
    // Recorded once, however many tests want it.
    static RECORDED: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();
    let record = || async {
        let file = data("eventful.jsonl");
        if std::env::var_os("UPDATE_TRACE").is_some() {
            std::fs::create_dir_all(data("")).unwrap();
            support::eventful(&file).await;
        }
        file
    };
    RECORDED.get_or_init(record).await.clone()
}

#[track_caller]
fn same(name: &str, text: &str) {
    let file = data(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        kept, text,
        "{name} is not what the report says; see the top of this test's file"
    );
}

#[track_caller]
fn report(name: &str, report: &(impl Serialize + Display)) {
    same(&format!("{name}.txt"), &report.to_string());
    same(
        &format!("{name}.json"),
        &(serde_json::to_string_pretty(report).unwrap() + "\n"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_report_says_what_it_said() {
    let file = recorded().await;
    let trace = Trace::read(&file).unwrap();
    let all = Filter::default();
    report(
        "summary",
        &weld_trace::summary(Reader::open(&file).unwrap()).unwrap(),
    );
    report("jobs", &weld_trace::jobs(&trace, &all).unwrap());
    report("merges", &weld_trace::merges(&trace, &all).unwrap());
    report("timeline", &weld_trace::timeline(&trace, &all).unwrap());
    report(
        "critical-path",
        &weld_trace::critical_path(&trace, &all).unwrap(),
    );
    report("graph", &weld_trace::graph(&trace, &all).unwrap());
    report(
        "check",
        &weld_trace::check(Reader::open(&file).unwrap()).unwrap(),
    );
    let named = |name: &str| Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    };
    let links = weld_trace::timeline(&trace, &named("LINK"))
        .unwrap()
        .vertices;
    assert_eq!(links.len(), 3, "of a, b and cached");
    report(
        "vertex",
        &weld_trace::vertex(&trace, &links[0].vertex).unwrap(),
    );
    report(
        "why",
        &weld_trace::why(&trace, None, &links[0].vertex).unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_narrow_down() {
    let file = recorded().await;
    let trace = Trace::read(&file).unwrap();
    let count = |filter: Filter| {
        weld_trace::timeline(&trace, &filter)
            .unwrap()
            .vertices
            .len()
    };
    let all = count(Filter::default());
    let job = |id: &str| Filter {
        job: Some(id.to_owned()),
        ..Filter::default()
    };
    assert_eq!(count(job("a")), 4);
    assert_eq!(count(job("failing")), 2);
    let until = Filter {
        until: Some(Duration::from_micros(1)),
        ..Filter::default()
    };
    let since = Filter {
        since: Some(Duration::from_secs(100)),
        ..Filter::default()
    };
    assert!(count(until) < all);
    weld_trace::graph(&trace, &since).unwrap_err();
    weld_trace::jobs(&trace, &job("nobody")).unwrap_err();
    weld_trace::vertex(&trace, "").unwrap_err();
    weld_trace::vertex(&trace, "sha256:ffffffffff").unwrap_err();
    let selection_filter = job("failing");
    let selection = trace.select(&selection_filter).unwrap();
    let summary = weld_trace::summary_of(Reader::open(&file).unwrap(), &selection).unwrap();
    assert_eq!(summary.jobs, 1);
    assert_eq!(summary.calls["exec"].failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_compared_with_the_one_before_it_in_another_trace() {
    let directory = tempfile::tempdir().unwrap();
    let mut traces = Vec::new();
    for (name, source) in [("before", "source"), ("after", "other source")] {
        let file = directory.path().join(name);
        let tracer = weld_trace::Tracer::new();
        tracer.start(&file).unwrap();
        let solver = support::solver(&tracer);
        let job = support::job(&solver, name).await;
        job.solve(support::chain(name, &[source, "compile"]))
            .await
            .unwrap();
        job.discard().await;
        support::empty(&solver).await;
        tracer.stop().unwrap();
        traces.push(Trace::read(&file).unwrap());
    }
    let filter = Filter {
        name: Some("compile".to_owned()),
        ..Filter::default()
    };
    let digest = weld_trace::timeline(&traces[1], &filter).unwrap().vertices[0]
        .vertex
        .clone();
    let alone = weld_trace::why(&traces[1], None, &digest).unwrap();
    assert!(
        alone.reasons[0].contains("no earlier step is like it"),
        "{alone}"
    );
    let why = weld_trace::why(&traces[1], Some(&traces[0]), &digest).unwrap();
    let other = "input 0 is other source, before it was source";
    assert_eq!(why.reasons, [other]);
    // What the step itself told, of the build before, stands beside it.
    let file = directory.path().join("after");
    let text = std::fs::read_to_string(&file).unwrap();
    let made = "{\"event\":\"vertex\",";
    let line = text
        .lines()
        .find(|line| line.starts_with(made) && line.contains(&digest))
        .unwrap();
    let told = line.replace("\"vertex\",", "\"explained\",").replacen(
        "\"inputs\":",
        "\"why\":\"it told so\",\"inputs\":",
        1,
    );
    let text = text.replace(line, &format!("{line}\n{told}"));
    std::fs::write(&file, text).unwrap();
    let after = Trace::read(&file).unwrap();
    let why = |previous| weld_trace::why(&after, previous, &digest).unwrap().reasons;
    assert_eq!(why(None), ["it told so"]);
    assert_eq!(why(Some(&traces[0])), [other, "it told so"]);
}

/// What a source is called in a definition, with the session that it is read from, says nothing of what it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_the_same_for_a_cache_is_no_difference() {
    let directory = tempfile::tempdir().unwrap();
    let mut traces = Vec::new();
    for (who, step) in [("before", "compile#1"), ("after", "compile#2")] {
        let file = directory.path().join(who);
        let tracer = weld_trace::Tracer::new();
        tracer.start(&file).unwrap();
        let solver = support::solver(&tracer);
        let job = support::job(&solver, who).await;
        job.solve(support::chain(who, &["source", step, "link"]))
            .await
            .unwrap();
        job.discard().await;
        support::empty(&solver).await;
        tracer.stop().unwrap();
        traces.push(Trace::read(&file).unwrap());
    }
    let why = |name: &str| {
        let filter = Filter {
            name: Some(name.to_owned()),
            ..Filter::default()
        };
        let found = weld_trace::timeline(&traces[1], &filter).unwrap();
        let digest = &found.vertices[0].vertex;
        weld_trace::why(&traces[1], Some(&traces[0]), digest)
            .unwrap()
            .reasons
    };
    let compile = why("compile");
    assert_eq!(compile.len(), 1, "{compile:?}");
    assert!(compile[0].starts_with("its operation is another one: "));
    assert_eq!(why("link"), ["input 0 (compile) is made of something else"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_of_what_got_no_result_leads_to_what_stopped_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let tracer = weld_trace::Tracer::new();
    tracer.start(&file).unwrap();
    let solver = support::solver(&tracer);
    let failing = support::job(&solver, "failing").await;
    let steps = ["source", "broken!", "after", "last"];
    failing
        .solve(support::chain("f", &steps))
        .await
        .unwrap_err();
    let slow = support::job(&solver, "slow").await;
    tokio::select! {
        biased;
        _ = slow.solve(support::chain("s", &["other", "wait~", "after"])) => panic!("it takes a minute"),
        // Longer than any other call, also on a busy machine.
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    failing.discard().await;
    slow.discard().await;
    solver.settled().await.unwrap();
    tracer.stop().unwrap();
    let trace = Trace::read(&file).unwrap();
    let path = |filter: &Filter| -> Vec<(String, &'static str)> {
        let path = weld_trace::critical_path(&trace, filter).unwrap();
        let steps = path.steps.into_iter();
        steps.map(|step| (step.name, step.outcome)).collect()
    };
    let of_job = |job: &str| Filter {
        job: Some(job.to_owned()),
        ..Filter::default()
    };
    let failed = path(&of_job("failing"));
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, steps);
    assert_eq!((failed[0].1, failed[1].1), ("ran", "failed"));
    let cancelled = path(&of_job("slow"));
    assert_eq!(cancelled[1], ("wait~".to_owned(), "cancelled"));
    assert_eq!(cancelled.len(), 3);

    // A vertex in place of a request; a filter that nothing passes.
    let named = |name: &str| Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    };
    assert_eq!(path(&named("broken")).len(), 2);
    assert_eq!(path(&named("nothing like it")), []);
    let jobs = weld_trace::jobs(&trace, &named("wait")).unwrap();
    let jobs: Vec<&str> = jobs.jobs.iter().map(|job| job.job.as_str()).collect();
    assert_eq!(jobs, ["slow"]);
    let none = Filter {
        name: Some("nothing like it".to_owned()),
        ..Filter::default()
    };
    for text in [
        weld_trace::jobs(&trace, &none).unwrap().to_string(),
        weld_trace::timeline(&trace, &none).unwrap().to_string(),
        weld_trace::critical_path(&trace, &none)
            .unwrap()
            .to_string(),
    ] {
        assert!(text.contains("passes the filter"), "{text:?}");
    }

    // What began before a time has its name, and what did not end is told of all the same.
    let late = Filter {
        since: Some(Duration::from_micros(
            (weld_trace::timeline(&trace, &named("wait"))
                .unwrap()
                .vertices[0]
                .end
                * 1e6) as u64,
        )),
        ..Filter::default()
    };
    let selection = trace.select(&late).unwrap();
    let summary = weld_trace::summary_of(Reader::open(&file).unwrap(), &selection).unwrap();
    assert_eq!(summary.slowest[0].name, "wait~", "{summary}");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text.lines().filter(|line| !line.contains("dropped"));
    let lines: Vec<&str> = lines.collect();
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert!(summary.slowest[0].unfinished, "{summary}");
    assert_eq!(summary.calls["exec"].unfinished, 1);
    let trace = Trace::read(&file).unwrap();
    let entry = &weld_trace::timeline(&trace, &named("wait"))
        .unwrap()
        .vertices[0];
    assert!(entry.end > entry.start + 0.9, "{entry:?}");
}

/// What became of a job's work after it was discarded was for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_of_as_it_was_when_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let tracer = weld_trace::Tracer::new();
    tracer.start(&file).unwrap();
    let solver = support::solver(&tracer);
    let (gone, kept) = (
        support::job(&solver, "gone").await,
        support::job(&solver, "kept").await,
    );
    let steps = ["source", "a while", "last"];
    let mut other = Box::pin(kept.solve(support::chain("k", &steps)));
    tokio::select! {
        biased;
        _ = gone.solve(support::chain("g", &steps)) => panic!("it takes a while"),
        _ = &mut other => panic!("it takes a while"),
        () = tokio::time::sleep(Duration::from_millis(40)) => {}
    }
    gone.discard().await;
    other.as_mut().await.unwrap();
    drop(other);
    kept.discard().await;
    solver.settled().await.unwrap();
    tracer.stop().unwrap();
    let trace = Trace::read(&file).unwrap();
    let of = |job: &str| Filter {
        job: Some(job.to_owned()),
        ..Filter::default()
    };
    let path = weld_trace::critical_path(&trace, &of("gone")).unwrap();
    let last = path.steps.last().unwrap();
    assert!(last.complete * 1e6 <= path.steps[0].ready * 1e6 + path.micros as f64 + 1.0);
    let outcomes: Vec<_> = path.steps.iter().map(|step| step.outcome).collect();
    assert!(outcomes.contains(&"running"), "{path}");
    let jobs = weld_trace::jobs(&trace, &of("gone")).unwrap();
    assert_eq!(jobs.jobs[0].ran, 1, "{jobs}");
    for (job, outcome) in [("gone", "cancelled"), ("kept", "built")] {
        let filter = of(job);
        let selection = trace.select(&filter).unwrap();
        let reader = Reader::open(&file).unwrap();
        let summary = weld_trace::summary_of(reader, &selection).unwrap();
        assert_eq!(summary.answers.get(outcome), Some(&1), "{summary}");
        assert_eq!(summary.answers.len(), 1);
    }
}

/// What is told of a trace that begins while there are jobs: what they loaded, who shares it, and nothing that nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_begins_late_tells_what_jobs_are_made_of() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let tracer = weld_trace::Tracer::new();
    let solver = support::solver(&tracer);
    let (first, second, waiting) = (
        support::job(&solver, "first").await,
        support::job(&solver, "second").await,
        support::job(&solver, "waiting").await,
    );
    let steps = ["source", "compile"];
    first.solve(support::chain("a", &steps)).await.unwrap();
    second.solve(support::chain("b", &steps)).await.unwrap();
    let waits = waiting.solve(support::chain("w", &["source", "wait~"]));
    let begun = async {
        while solver.census().await.unwrap().requests == 0 {
            tokio::task::yield_now().await;
        }
        tracer.start(&file).unwrap();
        let third = support::job(&solver, "third").await;
        let longer = ["source", "compile", "link"];
        third.solve(support::chain("c", &longer)).await.unwrap();
        third.discard().await;
    };
    tokio::select! {
        biased;
        _ = waits => panic!("it takes a minute"),
        () = begun => {}
    }
    for job in [first, second, waiting] {
        job.discard().await;
    }
    support::empty(&solver).await;
    tracer.stop().unwrap();

    let trace = Trace::read(&file).unwrap();
    let all = Filter::default();
    let jobs = weld_trace::jobs(&trace, &all).unwrap();
    let told: Vec<_> = jobs
        .jobs
        .iter()
        .map(|job| (job.job.as_str(), job.before, job.vertices, job.ran))
        .collect();
    assert_eq!(
        told,
        [
            ("first", true, 2, 0),
            ("second", true, 2, 0),
            ("waiting", true, 2, 0),
            ("third", false, 3, 1)
        ],
        "{jobs}"
    );
    let text = jobs.to_string();
    assert!(text.contains("first  began before the trace, to"), "{text}");
    assert!(text.contains("  2 vertices: 0 ran"), "{text}");
    let merges = weld_trace::merges(&trace, &all).unwrap();
    let (earlier, later): (Vec<_>, Vec<_>) = merges
        .merges
        .iter()
        .partition(|merge| merge.reason.is_none());
    assert!(!earlier.is_empty() && !later.is_empty(), "{merges}");
    assert!(
        merges
            .merges
            .iter()
            .all(|merge| !merge.source_jobs.is_empty() && !merge.target_jobs.is_empty()),
        "{merges}"
    );
    assert!(
        merges.to_string().contains("  before the trace began  "),
        "{merges}"
    );
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert_eq!(
        summary.merges["before-trace"],
        earlier.len() as u64,
        "{summary}"
    );
    assert_eq!(
        (summary.jobs, summary.loads, summary.loaded_vertices),
        (4, 1, 3),
        "{summary}"
    );
    let report = weld_trace::check(Reader::open(&file).unwrap()).unwrap();
    assert!(report.is_good(), "{report}");
}

/// What was live in a time counts in it, also what neither began nor ended then.
#[test]
fn a_summary_of_a_time_counts_what_was_live_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let digest = format!("sha256:{}", "a".repeat(64));
    let vertex = format!("\"vertex\":\"{digest}\",\"id\":1");
    let edge = format!("\"edge\":7,\"vertex\":\"{digest}\",\"output\":0");
    let call = |task: u32, call: &str| format!("\"task\":{task},{vertex},\"call\":\"{call}\"");
    let lines: String = [
        (0, "\"trace-start\",\"version\":1,\"weld\":\"0\"".to_owned()),
        (
            0,
            "\"job-opened\",\"job\":\"gone\",\"session\":false".to_owned(),
        ),
        (1, "\"job-discarded\",\"job\":\"gone\"".to_owned()),
        (
            1,
            "\"job-opened\",\"job\":\"long\",\"session\":false".to_owned(),
        ),
        (
            1,
            format!("\"vertex\",{vertex},\"name\":\"make\",\"inputs\":[]"),
        ),
        (
            1,
            format!("\"loaded\",\"job\":\"long\",{edge},\"id\":1,\"vertices\":1,\"created\":1"),
        ),
        (1, format!("\"call-start\",{}", call(1, "cache-map"))),
        (2, format!("\"call-end\",{}", call(1, "cache-map"))),
        (2, format!("\"call-start\",{}", call(2, "exec"))),
        (
            5,
            "\"job-opened\",\"job\":\"short\",\"session\":false".to_owned(),
        ),
        (10, format!("\"call-end\",{}", call(2, "exec"))),
        (10, format!("\"result-lost\",{edge}")),
        (11, "\"job-discarded\",\"job\":\"short\"".to_owned()),
        (11, "\"job-discarded\",\"job\":\"long\"".to_owned()),
        (11, format!("\"vertex-freed\",{vertex}")),
        (12, "\"trace-end\",\"lines\":13,\"lost\":0".to_owned()),
    ]
    .iter()
    .map(|(second, event): &(u64, String)| {
        format!(
            "{{\"event\":{event},\"position\":1,\"time\":{}}}\n",
            (100 + second) * 1_000_000
        )
    })
    .collect();
    std::fs::write(&file, lines).unwrap();
    let trace = Trace::read(&file).unwrap();
    let sum = |since: u64, until: u64| {
        let filter = Filter {
            since: Some(Duration::from_secs(since)),
            until: Some(Duration::from_secs(until)),
            ..Filter::default()
        };
        let selection = trace.select(&filter).unwrap();
        weld_trace::summary_of(Reader::open(&file).unwrap(), &selection).unwrap()
    };
    for (since, until, jobs, open) in [(3, 4, 1, 1), (4, 6, 2, 2), (6, 12, 2, 0)] {
        let summary = sum(since, until);
        assert_eq!((summary.jobs, summary.open_jobs), (jobs, open), "{summary}");
        assert_eq!(
            (summary.vertices, summary.most_vertices),
            (1, 1),
            "{summary}"
        );
        let calls: Vec<_> = summary
            .calls
            .iter()
            .map(|(call, totals)| (call.as_str(), totals.count, totals.micros))
            .collect();
        assert_eq!(calls, [("exec", 1, 8_000_000)], "{summary}");
        let ended = u64::from(until > 10);
        assert_eq!(
            (summary.executed, summary.lost_results),
            (ended, ended),
            "{summary}"
        );
    }
    assert!(
        sum(6, 12)
            .to_string()
            .contains("1 executed, 0 from records, 1 lost and made anew")
    );
    let summary = sum(12, 12);
    assert_eq!(
        (summary.jobs, summary.vertices, summary.calls.len()),
        (0, 0, 0),
        "{summary}"
    );
}

/// The page in a real browser: it draws, and what it draws can be searched.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_in_a_browser() {
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let Some(browser) = browsers
        .iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        eprintln!("skipped: none of {browsers:?} is installed");
        return;
    };
    let file = recorded().await;
    let page = weld_trace::html(&Trace::read(&file).unwrap(), &Filter::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.html");
    let show = |page: &str| {
        std::fs::write(&path, page).unwrap();
        let output = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            .arg(format!(
                "--user-data-dir={}",
                directory.path().join("profile").display()
            ))
            .arg(format!("file://{}", path.display()))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = show(&page);
    assert!(shown.contains("data-ready=\"yes\""), "{shown}");
    assert_eq!(
        shown.matches("<g transform").count(),
        16,
        "a box for each vertex"
    );
    assert!(
        shown.contains("slow-key") || shown.contains("fast-key"),
        "the merges"
    );
    // What a person would type.
    let search = page.replace(
        "document.body.dataset.ready = \"yes\";",
        "byId(\"search\").value = \"LINK\"; draw(); document.body.dataset.ready = \"yes\";",
    );
    assert_ne!(search, page);
    assert_eq!(show(&search).matches("<g transform").count(), 3);
}
