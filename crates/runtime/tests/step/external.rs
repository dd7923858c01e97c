//! The same through an external OCI runtime.

use std::collections::BTreeSet;
use std::path::PathBuf;

use weld_runtime::{
    CancellationToken, MountPlan, Network, Resources, RuntimeError, RuntimeKind, Secret, Security,
    Source, Stdio, StepMount, Ulimit, User,
};

use crate::bed::Bed;
use crate::lifetime::{alive, cgroups, eventually, kill_victim, mark, mounts};

fn bed() -> Bed {
    Bed::with(|config| config.kind = RuntimeKind::Oci("runc".into()))
}

#[tokio::test]
async fn output_environment_user_and_directory() {
    let bed = bed();
    let mut step = bed.script("pwd; id -u; id -G; hostname; echo $A $HOME; umask; ulimit -n; tail -1 /etc/hosts; echo err >&2; exit 3");
    step.cwd = "/work/dir".into();
    step.user = User::Named("app".into());
    step.hostname = "box".into();
    step.env.push("A=1".into());
    step.extra_hosts = vec![("db".into(), [10, 1, 2, 3].into())];
    let (name, soft, hard) = ("nofile".into(), 100, 200);
    step.ulimits = vec![Ulimit { name, soft, hard }];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.status.code, 3);
    assert_eq!(
        ran.stdout,
        "/work/dir\n1000\n1001 10 999\nbox\n1 /home/app\n0022\n100\n10.1.2.3\tdb\n"
    );
    assert_eq!(ran.stderr, "err\n");
    assert!(bed.path("upper/work/dir").is_dir());
}

#[tokio::test]
async fn mounts_and_secrets() {
    let bed = bed();
    let dir = bed.path("content");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/file"), "file\n").unwrap();
    let mount = |target: &str, sub_path: &str, read_only| StepMount {
        source: Source::Plan(MountPlan::Bind(dir.clone())),
        sub_path: sub_path.into(),
        target: target.into(),
        read_only,
        no_suid: false,
    };
    let mut step = bed.script(
        "cat /m/sub/file /f /run/secrets/s; stat -c %a:%u /run/secrets/s; echo x > /m/new; echo x > /ro/new; echo x > /run/secrets/s; df -k /t | tail -1 | awk '{print $2}'",
    );
    step.mounts = vec![
        mount("/m", "", false),
        mount("/f", "sub/file", false),
        mount("/ro", "", true),
        StepMount {
            source: Source::Tmpfs {
                size: Some(1 << 20),
            },
            sub_path: PathBuf::new(),
            target: "/t".into(),
            read_only: false,
            no_suid: false,
        },
    ];
    step.secrets = vec![Secret {
        target: "/run/secrets/s".into(),
        data: b"treasure\n".to_vec(),
        mode: 0o400,
        uid: 5,
        gid: 6,
    }];
    step.remove_stub_parents = true;
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "file\nfile\ntreasure\n400:5\n1024\n");
    assert!(
        ran.stderr.contains("/ro/new: Read-only file system"),
        "{ran:?}"
    );
    assert!(
        ran.stderr.contains("/run/secrets/s: Read-only file system"),
        "{ran:?}"
    );
    assert!(dir.join("new").exists());
    let left: BTreeSet<_> = std::fs::read_dir(bed.path("upper"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        left,
        ["dev", "etc", "proc", "sys"].map(str::to_owned).into()
    );
    assert_eq!(std::fs::read_dir(bed.path("upper/etc")).unwrap().count(), 0);
}

#[tokio::test]
async fn rights() {
    let bed = bed();
    let script = "grep -E 'Cap(Eff|Bnd|Amb)|Seccomp:|NoNew' /proc/self/status | tr '\\n\\t' '  '; unshare -m true; mount -t tmpfs x /tmp; ls /sys/class/net";
    let mut step = bed.script(script);
    step.network = Network::None;
    let ran = bed.run(step).await.unwrap();
    assert_eq!(
        ran.stdout,
        "CapEff: 00000000a80425fb CapBnd: 00000000a80425fb CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 2 lo\n"
    );
    assert_eq!(
        ran.stderr.matches("not permitted").count() + ran.stderr.matches("denied").count(),
        2,
        "{ran:?}"
    );
    let mut step =
        bed.script("mount -t tmpfs x /tmp && test -c /dev/fuse && grep Seccomp: /proc/self/status");
    step.security = Security::Insecure;
    assert_eq!(bed.run(step).await.unwrap().ok(), "Seccomp:\t0\n");
    let ran = bed
        .sh("mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk")
        .await;
    assert!(ran.stderr.contains("Operation not permitted"), "{ran:?}");
}

#[tokio::test]
async fn programs_that_cannot_be_executed() {
    let bed = bed();
    std::fs::write(bed.path("image/bin/plain"), "x").unwrap();
    for (program, message) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/no/foo", "exec: \"/no/foo\": no such file or directory"),
        ("plain", "exec: \"plain\": permission denied"),
    ] {
        let error = bed.run(bed.step(&[program])).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let error = bed.run(bed.step(&["/etc"])).await.unwrap_err();
    assert_eq!(error.exit_code(), Some(126), "{error}");
}

#[tokio::test]
async fn limits() {
    let bed = bed();
    let mut step = bed.script("head -c 200000000 /dev/zero | tail -n 1 | wc -c; cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max");
    step.resources = Resources {
        memory: 30 << 20,
        ..Resources::default()
    };
    let ran = bed.run(step).await.unwrap();
    assert!(ran.stdout.ends_with("31457280\n"), "{ran:?}");
    assert!(!ran.stdout.contains("200000000"), "{ran:?}");
}

#[tokio::test]
async fn background_processes_and_cancelling() {
    let bed = bed();
    bed.sh("(setsid sleep 47101 &); sleep 47101 & true")
        .await
        .ok();
    assert_eq!(alive("47101"), Vec::<String>::new());
    let cancel = CancellationToken::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let step = bed.script("trap '' TERM; echo started; sleep 47102; sleep 47102");
    let running = bed.runtime.run(step, Stdio::stream(sender), cancel.clone());
    let cancelling = async {
        receiver.recv().await.unwrap();
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(running, cancelling);
    assert!(matches!(result, Err(RuntimeError::Cancelled)), "{result:?}");
    assert_eq!(alive("47102"), Vec::<String>::new());
    assert_eq!(cgroups(&bed), BTreeSet::new());
    for name in ["oci/state", "oci/bundles"] {
        let dir = bed.path("state").join(name);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "{name}");
    }
    assert_eq!(mounts(&bed.path("")), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_process_is_cleaned_after() {
    let dir = kill_victim("runc").await;
    let bed = Bed::in_directory(dir.path(), |config| {
        config.kind = RuntimeKind::Oci("runc".into());
    });
    bed.runtime.clean_leftovers().await.unwrap();
    eventually(|| alive(&mark(&dir)).is_empty()).await;
    assert_eq!(cgroups(&bed), BTreeSet::new());
    assert_eq!(
        std::fs::read_dir(bed.path("state/oci/state"))
            .unwrap()
            .count(),
        0
    );
    bed.sh("true").await.ok();
}

#[tokio::test]
async fn a_runtime_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = weld_runtime::RuntimeConfig::embedded(dir.path().join("state"));
    config.kind = RuntimeKind::Oci("/no/such/runtime".into());
    let error = weld_runtime::Runtime::new(config).unwrap_err();
    assert!(matches!(error, RuntimeError::External { .. }), "{error}");
}
