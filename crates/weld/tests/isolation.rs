//! Clients with certificates of their own, which a daemon keeps apart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use support::Bed;

/// An authority with the certificates that it gave out, in the bed.
struct Authority<'b>(&'b Bed);

impl<'b> Authority<'b> {
    fn new(bed: &'b Bed) -> Self {
        let authority = Self(bed);
        authority.openssl(&format!(
            "req -x509 -subj /CN=authority -keyout {} -out {}",
            authority.path("ca.key"),
            authority.path("ca.pem")
        ));
        authority
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().unwrap().to_owned()
    }

    /// Gives a certificate to a name.
    fn certify(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -subj /CN={name} -CA {} -CAkey {} -addext subjectAltName=IP:127.0.0.1 \
             -addext basicConstraints=critical,CA:FALSE -keyout {} -out {}",
            self.path("ca.pem"),
            self.path("ca.key"),
            self.path(&format!("{name}.key")),
            self.path(&format!("{name}.pem"))
        ));
    }

    fn openssl(&self, arguments: &str) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        let done = Command::new("openssl")
            .args(arguments.split_whitespace())
            .args(key.split(' '))
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// The options with which a command uses a name's certificate.
    fn options(&self, name: &str) -> [String; 6] {
        [
            "--tlscacert".to_owned(),
            self.path("ca.pem"),
            "--tlscert".to_owned(),
            self.path(&format!("{name}.pem")),
            "--tlskey".to_owned(),
            self.path(&format!("{name}.key")),
        ]
    }
}

/// A daemon, ended when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(bed: &Bed, authority: &Authority<'_>, address: &str) -> Daemon {
    let mut child = bed
        .command()
        .args(["daemon", "--addr", address, "--isolate-clients"])
        .args(authority.options("server"))
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
    let authority = Authority::new(&bed);
    for name in ["server", "one", "other"] {
        authority.certify(name);
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
        let options = authority.options(name);
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
