//! Everything that a step started is gone when it has ended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weld_runtime::{CancellationToken, RuntimeError, RuntimeKind, Stdio};

use crate::bed::{Bed, run};

/// Processes of this test's steps that are alive, found by a word in their command line.
pub(crate) fn alive(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|cmdline| cmdline.contains(word))
        .collect()
}

/// Cgroups of steps on the state directory of `bed`.
pub(crate) fn cgroups(bed: &Bed) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for place in cgroup_places(&bed.path("state")) {
        for entry in std::fs::read_dir(place).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.display().to_string());
            }
        }
    }
    found
}

/// Where the cgroups of steps on a state directory are, as far as these places are there.
fn cgroup_places(state: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(state).unwrap();
    let tag = format!("weld/{:x}-{:x}.locked", meta.dev(), meta.ino());
    std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .chain(["/sys/fs/cgroup".into()])
        .map(|base| base.join(&tag))
        .filter(|place| place.is_dir())
        .collect()
}

/// Mounts of this process that have to do with `dir`.
pub(crate) fn mounts(dir: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_str().unwrap();
    let lines = mounts.lines().filter(|line| line.contains(dir));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn background_processes_die_with_the_step() {
    let bed = Bed::new();
    let ran = bed.sh("(setsid sh -c 'trap \"\" TERM HUP; sleep 47001; sleep 47001') & (sleep 47001 &) ; echo done").await;
    assert_eq!(ran.ok(), "done\n");
    assert_eq!(alive("47001"), Vec::<String>::new());
    assert_eq!(cgroups(&bed), BTreeSet::new());
}

#[tokio::test]
async fn a_state_directory_that_is_closed_has_no_cgroups() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let bed = Bed::in_directory(directory.path(), |_| {});
    bed.sh("true").await.ok();
    assert_ne!(cgroup_places(&state), [""; 0].map(PathBuf::from));
    drop(bed);
    assert_eq!(cgroup_places(&state), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn a_cancelled_step_is_killed() {
    let bed = Bed::new();
    let cancel = CancellationToken::new();
    let step = bed.script("trap '' TERM INT; sleep 47002 & echo started; sleep 47002; sleep 47002");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let running = bed.runtime.run(step, Stdio::stream(sender), cancel.clone());
    let cancelling = async {
        let chunk = receiver.recv().await.unwrap();
        assert_eq!(&chunk.bytes[..], b"started\n");
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(running, cancelling);
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert_eq!(alive("47002"), Vec::<String>::new());
    assert_eq!(cgroups(&bed), BTreeSet::new());
    // The changes so far are there and the root can be mounted again.
    bed.sh("true").await.ok();
}

#[tokio::test]
async fn a_step_cancelled_before_its_start_does_not_run() {
    let bed = Bed::new();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = run(&bed.runtime, bed.script("echo ran > /ran"), cancel).await;
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert_eq!(cgroups(&bed), BTreeSet::new());
}

#[tokio::test]
async fn a_dropped_step_is_killed() {
    let bed = Bed::new();
    let step = bed.script("echo started; sleep 47003; sleep 47003");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let runtime = bed.runtime.clone();
    let task = tokio::spawn(async move {
        runtime
            .run(step, Stdio::stream(sender), CancellationToken::new())
            .await
    });
    receiver.recv().await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    eventually(|| alive("47003").is_empty() && cgroups(&bed).is_empty()).await;
    // Its name is free again.
    bed.sh("true").await.ok();
}

/// Waits, at most 20 seconds, for what happens on another thread or in the kernel.
pub(crate) async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("does not happen");
}

#[tokio::test]
async fn output_that_nobody_reads_does_not_stop_a_step() {
    let bed = Bed::new();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let step = bed.script("head -c 3000000 /dev/zero; exit 4");
    let status = bed
        .runtime
        .run(step, Stdio::stream(sender), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(status.code, 4);
}

#[test]
fn a_directory_is_taken_once_what_another_process_left_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let left = std::fs::File::create(state.join("lock")).unwrap();
    left.lock().unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(left);
    });
    let config = || weld_runtime::RuntimeConfig::embedded(state.clone());
    let runtime = weld_runtime::Runtime::new(config()).unwrap();
    ends.join().unwrap();
    drop(runtime);
    weld_runtime::Runtime::new(config()).unwrap();
}

#[tokio::test]
async fn two_steps_of_one_name_and_two_runtimes_on_one_directory() {
    let bed = Bed::new();
    let cancel = CancellationToken::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let first = bed.runtime.run(
        bed.script("echo x; sleep 47004"),
        Stdio::stream(sender),
        cancel.clone(),
    );
    let second = async {
        receiver.recv().await.unwrap();
        let mut step = bed.script("true");
        step.root = bed.root_in("-b");
        let error = bed.run(step).await.unwrap_err().to_string();
        assert_eq!(error, "invalid step: id: a step \"step\" is running");
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(first, second);
    assert!(matches!(result, Err(RuntimeError::Cancelled)));
    let config = weld_runtime::RuntimeConfig::embedded(bed.path("state"));
    let error = weld_runtime::Runtime::new(config).unwrap_err();
    assert!(matches!(error, RuntimeError::StateInUse { .. }), "{error}");
}

#[tokio::test]
async fn steps_leak_nothing() {
    let bed = Bed::new();
    bed.sh("true").await.ok();
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let state = || std::fs::read_dir(bed.path("state")).unwrap().count();
    let before = state();
    for _ in 0..200 {
        assert!(bed.sh("sleep 0 & true").await.status.success());
    }
    assert_eq!(state(), before);
    assert_eq!(mounts(&bed.path("")), Vec::<String>::new());
    assert_eq!(cgroups(&bed), BTreeSet::new());
    // Other tests of this program open files too, but not that many.
    assert!(fds() < 200, "{}", fds());
}

#[tokio::test]
async fn parallel_steps_keep_their_output() {
    let bed = Bed::new();
    let steps = (0..50).map(|index| {
        let suffix = format!("-{index}");
        let mut step = bed.script(&format!("echo {index}"));
        step.id = format!("parallel{suffix}");
        step.root = bed.root_in(&suffix);
        let runtime = bed.runtime.clone();
        async move { (index, bed_run(&runtime, step).await) }
    });
    for (index, out) in futures_util::future::join_all(steps).await {
        assert_eq!(out, format!("{index}\n"));
    }
}

async fn bed_run(runtime: &weld_runtime::Runtime, step: weld_runtime::StepSpec) -> String {
    run(runtime, step, CancellationToken::new())
        .await
        .unwrap()
        .ok()
}

/// What `kill_victim` kills: runs a step in a process of its own.
#[tokio::test]
#[ignore = "run by tests that kill it"]
async fn victim() {
    let Ok(dir) = std::env::var("WELD_TEST_VICTIM") else {
        return;
    };
    let bed = Bed::in_directory(Path::new(&dir), |config| {
        if let Ok(runtime) = std::env::var("WELD_TEST_RUNTIME") {
            config.kind = RuntimeKind::Oci(runtime.into());
        }
    });
    // The directory tells these processes from those of other tests.
    let sleep = format!("sh -c 'sleep 3000; : 7005{dir}'");
    let script = format!("{sleep} & setsid {sleep} & echo x > /started; {sleep}; :");
    let _ = bed.run(bed.script(&script)).await;
}

/// A process that does not outlive a test that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Starts a step with `runtime` in another process and kills that process. Answers with the
/// directory of its bed.
pub(crate) async fn kill_victim(runtime: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "lifetime::victim"]);
    command.env("WELD_TEST_VICTIM", dir.path());
    command.stdout(std::process::Stdio::null());
    if runtime != "embedded" {
        command.env("WELD_TEST_RUNTIME", runtime);
    }
    let mut process = Killed(command.spawn().unwrap());
    let started = dir.path().join("upper/started");
    eventually(|| started.exists()).await;
    assert!(!alive(&mark(&dir)).is_empty());
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    dir
}

/// What the command lines of the victim's processes have in them.
pub(crate) fn mark(dir: &tempfile::TempDir) -> String {
    format!("7005{}", dir.path().display())
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_running() {
    let dir = kill_victim("embedded").await;
    eventually(|| alive(&mark(&dir)).is_empty()).await;
    assert_eq!(mounts(dir.path()), Vec::<String>::new());
    let bed = Bed::in_directory(dir.path(), |_| {});
    // Its cgroup is there to be found, unless others found it before.
    bed.runtime.clean_leftovers().await.unwrap();
    assert_eq!(cgroups(&bed), BTreeSet::new());
    bed.sh("true").await.ok();
}

/// Cleans on another state directory until nothing is left.
async fn eventually_cleaned(left: &impl Fn() -> Vec<PathBuf>) {
    let other = Bed::new();
    for _ in 0..200 {
        other.runtime.clean_leftovers().await.unwrap();
        if left().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", left());
}

/// Versions before that had directories without a lock, and left them behind.
#[tokio::test]
async fn directories_of_earlier_versions_go_once_nobody_has_their_state() {
    use std::os::unix::fs::MetadataExt;
    let (bed, earlier) = (Bed::new(), tempfile::tempdir().unwrap());
    bed.sh("true").await.ok();
    let meta = earlier.path().metadata().unwrap();
    let name = format!("{:x}-{:x}", meta.dev(), meta.ino());
    let own = cgroup_places(&bed.path("state"));
    let place = own
        .first()
        .expect("steps have cgroups")
        .with_file_name(name);
    let inner = place.join("step");
    let make = || std::fs::create_dir_all(&inner).unwrap();
    let age = || {
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
        let opened = std::fs::File::open(&place).unwrap();
        opened.set_modified(long_ago).unwrap();
    };
    let cleaned = async || {
        let other = Bed::new();
        other.runtime.clean_leftovers().await.unwrap();
        !place.exists()
    };
    make();
    assert!(!cleaned().await, "it may just have been made");
    age();
    let lock = std::fs::File::create(earlier.path().join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(!cleaned().await, "somebody has its state directory");
    drop(lock);
    let mut process = Killed(
        std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap(),
    );
    std::fs::write(inner.join("cgroup.procs"), process.0.id().to_string()).unwrap();
    assert!(!cleaned().await, "it has a process");
    assert!(inner.exists());
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    // The kernel takes its time with dead processes.
    for _ in 0..200 {
        age();
        if cleaned().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} is still there", place.display());
}

#[tokio::test]
async fn what_a_killed_process_left_is_found_on_other_state_directories_too() {
    let dir = kill_victim("embedded").await;
    eventually(|| alive(&mark(&dir)).is_empty()).await;
    let state = dir.path().join("state");
    let left = || cgroup_places(&state);
    // A running step of another state directory, and an idle one.
    let (busy, idle) = (Bed::new(), Bed::new());
    idle.sh("true").await.ok();
    let step = busy.script("echo started; sleep 1; echo done");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let running = busy
        .runtime
        .run(step, Stdio::stream(sender), CancellationToken::new());
    let cleaning = async {
        receiver.recv().await.unwrap();
        let (all, before) = (cgroup_places(&idle.path("state")), cgroups(&busy));
        assert!(!all.is_empty() && !before.is_empty());
        // The kernel takes its time with dead processes.
        eventually_cleaned(&left).await;
        assert_eq!(cgroup_places(&idle.path("state")), all);
        assert_eq!(cgroups(&busy), before);
        receiver
    };
    let (ended, _) = tokio::join!(running, cleaning);
    assert!(ended.unwrap().success());
    idle.sh("true").await.ok();
}
