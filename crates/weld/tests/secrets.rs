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
use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::kept::{Daemon, holds};
use support::{Bed, Ended, ended, served::serve};

/// The values: nothing else has them.
const OF_FILE: &str = "zq7-file-secret-4f1c9b";
const OF_VARIABLE: &str = "zq7-variable-secret-81d2aa";
const OF_URL: &str = "zq7-url-token-5b07e3";
const VALUES: [&str; 3] = [OF_FILE, OF_VARIABLE, OF_URL];

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

/// A daemon that tells and keeps all that it can.
struct Watched<'a> {
    bed: &'a Bed,
    daemon: std::process::Child,
    address: String,
    debug: PathBuf,
    log: PathBuf,
    logging: std::thread::JoinHandle<std::io::Result<u64>>,
}

impl<'a> Watched<'a> {
    fn start(bed: &'a Bed) -> Self {
        let address = format!("unix://{}", bed.path("daemon.sock").display());
        let debug = bed.path("debug.sock");
        let log = bed.path("daemon.log");
        let mut daemon = bed
            .command()
            .args(["daemon", "--addr", &address])
            .args(["--log-level", "trace", "--debugaddr"])
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
        Self {
            bed,
            daemon,
            address,
            debug,
            log,
            logging,
        }
    }

    /// A build of a context with an image as its result; what the client tells is looked into.
    fn build(&self, context: &str, arguments: &[&str]) -> Ended {
        let base = format!(
            "base=oci-layout://{}:latest",
            support::base_layout().display()
        );
        let result = format!(
            "type=oci,compression=uncompressed,dest={}",
            self.bed.path("image.tar").display()
        );
        let output = self
            .bed
            .command()
            .env("TOKEN", OF_VARIABLE)
            .args(["build", "--progress", "rawjson", "--addr", &self.address])
            .args(["--build-context", &base, "--output", &result])
            .args(arguments)
            .arg(context)
            .output()
            .unwrap();
        has_none("what the client tells", &output.stdout);
        has_none("what the client tells", &output.stderr);
        ended(output)
    }

    /// Looks into the result of the last build.
    fn search_image(&self) {
        let image = std::fs::read(self.bed.path("image.tar")).unwrap();
        has_none("the image", &image);
    }

    /// Looks into all that it tells, ends it, and looks into all that it keeps.
    fn end(mut self) {
        for path in [
            "/metrics",
            "/debug/builds",
            "/debug/graph?format=html",
            "/debug/graph",
        ] {
            has_none(path, &ask(&self.debug, &format!("GET {path}")));
        }
        let usage = ["du", "--verbose", "--addr", &self.address];
        has_none("the usage", self.bed.run(&usage).ok().stdout.as_bytes());
        ask(&self.debug, "POST /debug/trace/off");
        let mut end = std::process::Command::new("kill");
        end.args(["-TERM", &self.daemon.id().to_string()])
            .status()
            .unwrap();
        assert!(self.daemon.wait().unwrap().success());
        self.logging.join().unwrap().unwrap();
        let log = std::fs::read(&self.log).unwrap();
        assert!(log.len() > 1000, "the log tells of the builds");
        has_none("the log", &log);
        assert!(search(&self.bed.path("state")) > 10);
        let traces = self.bed.path("state/traces").read_dir().unwrap();
        assert_eq!(traces.count(), 1);
    }
}

#[test]
fn the_values_of_secrets_are_nowhere() {
    let bed = Bed::new();
    let daemon = Watched::start(&bed);
    std::fs::write(bed.path("token"), OF_FILE).unwrap();
    let secret = format!("id=file,src={}", bed.path("token").display());
    let context = bed.context().display().to_string();
    let build = |dockerfile: &str| {
        bed.dockerfile(dockerfile);
        let secrets = ["--secret", &secret, "--secret", "id=variable,env=TOKEN"];
        daemon.build(&context, &secrets)
    };
    let mounts = "--mount=type=secret,id=file --mount=type=secret,id=variable,env=VALUE";
    // The steps see them: they fail if they do not.
    let seen = format!(
        "FROM base\nRUN {mounts} test \"$(wc -c < /run/secrets/file)\" = {} && test ${{#VALUE}} = {}\n",
        OF_FILE.len(),
        OF_VARIABLE.len()
    );
    build(&seen).ok();
    daemon.search_image();
    build(&format!("FROM base\nRUN {mounts} exit 3\n")).fails(&["exit code: 3"]);
    daemon.end();
}

#[test]
fn credentials_in_urls_are_nowhere() {
    let bed = Bed::new();
    let served = bed.path("served");
    std::fs::create_dir(&served).unwrap();
    std::fs::write(served.join("file"), "served").unwrap();
    std::fs::write(bed.context().join("Dockerfile"), "FROM base\nCOPY file /\n").unwrap();
    bed.file("file", "of a repository");
    for command in [
        "git init -q context && git -C context add . && git -C context -c user.name=a -c user.email=a@b commit -q -m m",
        "git clone -q --bare context served/repo.git && git -C served/repo.git update-server-info",
    ] {
        bed.tool("sh", &["-c", command]);
    }
    let host = serve(served);
    let daemon = Watched::start(&bed);
    let url = format!("http://someone:{OF_URL}@{host}");
    let of_token = format!("http://{OF_URL}@{host}");
    let repository = format!("{url}/repo.git");
    let context = bed.context().display().to_string();
    let argument = format!("URL={url}");
    let build = |dockerfile: &str, arguments: &[&str]| {
        bed.dockerfile(dockerfile);
        let attested = [
            "--attest",
            "type=provenance,mode=max",
            "--build-arg",
            &argument,
        ];
        let ended = daemon.build(&context, &[&attested, arguments].concat());
        has_none("what is told", ended.stderr.as_bytes());
        ended
    };
    let added =
        "FROM base\nARG URL\nADD ${URL}/file /file\nADD ${URL}/repo.git /repo\nRUN test -s /file\n";
    build(added, &[]).ok();
    daemon.search_image();
    let other = format!("URL={of_token}");
    build(added, &["--build-arg", &other, "--no-cache"]).ok();
    daemon.search_image();
    let absent = "FROM base\nARG URL\nADD ${URL}/absent /file\n";
    build(absent, &[]).fails(&["absent"]);
    let named = format!("source={repository}");
    let copied = "FROM base\nCOPY --from=source file /file\n";
    build(copied, &["--build-context", &named]).ok();
    daemon.search_image();
    let whole = daemon.build(&repository, &["--attest", "type=provenance,mode=max"]);
    whole.ok();
    daemon.search_image();
    let failed = daemon.build(&repository, &["--file", "absent"]);
    failed.fails(&["absent", "no such file", "http://xxxxx:xxxxx@"]);
    let failed = daemon.build(&format!("{repository}#nowhere"), &[]);
    failed.fails(&["nowhere"]);
    daemon.end();
}

#[test]
fn what_a_warning_shows_of_a_dockerfile_has_no_credentials() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    // Of the casing it is warned.
    bed.dockerfile("FROM base as x\n# http://user:LINTSECRET77@127.0.0.1/f\nRUN true\n");
    let built = bed.build(&["--addr", &daemon.address]).ok();
    assert!(built.stderr.contains("FromAsCasing"), "{}", built.stderr);
    daemon.stop();
    assert!(!holds(&bed.path("state/content"), b"LINTSECRET77"));
}
