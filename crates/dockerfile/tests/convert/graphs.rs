//! What is built.

use weld_llb::Graph;

use crate::host::FakeHost;
use crate::show::{names, show};

const BASE: &str = "docker-image://docker.io/library/base:latest@sha256:AA";

/// Converts and compares: `BASE` stands for the base image.
#[track_caller]
fn check(dockerfile: &str, options: &[(&str, &str)], expected: &[&str]) {
    let result = FakeHost::new(dockerfile).one(options);
    let shown = show(&result.definition);
    let expected: Vec<String> = expected
        .iter()
        .map(|line| line.replace("BASE", BASE))
        .collect();
    assert_eq!(shown, expected, "{dockerfile}\n{shown:#?}");
}

#[test]
fn commands_run_in_shell_or_exec_form() {
    check(
        "FROM base\nRUN echo $X \"a b\"\nRUN [\"/bin/true\", \"x\"]\nSHELL [\"/bin/bash\", \"-ec\"]\nRUN y",
        &[],
        &[
            "0 BASE",
            "1 /bin/sh -c echo $X \"a b\" [/=0]",
            "2 /bin/true x [/=1]",
            "3 /bin/bash -ec y [/=2]",
        ],
    );
}

#[test]
fn heredocs_are_commands_scripts_or_files() {
    check(
        "FROM base\nRUN <<EOF\na\nb\nEOF\nRUN <<EOF\n#!/bin/x\nc\nEOF\nRUN cat <<A && cat <<B\n1\nA\n2\nB\n",
        &[],
        &[
            "0 BASE",
            "1 /bin/sh -c a\nb\n [/=0]",
            "2 on scratch mkfile /EOF 755 \"#!/bin/x\\nc\\n\"",
            "3 /bin/sh -c /dev/pipes/EOF [/=1] [/dev/pipes/=2/ ro]",
            "4 /bin/sh -c cat <<A && cat <<B\n1\nA\n2\nB [/=3]",
        ],
    );
    check(
        "FROM scratch\nARG V=x\nCOPY <<a.txt <<'b' /d/\n$V\na.txt\n$V\nb\n",
        &[],
        &[
            "0 on scratch mkfile /b 644 \"$V\\n\"",
            "1 on scratch mkfile /a.txt 644 \"x\\n\"",
            "2 on scratch copy 1:/a.txt /d/; on ^ copy 0:/b /d/",
        ],
    );
}

#[test]
fn processes_see_the_settings_of_the_stage() {
    check(
        "FROM base\nWORKDIR /w\nUSER u:g\nWORKDIR sub\nENV A=b\nRUN x\nUSER 0\nRUN --network=none y\nRUN --network=host --security=insecure z",
        &[],
        &[
            "0 BASE",
            "1 on 0 mkdir /w 755 parents",
            "2 on 1 mkdir /w/sub 755 parents owner=u:g",
            "3 /bin/sh -c x in /w/sub as u:g [/=2]",
            "4 /bin/sh -c y in /w/sub as 0 net=None [/=3]",
            "5 /bin/sh -c z in /w/sub as 0 net=Host security=Insecure [/=4]",
        ],
    );
    let result = FakeHost::new("FROM base\nARG B=2\nENV A=$B BASE=3\nARG C\nRUN x").one(&[]);
    let graph = Graph::from_pb(result.definition).unwrap();
    let weld_llb::Op::Exec(exec) = graph.vertices()[1].op() else {
        panic!("no process");
    };
    assert_eq!(exec.process.env, ["PATH=/bin", "B=2", "A=2", "BASE=3"]);
}

#[test]
fn mounts_of_every_kind() {
    check(
        "FROM base AS b\nFROM base\nWORKDIR /w\nRUN \
         --mount=target=/ctx \
         --mount=type=bind,from=b,source=/x,target=y,rw \
         --mount=type=cache,target=/c \
         --mount=type=cache,target=/d,id=i,sharing=locked,from=b,source=/s \
         --mount=type=cache,target=/e,uid=1,mode=0700 \
         --mount=type=tmpfs,target=/t,size=10m \
         --mount=type=secret,id=s,required \
         --mount=type=secret,id=t,env=T \
         --mount=type=secret,target=/k/u,mode=0444 \
         --mount=type=ssh \
         x",
        &[("build-arg:BUILDKIT_CACHE_MOUNT_NS", "ns")],
        &[
            "0 BASE",
            "1 on 0 mkdir /w 755 parents",
            "2 local://context local.sharedkeyhint=context",
            "3 on scratch mkdir /cache 700 owner=1:0",
            "4 /bin/sh -c x in /w $T=t [/=1] [/c=cache ns//c scratch] [/ctx=2 ro] \
             [/d=cache ns/i 0/s locked] [/e=cache ns//e 3/cache] [/t=tmpfs 10485760] [/w/y=0/x none] \
             [/run/secrets/s=secret s 0:0 400 required] [/k/u=secret u 0:0 444] \
             [/run/buildkit/ssh_agent.0=ssh \"\" 600]",
        ],
    );
}

#[test]
fn local_files_are_copied_and_only_they_are_transferred() {
    check(
        "FROM base\nWORKDIR /w\nCOPY a b/* ./\nCOPY --chown=u:1 --chmod=640 c /d\nADD e.tar f/ /g/\nCOPY --chmod=u+x h .",
        &[],
        &[
            "0 BASE",
            "1 on 0 mkdir /w 755 parents",
            "2 local://context local.followpaths=[\"a\",\"b/*\",\"c\",\"e.tar\",\"f\",\"h\"] local.sharedkeyhint=context",
            "3 on 1 copy 2:/a /w/ local; on ^ copy 2:/b/* /w/ local",
            "4 on 3 copy 2:/c /d local owner=u:1 mode=640",
            "5 on 4 copy 2:/e.tar /g/ local unpack; on ^ copy 2:/f /g/ local unpack",
            "6 on 5 copy 2:/h /w/ local mode=u+x",
        ],
    );
    check(
        "FROM scratch\nCOPY --exclude=*.o --exclude=t . /\n",
        &[],
        &[
            "0 local://context local.sharedkeyhint=context",
            "1 on scratch copy 0:/ / local exclude=*.o,t",
        ],
    );
}

#[test]
fn parents_are_kept_on_demand() {
    check(
        "FROM scratch\nCOPY --parents a/b c/./d/e f/*.txt /x/\n",
        &[],
        &[
            "0 local://context local.followpaths=[\"a/b\",\"c/d/e\",\"f/*.txt\"] local.sharedkeyhint=context",
            "1 on scratch copy 0:/ /x/ local include=a/b require=/a/b; \
             on ^ copy 0:/c /x/ local include=d/e require=/c/d/e; \
             on ^ copy 0:/ /x/ local include=f/*.txt",
        ],
    );
}

#[test]
fn remote_files_are_added() {
    let digest = format!("sha256:{}", "bb".repeat(32));
    check(
        &format!(
            "FROM scratch\nADD https://h/a.tar?x /\nADD --unpack --checksum={digest} https://h/b.tar /\nADD --unpack=false c.tar /\n"
        ),
        &[],
        &[
            "0 https://h/a.tar?x http.filename=a.tar",
            "1 on scratch copy 0:/a.tar /",
            &format!("2 https://h/b.tar http.checksum={digest} http.filename=b.tar"),
            "3 on 1 copy 2:/b.tar / unpack",
            "4 local://context local.followpaths=[\"c.tar\"] local.sharedkeyhint=context",
            "5 on 3 copy 4:/c.tar / local",
        ],
    );
    check(
        "FROM scratch\nADD --keep-git-dir=true --checksum=abc https://h/r.git#v1:d /x\nADD git@h:r.git?submodules=false /y\n",
        &[],
        &[
            "0 git://h/r.git#v1:d git.checksum=abc git.fullurl=https://h/r.git git.keepgitdir=true",
            "1 on scratch copy 0:/ /x",
            "2 git://h/r.git git.fullurl=git@h:r.git git.mountsshsock=default git.skipsubmodules=true",
            "3 on 1 copy 2:/ /y",
        ],
    );
}

#[test]
fn linked_copies_are_layers_of_their_own() {
    check(
        "FROM base\nCOPY --link --chown=u a /b\nCOPY --link --chmod=644 c /d\n",
        &[],
        &[
            "0 BASE",
            "1 local://context local.followpaths=[\"a\",\"c\"] local.sharedkeyhint=context",
            "2 on scratch copy 1:/a /b local owner=u@scratch:",
            "3 merge 0 2",
            "4 on 3 copy 1:/c /d local mode=644",
        ],
    );
    // Onto nothing there is nothing to merge.
    check(
        "FROM scratch\nCOPY --link a /b\n",
        &[],
        &[
            "0 local://context local.followpaths=[\"a\"] local.sharedkeyhint=context",
            "1 on scratch copy 0:/a /b local",
        ],
    );
}

#[test]
fn stages_are_built_if_they_are_needed() {
    check(
        "FROM base AS One\nRUN 1\nFROM base AS two\nRUN 2\nFROM one AS three\nRUN 3\nFROM scratch\nCOPY --from=three /a /\nCOPY --from=0 /b /\n",
        &[],
        &[
            "0 BASE",
            "1 /bin/sh -c 1 [/=0]",
            "2 /bin/sh -c 3 [/=1]",
            "3 on scratch copy 2:/a / local",
            "4 on 3 copy 1:/b / local",
        ],
    );
    check(
        "FROM base AS one\nRUN 1\nFROM nosuch AS two\nRUN 2\n",
        &[("target", "ONE")],
        &["0 BASE", "1 /bin/sh -c 1 [/=0]"],
    );
    check("FROM scratch", &[], &[]);
}

#[test]
fn files_can_come_from_images() {
    let host = FakeHost::new(
        "FROM scratch\nCOPY --from=tool /bin/t /\nCOPY --from=tool /lib /l\nCOPY --from=base:latest /c /\n",
    )
    .image(
        "docker.io/library/tool:latest",
        r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["RUN nosuch"]},"rootfs":{"type":"layers","diff_ids":["x"]}}"#,
    );
    let shown = show(&host.one(&[]).definition);
    assert_eq!(
        shown,
        [
            "0 docker-image://docker.io/library/tool:latest@sha256:AA",
            "1 on scratch copy 0:/bin/t / local",
            "2 on 1 copy 0:/lib /l local",
            &format!("3 {BASE}"),
            "4 on 2 copy 3:/c / local",
        ]
    );
    assert_eq!(host.resolved.lock().unwrap().len(), 2);
}

#[test]
fn arguments_choose_bases_platforms_and_values() {
    check(
        "ARG B=nosuch\nARG T=${B}x\nFROM ${B}\nARG T\nARG U=u$T\nARG V=1\nRUN $T\n",
        &[("build-arg:B", "base"), ("build-arg:V", "2")],
        &["0 BASE", "1 /bin/sh -c $T [/=0]"],
    );
    let result = FakeHost::new("ARG B=base\nFROM $B\nARG B\nARG U=u$B\nARG V=1\nARG W\nRUN x")
        .one(&[("build-arg:V", "2")]);
    let history = &result.image.history.last().unwrap().created_by;
    assert_eq!(
        history,
        "RUN |4 B=base U=ubase V=2 W= /bin/sh -c x # buildkit"
    );
}

#[test]
fn steps_are_named_and_numbered() {
    let host = FakeHost::new(
        "FROM base AS b\nENV D=dir\nWORKDIR /w\nRUN --mount=type=secret,id=s,env=S echo $D $S $N\nFROM b\nCOPY --link \"$D\" /\nADD x /\nRUN <<EOF\na\nb\nEOF\n",
    );
    let result = host.one(&[]);
    assert_eq!(
        names(&result.definition),
        [
            "[b 1/3] FROM docker.io/library/base:latest@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "[b 2/3] WORKDIR /w",
            "[b 3/3] RUN --mount=type=secret,id=s,env=S echo dir **** $N",
            "[internal] load build context",
            "[stage-1 1/3] COPY --link dir /",
            "[stage-1 1/3] LINK COPY --link dir /",
            "[stage-1 2/3] ADD x /",
            "[stage-1 3/3] RUN <<EOF (a...)",
        ]
    );
    let graph = Graph::from_pb(result.definition).unwrap();
    let copy = &graph.vertices()[4];
    let merge = &graph.vertices()[5];
    let group = |vertex: &weld_llb::Vertex| vertex.metadata().progress_group.clone().unwrap();
    assert_eq!(group(copy).id, group(merge).id);
    assert!(group(copy).weak && !group(merge).weak);
    let range = graph.locations(1)[0].ranges[0];
    assert_eq!((range.start.unwrap().line, range.end.unwrap().line), (3, 3));
    assert_eq!(graph.files()[0].filename, "Dockerfile");
    let command = copy.description("com.docker.dockerfile.v1.command");
    assert_eq!(command, None);
    let command = graph.vertices()[2].description("com.docker.dockerfile.v1.command");
    assert_eq!(
        command,
        Some("RUN --mount=type=secret,id=s,env=S echo $D $S $N")
    );
}

#[test]
fn the_only_stage_needs_no_name_in_its_steps() {
    let result = FakeHost::new("FROM base\nRUN x").one(&[]);
    assert_eq!(names(&result.definition)[1], "[2/2] RUN x");
}

#[test]
fn the_cache_is_passed_over_on_demand() {
    let ignored = |options: &[(&str, &str)]| {
        let host = FakeHost::new("FROM base AS a\nRUN a\nFROM base\nCOPY --from=a / /\nRUN b");
        let graph = Graph::from_pb(host.one(options).definition).unwrap();
        let vertices = graph.vertices().iter();
        vertices
            .map(|v| v.metadata().ignore_cache)
            .collect::<Vec<_>>()
    };
    assert_eq!(ignored(&[]), [false; 4]);
    assert_eq!(ignored(&[("no-cache", "")]), [false, true, true, true]);
    assert_eq!(ignored(&[("no-cache", "A,x")]), [false, true, false, false]);
}

#[test]
fn a_comment_above_reaches_the_step() {
    let host = FakeHost::new("FROM base\n# weld:merge=never\nRUN a\nRUN b");
    let graph = Graph::from_pb(host.one(&[]).definition).unwrap();
    assert_eq!(graph.vertices()[1].description("weld.merge"), Some("never"));
    assert_eq!(graph.vertices()[2].description("weld.merge"), None);
}

#[test]
fn triggers_of_a_base_run_first_and_once() {
    let host = FakeHost::new("FROM trigger AS a\nRUN 1\nFROM a\nRUN 2").image(
        "docker.io/library/trigger:latest",
        r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["COPY --from=base /x /","RUN t"]},"rootfs":{"type":"layers","diff_ids":["x"]}}"#,
    );
    let result = host.one(&[]);
    assert_eq!(
        show(&result.definition),
        [
            "0 docker-image://docker.io/library/trigger:latest@sha256:AA",
            &format!("1 {BASE}"),
            "2 on 0 copy 1:/x / local",
            "3 /bin/sh -c t [/=2]",
            "4 /bin/sh -c 1 [/=3]",
            "5 /bin/sh -c 2 [/=4]",
        ]
    );
    assert!(result.image.config.on_build.is_empty());
    assert_eq!(names(&result.definition)[3], "[a 3/4] ONBUILD RUN t");
    check(
        "FROM base AS a\nONBUILD RUN t\nONBUILD WORKDIR /w\nFROM a\nRUN 1",
        &[],
        &[
            "0 BASE",
            "1 /bin/sh -c t [/=0]",
            "2 on 1 mkdir /w 755 parents",
            "3 /bin/sh -c 1 in /w [/=2]",
        ],
    );
}

#[test]
fn the_sandbox_is_as_the_client_says() {
    let host = FakeHost::new("FROM base\nRUN x");
    let graph = Graph::from_pb(
        host.one(&[
            ("add-hosts", "h=1.2.3.4"),
            ("ulimit", "nofile=1:2"),
            ("shm-size", "65536"),
            ("cgroup-parent", "/c"),
            ("force-network-mode", "none"),
            ("hostname", "n"),
            ("memory", "1000"),
            ("build-arg:HTTP_PROXY", "p"),
            ("build-arg:no_proxy", "q"),
        ])
        .definition,
    )
    .unwrap();
    let weld_llb::Op::Exec(exec) = graph.vertices()[1].op() else {
        panic!("no process");
    };
    let process = &exec.process;
    assert_eq!(
        (
            process.extra_hosts[0].host.as_str(),
            process.extra_hosts[0].ip.as_str()
        ),
        ("h", "1.2.3.4")
    );
    assert_eq!((process.ulimits[0].soft, process.ulimits[0].hard), (1, 2));
    assert_eq!(
        (process.cgroup_parent.as_str(), process.hostname.as_str()),
        ("/c", "n")
    );
    assert_eq!(exec.network, weld_llb::NetMode::None);
    assert!(exec.mounts.iter().any(|mount| mount.dest == "/dev/shm"));
    let proxy = process.proxy.as_ref().unwrap();
    assert_eq!(
        (proxy.http_proxy.as_str(), proxy.no_proxy.as_str()),
        ("p", "q")
    );
    // The cache does not see proxies, so they are in no variable.
    assert_eq!(process.env, ["PATH=/bin", "BASE=1"]);
    let resources = graph.vertices()[1].metadata().linux_resources.as_ref();
    assert_eq!(resources.unwrap().memory, 1000);
}
