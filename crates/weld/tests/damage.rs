//! A state directory whose database is damaged: builds and daemons start by themselves, and what is wrong is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use support::Bed;
use weld_engine::{Config, Engine};

/// What is done to a file.
type Damage = fn(&std::path::Path);

const DAMAGES: [(&str, Damage); 3] = [
    ("state.redb", |path| {
        std::fs::write(path, vec![b'x'; 30_000]).unwrap()
    }),
    ("state.redb", |path| {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        file.unwrap().set_len(9_000).unwrap();
    }),
    ("applied", |path| std::fs::write(path, "garbage").unwrap()),
];

/// A bed in whose state directory something was built, all of which is in the database's file.
fn built() -> Bed {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo one > /one\n");
    bed.build(&[]).ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = Engine::open(Config::new(bed.path("state"))).await.unwrap();
        engine.store().db().checkpoint().unwrap();
        engine.close().await;
    });
    bed
}

fn asides(bed: &Bed) -> usize {
    let entries = std::fs::read_dir(bed.path("state")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("db.damaged-")).count()
}

#[test]
fn a_build_begins_by_itself() {
    for (name, damage) in DAMAGES {
        let bed = built();
        let file = bed.path("state/db").join(name);
        damage(&file);
        let file = file.display().to_string();
        bed.run(&["store", "check"])
            .fails(&[&file, "weld store check --repair"]);
        let built = bed.build(&[]).ok();
        let warning = built.stderr.lines().find(|line| line.contains(&file));
        let warning = warning.unwrap_or_else(|| panic!("{}", built.stderr));
        assert!(warning.starts_with("WARNING: "), "{warning}");
        assert!(warning.contains("lost"), "{warning}");
        let again = bed.build(&[]).ok();
        assert!(!again.stderr.contains("damaged"), "{}", again.stderr);
        assert!(again.cached_steps() > 0, "{}", again.stderr);
        bed.run(&["store", "check"]).ok();
        assert_eq!(asides(&bed), usize::from(name == "state.redb"));
        bed.run(&["prune", "--all"]).ok();
        assert_eq!(asides(&bed), 0);
    }
}

#[test]
fn a_repair_mends_it() {
    for (name, damage) in DAMAGES {
        let bed = built();
        let file = bed.path("state/db").join(name);
        damage(&file);
        let repaired = bed.run(&["store", "check", "--repair"]).ok();
        let file = file.display().to_string();
        assert!(repaired.stderr.contains(&file), "{}", repaired.stderr);
        bed.run(&["store", "check"]).ok();
        let again = bed.build(&[]).ok();
        let is_whole = name == "applied";
        assert_eq!(again.cached_steps() > 0, is_whole, "{}", again.stderr);
    }
}

#[test]
fn a_daemon_begins_by_itself() {
    for (name, damage) in DAMAGES {
        let bed = built();
        let file = bed.path("state/db").join(name);
        damage(&file);
        let address = format!("unix://{}", bed.path("daemon.sock").display());
        let mut daemon = bed
            .command()
            .args(["daemon", "--addr", &address])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
        let mut told = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            let is_ready = line.contains("running server");
            told.push(line);
            if is_ready {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        let file = file.display().to_string();
        let is_told = |line: &String| line.contains("WARN") && line.contains(&file);
        assert!(told.iter().any(is_told), "{told:#?}");
        let built = bed.build(&["--addr", &address]);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        built.ok();
        bed.run(&["store", "check"]).ok();
    }
}

/// As [`built`], with so many blobs that opening the database does not look at all of it; the middle of its file is overwritten.
fn torn() -> Bed {
    let bed = built();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = Engine::open(Config::new(bed.path("state"))).await.unwrap();
        for number in 0..3_000 {
            let content = format!("blob {number}");
            let blob = engine
                .store()
                .blobs()
                .put(content.as_bytes(), Default::default());
            let object = blob.unwrap().pin().object().clone();
            engine
                .store()
                .results()
                .save(vec![object], Vec::new())
                .unwrap();
        }
        engine.store().db().flush().unwrap();
        engine.store().db().checkpoint().unwrap();
        engine.close().await;
    });
    let path = bed.path("state/db/state.redb");
    let mut content = std::fs::read(&path).unwrap();
    let (from, to) = (content.len() / 4, content.len() / 2);
    content[from / 4096 * 4096..to].fill(0);
    std::fs::write(&path, content).unwrap();
    bed
}

#[test]
fn a_command_that_meets_torn_pages_has_them_mended() {
    let bed = torn();
    let told = bed.run(&["du"]).ok();
    assert!(!told.stderr.contains("panicked at"), "{}", told.stderr);
    let file = bed.path("state/db/state.redb").display().to_string();
    // When it is opened, or where it is met: then the command begins anew.
    assert!(told.stderr.contains(&file), "{}", told.stderr);
    bed.build(&[]).ok();
    bed.run(&["store", "check"]).ok();
}

#[test]
fn a_daemon_that_meets_torn_pages_mends_them() {
    let bed = torn();
    let daemon = support::kept::Daemon::start(&bed);
    let begun = std::time::Instant::now();
    while bed.run(&["du", "--addr", &daemon.address]).code != Some(0) {
        assert!(begun.elapsed().as_secs() < 30, "{}", daemon.stop());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bed.build(&["--addr", &daemon.address]).ok();
    let log = daemon.stop();
    assert!(log.contains("is damaged"), "{log}");
    bed.run(&["store", "check"]).ok();
}
