//! Builds that end early, by whatever: a signal, a full disk, a reader that is gone; and processes that meet on one state directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Bed, base_layout, ended};

#[test]
fn the_second_process_on_a_state_directory_is_told_of_the_first() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo started && sleep 60\n");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let mut first = bed
        .command()
        .args(["build", "--progress", "plain", "--build-context", &base])
        .arg(bed.context())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut first, "started");
    bed.run(&["du"])
        .fails(&[&format!("{}", first.id()), "in use"]);
    interrupt(&first);
    let code = first.wait().unwrap().code();
    assert_eq!(code, Some(130));
    bed.run(&["du"]).ok();
}

#[test]
fn an_interrupted_build_leaves_nothing_running_and_goes_on_later() {
    let bed = Bed::new();
    let marker = format!("marker-{}", std::process::id());
    bed.dockerfile(&format!("FROM base\nRUN echo one > /one\nRUN echo started; sh -c 'exec sleep 987 {marker}' || sleep 987\n"));
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    for signal in ["INT", "KILL"] {
        let mut child = bed
            .command()
            .args(["build", "--progress", "plain", "--build-context", &base])
            .arg(bed.context())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&mut child, "started");
        let pid = child.id().to_string();
        bed.tool("kill", &[&format!("-{signal}"), &pid]);
        child.wait().unwrap();
        let gone = (0..200).any(|_| {
            let running = ended(
                std::process::Command::new("pgrep")
                    .args(["-f", "sleep 987"])
                    .output()
                    .unwrap(),
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
            running.stdout.is_empty()
        });
        assert!(gone, "a step outlived its build, which ended by {signal}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(
            !mounts.contains(bed.path("state").to_str().unwrap()),
            "{mounts}"
        );
    }
    bed.dockerfile("FROM base\nRUN echo one > /one\n");
    let again = bed.build(&[]).ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
}

#[test]
fn a_killed_build_leaves_nothing_where_it_wrote() {
    let bed = Bed::new();
    // Much of it, so that writing it takes its time.
    std::fs::write(bed.context().join("large"), vec![7; 300 << 20]).unwrap();
    bed.dockerfile("FROM base\nCOPY large /\n");
    let out = bed.path("out");
    std::fs::create_dir(&out).unwrap();
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let output = format!("type=tar,dest={}", out.join("result.tar").display());
    let inner = bed.command();
    // Alone in a container, it has the same number each time, and the same temporary names.
    let build = || {
        let mut command = std::process::Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .args(["build", "--build-context", &base, "--output", &output])
            .arg(bed.context());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let names = || {
        let entries = std::fs::read_dir(&out).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.collect::<Vec<_>>()
    };
    let is_written = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let files =
            processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
        let mut files = files.flatten().filter_map(Result::ok);
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|file| file.starts_with(&out)))
    };
    let mut killed = build();
    while !is_written() {
        assert_eq!(killed.try_wait().unwrap(), None, "it ended before it wrote");
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(names(), [""; 0]);
    ended(build().wait_with_output().unwrap()).ok();
    assert_eq!(names(), ["result.tar"]);
}

/// A file system of its own for the state directory, until it is dropped.
struct SmallDisk<'a>(&'a Bed);

impl<'a> SmallDisk<'a> {
    fn mounted(bed: &'a Bed) -> Self {
        Self::with(bed, "size=40m")
    }

    fn with(bed: &'a Bed, options: &str) -> Self {
        std::fs::create_dir(bed.path("state")).unwrap();
        bed.tool("mount", &["-t", "tmpfs", "-o", options, "tmpfs", "state"]);
        Self(bed)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        self.0.tool("umount", &["-l", "state"]);
    }
}

#[test]
fn what_a_failed_step_left_on_a_full_disk_goes_before_the_next_build() {
    let bed = Bed::new();
    let _disk = SmallDisk::mounted(&bed);
    bed.dockerfile("FROM base\nRUN dd if=/dev/zero of=/big bs=64k count=1000\n");
    // Told by dd, or by who watches the disk meanwhile.
    bed.build(&[]).fails(&["failed to solve: [1/2] RUN dd"]);
    bed.dockerfile("FROM base\nRUN echo ok\n");
    bed.build(&[]).ok();
    // As it stays there where the process ended before it was deleted.
    let snapshots = bed.path("state/snapshots");
    let mut numbers = (1..).map(|number| snapshots.join(number.to_string()));
    let unnamed = numbers.find(|snapshot| !snapshot.exists()).unwrap();
    std::fs::create_dir_all(unnamed.join("fs")).unwrap();
    let mut left = std::fs::File::create(unnamed.join("fs/big")).unwrap();
    while left.write_all(&[0; 4096]).is_ok() {}
    drop(left);
    bed.dockerfile("FROM base\nRUN echo again\n");
    bed.build(&[]).ok();
}

#[test]
fn files_that_the_disk_has_no_inodes_for_are_made_room_for_or_told_of() {
    let bed = Bed::new();
    let _disk = SmallDisk::with(&bed, "size=400m,nr_inodes=4000");
    let make = |name: &str, count: u32| {
        bed.dockerfile(&format!(
            "FROM base\nRUN mkdir /{name} && cd /{name} && i=0; while [ $i -lt {count} ]; do : > f$i || exit 1; i=$((i+1)); done\n"
        ));
        bed.build(&[])
    };
    // Together more than there may be: what was made first goes.
    for name in ["a", "b", "c", "d"] {
        make(name, 1500).ok();
    }
    make("e", 8000).fails(&["failed to solve: [1/2] RUN mkdir /e", "has no inodes left"]);
    make("f", 100).ok();
    bed.run(&["store", "check"]).ok();
}

#[test]
fn a_build_that_fills_the_disk_leaves_a_state_that_can_be_pruned() {
    let bed = Bed::new();
    let state = bed.path("state");
    let _disk = SmallDisk::mounted(&bed);
    bed.dockerfile("FROM base\nRUN dd if=/dev/zero of=/big bs=1M count=20\n");
    bed.build(&[]).ok();
    bed.dockerfile("FROM base\nRUN dd if=/dev/zero of=/big bs=64k count=1000\n");
    bed.build(&[]).fails(&["failed to solve: [1/2] RUN dd"]);
    // Somebody else takes what the build gave back, also what comes late: what the step left, and
    // what it had open is free when the kernel has taken its mounts apart.
    bed.run(&["store", "check"]).ok();
    let mut filler = std::fs::File::create(state.join("filler")).unwrap();
    let mut quiet = 0;
    while quiet < 10 {
        quiet += 1;
        while filler.write_all(&[0; 4096]).is_ok() {
            quiet = 0;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(filler);
    for _ in 0..3 {
        bed.build(&[])
            .fails(&["no space left on its disk", "weld prune"]);
    }
    bed.run(&["du"]).ok();
    bed.run(&["store", "check"]).ok();
    bed.run(&["prune", "--all"]).ok();
    // What the builds had may have gone before, and be the other's now.
    std::fs::remove_file(state.join("filler")).unwrap();
    bed.dockerfile("FROM base\nRUN echo again\n");
    bed.build(&[]).ok();
}

#[test]
fn a_reader_that_ends_early_makes_nothing_fail() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN true\n");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let context = bed.context().display().to_string();
    let broken = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let run = |arguments: &[&str]| {
        let mut command = bed.command();
        command.args(arguments).stdout(broken()).stderr(broken());
        command.status().unwrap().code()
    };
    let build = ["build", "--build-context", &base, &context];
    assert_eq!(run(&build), Some(0));
    assert!(bed.build(&[]).ok().cached_steps() > 0, "nothing was built");
    assert_eq!(
        run(&["build", "-q", "--build-context", &base, &context]),
        Some(0)
    );
    for arguments in [
        &["du"][..],
        &["du", "--verbose"],
        &["du", "--json"],
        &["store", "check"],
        &["debug", "emit-llb", "--build-context", &base, &context],
        &["prune", "--json"],
        &["prune", "--all"],
        &["man"],
        &["--help"],
    ] {
        assert_eq!(run(arguments), Some(0), "{arguments:?}");
    }
    // What is wrong is told to nobody, but by the exit code.
    assert_eq!(run(&["build", "/does/not/exist"]), Some(2));
    bed.dockerfile("FROM base\nRUN echo said; exit 7\n");
    assert_eq!(run(&build), Some(1));
}

fn interrupt(child: &std::process::Child) {
    let status = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Reads what the build shows until a text is there; the rest is read and dropped in the background.
fn wait_for(child: &mut std::process::Child, text: &str) {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains(text));
    assert!(found, "the build ended before it said {text:?}");
    std::thread::spawn(move || lines.for_each(drop));
}
