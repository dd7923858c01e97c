//! Kills at any moment of builds, cache exports, cache imports and prunes: the state directory is sound afterwards, and the next
//! build succeeds. `WELD_TEST_KILLS` says how many moments there are, `WELD_TEST_SEED` which.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Bed, base_layout};
use weld_testbed::Registry;

/// How many moments there are unless told.
const KILLS: u32 = 25;
/// How many of the first steps are the same in all builds.
const SHARED: u32 = 3;

/// A small generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound.max(1)
    }
}

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Build,
    Export,
    Import,
    Prune,
}

const KINDS: [Kind; 4] = [Kind::Build, Kind::Export, Kind::Import, Kind::Prune];

struct World {
    bed: Bed,
    /// The cache that all exports write.
    cache: String,
    /// One that was written in peace.
    whole: String,
}

impl World {
    /// Some steps that all builds have, and some that only those of this number have.
    fn dockerfile(&self, number: u32) {
        let mut text = "FROM base\n".to_owned();
        for step in 0..SHARED {
            text += &format!("RUN head -c 200000 /dev/urandom > /shared{step}\n");
        }
        text += "COPY file /file\n";
        for step in 0..3 {
            text += &format!("RUN head -c 200000 /dev/urandom > /own{step} && echo {number}\n");
        }
        self.bed
            .dockerfile(&text)
            .file("file", format!("file of {number}"));
    }

    fn command(&self, kind: Kind) -> Command {
        let mut command = self.bed.command();
        if let Kind::Prune = kind {
            command.args(["prune", "--all"]);
            return command;
        }
        command
            .args(["build", "--progress", "plain", "--build-context"])
            .arg(format!(
                "base=oci-layout://{}:latest",
                base_layout().display()
            ));
        match kind {
            Kind::Export => command.args(["--cache-to", &format!("{},mode=max", self.cache)]),
            Kind::Import => command
                .args(["--cache-from", &self.whole, "--output"])
                .arg(format!(
                    "type=local,dest={}",
                    self.bed.path("out").display()
                )),
            Kind::Build | Kind::Prune => &mut command,
        };
        command.arg(self.bed.context());
        command
    }

    fn start(&self, kind: Kind) -> Child {
        self.command(kind)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// What is in the cache that exports write is complete: nothing that it names is missing when somebody else reads all of it.
    fn cache_is_whole(&self, told: &str) {
        let other = self.bed.path("other");
        let _ = std::fs::remove_dir_all(&other);
        let mut command = self.command(Kind::Import);
        command.env("WELD_ROOT", &other);
        command.args(["--cache-from", &self.cache]);
        let ended = support::ended(command.output().unwrap());
        assert_eq!(ended.code, Some(0), "{told}: {}", ended.stderr);
        let lost = ended.stderr.contains("cached layer sha256:");
        assert!(!lost, "{told}: {}", ended.stderr);
    }

    /// The state directory is sound, and a build succeeds in it, twice: the second time all is there.
    fn is_sound(&self, told: &str) {
        let check = self.bed.run(&["store", "check"]);
        assert_eq!(check.code, Some(0), "{told}: {check:?}");
        let built = self.bed.build(&[]);
        assert_eq!(built.code, Some(0), "{told}: {}", built.stderr);
        let again = self.bed.build(&[]).ok();
        assert!(again.cached_steps() >= 7, "{told}: {}", again.stderr);
    }
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
        Err(_) => default,
    }
}

#[test]
fn a_kill_at_any_moment_leaves_what_the_next_build_can_use() {
    let kills = from_environment("WELD_TEST_KILLS", KILLS);
    let seed = from_environment("WELD_TEST_SEED", 1_u64);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let registry = Registry::start().unwrap();
    let name = |tag| format!("type=registry,ref={}/cache:{tag}", registry.host());
    let world = World {
        bed: Bed::new(),
        cache: name("killed"),
        whole: name("whole"),
    };
    world.dockerfile(u32::MAX);
    let to = format!("{},mode=max", world.whole);
    world.bed.build(&["--cache-to", &to]).ok();
    // How long each kind takes when nothing kills it: moments are chosen within that.
    let mut lasts = [Duration::ZERO; 4];
    let mut killed = 0;
    for number in 0..kills {
        let at = number as usize % KINDS.len();
        let kind = KINDS[at];
        match kind {
            // What the whole cache has, and what was pruned before.
            Kind::Import => {
                world.dockerfile(u32::MAX);
                world.bed.run(&["prune", "--all"]).ok();
            }
            Kind::Build | Kind::Export | Kind::Prune => world.dockerfile(number),
        }
        if lasts[at].is_zero() {
            let began = Instant::now();
            world.start(kind).wait().unwrap();
            lasts[at] = began.elapsed();
            // The same again would find it all.
            match kind {
                Kind::Import => drop(world.bed.run(&["prune", "--all"]).ok()),
                Kind::Build | Kind::Export => world.dockerfile(kills + number),
                Kind::Prune => drop(world.bed.build(&[]).ok()),
            }
        }
        let after = random.below(lasts[at].as_micros() as u64);
        let mut child = world.start(kind);
        std::thread::sleep(Duration::from_micros(after));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        killed += u32::from(ended.signal().is_some());
        let told = format!("WELD_TEST_SEED={seed}, {number}: {kind:?} killed after {after} µs");
        if let Kind::Export = kind {
            world.cache_is_whole(&told);
        }
        world.is_sound(&told);
    }
    println!("{killed} of {kills} were killed before they ended");
    assert!(killed > 0, "nothing was killed before it ended");
}

/// What git fetches for a build ends with the build's process, however that ends.
#[test]
fn a_killed_build_leaves_no_git_behind() {
    let bed = Bed::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let repository = format!("http://{}/silent.git", silent.local_addr().unwrap());
    bed.dockerfile(&format!("FROM base\nADD {repository} /g\n"));
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let fetching = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines =
            processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let of_git = lines.filter(|line| {
            let line = String::from_utf8_lossy(line);
            line.contains(&repository) && line.contains("git")
        });
        of_git.count()
    };
    let mut build = bed
        .command()
        .args(["build", "--build-context", &base])
        .arg(bed.context())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (_connection, _) = silent.accept().unwrap();
    assert!(fetching() > 0);
    build.kill().unwrap();
    build.wait().unwrap();
    let killed = Instant::now();
    while fetching() > 0 {
        assert!(killed.elapsed() < Duration::from_secs(20), "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
