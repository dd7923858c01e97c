//! A hermetic bed for the built binary: its own state, its own environment, a base image.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses a part of it, and all of it may fail its test"
)]

pub(crate) mod kept;
pub(crate) mod served;
pub(crate) mod steps;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A place to build in; removed when dropped.
pub(crate) struct Bed {
    directory: TempDir,
}

/// How a command ended, with what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts a failure that is told, and not by a panic.
    #[track_caller]
    pub(crate) fn fails(self, parts: &[&str]) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part:?} is not in:\n{}",
                self.stderr
            );
        }
        self
    }

    /// How many steps came from the cache.
    pub(crate) fn cached_steps(&self) -> usize {
        self.stderr
            .lines()
            .filter(|line| line.starts_with('#') && line.ends_with(" CACHED"))
            .count()
    }
}

/// The base image that all tests share, as an OCI layout.
pub(crate) fn base_layout() -> &'static Path {
    static LAYOUT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LAYOUT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let busybox = weld_testbed::static_busybox().expect("Debian's busybox-static");
        let path = directory.path().join("base");
        weld_testbed::write_base_image(&path, &busybox).unwrap();
        (directory, path)
    });
    path
}

impl Bed {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("context")).unwrap();
        Self { directory }
    }

    /// A path in the bed.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The build context.
    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes a file of the context.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.context().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Writes the context's Dockerfile.
    pub(crate) fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    /// The command, with nothing of the environment that could change what it does.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weld"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("WELD_ROOT", self.path("state"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command().args(arguments).output().unwrap())
    }

    /// `weld build` of the context with the base image, plain progress, and more arguments.
    pub(crate) fn build(&self, arguments: &[&str]) -> Ended {
        self.build_with(&[], arguments)
    }

    /// The same, with these variables in its environment.
    pub(crate) fn build_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
        let mut command = self.build_command(variables, arguments);
        ended(command.output().unwrap())
    }

    /// The command that does so.
    pub(crate) fn build_command(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
        let base = format!("base=oci-layout://{}:latest", base_layout().display());
        let context = self.context();
        let mut all = vec!["build", "--progress", "plain", "--build-context", &base];
        all.extend(arguments);
        let context = context.to_str().unwrap().to_owned();
        all.push(&context);
        let mut command = self.command();
        command.envs(variables.iter().copied()).args(&all);
        command
    }

    /// Builds into a directory and returns it.
    pub(crate) fn build_files(&self, arguments: &[&str]) -> PathBuf {
        let out = self.path("out");
        let output = format!("type=local,dest={}", out.display());
        let mut all = vec!["--output", &output];
        all.extend(arguments);
        self.build(&all).ok();
        out
    }

    /// Builds a Dockerfile into a directory and returns what one of its files holds.
    pub(crate) fn built(&self, dockerfile: &str, file: &str) -> String {
        self.dockerfile(dockerfile);
        // What an earlier build left there is not an answer.
        let _ = std::fs::remove_dir_all(self.path("out"));
        let out = self.build_files(&[]);
        std::fs::read_to_string(out.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Runs another program in the bed and returns its output.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let ended = ended(output).ok();
        ended.stdout
    }
}

/// The reason beside the step whose name has this in it.
pub(crate) fn reason(output: &str, step: &str) -> String {
    let number = output
        .lines()
        .find(|line| line.starts_with('#') && line.contains(step))
        .and_then(|line| line.split(' ').next())
        .unwrap_or_else(|| panic!("no step {step:?} in:\n{output}"));
    output
        .lines()
        .filter(|line| line.starts_with(&format!("{number} ")))
        .find_map(|line| Some(line.split_once("not cached: ")?.1.to_owned()))
        .unwrap_or_default()
}

pub(crate) fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
