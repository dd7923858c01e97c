//! A place to run steps in: a busybox image and a runtime, in a temporary directory.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use weld_runtime::{
    CancellationToken, Chunk, ExitStatus, MountPlan, Overlay, Runtime, RuntimeConfig, RuntimeError,
    Source, Stdio, StepSpec, Stream, UpperDirs,
};

/// An image, a place for changes and a runtime.
pub(crate) struct Bed {
    dir: PathBuf,
    _kept: Option<TempDir>,
    pub(crate) runtime: Runtime,
}

/// How a step ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The standard output of a step that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bed = Self::make(dir.path(), change);
        Self {
            _kept: Some(dir),
            ..bed
        }
    }

    /// One that stays when it is dropped.
    pub(crate) fn in_directory(dir: &Path, change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        Self::make(dir, change)
    }

    fn make(dir: &Path, change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        make_image(&dir.join("image"));
        let mut config = RuntimeConfig::embedded(dir.join("state"));
        change(&mut config);
        Self {
            dir: dir.to_owned(),
            _kept: None,
            runtime: Runtime::new(config).unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An overlay of the image with the changes in `upper`.
    pub(crate) fn root(&self) -> Source {
        self.root_in("")
    }

    /// The same with changes elsewhere, for several steps at once.
    pub(crate) fn root_in(&self, suffix: &str) -> Source {
        let upper = self.path(&format!("upper{suffix}"));
        let work = self.path(&format!("work{suffix}"));
        std::fs::create_dir_all(&upper).unwrap();
        // What a volatile mount leaves would forbid the next one.
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir_all(&work).unwrap();
        Source::Plan(MountPlan::Overlay(Overlay {
            lowers: vec![self.path("image")],
            upper: Some(UpperDirs { upper, work }),
            options: vec![("volatile".to_owned(), None)],
        }))
    }

    /// A step that runs a shell script.
    pub(crate) fn script(&self, script: &str) -> StepSpec {
        self.step(&["sh", "-c", script])
    }

    pub(crate) fn step(&self, args: &[&str]) -> StepSpec {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut step = StepSpec::new("step", self.root(), args);
        step.env = vec!["PATH=/usr/bin:/bin".to_owned()];
        step
    }

    /// Puts a static C program into the image.
    pub(crate) fn compile(&self, name: &str, source: &str) {
        let file = self.path("program.c");
        std::fs::write(&file, source).unwrap();
        let mut gcc = std::process::Command::new("gcc");
        gcc.arg("-static").arg("-o");
        gcc.arg(self.path("image").join(name)).arg(&file);
        assert!(gcc.status().unwrap().success());
    }

    pub(crate) async fn run(&self, step: StepSpec) -> Result<Ran, RuntimeError> {
        run(&self.runtime, step, CancellationToken::new()).await
    }

    pub(crate) async fn sh(&self, script: &str) -> Ran {
        self.run(self.script(script)).await.unwrap()
    }
}

/// Runs a step and collects its output.
pub(crate) async fn run(
    runtime: &Runtime,
    step: StepSpec,
    cancel: CancellationToken,
) -> Result<Ran, RuntimeError> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Chunk>(4);
    let collect = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(chunk) = receiver.recv().await {
            match chunk.stream {
                Stream::Stdout => stdout.extend_from_slice(&chunk.bytes),
                Stream::Stderr => stderr.extend_from_slice(&chunk.bytes),
            }
        }
        (stdout, stderr)
    };
    let run = runtime.run(step, Stdio::stream(sender), cancel);
    let (status, (stdout, stderr)) = tokio::join!(run, collect);
    Ok(Ran {
        status: status?,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// A root file system with busybox under all its names.
pub(crate) fn make_image(image: &Path) {
    for name in ["bin", "etc", "tmp", "root", "usr/bin", "var/lib"] {
        std::fs::create_dir_all(image.join(name)).unwrap();
    }
    let busybox = image.join("bin/busybox");
    std::fs::copy("/bin/busybox", &busybox).expect("busybox-static is installed");
    let list = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines() {
        let link = image.join("bin").join(name);
        if name != "busybox" && link.symlink_metadata().is_err() {
            symlink("busybox", link).unwrap();
        }
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n";
    std::fs::write(image.join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:root\nwheel:x:10:root,app\napp:x:1001:\ndocker:x:999:app\n";
    std::fs::write(image.join("etc/group"), group).unwrap();
}
