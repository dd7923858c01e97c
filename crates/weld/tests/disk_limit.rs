//! Builds on a small disk, and below a limit on a large one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::kept::Daemon;
use support::{Bed, ended};

const MIB: u64 = 1 << 20;

/// An ext4 file system of so many megabytes in a file, mounted as the bed's state directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(bed: &Bed, megabytes: u64) -> Option<Self> {
        let (image, state) = (bed.path("image"), bed.path("state"));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(megabytes * MIB).unwrap();
        std::fs::create_dir(&state).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(&image)
            .status();
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&state)
            .status();
        let is_ok = |status: std::io::Result<std::process::ExitStatus>| {
            status.is_ok_and(|status| status.success())
        };
        if is_ok(made) && is_ok(mounted) {
            Some(Self(state))
        } else {
            println!("skipped: this process cannot mount a file system");
            None
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A step that writes so many megabytes which no other step writes.
fn writes(number: usize, megabytes: u64) -> String {
    format!("RUN head -c {megabytes}m /dev/urandom > /file && echo step {number}\n")
}

fn on_disk(bed: &Bed) -> u64 {
    let text = bed.tool("du", &["-s", "--block-size=1", "state"]);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn builds_go_on_on_a_disk_that_their_results_would_fill_many_times() {
    let bed = Bed::new();
    let Some(_disk) = SmallDisk::mount(&bed, 160) else {
        return;
    };
    for number in 0..8 {
        bed.dockerfile(&format!("FROM base\n{}", writes(number, 30)));
        bed.build(&[]).ok();
    }
    // The last one is still there.
    assert!(bed.build(&[]).ok().cached_steps() >= 1);
    // In one build, where all that is made is in use.
    let all: String = (0..8).map(|number| writes(100 + number, 30)).collect();
    bed.dockerfile(&format!("FROM base\n{all}"));
    bed.build(&[]).fails(&[
        "the disk of the state directory",
        "is full",
        "are in use",
        ">>> RUN head",
    ]);
    // A file that comes from the client.
    bed.file("large", vec![7; usize::try_from(200 * MIB).unwrap()]);
    bed.dockerfile("FROM base\nCOPY large /large\n");
    bed.build(&[]).fails(&["the disk of the state directory"]);
    bed.file("large", "small");
    bed.build(&[]).ok();
    bed.dockerfile(&format!("FROM base\n{}", writes(200, 30)));
    bed.build(&[]).ok();
    assert!(bed.build(&[]).ok().cached_steps() >= 1);
    bed.run(&["store", "check"]).ok();
}

#[test]
fn what_is_exported_to_the_same_disk_has_room_made_for_it() {
    let bed = Bed::new();
    let Some(_disk) = SmallDisk::mount(&bed, 160) else {
        return;
    };
    let root = bed.path("state/root");
    let build = |output: &str| {
        let mut command = bed.build_command(&[], &["--output", output]);
        ended(command.env("WELD_ROOT", &root).output().unwrap())
    };
    for number in 0..4 {
        bed.dockerfile(&format!(
            "FROM scratch\nCOPY --from=base / /\n{}",
            writes(number, 25)
        ));
        build("type=cacheonly").ok();
    }
    // Twice in the store, and once more beside it.
    bed.dockerfile(&format!("FROM base\n{}", writes(9, 40)));
    for kind in ["oci", "local"] {
        let dest = bed.path("state/out");
        let _ = std::fs::remove_dir_all(&dest);
        let _ = std::fs::remove_file(&dest);
        build(&format!("type={kind},dest={}", dest.display())).ok();
    }
    bed.dockerfile(&format!("FROM base\n{}", writes(10, 50)));
    let other = bed.path("state/other");
    let too_much = build(&format!("type=oci,dest={}", other.display()));
    too_much.fails(&["is full"]);
    // Where it is the result itself that meets with the full disk, not what is kept in the store for it.
    bed.dockerfile(&format!("FROM base\n{}", writes(12, 70)));
    let too_much = build(&format!("type=local,dest={}", other.display()));
    too_much.fails(&["state/other", "No space left on device", "is full"]);
    std::fs::remove_dir_all(&other).unwrap();
    bed.dockerfile(&format!("FROM base\n{}", writes(11, 10)));
    build("type=cacheonly").ok();
}

#[test]
fn a_cache_does_not_take_the_room_that_a_build_without_it_has() {
    let bed = Bed::new();
    let cache = bed.path("cache");
    let steps = |last: u64| format!("FROM base\n{}{}", writes(0, 45), writes(1, last));
    bed.dockerfile(&steps(10));
    let to = format!("type=local,dest={},mode=max", cache.display());
    bed.build(&["--cache-to", &to]).ok();
    std::fs::remove_dir_all(bed.path("state")).unwrap();
    let Some(_disk) = SmallDisk::mount(&bed, 160) else {
        return;
    };
    // The cached layer comes as a blob and is unpacked: with both there is no room for the other step.
    bed.dockerfile(&steps(70));
    let from = format!("type=local,src={}", cache.display());
    let ended = bed.build(&["--cache-from", &from]).ok();
    assert!(ended.stderr.contains("importing cache manifest"));
    assert!(ended.cached_steps() >= 1, "{}", ended.stderr);
    bed.run(&["store", "check"]).ok();
}

#[test]
fn a_limit_far_below_the_disks_size_is_kept_to() {
    let bed = Bed::new();
    // Of its own, so that nobody else's files come and go on it.
    let Some(_disk) = SmallDisk::mount(&bed, 1024) else {
        return;
    };
    let limit = 160 * MIB;
    // While a step runs it may pass the limit between two looks. It is looked again when it has ended, so that what is there after
    // a build is below it, but for the records of what was removed.
    let most = limit + 4 * MIB;
    let limited = ["--disk-limit", "160MB"];
    for number in 0..8 {
        bed.dockerfile(&format!("FROM base\n{}", writes(number, 30)));
        bed.build(&limited).ok();
        let held = on_disk(&bed);
        assert!(held <= most, "{held} bytes after build {number}");
    }
    assert!(bed.build(&limited).ok().cached_steps() >= 1);
    let all: String = (0..8).map(|number| writes(100 + number, 30)).collect();
    bed.dockerfile(&format!("FROM base\n{all}"));
    bed.build(&limited).fails(&[
        "below the disk limit of the state directory",
        "are in use",
        "--disk-limit",
        ">>> RUN head",
    ]);
    let held = on_disk(&bed);
    assert!(held <= most, "{held} bytes after a build that failed");
    // A step that has ended before anybody looked: it fails, and what it made is gone with it.
    let most_of_it: String = (0..4).map(|number| writes(100 + number, 30)).collect();
    bed.dockerfile(&format!(
        "FROM base\n{most_of_it}RUN fallocate -l 60m /file\n"
    ));
    bed.build(&limited).fails(&[
        "below the disk limit of the state directory",
        ">>> RUN fall",
    ]);
    let held = on_disk(&bed);
    assert!(
        held <= most,
        "{held} bytes after a step that passed the limit"
    );
    // More than there may be at all, of what no step asks for.
    bed.dockerfile("FROM base\nRUN cat /dev/zero > /file\n");
    bed.build(&limited)
        .fails(&["below the disk limit of the state directory"]);
    bed.dockerfile(&format!("FROM base\n{}", writes(200, 30)));
    bed.build(&limited).ok();
    let held = on_disk(&bed);
    assert!(held <= most, "{held} bytes at the end");
    bed.run(&["store", "check"]).ok();
    // Without a limit it goes on.
    bed.dockerfile(&format!("FROM base\n{all}"));
    bed.build(&[]).ok();
}

#[test]
fn the_step_that_wrote_most_is_the_one_that_is_stopped() {
    let bed = Bed::new();
    let Some(_disk) = SmallDisk::mount(&bed, 1024) else {
        return;
    };
    let daemon = Daemon::start_with(&bed, &["--disk-limit", "200MB"]);
    // A step that has written something and waits: its request is answered when the other build has ended.
    let waiting = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = waiting.local_addr().unwrap().port();
    bed.dockerfile(&format!(
        "FROM base\nRUN head -c 20m /dev/urandom > /file && \
         printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 {port} > /answer && head -c 5m /dev/urandom > /more\n"
    ));
    let arguments = ["--addr", &daemon.address];
    let mut command = bed.build_command(&[], &arguments);
    let small = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let small = small.spawn().unwrap();
    let (mut request, _) = waiting.accept().unwrap();
    let asked = request.read(&mut [0; 256]).unwrap();
    assert!(asked > 0, "the step asks");
    let large = Bed::new();
    large.dockerfile("FROM base\nRUN cat /dev/zero > /file\n");
    large.build(&arguments).fails(&[
        "below the disk limit of the state directory",
        ">>> RUN cat /dev/zero",
    ]);
    request.write_all(b"go on").unwrap();
    drop(request);
    ended(small.wait_with_output().unwrap()).ok();
    drop(daemon.stop());
    bed.run(&["store", "check"]).ok();
}

#[test]
fn a_limit_that_cannot_be_meant_is_refused() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\n");
    for (limit, part) in [
        ("much", "invalid disk space much"),
        ("1MB", "at least 64 MiB"),
        ("0%", "0% is too little"),
    ] {
        bed.build(&["--disk-limit", limit])
            .fails(&["--disk-limit", part]);
    }
}
