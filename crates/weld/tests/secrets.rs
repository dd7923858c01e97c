//! Secrets reach the step that mounts them, and nothing else: their values are looked for in everything that a daemon writes,
//! tells and keeps.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use support::{Bed, ended};

/// The values: nothing else has them.
const OF_FILE: &str = "zq7-file-secret-4f1c9b";
const OF_VARIABLE: &str = "zq7-variable-secret-81d2aa";
const VALUES: [&str; 2] = [OF_FILE, OF_VARIABLE];

#[track_caller]
fn has_none(what: &str, bytes: &[u8]) {
    for value in VALUES {
        let mut windows = bytes.windows(value.len());
        assert!(
            !windows.any(|window| window == value.as_bytes()),
            "{value} is in {what}"
        );
    }
}

/// Looks into every file, and into what is compressed; returns how many there were.
fn search(directory: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let path = entry.path();
        has_none("a name", path.as_os_str().as_encoded_bytes());
        if kind.is_dir() {
            count += search(&path);
        } else if kind.is_file() {
            let content = std::fs::read(&path).unwrap();
            has_none(&path.display().to_string(), &content);
            let mut unpacked = Vec::new();
            if content.starts_with(&[0x1f, 0x8b]) {
                let _ = flate2::read::MultiGzDecoder::new(&content[..]).read_to_end(&mut unpacked);
            } else if content.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                unpacked = zstd::decode_all(&content[..]).unwrap_or_default();
            }
            has_none(&path.display().to_string(), &unpacked);
            count += 1;
        }
    }
    count
}

fn ask(socket: &Path, request: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn the_values_of_secrets_are_nowhere() {
    let bed = Bed::new();
    let address = format!("unix://{}", bed.path("daemon.sock").display());
    let debug = bed.path("debug.sock");
    let log = bed.path("daemon.log");
    let mut daemon = bed
        .command()
        .args([
            "daemon",
            "--addr",
            &address,
            "--log-level",
            "trace",
            "--debugaddr",
        ])
        .arg(format!("unix://{}", debug.display()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stderr.take().unwrap());
    let mut file = std::fs::File::create(&log).unwrap();
    let mut line = String::new();
    while !line.contains("running server") {
        line.clear();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the daemon did not start"
        );
        file.write_all(line.as_bytes()).unwrap();
    }
    let logging = std::thread::spawn(move || std::io::copy(&mut lines, &mut file));
    ask(&debug, "POST /debug/trace/on");

    std::fs::write(bed.path("token"), OF_FILE).unwrap();
    let secret = format!("id=file,src={}", bed.path("token").display());
    let result = format!(
        "type=oci,compression=uncompressed,dest={}",
        bed.path("image.tar").display()
    );
    let build = |dockerfile: &str| {
        bed.dockerfile(dockerfile);
        let base = format!(
            "base=oci-layout://{}:latest",
            support::base_layout().display()
        );
        let output = bed
            .command()
            .env("TOKEN", OF_VARIABLE)
            .args([
                "build",
                "--progress",
                "rawjson",
                "--addr",
                &address,
                "--build-context",
                &base,
            ])
            .args([
                "--secret",
                &secret,
                "--secret",
                "id=variable,env=TOKEN",
                "--output",
                &result,
            ])
            .arg(bed.context())
            .output()
            .unwrap();
        has_none("what the client tells", &output.stdout);
        has_none("what the client tells", &output.stderr);
        ended(output)
    };
    let mounts = "--mount=type=secret,id=file --mount=type=secret,id=variable,env=VALUE";
    // The steps see them: they fail if they do not.
    let seen = format!(
        "FROM base\nRUN {mounts} test \"$(wc -c < /run/secrets/file)\" = {} && test ${{#VALUE}} = {}\n",
        OF_FILE.len(),
        OF_VARIABLE.len()
    );
    build(&seen).ok();
    has_none("the image", &std::fs::read(bed.path("image.tar")).unwrap());
    build(&format!("FROM base\nRUN {mounts} exit 3\n")).fails(&["exit code: 3"]);
    for path in [
        "/metrics",
        "/debug/builds",
        "/debug/graph?format=html",
        "/debug/graph",
    ] {
        has_none(path, &ask(&debug, &format!("GET {path}")));
    }
    let used = bed.run(&["du", "--verbose", "--addr", &address]).ok();
    has_none("the usage", used.stdout.as_bytes());
    ask(&debug, "POST /debug/trace/off");

    let mut end = std::process::Command::new("kill");
    end.args(["-TERM", &daemon.id().to_string()])
        .status()
        .unwrap();
    assert!(daemon.wait().unwrap().success());
    logging.join().unwrap().unwrap();
    let log = std::fs::read(&log).unwrap();
    assert!(log.len() > 1000, "the log tells of the builds");
    has_none("the log", &log);
    assert!(search(&bed.path("state")) > 10);
    assert!(bed.path("state/traces").read_dir().unwrap().count() == 1);
}
