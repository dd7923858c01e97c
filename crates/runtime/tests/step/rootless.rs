//! A normal user runs a step, through the example program `step`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::bed::make_image;

const UID: u32 = 61_234;

struct Home {
    dir: tempfile::TempDir,
    program: PathBuf,
}

/// A directory of the user's with an image, and the program where the user can execute it.
fn home() -> Home {
    let built = std::env::current_exe().unwrap();
    let built = built
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join("step");
    assert!(built.exists(), "`cargo test` builds the examples");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("step");
    std::fs::copy(&built, &program).unwrap();
    make_image(&dir.path().join("image"));
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    own(dir.path());
    Home { dir, program }
}

fn own(path: &Path) {
    std::os::unix::fs::lchown(path, Some(UID), Some(UID)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}

impl Home {
    fn run(&self, script: &str) -> Output {
        let mut command = Command::new(&self.program);
        command.arg(self.dir.path().join("state"));
        command.arg(self.dir.path().join("image"));
        command.args(["/bin/sh", "-c", script]);
        command.uid(UID).gid(UID).current_dir("/");
        command.output().unwrap()
    }

    /// The same where `/etc` knows the user and grants it ids, in a mount namespace only.
    fn run_with_ids(&self, script: &str) -> Output {
        let etc = self.dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let passwd = format!("{passwd}tester:x:{UID}:{UID}::/:/bin/sh\n");
        std::fs::write(etc.join("passwd"), passwd).unwrap();
        for name in ["subuid", "subgid"] {
            std::fs::write(etc.join(name), "tester:4000000:65536\n").unwrap();
        }
        let dir = self.dir.path().display();
        let command = format!(
            "mount -t overlay -o lowerdir={dir}/etc:/etc overlay /etc && cd / && \
             exec setpriv --reuid {UID} --regid {UID} --clear-groups {dir}/step {dir}/state {dir}/image /bin/sh -c '{script}'"
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["-m", "sh", "-c", &command]);
        unshare.output().unwrap()
    }
}

#[test]
fn a_normal_user_runs_a_step_as_root_of_a_user_namespace() {
    let home = home();
    let script = "id -u; echo $$; ls /proc > /l; grep -c '^[0-9]' /l; echo x > /new; rm /etc/group; \
                  echo lost > /dev/null; head -c 3 /dev/zero | wc -c; hostname; \
                  mount -t tmpfs x /tmp; exit 7";
    let output = home.run(script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(stderr.starts_with("step: running as Single\n"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout, "0\n1\n2\n3\nbuildkitsandbox\n", "{stderr}");
    assert!(
        stderr.contains("mount: "),
        "the filter forbids mounting: {stderr}"
    );
    let new = std::fs::read_to_string(home.dir.path().join("state/upper/new")).unwrap();
    assert_eq!(new, "x\n");
    assert!(home.dir.path().join("image/etc/group").exists());
}

#[test]
fn ranges_of_ids_are_mapped_where_the_system_grants_them() {
    let found = |name: &str| Path::new("/usr/bin").join(name).exists();
    if !found("newuidmap") || !found("newgidmap") {
        eprintln!("skipped: newuidmap and newgidmap (package uidmap) are not installed");
        return;
    }
    let home = home();
    let output = home.run_with_ids("touch /a && chown 5:6 /a && stat -c %u:%g /a");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("step: running as Mapped\n"), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5:6\n", "{stderr}");
}
