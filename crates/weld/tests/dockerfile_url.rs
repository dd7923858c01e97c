//! `--file URL`: a Dockerfile from elsewhere, for a context that is here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::kept::Daemon;
use support::{Bed, base_layout, ended, served::serve};

#[test]
fn it_is_fetched_for_a_context_that_is_here() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    std::fs::create_dir(bed.path("www")).unwrap();
    let other = bed.path("www/other");
    std::fs::write(&other, "FROM base\nCOPY file /file\nRUN cat /file > /ran\n").unwrap();
    let url = format!("http://{}/other?token=1", serve(bed.path("www")));
    bed.dockerfile("FROM nothing\n").file("file", "content");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let out = bed.path("out");
        let options = ["--file", &url, "--output", out.to_str().unwrap()];
        let built = bed.build(&[&to[..], &options].concat()).ok();
        assert!(
            built.stderr.contains("[internal] load http://"),
            "{}",
            built.stderr
        );
        let ran = std::fs::read_to_string(out.join("ran")).unwrap();
        assert_eq!(ran, "content", "{to:?}");
        std::fs::remove_dir_all(&out).unwrap();

        // An ignore file is the context's.
        bed.file(".dockerignore", "file\n");
        bed.build(&[&to[..], &options].concat())
            .fails(&["/file", "not found"]);
        std::fs::remove_file(bed.path("context/.dockerignore")).unwrap();
    }
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let of = ["--root", "own", "--build-context", &base, "--file", &url];
    let definition = bed
        .run(&[&["debug", "emit-llb"][..], &of, &["context"]].concat())
        .ok();
    assert!(definition.stdout.contains("cat /file"), "{definition:?}");
}

#[test]
fn it_is_fetched_for_an_archive_on_standard_input() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    std::fs::create_dir(bed.path("www")).unwrap();
    std::fs::write(bed.path("www/other"), "FROM base\nCOPY file /file\n").unwrap();
    let url = format!("http://{}/other", serve(bed.path("www")));
    bed.file("file", "content");
    bed.tool("tar", &["-C", "context", "-cf", "context.tar", "."]);
    let archive = std::fs::read(bed.path("context.tar")).unwrap();
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let build = |to: &[&str], input: &[u8]| {
        let mut command = bed.command();
        command
            .args(["build", "--progress", "plain", "--build-context", &base])
            .args(to)
            .args(["--file", &url, "--output", "out", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may have enough of it before the end.
        drop(child.stdin.take().unwrap().write_all(input));
        ended(child.wait_with_output().unwrap())
    };
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        build(&to, &archive).ok();
        let file = std::fs::read_to_string(bed.path("out/file")).unwrap();
        assert_eq!(file, "content", "{to:?}");
        std::fs::remove_dir_all(bed.path("out")).unwrap();
        build(&to, b"FROM base\n").fails(&["there is a Dockerfile on standard input, too"]);
    }
}

#[test]
fn what_is_no_dockerfile_is_told_apart() {
    let bed = Bed::new();
    let www = bed.path("www");
    std::fs::create_dir(&www).unwrap();
    std::fs::write(www.join("long"), vec![b'#'; (16 << 20) + 1]).unwrap();
    std::fs::write(
        www.join("page"),
        "\n<!DOCTYPE html>\n<html>sign in</html>\n",
    )
    .unwrap();
    std::fs::write(www.join("empty"), "").unwrap();
    std::fs::write(www.join("blank"), " \n\n").unwrap();
    let host = serve(www);
    for (name, parts) in [
        (
            "missing",
            &[
                "ERROR: --file: cannot fetch http://",
                "/missing",
                "404 Not Found",
            ][..],
        ),
        ("empty", &["--file http://", "/empty: it is empty"]),
        ("blank", &["--file http://", "/blank: it is empty"]),
        (
            "long",
            &["--file http://", "/long: it is longer than 16777216 bytes"],
        ),
        ("page", &["--file http://", "/page: that is a web page"]),
    ] {
        bed.build(&["--file", &format!("http://{host}/{name}")])
            .fails(parts);
    }
    bed.build(&["--file", "http://"]).fails(&["http://"]);
}

#[test]
fn a_host_that_nobody_knows_is_told_with_the_address() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    let url = "http://no-host.invalid/Dockerfile";
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let failed = bed.build(&[&to[..], &["--file", url]].concat());
        let failed = failed.fails(&[&format!("ERROR: --file: cannot fetch {url}: ")]);
        let error = failed
            .stderr
            .lines()
            .find(|line| line.starts_with("ERROR:"));
        let error = error.unwrap();
        assert_eq!(error.matches(url).count(), 1, "{error}");
        assert!(!error.contains("dns error"), "{error}");
    }
}

#[test]
fn other_mistakes_are_told_before_it_is_fetched() {
    let bed = Bed::new();
    let url = format!("http://{}/missing", serve(bed.path("www")));
    for (options, part) in [
        (&["--output", "type=nothing"][..], "nothing"),
        (&["--secret", "id=a,src=/nowhere"], "/nowhere"),
        (&["--build-context", "a"], "--build-context"),
        (&["--memory", "1"], "--memory"),
        (
            &["--iidfile", "id", "--output", "type=tar,dest=id"],
            "--iidfile",
        ),
    ] {
        let failed = bed.build(&[&["--file", &url], options].concat());
        let failed = failed.fails(&[part]);
        assert!(!failed.stderr.contains("#1 "), "{}", failed.stderr);
    }
    let missing = bed.path("context");
    std::fs::remove_dir_all(&missing).unwrap();
    let failed = bed.build(&["--file", &url]).fails(&["/context"]);
    assert!(!failed.stderr.contains("#1 "), "{}", failed.stderr);
}
