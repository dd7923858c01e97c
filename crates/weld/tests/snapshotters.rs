//! State directories whose snapshots were made in another way than this process would make them.

#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::Bed;

const REMOVES: &str = "FROM base\n\
     RUN mkdir /d && echo a > /d/key && echo b > /d/kept\n\
     RUN rm /d/key && echo c > /d/new\n";

fn listed(bed: &Bed) -> Vec<String> {
    let entries = std::fs::read_dir(bed.path("out/d")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn overlays_are_not_read_as_copies() {
    let bed = Bed::new();
    bed.dockerfile(REMOVES);
    bed.build(&["--output", "out"]).ok();
    assert_eq!(listed(&bed), ["kept", "new"]);
    bed.build(&["--snapshotter", "copy", "--output", "other"])
        .fails(&["with overlay mounts", "as copies", "choose another one"]);
    assert!(!bed.path("other").exists());
    assert_eq!(bed.build(&["--output", "out"]).ok().cached_steps(), 3);
}

#[test]
fn copies_stay_copies() {
    let bed = Bed::new();
    bed.dockerfile(REMOVES);
    bed.build(&["--snapshotter", "copy"]).ok();
    bed.build(&["--snapshotter", "overlay"])
        .fails(&["as copies", "with overlay mounts"]);
    // Without being told, a build goes on with what is there.
    bed.dockerfile(&format!("{REMOVES}RUN echo d > /d/last\n"));
    bed.build(&["--output", "out"]).ok();
    assert_eq!(listed(&bed), ["kept", "last", "new"]);
}

#[test]
fn an_empty_state_directory_takes_another_kind() {
    let bed = Bed::new();
    bed.dockerfile(REMOVES);
    bed.build(&["--snapshotter", "copy"]).ok();
    bed.run(&["prune", "--all"]).ok();
    bed.build(&["--snapshotter", "overlay", "--output", "out"])
        .ok();
    assert_eq!(listed(&bed), ["kept", "new"]);
}
