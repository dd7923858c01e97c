//! Clients with certificates of their own, which a daemon keeps apart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use support::Bed;
use weld_testbed::Authority;

/// The options with which a command uses a name's certificate.
fn options(authority: &Authority, name: &str) -> Vec<String> {
    [
        ("--tlscacert", authority.certificate("authority")),
        ("--tlscert", authority.certificate(name)),
        ("--tlskey", authority.key(name)),
    ]
    .into_iter()
    .flat_map(|(option, path)| [option.to_owned(), path.to_str().unwrap().to_owned()])
    .collect()
}

/// A daemon, ended when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(bed: &Bed, authority: &Authority, address: &str) -> Daemon {
    let mut child = bed
        .command()
        .args(["daemon", "--addr", address, "--isolate-clients"])
        .args(options(authority, "server"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line.contains("running server")));
    assert!(ready, "the daemon did not start");
    std::thread::spawn(move || lines.for_each(drop));
    Daemon(child)
}

#[test]
fn clients_with_different_certificates_share_no_results() {
    let bed = Bed::new();
    let authority = Authority::new(&bed.path("")).unwrap();
    for name in ["server", "one", "other"] {
        authority.certify(name).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let address = format!("tcp://127.0.0.1:{port}");
    let _daemon = start(&bed, &authority, &address);
    bed.dockerfile(
        "FROM base\n\
         RUN --mount=type=cache,target=/kept cat /kept/* 2>/dev/null; head -c 16 /dev/urandom > /id; printf %s%s mi ne > /kept/it\n",
    );
    let build = |name: &str| {
        let out = bed.path("out");
        let output = format!("type=local,dest={}", out.display());
        let options = options(&authority, name);
        let mut arguments = vec!["--addr", &address, "--output", &output];
        arguments.extend(options.iter().map(String::as_str));
        let ended = bed.build(&arguments).ok();
        (std::fs::read(out.join("id")).unwrap(), ended.stderr)
    };
    let (one, _) = build("one");
    let (other, told) = build("other");
    assert_ne!(one, other, "a result went from one client to another");
    assert!(!told.contains("mine"), "a cache mount was shared: {told}");
    assert_eq!(build("one").0, one, "a client's own results are kept");
    assert_eq!(build("other").0, other);
}

#[test]
fn isolation_needs_certificates() {
    let bed = Bed::new();
    bed.run(&["daemon", "--isolate-clients"])
        .fails(&["--isolate-clients", "--tlscacert"]);
}

#[test]
fn a_daemon_runs_steps_as_the_command_line_says() {
    let bed = Bed::new();
    let address = format!("unix://{}", bed.path("sock").display());
    let arguments = [
        "--oci-runtime",
        "no-such-runtime",
        "daemon",
        "--addr",
        &address,
    ];
    bed.run(&arguments).fails(&["no-such-runtime"]);
}
