//! What each instruction does, seen in the files and the image that it makes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use support::{Bed, ended};

#[test]
fn run_in_both_forms_and_with_heredocs() {
    let bed = Bed::new();
    let text = bed.built(
        r#"FROM base
RUN echo shell $((1+1)) > /out
RUN ["/bin/sh", "-c", "echo exec >> /out"]
RUN <<EOF
echo heredoc >> /out
echo second line >> /out
EOF
RUN <<EOF cat >> /out
data $HOME
EOF
RUN <<'EOF' cat >> /out
raw $HOME
EOF
"#,
        "out",
    );
    assert_eq!(
        text,
        "shell 2\nexec\nheredoc\nsecond line\ndata /root\nraw $HOME\n"
    );
}

#[test]
fn arguments_and_variables_reach_where_they_should() {
    let bed = Bed::new();
    bed.dockerfile(
        r#"ARG TAG=base
FROM ${TAG} AS first
ARG A=default
ARG B
ARG TARGETARCH
ENV C=${A}-c D="two words"
RUN echo "$A $B $C $D $TARGETARCH" > /out
FROM first
RUN echo "inherited=$C a=$A" >> /out
ENV E=${A:-none} F=${C%-c} G=${C/-c/-x} H=${NONE:-none}
RUN echo "$E $F $G $H" >> /out
"#,
    );
    let out = bed.build_files(&["--build-arg", "B=given", "--build-arg", "UNUSED=1"]);
    let architecture = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    assert_eq!(
        std::fs::read_to_string(out.join("out")).unwrap(),
        format!(
            "default given default-c two words {architecture}\ninherited=default-c a=default\ndefault default default-x none\n"
        )
    );
}

#[test]
fn copy_takes_wildcards_owners_modes_and_excludes() {
    let bed = Bed::new();
    bed.file("a.txt", "a")
        .file("b.txt", "b")
        .file("c.md", "c")
        .file("dir/x/deep.txt", "deep")
        .file("dir/skip.log", "");
    let text = bed.built(
        r#"FROM base
WORKDIR /w
COPY --chown=12:34 --chmod=640 *.txt sub/
COPY --exclude=*.log dir /d
COPY --parents dir/x/deep.txt /p/
COPY <<EOF /heredoc
in $PWD-less heredoc
EOF
RUN stat -c '%n %u:%g %a' sub/a.txt sub/b.txt > /out && find /d /p -type f | sort >> /out && cat /heredoc >> /out
"#,
        "out",
    );
    assert_eq!(
        text,
        "sub/a.txt 12:34 640\nsub/b.txt 12:34 640\n/d/x/deep.txt\n/p/dir/x/deep.txt\nin -less heredoc\n"
    );
}

#[test]
fn copy_from_stages_contexts_and_with_link() {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("other")).unwrap();
    std::fs::write(bed.path("other/o"), "from context").unwrap();
    bed.dockerfile(
        r#"FROM base AS one
RUN echo stage > /made
FROM scratch AS two
COPY --from=one /made /two
FROM base
COPY --from=two /two /a
COPY --from=0 /made /b
COPY --from=other o /c
COPY --link --from=one /made /linked/d
RUN cat /a /b /c /linked/d > /out
"#,
    );
    let out = bed.build_files(&["--build-context", "other=other"]);
    assert_eq!(
        std::fs::read_to_string(out.join("out")).unwrap(),
        "stage\nstage\nfrom contextstage\n"
    );
}

#[test]
fn of_a_contexts_attributes_only_capabilities_count() {
    let bed = Bed::new();
    bed.file("f", "file").dockerfile("FROM base\nCOPY f /f\n");
    let built = |number: usize| {
        let id = format!("id-{number}");
        let arguments = [
            "--build-arg",
            "SOURCE_DATE_EPOCH=1",
            "--iidfile",
            &id,
            "--output",
        ];
        bed.build(&[&arguments[..], &["type=image,rewrite-timestamp=true"]].concat())
            .ok();
        std::fs::read_to_string(bed.path(&id)).unwrap()
    };
    let plain = built(0);
    let set = |name: &str, value: &[u8]| {
        let (file, flags) = (bed.context().join("f"), rustix::fs::XattrFlags::empty());
        rustix::fs::setxattr(file, name, value, flags).unwrap();
    };
    set("user.origin", b"here");
    assert_eq!(built(1), plain);
    // The second version: CAP_NET_RAW, effective and permitted.
    let mut capability = [0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
    set("security.capability", &capability);
    assert_ne!(built(2), plain);
}

/// Files of several snapshots may be links of one inode. No step may see that.
#[test]
fn what_is_copied_twice_is_two_files() {
    let bed = Bed::new();
    bed.file("f", "file").file("d/1", "one").file("d/2", "two");
    let dockerfile = r#"FROM base AS stage
RUN echo lib > /lib.so
FROM scratch AS passed
COPY f /g
FROM base
COPY f /a/1
COPY f /a/2
COPY --from=stage /lib.so /a/lib.so
COPY --from=stage /lib.so /a/lib.so.1
COPY --link f /b/1
COPY --link f /b/2
COPY --link f /b/2
COPY --from=passed /g /b/3
COPY --from=stage /bin/busybox /b/busybox
COPY d /c/1
COPY d /c/2
COPY --link d /c/3
ADD d /c/4
COPY . /everything
RUN cp /a/1 /a/2 && cp /a/lib.so /a/lib.so.1 && cp /b/1 /b/2
RUN find /a /b /c /everything /bin/busybox -type f -exec stat -c %d:%i {} + | sort | uniq -d > /out
"#;
    bed.dockerfile(dockerfile);
    for driver in ["overlay", "copy"] {
        let root = format!("root-{driver}");
        // The second time, all of the sources have links of the first.
        for out in ["first", "second"] {
            let output = format!("type=local,dest={driver}-{out}");
            let arguments = [
                "--root",
                &root,
                "--snapshotter",
                driver,
                "--output",
                &output,
            ];
            bed.build(&[&arguments[..], &["--no-cache"]].concat()).ok();
            let same = std::fs::read_to_string(bed.path(&format!("{driver}-{out}/out"))).unwrap();
            assert_eq!(same, "", "with {driver}, {out}");
        }
    }
}

#[test]
fn an_image_does_not_depend_on_how_snapshots_are_kept() {
    let bed = Bed::new();
    bed.file("a", "a").file("d/b", "b");
    bed.dockerfile(
        r#"FROM base
COPY a /x1
COPY d /x2
RUN echo 3 > /x3
ADD a /x4
COPY --link d /x5
RUN rm /x1
"#,
    );
    let images = ["overlay", "copy"].map(|driver| {
        let root = format!("root-{driver}");
        let output = format!("type=oci,rewrite-timestamp=true,dest={driver}.tar");
        let epoch = "SOURCE_DATE_EPOCH=1000000000";
        let arguments = [
            "--root",
            &root,
            "--snapshotter",
            driver,
            "--build-arg",
            epoch,
        ];
        let wanted = ["--output", &output, "--iidfile", driver];
        bed.build(&[&arguments[..], &wanted].concat()).ok();
        std::fs::read_to_string(bed.path(driver)).unwrap()
    });
    assert_eq!(images[0], images[1]);
}

#[test]
fn add_unpacks_archives_and_checks_checksums() {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("packed")).unwrap();
    std::fs::write(bed.path("packed/inside"), "packed").unwrap();
    bed.tool(
        "tar",
        &["-czf", "context/a.tar.gz", "-C", "packed", "inside"],
    );
    let text = bed.built(
        "FROM base\nADD a.tar.gz /unpacked/\nCOPY a.tar.gz /copied/\nRUN cat /unpacked/inside > /out; ls /copied >> /out\n",
        "out",
    );
    assert_eq!(text, "packeda.tar.gz\n");
}

#[test]
fn mounts_of_every_kind() {
    let bed = Bed::new();
    bed.file("bound", "from context");
    std::fs::write(bed.path("token"), "s3cret").unwrap();
    bed.dockerfile(
        r#"FROM base
RUN --mount=type=bind,target=/b cat /b/bound > /out && ! touch /b/x 2>/dev/null
RUN --mount=type=bind,target=/b,rw touch /b/x
RUN --mount=type=cache,target=/c,mode=700,uid=5 stat -c ' %a %u' /c >> /out; echo 1 >> /c/n; wc -l < /c/n >> /out
RUN --mount=type=cache,target=/c,mode=700,uid=5 echo 1 >> /c/n; wc -l < /c/n >> /out
RUN --mount=type=tmpfs,target=/t,size=1m grep -q '/t tmpfs' /proc/mounts && touch /t/x
RUN --mount=type=secret,id=token,target=/s,mode=400 cat /s >> /out; stat -c ' %a' /s >> /out
RUN --mount=type=secret,id=token,env=TOKEN echo $TOKEN | wc -c >> /out
RUN --mount=type=secret,id=absent ! test -e /run/secrets/absent
RUN test ! -s /s && test ! -e /t/x && ls /b /c | wc -l >> /out || true
"#,
    );
    let out = bed.build_files(&["--secret", "id=token,src=token"]);
    let text = std::fs::read_to_string(out.join("out")).unwrap();
    assert!(
        text.starts_with("from context 700 5\n1\n2\ns3cret 400\n7\n"),
        "{text}"
    );
    assert!(!out.join("s").exists(), "a mount point stayed in the image");
}

#[test]
fn missing_secrets_are_told_where_they_are_required() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN --mount=type=secret,id=nope,required=true true\n");
    bed.build(&[]).fails(&["nope", "Dockerfile:2"]);
}

#[test]
fn users_working_directories_and_shells() {
    let bed = Bed::new();
    let text = bed.built(
        r#"FROM base
RUN echo 'app:x:77:88::/home/app:/bin/sh' >> /etc/passwd && echo 'extra:x:99:app' >> /etc/group && mkdir /o && chmod 777 /o
WORKDIR /new/place
USER app
RUN echo "$(id -u):$(id -g):$(id -G) $(pwd) $HOME" > /o/out && chmod 666 /o/out
USER 5:6
WORKDIR relative
RUN echo "$(id -u):$(id -g) $(pwd)" >> /o/out
SHELL ["/bin/sh", "-e", "-c"]
RUN echo "$-" | grep -c e >> /o/out
"#,
        "o/out",
    );
    assert_eq!(
        text,
        "77:88:88 99 /new/place /home/app\n5:6 /new/place/relative\n1\n"
    );
}

#[test]
fn network_none_has_a_loopback_only() {
    let bed = Bed::new();
    let text = bed.built(
        "FROM base\nRUN --network=none ls /sys/class/net > /out\n",
        "out",
    );
    assert_eq!(text, "lo\n");
}

#[test]
fn only_needed_stages_are_built() {
    let bed = Bed::new();
    bed.dockerfile("FROM base AS broken\nRUN false\nFROM base AS good\nRUN echo good > /out\nFROM broken\nRUN true\n");
    let out = bed.build_files(&["--target", "good"]);
    assert_eq!(std::fs::read_to_string(out.join("out")).unwrap(), "good\n");
}

#[test]
fn ignored_files_do_not_reach_the_build() {
    let bed = Bed::new();
    bed.file("keep", "")
        .file("drop.log", "")
        .file("dir/keep.log", "")
        .file("dir/drop.log", "");
    bed.file(
        ".dockerignore",
        "**/*.log\n!dir/keep.log\n# a comment\nDockerfile\n",
    );
    let text = bed.built(
        "FROM base\nCOPY . /c\nRUN cd /c && find . -type f | sort > /out\n",
        "out",
    );
    assert_eq!(text, "./.dockerignore\n./dir/keep.log\n./keep\n");
    bed.file("Dockerfile.dockerignore", "*\n!keep\n");
    let text = bed.built(
        "FROM base\nCOPY . /c\nRUN cd /c && find . -type f | sort > /out\n",
        "out",
    );
    assert_eq!(text, "./keep\n");
}

#[test]
fn onbuild_runs_in_the_child() {
    let bed = Bed::new();
    let layout = bed.path("parent");
    bed.dockerfile("FROM base\nONBUILD RUN echo triggered > /out\n");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    bed.build(&["--output", &output, "--tag", "parent:1"]).ok();
    bed.dockerfile("FROM parent\n");
    let parent = format!("parent=oci-layout://{}", layout.display());
    let out = bed.build_files(&["--build-context", &parent]);
    assert_eq!(
        std::fs::read_to_string(out.join("out")).unwrap(),
        "triggered\n"
    );
}

#[test]
fn a_layout_stands_in_for_an_image_with_a_tag() {
    let bed = Bed::new();
    let layout = support::base_layout();
    for name in ["alpine:3", "docker.io/library/alpine:3", "Alpine:3"] {
        bed.dockerfile("FROM alpine:3\nRUN echo here > /out\n");
        let instead = format!("{name}=oci-layout://{}:latest", layout.display());
        let _ = std::fs::remove_dir_all(bed.path("out"));
        let out = bed.build_files(&["--build-context", &instead]);
        let text = std::fs::read_to_string(out.join("out")).unwrap();
        assert_eq!(text, "here\n", "{name}");
    }
}

#[test]
fn a_context_comes_as_an_archive_of_any_compression() {
    let bed = Bed::new();
    bed.file("Dockerfile", "FROM scratch\nCOPY file /copied\n")
        .file("file", "content");
    let context = bed.context();
    let context = context.to_str().unwrap();
    for compression in ["--format=posix", "--gzip", "--bzip2", "--xz", "--zstd"] {
        let archive = bed.path("context.tar");
        let archive_name = archive.to_str().unwrap();
        bed.tool(
            "tar",
            &[
                compression,
                "--create",
                "-f",
                archive_name,
                "-C",
                context,
                ".",
            ],
        );
        let _ = std::fs::remove_dir_all(bed.path("out"));
        let built = bed
            .command()
            .args(["build", "--output", "out", "-"])
            .stdin(std::fs::File::open(&archive).unwrap())
            .output()
            .unwrap();
        ended(built).ok();
        let copied = std::fs::read_to_string(bed.path("out/copied")).unwrap();
        assert_eq!(copied, "content", "{compression}");
    }
}
