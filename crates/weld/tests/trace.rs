//! Traces of real builds, and what `weld trace` tells of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use serde_json::Value;
use support::Bed;

const DOCKERFILE: &str = "\
FROM base AS one
RUN echo one > /one
FROM base AS two
COPY hello.txt /two
RUN cat /two > /three
FROM base
COPY --from=one /one /
COPY --from=two /three /
";

fn bed() -> Bed {
    let bed = Bed::new();
    bed.dockerfile(DOCKERFILE).file("hello.txt", "hello");
    bed
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_build_is_traced_and_every_report_tells_of_it() {
    let bed = bed();
    bed.build(&["--trace", "a.jsonl"]).ok();
    let text = std::fs::read_to_string(bed.path("a.jsonl")).unwrap();
    for line in text.lines() {
        let line = json(line);
        assert!(line["event"].is_string() && line["time"].is_u64(), "{line}");
    }
    assert!(!text.contains("\"event\":\"unknown\""));
    let check = bed.run(&["trace", "check", "a.jsonl"]).ok();
    assert!(
        check.stdout.contains("no rule is broken"),
        "{}",
        check.stdout
    );
    assert!(!check.stdout.contains("not everything"), "{}", check.stdout);

    let run = |arguments: &[&str]| {
        let all = [&["trace"], arguments, &["a.jsonl"]].concat();
        bed.run(&all).ok().stdout
    };
    let summary = json(&run(&["summary", "--format", "json"]));
    assert_eq!(summary["jobs"], 1);
    assert_eq!(summary["ended"], true);
    assert!(summary["executed"].as_u64().unwrap() >= 6, "{summary}");
    assert_eq!(summary["cached"], 0);
    assert_eq!(summary["live_vertices"], 0);
    assert!(run(&["summary"]).contains("results"));
    let narrow = json(&run(&["summary", "--format", "json", "--name", "echo one"]));
    assert_eq!(narrow["executed"], 1, "{narrow}");

    let jobs = json(&run(&["jobs", "--format", "json"]));
    let job = jobs["jobs"][0]["job"].as_str().unwrap();
    assert_eq!(jobs["jobs"][0]["failed"], 0);
    assert!(run(&["jobs", "--job", job]).contains("request: built"));

    let timeline = json(&run(&[
        "timeline", "--format", "json", "--name", "echo one",
    ]));
    let vertex = &timeline["vertices"][0];
    assert_eq!(vertex["outcome"], "ran");
    let digest = vertex["vertex"].as_str().unwrap();
    let told = run(&["vertex", &digest[..20]]);
    assert!(
        told.contains("RUN echo one") && told.contains("exec for"),
        "{told}"
    );
    assert!(run(&["why", digest]).contains("not cached: "));
    let path = run(&["critical-path"]);
    assert!(path.contains("COPY --from=two /three /"), "{path}");
    let dot = run(&["graph"]);
    assert!(dot.starts_with("digraph") && dot.contains("->"), "{dot}");
    assert!(run(&["merges"]).contains("no merges"));
    let page = run(&["html"]);
    assert!(page.contains("RUN echo one") && page.starts_with("<!doctype html>"));
    assert!(
        !page.contains("src=") && !page.contains("href="),
        "it needs nothing else"
    );

    bed.run(&["trace", "timeline", "--since", "0.06", "a.jsonl"])
        .fails(&["--since", "with us, ms, s, m, h or d, such as 60ms"]);
    bed.run(&["trace", "vertex", "ffff0000ffff", "a.jsonl"])
        .fails(&["no vertex in the trace has a digest"]);
    bed.run(&["trace", "jobs", "--job", "nobody", "a.jsonl"])
        .fails(&["no job in the trace is called \"nobody\""]);
    bed.run(&["trace", "summary", "context/hello.txt"])
        .fails(&["this is not a trace"]);
}

#[test]
fn the_trace_of_a_build_that_fails_has_the_end_of_what_ran_beside() {
    let bed = Bed::new();
    let mount = "--mount=type=cache,id=meet,target=/meet";
    bed.dockerfile(&format!(
        "FROM base AS slow\nRUN {mount} touch /meet/running && sleep 987\n\
         FROM base AS bad\nRUN {mount} until [ -e /meet/running ]; do sleep 0.01; done; exit 3\n\
         FROM scratch\nCOPY --from=slow / /\nCOPY --from=bad / /\n"
    ));
    bed.build(&["--trace", "a.jsonl"]).fails(&["exit code: 3"]);
    let check = bed.run(&["trace", "check", "a.jsonl"]).ok().stdout;
    assert!(!check.contains("not everything"), "{check}");
    let summary = bed.run(&["trace", "summary", "--format", "json", "a.jsonl"]);
    let summary = json(&summary.ok().stdout);
    assert_eq!(summary["live_vertices"], 0, "{summary}");
    assert_eq!(summary["calls"]["exec"]["unfinished"], 0, "{summary}");
    let sleeping = ["timeline", "--format", "json", "--name", "sleep 987"];
    let all = [&["trace"], &sleeping[..], &["a.jsonl"]].concat();
    let timeline = json(&bed.run(&all).ok().stdout);
    assert_eq!(timeline["vertices"][0]["outcome"], "cancelled");
    let path = bed.run(&["trace", "critical-path", "a.jsonl"]).ok().stdout;
    assert!(
        path.contains("failed") && path.contains("[bad 1/2]"),
        "{path}"
    );
    // A filter that means nothing to an answer is not taken.
    bed.run(&["trace", "check", "--job", "a", "a.jsonl"])
        .fails(&["--job"]);
}

#[test]
fn no_daemon_is_this_process_for_a_trace_too() {
    let bed = bed();
    bed.build(&["--addr", "none", "--trace", "a.jsonl"]).ok();
    bed.build(&["--addr", "unix:///nowhere", "--trace", "b.jsonl"])
        .fails(&["leave out --addr"]);
}

#[test]
fn a_compressed_trace_by_environment_reads_the_same() {
    let bed = bed();
    let base = format!(
        "base=oci-layout://{}:latest",
        support::base_layout().display()
    );
    let built = bed
        .command()
        .env("WELD_TRACE", "a.jsonl.zst")
        .args(["build", "--build-context", &base, "context"])
        .output()
        .unwrap();
    support::ended(built).ok();
    let bytes = std::fs::read(bed.path("a.jsonl.zst")).unwrap();
    assert_eq!(bytes[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    let check = bed.run(&["trace", "check", "a.jsonl.zst"]).ok();
    assert!(
        check.stdout.contains("no rule is broken"),
        "{}",
        check.stdout
    );
}

#[test]
fn a_second_build_is_seen_to_be_cached() {
    let bed = bed();
    bed.build(&[]).ok();
    bed.build(&["--trace", "b.jsonl"]).ok();
    let summary = bed.run(&["trace", "summary", "--format", "json", "b.jsonl"]);
    let summary = json(&summary.ok().stdout);
    assert!(summary["cached"].as_u64().unwrap() >= 1, "{summary}");
    assert!(
        bed.run(&["trace", "check", "b.jsonl"])
            .ok()
            .stdout
            .contains("no rule is broken")
    );
}

#[test]
fn a_build_that_fails_leaves_a_sound_trace() {
    let bed = bed();
    bed.dockerfile("FROM base\nRUN exit 3\n");
    bed.build(&["--trace", "c.jsonl"]).fails(&["exit code: 3"]);
    let jobs = bed.run(&["trace", "jobs", "c.jsonl"]).ok().stdout;
    assert!(jobs.contains("request: failed"), "{jobs}");
    assert!(
        bed.run(&["trace", "check", "c.jsonl"])
            .ok()
            .stdout
            .contains("no rule is broken")
    );
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error_at_once() {
    let bed = bed();
    bed.build(&["--trace", "no/such/place.jsonl"])
        .fails(&["cannot create the trace no/such/place.jsonl"]);
    bed.build(&["--trace", "-"])
        .fails(&["--trace -: a trace is written to a file"]);
    assert!(!bed.path("-").exists());
}
