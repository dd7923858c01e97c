//! Builds by a normal user, who has no ids but their own.

#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use support::{Bed, Ended, base_layout, ended};

/// An id that no system gives to anybody.
const USER: &str = "61234";

/// Runs `weld` as a normal user on a state directory of theirs.
fn run(bed: &Bed, arguments: &[&str]) -> Ended {
    let home = bed.path("");
    let chown = Command::new("chown").args(["-R", USER]).arg(&home).status();
    assert!(chown.unwrap().success());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_weld"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &home)
        .current_dir(&home);
    ended(command.output().unwrap())
}

#[test]
fn a_normal_user_builds_in_a_user_namespace() {
    let bed = Bed::new();
    bed.file("file", "copied\n").dockerfile(
        "FROM base AS first\n\
         RUN id -u > /uid && mkdir /dir && touch /dir/old\n\
         RUN --mount=type=cache,target=/cache rm -r /dir && mkdir /dir && echo new > /dir/new\n\
         FROM base\n\
         COPY file /file\n\
         COPY --from=first /uid /dir /first/\n",
    );
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let context = bed.context();
    let build = [
        "build",
        "--progress",
        "plain",
        "--build-context",
        &base,
        "--output",
        "out",
        context.to_str().unwrap(),
    ];
    run(&bed, &build).ok();
    let read = |name: &str| std::fs::read_to_string(bed.path("out").join(name)).unwrap();
    assert_eq!(read("file"), "copied\n");
    assert_eq!(read("first/uid"), "0\n");
    assert_eq!(read("first/new"), "new\n");
    assert!(!bed.path("out/first/old").exists());
    let owner = std::fs::metadata(bed.path("out/file")).unwrap().uid();
    assert_eq!(owner.to_string(), USER);
    assert!(bed.path(".local/share/weld").is_dir());
    let again = run(&bed, &build).ok();
    assert!(again.cached_steps() > 0, "{}", again.stderr);
    let usage = run(&bed, &["du", "--filter", "type==exec.cachemount"]).ok();
    assert!(usage.stdout.contains("/cache"), "{}", usage.stdout);
    // Owners and removed files are kept another way there.
    let state = bed.path(".local/share/weld");
    let root = Command::new(env!("CARGO_BIN_EXE_weld"))
        .args(["--root", state.to_str().unwrap()])
        .args(build)
        .current_dir(bed.path(""))
        .output();
    ended(root.unwrap()).fails(&["snapshots in", "61234"]);
}
