//! What every step relies on: programs, arguments, environment, user, directory, exit code.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use weld_runtime::{RuntimeError, Ulimit, User, UserIds};

use crate::bed::Bed;

#[tokio::test]
async fn output_and_exit_code() {
    let bed = Bed::new();
    let ran = bed.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(ran.status.code, 3);
    assert_eq!(ran.status.signal, None);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[tokio::test]
async fn a_signal_shows_in_the_status() {
    let bed = Bed::new();
    // The first process of a PID namespace is immune to its own signals, but not to faults.
    let ran = bed.sh("sh -c 'kill -TERM $$'; exit $?").await;
    assert_eq!(ran.status.code, 143);
    let mut step = bed.step(&["sh", "-c", "while :; do :; done"]);
    let (soft, hard) = (1, 2);
    step.ulimits = vec![Ulimit {
        name: "cpu".into(),
        soft,
        hard,
    }];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.status.signal, Some(libc_signal::KILL));
    assert_eq!(ran.status.code, 137);
}

mod libc_signal {
    pub(super) const KILL: i32 = 9;
}

#[tokio::test]
async fn huge_output_arrives_whole() {
    let bed = Bed::new();
    let ran = bed
        .sh("head -c 20000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2")
        .await;
    assert_eq!(ran.stdout.len(), 20_000_000);
    assert_eq!(ran.stderr.len(), 3_000_000);
    assert!(ran.stdout.bytes().all(|b| b == b'x'));
}

#[tokio::test]
async fn environment_is_what_the_step_says() {
    let bed = Bed::new();
    let mut step = bed.step(&["env"]);
    step.env.push("A=b c".into());
    let mut env: Vec<_> = bed
        .run(step)
        .await
        .unwrap()
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    env.sort();
    assert_eq!(env, ["A=b c", "HOME=/root", "PATH=/usr/bin:/bin"]);
}

#[tokio::test]
async fn home_comes_from_passwd_unless_set() {
    let bed = Bed::new();
    for (user, home) in [("app", "/home/app"), ("1234:5", "/")] {
        let mut step = bed.script("echo $HOME");
        step.user = User::Named(user.into());
        assert_eq!(bed.run(step).await.unwrap().ok().trim(), home);
    }
    let mut step = bed.script("echo $HOME");
    step.env.push("HOME=/elsewhere".into());
    assert_eq!(bed.run(step).await.unwrap().ok(), "/elsewhere\n");
}

#[tokio::test]
async fn users_and_groups() {
    let bed = Bed::new();
    for (user, id) in [
        ("", "0 0 0 10"),
        ("root", "0 0 0 10"),
        ("app", "1000 1001 1001 10 999"),
        ("1000", "1000 1001 1001 10 999"),
        ("app:docker", "1000 999 999"),
        ("app:7", "1000 7 7"),
        ("77", "77 0 0"),
        ("77:88", "77 88 88"),
        (":docker", "0 999 999"),
    ] {
        let mut step = bed.script("echo $(id -u) $(id -g) $(id -G)");
        step.user = User::Named(user.into());
        assert_eq!(bed.run(step).await.unwrap().ok().trim(), id, "{user:?}");
    }
    let mut step = bed.script("echo $(id -u) $(id -g) $(id -G)");
    step.user = User::Ids(UserIds {
        uid: 5,
        gid: 6,
        groups: vec![8, 7],
    });
    assert_eq!(bed.run(step).await.unwrap().ok(), "5 6 6 7 8\n");
}

#[tokio::test]
async fn unknown_users_are_named() {
    let bed = Bed::new();
    for (user, message) in [
        (
            "nobody",
            "unable to find user nobody: no matching entries in passwd file",
        ),
        (
            "app:none",
            "unable to find group none: no matching entries in group file",
        ),
        (
            "99999999999",
            "invalid user or group id 99999999999: must be in range 0-2147483647",
        ),
        (
            "-1",
            "invalid user or group id -1: must be in range 0-2147483647",
        ),
    ] {
        let mut step = bed.script("id");
        step.user = User::Named(user.into());
        assert_eq!(bed.run(step).await.unwrap_err().to_string(), message);
    }
}

#[tokio::test]
async fn user_files_do_not_lead_out_of_the_image() {
    let bed = Bed::new();
    let passwd = bed.path("image/etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    let outside = bed.path("outside");
    std::fs::write(&outside, "intruder:x:7:7::/:/bin/sh\n").unwrap();
    symlink(&outside, &passwd).unwrap();
    let mut step = bed.script("id");
    step.user = User::Named("intruder".into());
    let error = bed.run(step).await.unwrap_err();
    assert!(matches!(error, RuntimeError::User(_)), "{error}");
    std::fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let mut step = bed.script("id");
    step.user = User::Named("intruder".into());
    let error = bed.run(step).await.unwrap_err();
    assert!(matches!(error, RuntimeError::User(_)), "{error}");
}

#[tokio::test]
async fn working_directory_is_created_as_the_user() {
    let bed = Bed::new();
    let mut step = bed.script("pwd");
    step.cwd = "/srv/../work/a/b".into();
    step.user = User::Named("app".into());
    assert_eq!(bed.run(step).await.unwrap().ok(), "/work/a/b\n");
    let meta = std::fs::metadata(bed.path("upper/work/a")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777),
        (1000, 1001, 0o755)
    );
}

#[tokio::test]
async fn working_directory_that_is_a_file() {
    let bed = Bed::new();
    let mut step = bed.script("pwd");
    step.cwd = "/etc/passwd".into();
    let error = bed.run(step).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot change to working directory \"/etc/passwd\""),
        "{error}"
    );
}

#[tokio::test]
async fn programs_that_cannot_be_executed() {
    let bed = Bed::new();
    let write = |name: &str, content: &str, mode: u32| {
        let path = bed.path("image").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    write("bin/plain", "#!/bin/sh\n", 0o644);
    write("bin/lost", "#!/no/such/interpreter\n", 0o755);
    write("bin/junk", "\u{1}\u{2}\u{3}", 0o755);
    write("bin/locked", "#!/bin/sh\n", 0o700);
    for (program, message, code) in [
        (
            "foo",
            "exec: \"foo\": executable file not found in $PATH",
            127,
        ),
        (
            "/no/foo",
            "exec: \"/no/foo\": no such file or directory",
            127,
        ),
        ("plain", "exec: \"plain\": permission denied", 126),
        ("/bin/plain", "exec: \"/bin/plain\": permission denied", 126),
        ("/etc", "exec: \"/etc\": is a directory", 126),
        ("lost", "exec: \"lost\": no such file or directory", 127),
        ("junk", "exec: \"junk\": exec format error", 126),
        ("", "exec: \"\": executable file not found in $PATH", 127),
    ] {
        let error = bed.run(bed.step(&[program])).await.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.exit_code(), Some(code), "{program}");
    }
    let mut step = bed.step(&["locked"]);
    step.user = User::Named("app".into());
    let error = bed.run(step).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"locked\": permission denied");
}

#[tokio::test]
async fn program_relative_to_the_working_directory() {
    let bed = Bed::new();
    let mut step = bed.step(&["./busybox", "echo", "here"]);
    step.cwd = "/bin".into();
    assert_eq!(bed.run(step).await.unwrap().ok(), "here\n");
}

#[tokio::test]
async fn process_surroundings() {
    let bed = Bed::new();
    let script = "umask; echo $$; readlink /proc/self/fd/0; ls /proc/self/fd | wc -l; \
                  grep -E 'Sig(Ign|Blk)|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\n\\t' '  '; \
                  cat /proc/self/sessionid >/dev/null 2>&1; cat | wc -c";
    let out = bed.sh(script).await.ok();
    // The directory's own descriptor is the fourth.
    let expected = "0022\n1\n/dev/null\n4\nSigBlk: 0000000000000000 SigIgn: 0000000000000000 \
                    NoNewPrivs: 0 Seccomp: 2 0\n";
    assert_eq!(out, expected);
}

#[tokio::test]
async fn ulimits_are_set() {
    let bed = Bed::new();
    let mut step = bed.script("ulimit -n; ulimit -c");
    step.ulimits = vec![
        Ulimit {
            name: "nofile".into(),
            soft: 100,
            hard: 200,
        },
        Ulimit {
            name: "core".into(),
            soft: 0,
            hard: 0,
        },
    ];
    assert_eq!(bed.run(step).await.unwrap().ok(), "100\n0\n");
    for (name, soft, hard) in [("nosuch", 1, 1), ("nofile", 5, 4), ("nofile", -2, 4)] {
        let mut step = bed.script("true");
        step.ulimits = vec![Ulimit {
            name: name.into(),
            soft,
            hard,
        }];
        let error = bed.run(step).await.unwrap_err();
        assert!(
            matches!(
                error,
                RuntimeError::InvalidSpec {
                    field: "ulimit",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[tokio::test]
async fn hostname_and_hosts() {
    let bed = Bed::new();
    let out = bed.sh("hostname; cat /etc/hosts").await.ok();
    assert_eq!(
        out,
        "buildkitsandbox\n127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    );
    let mut step = bed.script("hostname; tail -1 /etc/hosts; echo x >> /etc/hosts");
    step.hostname = "box".into();
    step.extra_hosts = vec![("db".into(), [10, 1, 2, 3].into())];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "box\n10.1.2.3\tdb\n");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
}

#[tokio::test]
async fn invalid_steps_are_refused() {
    let bed = Bed::new();
    let refused = |change: fn(&mut weld_runtime::StepSpec)| {
        let mut step = bed.script("true");
        change(&mut step);
        async { bed.run(step).await.unwrap_err().to_string() }
    };
    assert_eq!(
        refused(|step| step.args.clear()).await,
        "invalid step: args: there is no program to run"
    );
    assert_eq!(
        refused(|step| step.id = "../x".into()).await,
        "invalid step: id: \"../x\" is not a valid id"
    );
    assert_eq!(
        refused(|step| step.cwd = "relative".into()).await,
        "invalid step: cwd: \"relative\" is not absolute"
    );
    assert_eq!(
        refused(|step| step.args.push("a\0b".into())).await,
        "invalid step: args: a value has a NUL character in it"
    );
}
