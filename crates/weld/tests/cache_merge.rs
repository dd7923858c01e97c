//! Several builders feed one cache, and lose nothing of one another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use support::{Bed, Ended};
use weld_testbed::{ActionsServer, ObjectServer, Registry};

/// How many builders write at the same moment.
const BUILDERS: usize = 3;

/// A bed whose step makes something that no other run of it makes.
fn builder(number: usize) -> Bed {
    let bed = Bed::new();
    bed.dockerfile(&dockerfile(number));
    bed
}

fn dockerfile(number: usize) -> String {
    format!("FROM base\nRUN echo {number} && cat /proc/sys/kernel/random/uuid > /made\n")
}

/// What a build of the bed makes.
fn made(bed: &Bed, arguments: &[&str]) -> (String, Ended) {
    let out = bed.path("out");
    let _ = std::fs::remove_dir_all(&out);
    let output = format!("type=local,dest={}", out.display());
    let mut all = vec!["--output", &output];
    all.extend(arguments);
    let ended = bed.build(&all).ok();
    (std::fs::read_to_string(out.join("made")).unwrap(), ended)
}

/// Has all builders build and write at once; what each made.
fn all_at_once(to: &str) -> Vec<String> {
    std::thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|number| scope.spawn(move || made(&builder(number), &["--cache-to", to]).0))
            .collect();
        let made = builders.into_iter().map(|builder| builder.join().unwrap());
        made.collect()
    })
}

/// Has somebody who never built anything find all that was made.
#[track_caller]
fn assert_found(from: &str, expected: &[String]) {
    let bed = Bed::new();
    for (number, expected) in expected.iter().enumerate() {
        bed.dockerfile(&dockerfile(number));
        let (found, ended) = made(&bed, &["--cache-from", from]);
        assert_eq!(found, *expected, "builder {number}: {}", ended.stderr);
    }
}

#[test]
fn builders_share_a_name_in_a_registry() {
    let registry = Registry::start().unwrap();
    let cache = format!("type=registry,ref={}/cache:shared", registry.host());
    let made = all_at_once(&format!("{cache},mode=max,merge=true"));
    assert_found(&cache, &made);
    // Without `merge` what is there is overwritten.
    let alone = builder(7);
    let to = format!("{cache},mode=max");
    let (mine, _) = self::made(&alone, &["--cache-to", &to]);
    let other = Bed::new();
    other.dockerfile(&dockerfile(0));
    assert_ne!(self::made(&other, &["--cache-from", &cache]).0, made[0]);
    other.dockerfile(&dockerfile(7));
    assert_eq!(self::made(&other, &["--cache-from", &cache]).0, mine);
}

#[test]
fn what_a_registry_has_lost_is_not_carried_on() {
    let registry = Registry::start().unwrap();
    let cache = format!("type=registry,ref={}/cache:shared", registry.host());
    let to = format!("{cache},mode=max,merge=true");
    let first = builder(0);
    first.build(&["--cache-to", &to]).ok();
    let manifest = || {
        let reference = format!("docker://{}/cache:shared", registry.host());
        let text = first.tool(
            "skopeo",
            &["inspect", "--raw", "--tls-verify=false", &reference],
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let layers = |manifest: &serde_json::Value| -> Vec<String> {
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| layer["digest"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = layers(&manifest());
    let lost = before.last().unwrap();
    let hex = lost.strip_prefix("sha256:").unwrap();
    remove_blob(&registry.storage(), hex);
    let (second, _) = made(&builder(1), &["--cache-to", &to]);
    let after = layers(&manifest());
    assert!(!after.contains(lost), "{after:?}");
    assert!(after.len() >= 2, "the base and the second's: {after:?}");
    let bed = builder(1);
    assert_eq!(made(&bed, &["--cache-from", &cache]).0, second);
}

/// Has a registry lose a blob, with every link to it.
fn remove_blob(storage: &Path, hex: &str) {
    let mut waiting = vec![storage.to_owned()];
    let mut removed = 0;
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap().to_str() == Some(hex) {
                std::fs::remove_dir_all(&path).unwrap();
                removed += 1;
            } else if path.is_dir() {
                waiting.push(path);
            }
        }
    }
    assert!(removed > 0, "no {hex} below {}", storage.display());
}

#[test]
fn what_is_no_cache_is_not_merged_with() {
    let registry = Registry::start().unwrap();
    let layout = support::base_layout();
    registry.push_layout(layout, "latest", "image:1").unwrap();
    let to = format!("type=registry,ref={}/image:1,merge=true", registry.host());
    let bed = builder(0);
    bed.build(&["--cache-to", &to])
        .fails(&["cannot merge into", "is no build cache"]);
    bed.build(&["--cache-to", &format!("{to},ignore-error=true")])
        .ok();
    bed.build(&["--cache-to", "type=inline,merge=true"])
        .fails(&["of that image alone"]);
}

#[test]
fn builders_share_a_directory() {
    let shared = tempfile::tempdir().unwrap();
    let directory = shared.path().join("cache");
    let directory = directory.display();
    let made = all_at_once(&format!("type=local,dest={directory},mode=max,merge=true"));
    assert_found(&format!("type=local,src={directory}"), &made);
}

#[test]
fn builders_share_a_name_in_an_object_store() {
    let s3 = ObjectServer::start_s3().unwrap();
    let azure = ObjectServer::start_azure().unwrap();
    let actions = ActionsServer::start().unwrap();
    for cache in [
        format!(
            "type=s3,bucket={},region={},endpoint_url=http://{},use_path_style=true,\
             access_key_id={},secret_access_key={},name=shared",
            ObjectServer::BUCKET,
            ObjectServer::REGION,
            s3.host(),
            ObjectServer::KEY_ID,
            ObjectServer::KEY
        ),
        format!(
            "type=azblob,account_url=http://{}/{},account_name={},container={},\
             secret_access_key={},name=shared",
            azure.host(),
            ObjectServer::ACCOUNT,
            ObjectServer::ACCOUNT,
            ObjectServer::BUCKET,
            ObjectServer::ACCOUNT_KEY
        ),
        format!(
            "type=gha,url_v2=http://{}/,token={},scope=shared",
            actions.host(),
            ActionsServer::token(&[("refs/heads/main", 3)])
        ),
    ] {
        let made = all_at_once(&format!("{cache},mode=max,merge=true"));
        assert_found(&cache, &made);
    }
}

/// A directory whose files a disk changed takes a cache again, and the build says what is lost.
#[test]
fn a_damaged_directory_takes_a_cache_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let (to, from) = (
        format!("type=local,dest={},mode=max", cache.display()),
        format!("type=local,src={}", cache.display()),
    );
    made(&builder(0), &["--cache-to", &to]);
    let damage = |content: &[u8]| std::fs::write(cache.join("index.json"), content).unwrap();
    for merges in ["false", "true"] {
        damage(b"{");
        let to = format!("{to},merge={merges}");
        let (_, ended) = made(&builder(1), &["--cache-from", &from, "--cache-to", &to]);
        assert!(
            ended.stderr.contains("index.json.damaged"),
            "{}",
            ended.stderr
        );
        assert!(cache.join("index.json.damaged").exists());
    }
    // What is listed is no cache any more.
    for blob in blobs(&cache) {
        let content = std::fs::read(&blob).unwrap();
        if content.starts_with(b"{") {
            std::fs::write(&blob, b"x".repeat(content.len())).unwrap();
        }
    }
    let merging = format!("{to},merge=true");
    let bed = builder(1);
    let (second, ended) = made(&bed, &["--cache-to", &merging]);
    assert!(ended.stderr.contains("is replaced"), "{}", ended.stderr);
    // The same cache again, with each of its blobs of another content and the right length.
    for merges in ["false", "true"] {
        for blob in blobs(&cache) {
            let content = std::fs::read(&blob).unwrap();
            std::fs::write(&blob, b"x".repeat(content.len())).unwrap();
        }
        let to = format!("{to},merge={merges}");
        made(&bed, &["--cache-to", &to]);
        let (found, ended) = made(&builder(1), &["--cache-from", &from]);
        assert_eq!(found, second, "merge={merges}: {}", ended.stderr);
    }
    // A directory that takes nothing is no error where errors are ignored.
    let nothing = directory.path().join("file");
    std::fs::write(&nothing, "").unwrap();
    let to_nothing = format!("type=local,dest={},merge=true", nothing.display());
    let failed = bed.build(&["--cache-to", &to_nothing]);
    assert_ne!(failed.code, Some(0), "{}", failed.stderr);
    let ignored = format!("{to_nothing},ignore-error=true");
    bed.build(&["--cache-to", &ignored]).ok();
    // Layers of the right length and of another content are written anew where they were read.
    for blob in blobs(&cache) {
        let content = std::fs::read(&blob).unwrap();
        if !content.starts_with(b"{") {
            std::fs::write(&blob, b"x".repeat(content.len())).unwrap();
        }
    }
    let bed = builder(1);
    let (again, ended) = made(&bed, &["--cache-from", &from, "--cache-to", &to]);
    assert_ne!(again, second, "it ran: {}", ended.stderr);
    let (found, ended) = made(&builder(1), &["--cache-from", &from]);
    assert_eq!(found, again, "{}", ended.stderr);
}

/// What another builder's layers turn out to be is not carried on.
#[test]
fn damaged_layers_of_others_are_not_merged_with() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let to = format!("type=local,dest={},mode=max,merge=true", cache.display());
    let from = format!("type=local,src={}", cache.display());
    made(&builder(0), &["--cache-to", &to]);
    let (first, _) = made(&builder(2), &["--cache-to", &to]);
    let (second, _) = made(&builder(2), &["--cache-from", &from]);
    assert_eq!(first, second);
    // All of their layers, which keep their lengths.
    let mut damaged = Vec::new();
    for blob in blobs(&cache) {
        let content = std::fs::read(&blob).unwrap();
        if !content.starts_with(b"{") {
            std::fs::write(&blob, b"x".repeat(content.len())).unwrap();
            damaged.push(blob.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    let (third, ended) = made(&builder(1), &["--cache-to", &to]);
    let warnings = ended.stderr.lines().filter(|line| {
        line.contains("results of others are left out")
            && damaged.iter().any(|name| line.contains(name))
    });
    assert_eq!(warnings.count(), 1, "{}", ended.stderr);
    let (found, ended) = made(&builder(1), &["--cache-from", &from]);
    assert_eq!(found, third, "{}", ended.stderr);
    let (again, ended) = made(&builder(2), &["--cache-from", &from]);
    assert_ne!(again, first);
    assert!(!ended.stderr.contains("cached layer"), "{}", ended.stderr);
    // Once there are no damaged ones, there is nothing to tell.
    let (_, ended) = made(&builder(2), &["--cache-to", &to]);
    assert!(!ended.stderr.contains("left out"), "{}", ended.stderr);
}

fn blobs(cache: &Path) -> Vec<std::path::PathBuf> {
    let blobs = std::fs::read_dir(cache.join("blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().path()).collect()
}

/// Somebody else who writes a directory's index is told of and waited for, and a build that waits can be stopped.
#[test]
fn an_index_that_somebody_else_writes_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    for (number, to) in [
        ("--cache-to", "type=local,merge=true"),
        ("--cache-to", "type=local"),
        ("--output", "type=oci,tar=false"),
    ]
    .into_iter()
    .enumerate()
    {
        let place = directory.path().join(number.to_string());
        std::fs::create_dir(&place).unwrap();
        let path = place.join("index.json.lock");
        let held = std::fs::File::create(&path).unwrap();
        held.lock().unwrap();
        let bed = builder(number);
        let option = format!("{},dest={}", to.1, place.display());
        for stops in [true, false] {
            let mut command = bed.build_command(&[], &[to.0, &option]);
            let mut build = command.stderr(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(build.stderr.take().unwrap()).lines();
            let waiting = format!("waiting for {}", path.display());
            let mut told = lines.by_ref().map_while(Result::ok);
            assert!(told.any(|line| line.contains(&waiting)), "{option}");
            match stops {
                true => {
                    let pid = rustix::process::Pid::from_child(&build);
                    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
                }
                false => held.unlock().unwrap(),
            }
            let rest: Vec<_> = told.collect();
            let ended = build.wait().unwrap().code();
            let expected = if stops { Some(130) } else { Some(0) };
            assert_eq!(ended, expected, "{option}: {rest:?}");
            assert_eq!(place.join("index.json").exists(), !stops, "{option}");
        }
    }
}

/// What somebody puts where files of a directory are to be.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Directory,
    Full,
    Fifo,
    Dangling,
    Outside,
}

impl Odd {
    fn put(self, path: &Path) {
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
        let link = |to: &str| std::os::unix::fs::symlink(to, path).unwrap();
        match self {
            Self::Directory => std::fs::create_dir(path).unwrap(),
            Self::Full => std::fs::create_dir_all(path.join("more")).unwrap(),
            Self::Fifo => {
                let made = std::process::Command::new("mkfifo").arg(path).status();
                assert!(made.unwrap().success());
            }
            Self::Dangling => link("nowhere"),
            Self::Outside => link("/etc/hostname"),
        }
    }
}

/// What is no file where one is to be is no cache to a build, and stands in the way of none.
#[test]
fn a_directory_with_something_else_than_files_takes_a_cache_again() {
    for (number, odd) in [
        Odd::Directory,
        Odd::Full,
        Odd::Fifo,
        Odd::Dangling,
        Odd::Outside,
    ]
    .into_iter()
    .enumerate()
    {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let (to, from) = (
            format!("type=local,dest={},mode=max", cache.display()),
            format!("type=local,src={}", cache.display()),
        );
        let bed = builder(number);
        let (first, _) = made(&bed, &["--cache-to", &to]);
        for (merges, what) in [
            ("true", "blobs"),
            ("false", "index.json"),
            ("true", "index.json"),
        ] {
            match what {
                "blobs" => blobs(&cache).iter().for_each(|blob| odd.put(blob)),
                _ => ["index.json", "oci-layout"]
                    .iter()
                    .for_each(|name| odd.put(&cache.join(name))),
            }
            let (other, ended) = made(&builder(number), &["--cache-from", &from]);
            assert_ne!(other, first, "{odd:?} {what}: {}", ended.stderr);
            let told = ended.stderr.contains(&cache.display().to_string());
            assert!(told, "{odd:?} {what}: {}", ended.stderr);
            let to = format!("{to},merge={merges}");
            made(&bed, &["--cache-to", &to]);
            let (found, ended) = made(&builder(number), &["--cache-from", &from]);
            assert_eq!(found, first, "{odd:?} {what}: {}", ended.stderr);
        }
    }
    // Where directories are to be.
    let directory = tempfile::tempdir().unwrap();
    for name in ["blobs", "ingest"] {
        let cache = directory.path().join(name);
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(cache.join(name), "").unwrap();
        let to = format!("type=local,dest={}", cache.display());
        let bed = builder(0);
        let (first, _) = made(&bed, &["--cache-to", &to]);
        let from = format!("type=local,src={}", cache.display());
        assert_eq!(made(&builder(0), &["--cache-from", &from]).0, first);
    }
}
