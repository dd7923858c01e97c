//! What steps must not do unless the client grants it: privileges, devices of the host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use support::{Bed, Ended};

/// Two devices of one kind, one of another that anybody may have.
fn described() -> Bed {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.path("cdi")).unwrap();
    std::fs::create_dir_all(bed.path("shared")).unwrap();
    std::fs::write(bed.path("shared/file"), "of the host\n").unwrap();
    let shared = bed.path("shared");
    let vendor = format!(
        "cdiVersion: \"0.6.0\"
kind: vendor.com/device
annotations:
  of.all: 1
containerEdits:
  env: [COMMON=1, OVER=kind]
devices:
- name: one
  containerEdits:
    env: [OVER=one]
    deviceNodes:
    - path: /dev/nothing
      hostPath: /dev/null
    mounts:
    - hostPath: {shared}
      containerPath: /opt/shared
      options: [ro, nosuid, nodev, rbind, rprivate]
    - hostPath: {shared}/file
      containerPath: /opt/file
- name: two
  annotations:
    org.mobyproject.buildkit.device.class: fast
  containerEdits:
    env: [TWO=1]
",
        shared = shared.display()
    );
    std::fs::write(bed.path("cdi/vendor.yaml"), vendor).unwrap();
    let open = r#"{"cdiVersion": "0.6.0", "kind": "open.com/device",
        "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
        "devices": [{"name": "a", "containerEdits": {"env": ["OPEN=1"]}}]}"#;
    std::fs::write(bed.path("cdi/open.json"), open).unwrap();
    let config = format!("[cdi]\nspecDirs = [{:?}]\n", bed.path("cdi"));
    std::fs::write(bed.path("weld.toml"), config).unwrap();
    bed
}

fn run(bed: &Bed, step: &str, arguments: &[&str]) -> Ended {
    bed.dockerfile(&format!("FROM base\n{step}\n"));
    let config = bed.path("weld.toml");
    let mut all = vec!["--config", config.to_str().unwrap()];
    all.extend(arguments);
    bed.build(&all)
}

const ONE: &str = "RUN --device=vendor.com/device=one,required \
    echo common=$COMMON over=$OVER && cat /opt/shared/file /opt/file && stat -c %F,%t,%T /dev/nothing && \
    echo lost > /dev/nothing && ! touch /opt/shared/x && grep ' /opt/shared ' /proc/mounts";

fn check_one(ended: Ended) {
    let text = ended.ok().stderr;
    assert!(text.contains("common=1 over=one"), "{text}");
    assert_eq!(text.matches(" of the host").count(), 2, "{text}");
    assert!(text.contains("character special file,1,3"), "{text}");
    // Not the line that says what is run.
    let mut mounts = text.lines().filter(|line| !line.contains("RUN"));
    let mount = mounts.find(|line| line.contains(" /opt/shared ")).unwrap();
    assert!(
        mount.contains("nosuid") && mount.contains(" ro,"),
        "{mount}"
    );
}

#[test]
fn a_step_gets_what_the_description_of_its_device_says() {
    let bed = described();
    check_one(run(&bed, ONE, &["--allow", "device"]));
    // What a device brought is gone when its step is over.
    let gone = "RUN [ -z \"$COMMON\" ] && [ ! -e /dev/nothing ] && [ ! -e /opt/file ]";
    run(&bed, &format!("{ONE}\n{gone}"), &["--allow", "device"]).ok();
}

#[test]
fn an_oci_runtime_gives_devices_too() {
    let bed = described();
    check_one(run(
        &bed,
        ONE,
        &["--allow", "device", "--oci-runtime", "runc"],
    ));
}

#[test]
fn devices_are_found_by_kind_class_and_wildcard() {
    let bed = described();
    for (name, expected) in [
        ("vendor.com/device", "common=1 over=one two="),
        ("vendor.com/device=two", "common=1 over=kind two=1"),
        ("vendor.com/device=*", "common=1 over=one two=1"),
        ("fast", "common=1 over=kind two=1"),
        ("vendor.com/other=one", "common= over= two="),
    ] {
        let step = format!("RUN --device={name} echo common=$COMMON over=$OVER two=$TWO.");
        let text = run(&bed, &step, &["--allow", "device"]).ok().stderr;
        assert!(text.contains(&format!("{expected}.")), "{name}: {text}");
    }
}

#[test]
fn devices_need_to_be_allowed() {
    let bed = described();
    let open = "RUN --device=open.com/device=a [ $OPEN = 1 ]";
    run(&bed, open, &[]).ok();
    let two = "RUN --device=vendor.com/device=two [ $TWO = 1 ]";
    let refused = "device vendor.com/device=two is requested by the build but not allowed";
    run(&bed, two, &[]).fails(&[
        refused,
        "--allow device=vendor.com/device=two",
        "RUN --device=vendor.com/device=two [ $TWO = 1 ]\n     |                  ^^^^^^^^^^^^^^^^^^^^^",
    ]);
    run(&bed, two, &["--allow", "device=vendor.com/device=one"]).fails(&[refused]);
    // A result of an earlier build is no permission.
    run(&bed, two, &["--allow", "device=vendor.com/device=two"]).ok();
    run(&bed, two, &[]).fails(&[refused]);
    run(&bed, two, &["--allow", "device=fast"]).ok();
    run(&bed, two, &["--allow", "device=x,other=y"]).fails(&["unknown entitlement"]);
}

#[test]
fn a_device_may_have_another_name_in_the_build() {
    let bed = described();
    let step = "RUN --device=gpu,required echo over=$OVER two=$TWO.";
    let alias = "device=vendor.com/device=two,alias=gpu";
    run(&bed, step, &["--allow", "device"]).fails(&["required device \"gpu\" is not registered"]);
    let text = run(&bed, step, &["--allow", alias]).ok().stderr;
    assert!(text.contains("over=kind two=1."), "{text}");
    // Another device by the same name is another step.
    let one = "device=vendor.com/device=one,alias=gpu";
    let text = run(&bed, step, &["--allow", one]).ok().stderr;
    assert!(text.contains("over=one two=."), "{text}");
    // What has no other name goes by its own.
    let both = "RUN --device=gpu --device=open.com/device=a echo two=$TWO open=$OPEN.";
    let text = run(&bed, both, &["--allow", alias]).ok().stderr;
    assert!(text.contains("two=1 open=1."), "{text}");
    let other = "RUN --device=gpu --device=vendor.com/device=one true";
    run(&bed, other, &["--allow", alias])
        .fails(&["device vendor.com/device=one is requested by the build but not allowed"]);
}

#[test]
fn a_device_may_be_for_reading_only_and_bring_groups() {
    let bed = described();
    let text = "cdiVersion: 0.7.0\nkind: read.com/device\ndevices:\n- name: x\n  containerEdits:\n    \
                additionalGids: [0, 44]\n    \
                deviceNodes: [{path: /dev/x, type: c, major: 10, minor: 229, permissions: r}]\n";
    std::fs::write(bed.path("cdi/read.yml"), text).unwrap();
    let step = "RUN --device=read.com/device=x,required id -G && sh -c 'true < /dev/x' && \
        ! sh -c 'true > /dev/x'";
    for runtime in [&[][..], &["--oci-runtime", "runc"]] {
        let arguments = [&["--allow", "device", "--no-cache"], runtime].concat();
        let text = run(&bed, step, &arguments).ok().stderr;
        assert!(text.contains(" 0 44"), "{text}");
        assert!(text.contains("/dev/x: Operation not permitted"), "{text}");
    }
}

#[test]
fn what_cannot_be_given_is_refused_by_name() {
    let bed = described();
    let describe = |edits: &str| {
        let text = format!(
            "cdiVersion: 0.6.0\nkind: bad.com/device\ndevices:\n- name: x\n  containerEdits:\n    {edits}\n"
        );
        std::fs::write(bed.path("cdi/bad.yml"), text).unwrap();
    };
    let step = "RUN --device=bad.com/device=x,required true";
    for (edits, part) in [
        (
            "hooks: [{hookName: createContainer, path: /bin/hook}]",
            "hooks are not run: createContainer /bin/hook",
        ),
        ("intelRdt: {closID: x}", "intelRdt is not supported"),
        (
            "deviceNodes: [{path: /etc/x, hostPath: /dev/null}]",
            "/etc/x is not below /dev",
        ),
        (
            "deviceNodes: [{path: /dev/x, hostPath: /dev/null, permissions: rx}]",
            "permissions \"rx\" of /dev/x",
        ),
        (
            "deviceNodes: [{path: /dev/x, hostPath: /etc/passwd}]",
            "/etc/passwd is no device",
        ),
        (
            "deviceNodes: [{path: /dev/x, hostPath: /dev/null, type: b}]",
            "is not of type",
        ),
        (
            "mounts: [{hostPath: /etc, containerPath: /x, options: [noexec]}]",
            "option \"noexec\" is not supported",
        ),
        (
            "mounts: [{hostPath: /etc, containerPath: /x, type: tmpfs}]",
            "type \"tmpfs\" is not supported",
        ),
        ("env: [x]", "env \"x\" is not NAME=VALUE"),
        ("surprise: 1", "unknown field `surprise`"),
    ] {
        describe(edits);
        run(&bed, step, &["--allow", "device"]).fails(&["bad.com/device=x", part]);
    }
    // Others are found all the same, and two descriptions of one device are none.
    run(
        &bed,
        "RUN --device=open.com/device=a,required [ $OPEN = 1 ]",
        &[],
    )
    .ok();
    std::fs::copy(bed.path("cdi/open.json"), bed.path("cdi/again.json")).unwrap();
    run(&bed, "RUN --device=open.com/device=a,required true", &[]).fails(&["is described by both"]);
    std::fs::write(bed.path("weld.toml"), "[cdi]\ndisabled = true\n").unwrap();
    run(&bed, step, &["--allow", "device"]).fails(&["devices are switched off"]);
}

#[test]
fn privileges_are_not_taken_without_leave() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN --security=insecure grep CapEff /proc/self/status > /out\n");
    bed.build(&[]).fails(&[
        "entitlement security.insecure is not allowed: allow it with --allow security.insecure",
        "Dockerfile:2",
        ">>> RUN --security=insecure grep CapEff /proc/self/status > /out\n     |         ^^^^^^^^^^^^^^^^^^^\n",
    ]);
    bed.build(&["--allow", "security.insecure"]).ok();
    bed.dockerfile("FROM base\nRUN --network=host true\n");
    bed.build(&[]).fails(&[
        "network.host",
        ">>> RUN --network=host true\n     |         ^^^^^^^^^^^^^^\n",
    ]);
    bed.build(&["--allow", "network.host"]).ok();
    // Who asks for it for all steps grants it, as with docker.
    bed.dockerfile("FROM base\nRUN echo with the host\n");
    bed.build(&["--network", "host"]).ok();
}
