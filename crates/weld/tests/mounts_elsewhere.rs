//! Cache mounts elsewhere: what one state directory's package caches hold, another one's begin with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use support::Bed;
use support::steps::forget;
use weld_testbed::{Fault, Proxy, Registry};

/// Fills an empty cache mount with what no other run makes, and tells of all that is in it.
fn step(options: &str, size: &str) -> String {
    format!(
        "FROM base\n\
         RUN --mount=type=cache,target=/c{options} cd /c && \
         if ! test -e made; then \
         mkdir -p dir/deep && head -c {size} /dev/urandom > dir/large && cat /proc/sys/kernel/random/uuid > made && \
         ln dir/large dir/deep/linked && ln -s ../made dir/symlink && touch dir/empty && \
         chmod 4751 made && chown -R 1234:567 dir && touch -d '2020-01-02 03:04:05' dir/empty made dir; fi && \
         find . | sort | xargs stat -c '%n %a %u %g %Y %h %F' > /out && \
         cat made >> /out && sha256sum dir/large dir/deep/linked >> /out && readlink dir/symlink >> /out && \
         stat -c %a:%u:%g . >> /out\n\
         FROM scratch\nCOPY --from=0 /out /\n"
    )
}

/// What the step tells of its cache mount.
fn told(bed: &Bed, arguments: &[&str]) -> String {
    let out = bed.build_files(arguments);
    std::fs::read_to_string(out.join("out")).unwrap()
}

/// The file of that name in the state directory's only cache mount.
fn made(bed: &Bed) -> std::path::PathBuf {
    let snapshots = std::fs::read_dir(bed.path("state/snapshots")).unwrap();
    let mut found = snapshots.map(|entry| entry.unwrap().path().join("fs/made"));
    found.find(|path| path.exists()).unwrap()
}

fn set_note(bed: &Bed) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(made(bed), "user.note", b"kept", flags).unwrap();
}

fn count(requests: &[String], method: &str, path: &str) -> usize {
    let is = |request: &&String| request.starts_with(method) && request.contains(path);
    requests.iter().filter(is).count()
}

#[test]
fn a_registry_keeps_cache_mounts_and_what_did_not_change_is_not_uploaded_again() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let place = format!("type=mount,ref={}/mounts:a,id=pkg", proxy.host());
    let bed = Bed::new();
    bed.dockerfile(&step(",id=pkg,sharing=locked", "20m"));
    let first = told(&bed, &["--cache-to", &place]);
    assert!(
        first.contains("1234 567") && first.contains("4751"),
        "{first}"
    );
    let chunks = count(&proxy.requests(), "POST", "/blobs/uploads/");
    assert!(chunks > 6, "{chunks}");
    set_note(&bed);
    bed.build(&["--cache-to", &place]).ok();
    proxy.requests();
    // All steps are cached, and the mount is what it was.
    bed.build(&["--cache-to", &place]).ok();
    let requests = proxy.requests();
    assert_eq!(
        count(&requests, "POST", "") + count(&requests, "PUT", ""),
        0,
        "{requests:?}"
    );

    forget(&bed);
    assert_eq!(told(&bed, &["--cache-from", &place]), first);
    let mut note = [0; 8];
    let length = rustix::fs::lgetxattr(made(&bed), "user.note", &mut note).unwrap();
    assert_eq!(&note[..length], b"kept");
    proxy.requests();
    // Filled once: what is there wins.
    let changes = step(",id=pkg,sharing=locked", "20m").replace(
        "find .",
        "(test -e dir/more || echo more > dir/more) && find .",
    );
    bed.dockerfile(&changes);
    let both = ["--cache-from", place.as_str(), "--cache-to", &place];
    let more = told(&bed, &both);
    assert!(more.contains("dir/more"), "{more}");
    let requests = proxy.requests();
    assert_eq!(
        count(&requests, "GET", "/blobs/"),
        2,
        "each time the config alone: {requests:?}"
    );
    let uploads = count(&requests, "POST", "/blobs/uploads/");
    assert!(
        (1..=4).contains(&uploads),
        "of {chunks} chunks: {requests:?}"
    );
    // Nothing is fetched where no step runs.
    bed.build(&["--cache-from", &place]).ok();
    assert_eq!(count(&proxy.requests(), "GET", "/blobs/"), 1);
    forget(&bed);
    assert_eq!(told(&bed, &["--cache-from", &place]), more);
    bed.run(&["store", "check"]).ok();
}

#[test]
fn a_directory_keeps_cache_mounts_of_several_ids_beside_one_another() {
    let bed = Bed::new();
    let directory = bed.path("mounts");
    let at = |what: &str| format!("type=mount,{what}={}", directory.display());
    // Mounts with an owner have a directory to begin with.
    bed.dockerfile(&step(",id=a,uid=77,gid=78,mode=0750", "1m"));
    let a = told(
        &bed,
        &["--cache-to", &format!("{},id=a;absent", at("dest"))],
    );
    assert!(a.ends_with("750:77:78\n"), "{a}");
    bed.dockerfile(&step(",id=b,sharing=private", "1m"));
    let b = told(&bed, &["--cache-to", &format!("{},id=b", at("dest"))]);
    forget(&bed);
    let from = at("src");
    assert_eq!(told(&bed, &["--cache-from", &from]), b);
    bed.dockerfile(&step(",id=a,uid=77,gid=78,mode=0750", "1m"));
    assert_eq!(told(&bed, &["--cache-from", &from]), a);
    // One that is not asked for.
    forget(&bed);
    let other = format!("{from},id=b");
    assert_ne!(told(&bed, &["--cache-from", &other]), a);
    // A mount without an id is called by where it is.
    bed.dockerfile(&step("", "1m"));
    let c = told(&bed, &["--cache-to", &format!("{},id=/c", at("dest"))]);
    forget(&bed);
    assert_eq!(told(&bed, &["--cache-from", &from]), c);
    forget(&bed);
    let ended = bed.build(&["--cache-from", "type=mount,src=/nowhere"]).ok();
    assert!(
        ended.stderr.contains("WARNING: /nowhere has no"),
        "{}",
        ended.stderr
    );
}

/// A directory of mounts whose files a disk changed is whole again when it was written again, and the build says what is lost.
#[test]
fn a_damaged_directory_takes_mounts_again() {
    let bed = Bed::new();
    let directory = bed.path("mounts");
    let at = |what: &str| format!("type=mount,{what}={}", directory.display());
    let to = format!("{},id=a", at("dest"));
    bed.dockerfile(&step(",id=a", "3m"));
    let first = told(&bed, &["--cache-to", &to]);
    let found = || {
        let other = Bed::new();
        other.dockerfile(&step(",id=a", "3m"));
        told(&other, &["--cache-from", &at("src")])
    };
    assert_eq!(found(), first);
    let blobs = || {
        let blobs = std::fs::read_dir(directory.join("blobs/sha256")).unwrap();
        let blobs = blobs.map(|blob| blob.unwrap().path());
        blobs
            .map(|blob| (std::fs::read(&blob).unwrap(), blob))
            .collect::<Vec<_>>()
    };
    let documents = |content: &[u8]| content.starts_with(b"{");
    let chunks = |content: &[u8]| !content.starts_with(b"{");
    type Which = fn(&[u8]) -> bool;
    let cases: [(Which, bool); 4] = [
        (chunks, false),
        (chunks, true),
        (documents, false),
        (documents, true),
    ];
    for (number, (which, gone)) in cases.into_iter().enumerate() {
        for (content, blob) in blobs().into_iter().filter(|(content, _)| which(content)) {
            match gone {
                true => std::fs::remove_file(blob).unwrap(),
                false => std::fs::write(blob, b"x".repeat(content.len())).unwrap(),
            }
        }
        let ended = bed.build(&["--cache-to", &to]).ok();
        assert_eq!(found(), first, "{number}: {}", ended.stderr);
        let is_told = ended.stderr.contains("written anew");
        assert_eq!(is_told, number > 1, "{number}: {}", ended.stderr);
    }
}

#[test]
fn what_fails_is_a_warning_and_an_empty_mount() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let place = format!("type=mount,ref={}/mounts:a,id=pkg", proxy.host());
    let bed = Bed::new();
    bed.dockerfile(&step(",id=pkg", "1m"));
    proxy.fault("PUT", "/blobs/uploads/", Fault::Status(403));
    let ended = bed.build(&["--cache-to", &place]).ok();
    assert!(
        ended.stderr.contains("exporting cache mounts") && ended.stderr.contains("403"),
        "{}",
        ended.stderr
    );
    proxy.heal();
    let small = format!("{place},max-size=100kB");
    let ended = bed.build(&["--cache-to", &small]).ok();
    assert!(
        ended
            .stderr
            .contains("is left out: it is larger than 102400 bytes"),
        "{}",
        ended.stderr
    );
    let first = told(&bed, &["--cache-to", &place]);
    for fault in [Fault::Status(404), Fault::Corrupt] {
        forget(&bed);
        proxy.fault("GET", "/blobs/", fault);
        assert_ne!(told(&bed, &["--cache-from", &place]), first);
        proxy.heal();
    }
    // The config can be had and a chunk cannot: the step begins with nothing of it.
    forget(&bed);
    bed.build(&["--cache-from", &small]).ok();
    forget(&bed);
    assert_eq!(told(&bed, &["--cache-from", &place]), first);
    // What is no cache of mounts stays what it is.
    let image = format!("{}/image:a", registry.host());
    bed.build(&["--push", "-t", &image]).ok();
    let onto = format!("type=mount,ref={image},id=pkg");
    let ended = bed.build(&["--cache-to", &onto]).ok();
    assert!(
        ended.stderr.contains("what is there holds no cache mounts"),
        "{}",
        ended.stderr
    );
    let kept = bed.tool(
        "skopeo",
        &[
            "inspect",
            "--tls-verify=false",
            &format!("docker://{image}"),
        ],
    );
    assert!(kept.contains("Layers"), "{kept}");
    bed.build(&["--cache-to", "type=mount,id=a"])
        .fails(&["requires ref"]);
    bed.build(&["--cache-to", "type=mount,ref=a"])
        .fails(&["requires id"]);
}

#[test]
fn nothing_of_it_is_left_when_all_is_pruned() {
    let registry = Registry::start().unwrap();
    let place = format!("type=mount,ref={}/mounts:pruned,id=pkg", registry.host());
    let bed = Bed::new();
    bed.dockerfile(&step(",id=pkg", "2m"));
    for option in ["--cache-to", "--cache-from"] {
        bed.build(&[option, &place]).ok();
        bed.run(&["prune", "--all"]).ok();
        for directory in ["snapshots", "content/blobs/sha256", "ingest", "trash"] {
            let left = std::fs::read_dir(bed.path("state").join(directory)).unwrap();
            assert_eq!(left.count(), 0, "{option}: {directory}");
        }
    }
}
