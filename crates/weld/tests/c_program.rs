//! A real C program, compiled with Debian's gcc in a stage on a base that debootstrap made.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::process::Command;

use support::{Bed, ended};

/// The mirror that this machine's packages come from, and the release that it runs.
fn mirror() -> (String, String) {
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(RELEASE)"])
        .output()
        .unwrap();
    let text = ended(targets).ok().stdout;
    let first = text
        .lines()
        .find(|line| !line.contains("security") && !line.contains("updates"));
    let (site, release) = first
        .and_then(|line| line.split_once(' '))
        .expect("a package source");
    (site.to_owned(), release.to_owned())
}

#[test]
fn a_c_program_is_compiled_and_runs_alone() {
    let bed = Bed::new();
    let (site, release) = mirror();
    let root = bed.path("debian");
    let _ = bed.tool(
        "debootstrap",
        &[
            "--variant=minbase",
            "--include=gcc,libc6-dev",
            &release,
            root.to_str().unwrap(),
            &site,
        ],
    );
    let _ = bed.tool(
        "tar",
        &[
            "--numeric-owner",
            "-C",
            "debian",
            "-cf",
            "context/debian.tar",
            ".",
        ],
    );
    bed.file(
        "hello.c",
        "#include <stdio.h>\nint main(int argc, char **argv) { printf(\"%s %d\\n\", GREETING, argc); return 0; }\n",
    );
    bed.dockerfile(
        r#"FROM scratch AS debian
ADD debian.tar /

FROM debian AS build
ARG GREETING=hello
WORKDIR /src
COPY hello.c .
RUN gcc -O2 -Wall -static -DGREETING="\"$GREETING\"" -o /hello hello.c

FROM debian AS test
COPY --from=build /hello /usr/local/bin/hello
RUN hello a b > /result && su nobody -s /bin/sh -c 'hello >> /tmp/as-nobody' && cat /tmp/as-nobody >> /result

FROM scratch
COPY --from=test /result /result
COPY --from=build /hello /hello
RUN ["/hello"]
"#,
    );
    let out = bed.build_files(&["--build-arg", "GREETING=compiled"]);
    assert_eq!(
        std::fs::read_to_string(out.join("result")).unwrap(),
        "compiled 3\ncompiled 1\n"
    );
    let again = bed.build(&["--build-arg", "GREETING=compiled"]).ok();
    assert!(again.cached_steps() >= 4, "{}", again.stderr);
}
