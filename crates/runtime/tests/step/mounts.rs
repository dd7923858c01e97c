//! What a step sees of file systems, and that nothing leads out.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use rustix::mount::{OpenTreeFlags, open_tree};
use weld_runtime::{
    AgentConnector, AgentSocket, MountPlan, Overlay, RuntimeError, Secret, Source, StepMount, User,
};

use crate::bed::Bed;

fn bind(source: PathBuf, target: &str) -> StepMount {
    StepMount {
        source: Source::Plan(MountPlan::Bind(source)),
        sub_path: PathBuf::new(),
        target: target.into(),
        read_only: false,
        no_suid: false,
    }
}

/// A directory with a few files, to be mounted.
fn content(bed: &Bed) -> PathBuf {
    let dir = bed.path("content");
    std::fs::create_dir_all(dir.join("sub/deep")).unwrap();
    std::fs::write(dir.join("file"), "file\n").unwrap();
    std::fs::write(dir.join("sub/inner"), "inner\n").unwrap();
    dir
}

#[tokio::test]
async fn changes_go_to_the_upper_directory() {
    let bed = Bed::new();
    bed.sh("echo new > /new; rm /etc/group; mkdir /var/lib/x")
        .await
        .ok();
    let upper = bed.path("upper");
    assert_eq!(std::fs::read_to_string(upper.join("new")).unwrap(), "new\n");
    assert_eq!(
        std::fs::metadata(upper.join("etc/group")).unwrap().rdev(),
        0
    );
    assert!(upper.join("var/lib/x").is_dir());
    assert!(bed.path("image/etc/group").exists());
}

/// All that a step's run itself leaves in the root file system.
#[tokio::test]
async fn a_run_leaves_no_mount_points() {
    let bed = Bed::new();
    let image = bed.path("image");
    let before = std::fs::metadata(image.join("etc")).unwrap();
    let mut step = bed.script("test -s /etc/hosts && test -e /run/secrets/s && test -d /x/y/z");
    step.remove_stub_parents = true;
    step.secrets = vec![secret("/run/secrets/s")];
    step.mounts = vec![
        bind(content(&bed), "/x/y/z"),
        bind(content(&bed), "/etc/file/x"),
    ];
    bed.run(step).await.unwrap().ok();
    let mut left = Vec::new();
    let mut dirs = vec![bed.path("upper")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            left.push(
                path.strip_prefix(bed.path("upper"))
                    .unwrap()
                    .display()
                    .to_string(),
            );
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    left.sort();
    // What the kernel's file systems are mounted on stays, as with other runtimes; `/etc` was copied
    // up unchanged.
    assert_eq!(left, ["dev", "etc", "proc", "sys"]);
    let after = std::fs::metadata(bed.path("upper/etc")).unwrap();
    assert_eq!(before.mtime_nsec(), after.mtime_nsec());
    assert_eq!(before.mtime(), after.mtime());
}

#[tokio::test]
async fn parents_of_mount_points_stay_unless_asked() {
    let bed = Bed::new();
    let mut step = bed.script("true");
    step.secrets = vec![secret("/run/secrets/s")];
    bed.run(step).await.unwrap().ok();
    assert!(bed.path("upper/run/secrets").is_dir());
    assert!(!bed.path("upper/run/secrets/s").exists());
}

#[tokio::test]
async fn mount_points_that_are_used_stay() {
    let bed = Bed::new();
    let mut step = bed.script("umount /x 2>/dev/null; rm -r /etc/group; mkdir -p /y/kept");
    step.mounts = vec![bind(content(&bed), "/y/m")];
    step.remove_stub_parents = true;
    bed.run(step).await.unwrap().ok();
    assert!(bed.path("upper/y/kept").is_dir());
    assert!(!bed.path("upper/y/m").exists());
}

#[tokio::test]
async fn bind_mounts_read_and_write() {
    let bed = Bed::new();
    let dir = content(&bed);
    let mut step = bed.script("cat /m/file; echo new > /m/new; cat /f; echo no > /ro/no");
    let mut read_only = bind(dir.clone(), "/ro");
    read_only.read_only = true;
    step.mounts = vec![
        bind(dir.clone(), "/m"),
        bind(dir.join("sub/inner"), "/f"),
        read_only,
    ];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "file\ninner\n");
    assert!(
        ran.stderr.contains("/ro/no: Read-only file system"),
        "{ran:?}"
    );
    assert_eq!(std::fs::read_to_string(dir.join("new")).unwrap(), "new\n");
}

#[tokio::test]
async fn a_read_only_mount_is_so_with_what_is_mounted_in_it() {
    let bed = Bed::new();
    let dir = content(&bed);
    let mut outer = bind(dir.clone(), "/ro");
    outer.read_only = true;
    let mut step = bed.script("echo 1 > /ro/sub/deep/x; echo yes > /ro/sub/rw/x");
    std::fs::create_dir(dir.join("sub/rw")).unwrap();
    step.mounts = vec![outer, bind(dir.join("sub/deep"), "/ro/sub/rw")];
    let ran = bed.run(step).await.unwrap();
    assert!(ran.stderr.contains("/ro/sub/deep/x: Read-only"), "{ran:?}");
    assert_eq!(
        std::fs::read_to_string(dir.join("sub/deep/x")).unwrap(),
        "yes\n"
    );
}

#[tokio::test]
async fn sub_paths_stay_in_their_source() {
    let bed = Bed::new();
    let dir = content(&bed);
    symlink("/sub", dir.join("absolute")).unwrap();
    symlink("../../../../etc", dir.join("up")).unwrap();
    for (sub_path, found) in [
        ("sub", Some("inner\n")),
        ("/sub/", Some("inner\n")),
        ("absolute", Some("inner\n")),
        ("../../sub", Some("inner\n")),
        ("up", None),
        ("missing", None),
    ] {
        let mut step = bed.script("cat /m/inner");
        let mut mount = bind(dir.clone(), "/m");
        mount.sub_path = sub_path.into();
        step.mounts = vec![mount];
        match (bed.run(step).await, found) {
            (Ok(ran), Some(found)) => assert_eq!(ran.ok(), found),
            (Err(error), None) => {
                assert!(
                    matches!(error, RuntimeError::SubPathNotFound { .. }),
                    "{error}"
                );
            }
            (result, _) => panic!("{sub_path}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn tmpfs_of_a_size() {
    let bed = Bed::new();
    let mut step =
        bed.script("df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t; mount | grep ' /t '");
    step.mounts = vec![StepMount {
        source: Source::Tmpfs {
            size: Some(1 << 20),
        },
        sub_path: PathBuf::new(),
        target: "/t".into(),
        read_only: false,
        no_suid: false,
    }];
    let out = bed.run(step).await.unwrap().ok();
    assert!(out.starts_with("1024\n1777\n"), "{out}");
    assert!(out.contains("nosuid"), "{out}");
}

#[tokio::test]
async fn overlays_share_one_mount() {
    let bed = Bed::new();
    let dir = content(&bed);
    let plan = || {
        MountPlan::Overlay(Overlay {
            lowers: vec![dir.clone(), bed.path("image")],
            upper: None,
            options: Vec::new(),
        })
    };
    let mount = |sub_path: &str, target: &str| StepMount {
        source: Source::Plan(plan()),
        sub_path: sub_path.into(),
        target: target.into(),
        read_only: false,
        no_suid: false,
    };
    let mut step = bed.script(
        "cat /a/inner /b; test -e /c/bin/sh && stat -c %d /a /c | uniq | wc -l; touch /c/x",
    );
    step.mounts = vec![mount("sub", "/a"), mount("file", "/b"), mount("", "/c")];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "inner\nfile\n1\n");
    assert!(ran.stderr.contains("Read-only"), "{ran:?}");
}

fn detach(path: &std::path::Path) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(rustix::fs::CWD, path, flags).unwrap()
}

#[tokio::test]
async fn detached_mounts() {
    let bed = Bed::new();
    let dir = content(&bed);
    let mount = |sub_path: &str, target: &str| StepMount {
        source: Source::Detached(detach(&dir)),
        sub_path: sub_path.into(),
        target: target.into(),
        read_only: true,
        no_suid: false,
    };
    let mut step = bed.script("cat /a/file /b/inner");
    step.mounts = vec![mount("", "/a"), mount("sub", "/b")];
    assert_eq!(bed.run(step).await.unwrap().ok(), "file\ninner\n");
    let mut step = bed.script("cat /etc/passwd | head -1");
    step.root = Source::Detached(detach(&bed.path("image")));
    assert!(bed.run(step).await.unwrap().ok().starts_with("root:"));
}

#[tokio::test]
async fn many_layers_and_long_paths() {
    let bed = Bed::new();
    let long = bed.path(&"d".repeat(200)).join("e".repeat(100));
    let mut lowers = Vec::new();
    for index in 0..300 {
        let dir = long.join(index.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{index}")), "").unwrap();
        lowers.push(dir);
    }
    lowers.push(bed.path("image"));
    let mut step = bed.script("ls / | grep -c '^f[0-9]'");
    step.root = Source::Plan(MountPlan::Overlay(Overlay {
        lowers,
        upper: Some(weld_runtime::UpperDirs {
            upper: bed.path("upper"),
            work: bed.path("work"),
        }),
        options: vec![("volatile".into(), None)],
    }));
    assert_eq!(bed.run(step).await.unwrap().ok(), "300\n");
}

#[tokio::test]
async fn a_missing_layer_is_named() {
    let bed = Bed::new();
    let mut step = bed.script("true");
    step.root = Source::Plan(MountPlan::Overlay(Overlay {
        lowers: vec![bed.path("nothing")],
        upper: None,
        options: Vec::new(),
    }));
    let error = bed.run(step).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot mount the root file system: "),
        "{error}"
    );
    assert!(error.contains("/nothing"), "{error}");
}

/// Links of an image that point out of it lead to a place in it.
#[tokio::test]
async fn targets_do_not_escape_through_links() {
    let bed = Bed::new();
    let outside = bed.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let image = bed.path("image");
    symlink(&outside, image.join("absolute")).unwrap();
    symlink("../../../../../../../../../..", image.join("up")).unwrap();
    symlink("loop", image.join("loop")).unwrap();
    let dir = content(&bed);
    for target in ["/absolute/a", "/up/b/c", "/absolute"] {
        let mut step = bed.script(&format!("cat {target}/file"));
        step.mounts = vec![bind(dir.clone(), target)];
        assert_eq!(bed.run(step).await.unwrap().ok(), "file\n", "{target}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!std::path::Path::new("/b").exists());
    }
    let mut step = bed.script("true");
    step.mounts = vec![bind(dir, "/loop/x")];
    let error = bed.run(step).await.unwrap_err();
    assert!(matches!(error, RuntimeError::MountTarget { .. }), "{error}");
}

/// As in images where `/etc/resolv.conf` leads to a service's file that is not there.
#[tokio::test]
async fn a_dangling_link_is_a_target() {
    let bed = Bed::new();
    symlink(
        "../run/service/resolv.conf",
        bed.path("image/etc/resolv.conf"),
    )
    .unwrap();
    let ran = bed
        .sh("grep -c nameserver /etc/resolv.conf; readlink -f /etc/resolv.conf")
        .await;
    assert!(ran.ok().ends_with("\n/run/service/resolv.conf\n"));
    assert!(!bed.path("upper/run/service/resolv.conf").exists());
    assert!(
        bed.path("upper")
            .join("etc/resolv.conf")
            .symlink_metadata()
            .is_err()
    );
}

#[tokio::test]
async fn impossible_targets_are_explained() {
    let bed = Bed::new();
    let dir = content(&bed);
    for (mount, message) in [
        (
            bind(dir.clone(), "/etc/passwd"),
            "cannot mount \"/etc/passwd\": a directory cannot be mounted on a file",
        ),
        (
            bind(dir.join("file"), "/etc"),
            "cannot mount \"/etc\": a file cannot be mounted on a directory",
        ),
        (
            bind(dir.clone(), "/etc/passwd/x"),
            "cannot mount \"/etc/passwd/x\": a part of the path is not a directory",
        ),
        (
            bind(dir.clone(), "/proc/sys/kernel"),
            "cannot mount \"/proc/sys/kernel\": nothing may be mounted inside of /proc",
        ),
        (
            bind(dir.clone(), "/x/.."),
            "cannot mount \"/\": the root file system is mounted there",
        ),
    ] {
        let mut step = bed.script("true");
        step.mounts = vec![mount];
        assert_eq!(bed.run(step).await.unwrap_err().to_string(), message);
    }
    let mut step = bed.script("true");
    step.mounts = vec![bind(bed.path("absent"), "/m")];
    let error = bed.run(step).await.unwrap_err().to_string();
    assert!(
        error.contains("\"/m\"") && error.contains("/absent: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_read_only_root() {
    let bed = Bed::new();
    let mut step = bed.script("touch /x; touch /m/y && touch /dev/shm/z");
    step.read_only_root = true;
    step.mounts = vec![bind(content(&bed), "/m")];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.status.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("/x: Read-only"), "{ran:?}");
}

fn secret(target: &str) -> Secret {
    Secret {
        target: target.into(),
        data: b"hidden treasure".to_vec(),
        mode: 0o400,
        uid: 0,
        gid: 0,
    }
}

#[tokio::test]
async fn secrets_are_read_only_files_with_their_owner() {
    let bed = Bed::new();
    let mut step = bed.script(
        "cat /run/secrets/s; stat -c ' %a %u %g' /run/secrets/s; cat /root-only; echo x > /run/secrets/s; rm /run/secrets/s",
    );
    step.user = User::Named("app".into());
    let mut own = secret("/run/secrets/s");
    (own.uid, own.gid, own.mode) = (1000, 7, 0o440);
    step.secrets = vec![own, secret("/root-only")];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "hidden treasure 440 1000 7\n");
    assert!(
        ran.stderr.contains("/root-only': Permission denied"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("/run/secrets/s: "), "{ran:?}");
    let found = std::process::Command::new("grep")
        .args(["-rl", "hidden treasure"])
        .arg(bed.path(""))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert!(!format!("{:?}", secret("/x")).contains("treasure"));
}

#[tokio::test]
async fn secrets_show_in_no_other_place() {
    let bed = Bed::new();
    let mut step = bed.script("cut -d' ' -f5 /proc/self/mountinfo; for d in $(ls / | grep -v -e proc -e sys -e dev -e bin); do grep -rl 'hidden treasure' /$d; done 2>/dev/null; ls / | grep '^[0-9]'");
    step.secrets = vec![secret("/s")];
    let out = bed.run(step).await.unwrap().stdout;
    let mounts: Vec<&str> = out.lines().collect();
    assert_eq!(
        mounts.iter().filter(|line| **line == "/").count(),
        1,
        "{out}"
    );
    assert!(!out.contains(bed.path("").to_str().unwrap()), "{out}");
    // Once as a mount, once as the file that has the text; and nothing of its name in the root.
    assert_eq!(
        mounts.iter().filter(|line| **line == "/s").count(),
        2,
        "{out}"
    );
}

#[tokio::test]
async fn agent_sockets_forward() {
    let bed = Bed::new();
    let path = bed.path("agent.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = [0; 4];
        stream.read_exact(&mut question).await.unwrap();
        stream.write_all(b"pong\n").await.unwrap();
        question
    });
    let mut step =
        bed.script("echo ping | nc local:/run/agent 2>&1; stat -c '%a %u %F' /run/agent");
    step.args = vec![
        "sh".into(),
        "-c".into(),
        "stat -c '%a %u %F' /run/agent; /bin/nc-unix".into(),
    ];
    step.agents = vec![AgentSocket {
        target: "/run/agent".into(),
        mode: 0o600,
        uid: 1000,
        gid: 0,
        connector: AgentConnector::unix(path),
    }];
    step.user = User::Named("app".into());
    bed.compile("bin/nc-unix", CLIENT);
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "600 1000 socket\npong\n", "{ran:?}");
    assert_eq!(&served.await.unwrap(), b"ping");
}

/// Sends `ping` to `/run/agent` and prints the answer; busybox has no such program.
const CLIENT: &str = r#"
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <unistd.h>
    int main(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/agent" };
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return 1;
        if (write(fd, "ping", 4) != 4) return 2;
        char buffer[64];
        long got = read(fd, buffer, sizeof buffer);
        return got > 0 && write(1, buffer, got) == got ? 0 : 3;
    }"#;

#[tokio::test]
async fn dev_is_like_docker_s() {
    let bed = Bed::new();
    let mut step = bed.script(
        "cd /dev; ls | grep -v core; for f in null zero full random urandom tty; do stat -c '%n %a %F %t:%T' $f; done; \
         for f in fd stdin stdout stderr ptmx; do readlink $f; done; df -k shm | tail -1 | awk '{print $2}'; echo x > null; \
         head -c 2 zero | od -An -tx1; echo hi > /dev/stderr",
    );
    step.shm_size = Some(8 << 20);
    let ran = bed.run(step).await.unwrap();
    let expected = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
        null 666 character special file 1:3\nzero 666 character special file 1:5\n\
        full 666 character special file 1:7\nrandom 666 character special file 1:8\n\
        urandom 666 character special file 1:9\ntty 666 character special file 5:0\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n8192\n 00 00\n";
    assert_eq!(ran.stdout, expected);
    assert_eq!(ran.stderr, "hi\n");
}

#[tokio::test]
async fn kernel_files_are_masked_and_protected() {
    let bed = Bed::new();
    let out = bed.sh(
        "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l; \
         echo 1 > /proc/sys/kernel/hostname; touch /sys/x; mkdir /sys/fs/cgroup/x; touch /sys/firmware/x",
    ).await;
    assert_eq!(out.stdout, "0\n0\n", "{out:?}");
    assert_eq!(out.stderr.matches("Read-only").count(), 4, "{out:?}");
}
