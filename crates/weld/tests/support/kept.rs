//! What a daemon logs, and what is kept on disk: where no secret may be.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use super::Bed;

/// What a daemon's log says until it ends.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: String,
    log: Option<JoinHandle<String>>,
}

impl Daemon {
    /// One that logs all that it can.
    pub(crate) fn start(bed: &Bed) -> Self {
        Self::start_with(bed, &["--debug"])
    }

    /// With these options.
    pub(crate) fn start_with(bed: &Bed, options: &[&str]) -> Self {
        let address = format!("unix://{}", bed.path("daemon.sock").display());
        let mut child = bed
            .command()
            .args(["daemon", "--addr", &address])
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        while !log.contains("running server") {
            log.push_str(&lines.next().expect("the daemon ended").unwrap());
        }
        let log = std::thread::spawn(move || {
            log.extend(lines.map_while(Result::ok));
            log
        });
        Self {
            child,
            address,
            log: Some(log),
        }
    }

    pub(crate) fn stop(mut self) -> String {
        self.kill();
        self.log.take().unwrap().join().unwrap()
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a file below a directory has these bytes in it.
pub(crate) fn holds(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .any(|entry| {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                return holds(&entry.path(), bytes);
            }
            kind.is_file()
                && std::fs::read(entry.path())
                    .unwrap()
                    .windows(bytes.len())
                    .any(|window| window == bytes)
        })
}
