//! Options of `weld build` with docker's meanings, and what is wrong with them said by name.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Bed, base_layout, ended};

fn bed() -> Bed {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nLABEL a=b\n");
    bed
}

fn read(bed: &Bed, file: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(bed.path(file)).unwrap()).unwrap()
}

/// The only manifest of a layout, and where it is named.
fn manifest(bed: &Bed, layout: &str) -> (serde_json::Value, serde_json::Value) {
    let index = read(bed, &format!("{layout}/index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let blob = digest.replace(':', "/");
    (read(bed, &format!("{layout}/blobs/{blob}")), index)
}

/// A build that shows its progress in this way.
fn told_by(bed: &Bed, progress: &str) -> Command {
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let mut command = bed.command();
    command.args(["build", "--progress", progress, "--build-context", &base]);
    command
}

#[test]
fn the_id_of_an_image_is_its_configs_digest() {
    let bed = bed();
    let output = "type=oci,dest=out,tar=false";
    let told = bed
        .build(&["-q", "--iidfile", "id", "--output", output])
        .ok();
    let (manifest, _) = manifest(&bed, "out");
    let id = std::fs::read_to_string(bed.path("id")).unwrap();
    assert_eq!(manifest["config"]["digest"], id.as_str());
    assert_eq!(told.stdout.trim(), id);
    let none = bed.build(&["-q", "--iidfile", "id"]).ok();
    assert!(none.stderr.contains("no image that could have an ID"));
}

#[test]
fn no_id_is_left_that_is_not_this_builds() {
    let bed = bed();
    bed.file("../id", "of an earlier build");
    bed.dockerfile("FROM base\nRUN false\n");
    bed.build(&["--iidfile", "id", "--output", "type=oci,dest=out.tar"])
        .fails(&["RUN false"]);
    assert!(!bed.path("id").exists());
    bed.dockerfile("FROM base\n");
    bed.build(&["--iidfile", "id", "--output", "out"])
        .fails(&["--iidfile", "type=local"]);
}

#[test]
fn quiet_progress_prints_the_id() {
    let bed = bed();
    let output = "type=oci,dest=out.tar";
    let mut build = told_by(&bed, "quiet");
    build.args(["--iidfile", "id", "--output", output, "context"]);
    let told = ended(build.output().unwrap()).ok();
    let id = std::fs::read_to_string(bed.path("id")).unwrap();
    assert_eq!(told.stdout.trim(), id);
}

#[test]
fn the_argument_for_inline_caches_puts_one_into_the_image() {
    let bed = bed();
    bed.dockerfile("FROM base\nRUN echo a > /a\n");
    let config = |value: &str, layout: &str| {
        let output = format!("type=oci,dest={layout},tar=false");
        let argument = format!("BUILDKIT_INLINE_CACHE={value}");
        bed.build(&["--output", &output, "--build-arg", &argument])
            .ok();
        let (manifest, _) = manifest(&bed, layout);
        let digest = manifest["config"]["digest"].as_str().unwrap();
        read(
            &bed,
            &format!("{layout}/blobs/{}", digest.replace(':', "/")),
        )
    };
    let (with, without) = (config("1", "with"), config("0", "without"));
    assert!(with["moby.buildkit.cache.v0"].is_string(), "{with}");
    assert!(without["moby.buildkit.cache.v0"].is_null(), "{without}");
}

#[test]
fn colours_are_left_out_where_nobody_wants_them() {
    let bed = bed();
    for (value, coloured) in [("", true), ("1", false)] {
        let mut build = told_by(&bed, "tty");
        build.env("NO_COLOR", value).arg("context");
        let built = ended(build.output().unwrap()).ok();
        let colours = built.stderr.contains("\u{1b}[34m");
        assert_eq!(colours, coloured, "NO_COLOR={value}");
    }
}

#[test]
fn an_optional_secret_that_nobody_offers_is_an_empty_variable() {
    let bed = Bed::new();
    let secret = "--mount=type=secret,id=none,env=SECRET";
    bed.dockerfile(&format!(
        "FROM base\nRUN {secret} set -u; echo \"[$SECRET]\" > /secret\n"
    ));
    bed.build(&["--output", "out"]).ok();
    let read = std::fs::read_to_string(bed.path("out/secret")).unwrap();
    assert_eq!(read, "[]\n");
}

#[test]
fn tags_name_an_image_in_place_of_the_outputs_name() {
    let bed = bed();
    let output = "type=oci,dest=out,tar=false,name=x/y:1";
    bed.build(&["--tag", "z:2", "--output", output]).ok();
    let (_, index) = manifest(&bed, "out");
    assert!(index.to_string().contains("z:2"), "{index}");
    assert!(!index.to_string().contains("x/y"), "{index}");
}

#[test]
fn another_argument_leaves_the_environments_time() {
    let bed = bed();
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let output = ["--output", "type=oci,dest=out,tar=false"];
    let built = bed
        .command()
        .env("SOURCE_DATE_EPOCH", "1000")
        .args(["build", "--build-context", &base])
        .args(["--build-arg", "SOURCE_DATE_EPOCH_FOO=1"])
        .args(output)
        .arg(bed.context())
        .output()
        .unwrap();
    support::ended(built).ok();
    let (manifest, _) = manifest(&bed, "out");
    let config = manifest["config"]["digest"].as_str().unwrap();
    let config = read(&bed, &format!("out/blobs/{}", config.replace(':', "/")));
    assert_eq!(config["created"], "1970-01-01T00:16:40Z");
}

#[test]
fn what_is_wrong_is_named() {
    let bed = bed();
    bed.build(&["--file", "Only"])
        .fails(&["--file Only: there is no such file", "working directory"]);
    bed.file(".dockerignore", "ok\n# comment\n[bad\n");
    bed.build(&[]).fails(&[".dockerignore: line 3"]);
    bed.run(&["prune", "--keep-storage", "foo"])
        .fails(&["--keep-storage: "]);
    bed.run(&["prune", "--keep-duration", "x"])
        .fails(&["--keep-duration: "]);
}

/// Whoever typed `weld build -` by mistake gets out of it as usual.
#[test]
fn one_signal_ends_a_build_that_waits_for_its_input() {
    let bed = bed();
    let mut child = bed
        .command()
        .args(["build", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads: what is written has been taken.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"FROM base\n").unwrap();
    let pending = || rustix::io::ioctl_fionread(&input).unwrap();
    while pending() > 0 {
        std::thread::yield_now();
    }
    bed.tool("kill", &["-INT", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(input);
    bed.run(&["du"]).ok();
}

#[test]
fn annotations_are_of_images_and_let_files_be() {
    let bed = bed();
    let (files, image) = ("type=local,dest=files", "type=oci,dest=out,tar=false");
    let annotated = ["--annotation", "a=b", "--output", files];
    bed.build(&[&annotated[..], &["--output", image]].concat())
        .ok();
    assert_eq!(manifest(&bed, "out").0["annotations"]["a"], "b");
    bed.build(&annotated).ok();
    bed.build(&["--output", "type=local,dest=files,annotation.a=b"])
        .fails(&["unknown attribute \"annotation.a\""]);
}

/// Serves the repositories in a directory to one who asks once; the address that they are at.
fn serve_git(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let base = format!("--base-path={}", directory.display());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let stream = OwnedFd::from(stream);
            Command::new("git")
                .args(["-c", "safe.directory=*", "daemon", "--inetd"])
                .args(["--export-all", &base])
                .stdin(Stdio::from(stream.try_clone().unwrap()))
                .stdout(Stdio::from(stream))
                .stderr(Stdio::null())
                .status()
                .unwrap();
        }
    });
    address.to_string()
}

#[test]
fn a_state_directory_may_be_named_from_where_one_is() {
    let bed = bed();
    let git = |arguments: &[&str]| {
        let identity = ["-C", "repo", "-c", "user.name=x", "-c", "user.email=x@x"];
        bed.tool("git", &[&identity[..], arguments].concat())
    };
    std::fs::create_dir(bed.path("repo")).unwrap();
    std::fs::write(bed.path("repo/file"), "from git").unwrap();
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "file"]);
    git(&["commit", "-q", "-m", "one"]);
    let address = serve_git(&bed.path(""));
    bed.dockerfile(&format!("FROM base\nADD git://{address}/repo#main /src\n"));
    let build = |mut command: Command| {
        command.env("WELD_ROOT", "near");
        ended(command.output().unwrap()).ok()
    };
    build(bed.build_command(&[], &["--output", "out"]));
    let file = std::fs::read_to_string(bed.path("out/src/file")).unwrap();
    assert_eq!(file, "from git");
    assert!(bed.path("near/content").is_dir());
}

#[test]
fn what_docker_takes_for_this_machine_is_taken_for_it() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base\nRUN grep -q '127.0.0.1.*gateway' /etc/hosts && echo $(uname -m) is local\n",
    );
    let here = [
        "--platform",
        "local",
        "--add-host",
        "gateway:host-gateway",
        "--output",
        "type=oci,dest=a.tar",
        "--output",
        "type=local,dest=b",
        "--iidfile",
        "id",
    ];
    bed.build(&here).ok();
    let id = std::fs::read_to_string(bed.path("id")).unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    // A variable that is not there is an empty secret.
    bed.dockerfile("FROM base\nRUN --mount=type=secret,id=x,required [ ! -s /run/secrets/x ]\n");
    let told = bed.build(&["--secret", "id=x,env=WELD_TEST_UNSET"]).ok();
    let warning = "the environment has no variable WELD_TEST_UNSET: the secret is empty";
    assert!(told.stderr.contains(warning), "{}", told.stderr);
}

#[test]
fn an_output_goes_where_a_link_leads_also_if_nothing_is_there() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    std::fs::create_dir(bed.path("real")).unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, bed.path(name)).unwrap();
    };
    link("real/first", "middle");
    link("middle", "link");
    for kind in ["tar", "oci", "docker"] {
        for _ in 0..2 {
            bed.build(&["--output", &format!("type={kind},dest=link")])
                .ok();
            let there = std::fs::symlink_metadata(bed.path("real/first")).unwrap();
            assert!(there.is_file() && there.len() > 0, "{kind}");
            for name in ["link", "middle"] {
                let there = std::fs::symlink_metadata(bed.path(name)).unwrap();
                assert!(there.is_symlink(), "{kind}: {name}");
            }
        }
        std::fs::remove_file(bed.path("real/first")).unwrap();
    }
    link("absent/file", "nowhere");
    link("round", "round");
    for (name, part) in [("nowhere", "No such file"), ("round", "symbolic links")] {
        bed.build(&["--output", &format!("type=tar,dest={name}")])
            .fails(&[part]);
        let there = std::fs::symlink_metadata(bed.path(name)).unwrap();
        assert!(there.is_symlink(), "{name}");
    }
}

#[test]
fn warnings_are_of_the_step_that_read_the_dockerfile() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nMAINTAINER me\n");
    let built = bed.build(&["--progress", "rawjson"]).ok();
    let lines = built.stderr.lines();
    let batches: Vec<serde_json::Value> = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let all = |what: &str| -> Vec<serde_json::Value> {
        let lists = batches.iter().filter_map(|batch| batch[what].as_array());
        lists.flatten().cloned().collect()
    };
    let warnings = all("warnings");
    assert!(!warnings.is_empty(), "{}", built.stderr);
    let vertexes = all("vertexes");
    for warning in warnings {
        let of = |vertex: &&serde_json::Value| vertex["digest"] == warning["vertex"];
        let vertex = vertexes.iter().find(of).unwrap();
        let name = vertex["name"].as_str().unwrap();
        assert!(
            name.starts_with("[internal] load build definition"),
            "{name}"
        );
    }
}
