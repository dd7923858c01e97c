//! Frontends that are images, in builds without a daemon. This very program is what the image runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod frontend;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, Weak};

use serde_json::Value;
use support::{Bed, base_layout};
use weld_testbed::Registry;

#[test]
#[ignore = "it is the program of the image that the other tests build with"]
fn program() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(frontend::serve());
}

/// A registry with the images `base` and `frontend`, which tests have in common that run at the same time.
fn registry() -> Arc<Registry> {
    static REGISTRY: Mutex<Weak<Registry>> = Mutex::new(Weak::new());
    let mut shared = REGISTRY.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let registry = Registry::start().unwrap();
        registry
            .push_layout(base_layout(), "latest", "base")
            .unwrap();
        let bed = Bed::new();
        let libraries = bed.context().join("libraries");
        std::fs::create_dir(&libraries).unwrap();
        let program = std::env::current_exe().unwrap();
        let mut loader = None;
        for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let Some(path) = line.find('/').map(|at| std::path::Path::new(&line[at..])) else {
                continue;
            };
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.contains(".so") && !libraries.join(name).exists() {
                std::fs::copy(path, libraries.join(name)).unwrap();
                if name.starts_with("ld-") {
                    loader = Some(name.to_owned());
                }
            }
        }
        let stripped = bed.context().join("program");
        let paths = [&stripped, &program].map(|path| path.to_str().unwrap());
        bed.tool("strip", &["-o", paths[0], paths[1]]);
        let command = format!(
            "exec /libraries/{} --library-path /libraries /program program --ignored --exact --nocapture 3>&1 >/dev/null",
            loader.expect("a dynamic linker")
        );
        let entrypoint = serde_json::to_string(&["/bin/sh", "-c", &command]).unwrap();
        bed.dockerfile(&format!(
            "FROM base\nCOPY libraries /libraries\nCOPY program /program\nENTRYPOINT {entrypoint}\n"
        ));
        let name = format!("{}/frontend", registry.host());
        bed.build(&["--tag", &name, "--push"]).ok();
        let registry = Arc::new(registry);
        *shared = Arc::downgrade(&registry);
        registry
    })
}

/// Its address, while a test keeps it.
fn host() -> String {
    registry().host()
}

fn asking(text: &str) -> String {
    format!("# syntax={}/frontend\n{text}", host())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_whole_build_goes_through_the_image_that_a_file_asks_for() {
    let (bed, _registry) = (Bed::new(), registry());
    let uuid = "cat /proc/sys/kernel/random/uuid >/id";
    bed.dockerfile(&asking(&format!(
        "from {}/base\nrun {uuid}\ncopy\nenv GREETING=hello\nwarn mind this\n",
        host()
    )));
    bed.file("sub/file", "of the context");
    let out = bed.path("out");
    let output = format!("type=local,dest={}", out.display());
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let first = bed.build(&["--output", &output]).ok();
    assert!(
        first.stderr.contains(&format!("frontend: {uuid}")),
        "{}",
        first.stderr
    );
    assert!(first.stderr.contains("mind this"), "{}", first.stderr);
    assert_eq!(read("context/sub/file"), "of the context");
    let id = read("id");

    bed.file("sub/file", "changed");
    bed.build(&["--output", &output]).ok();
    assert_eq!(
        (read("id"), read("context/sub/file")),
        (id, "changed".to_owned())
    );

    let arguments = [
        "--output",
        "type=oci,dest=image.tar",
        "--metadata-file",
        "metadata.json",
        "--provenance=mode=max",
    ];
    bed.build(&arguments).ok();
    let config = bed.tool("skopeo", &["inspect", "--config", "oci-archive:image.tar"]);
    let config = json(&config);
    let env = config["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&"GREETING=hello".into()), "{config}");
    assert!(
        env.iter()
            .any(|one| one.as_str().unwrap().starts_with("PATH="))
    );
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    let metadata = json(&std::fs::read_to_string(bed.path("metadata.json")).unwrap());
    assert!(metadata["containerimage.digest"].is_string(), "{metadata}");
}

#[test]
fn an_argument_asks_for_the_image_and_the_image_for_what_is_built_in() {
    let (bed, _registry) = (Bed::new(), registry());
    bed.dockerfile("dockerfile real\n").file(
        "real",
        format!(
            "# syntax={0}/frontend\nFROM {0}/base AS first\nARG TEXT\nRUN echo $TEXT >/text\nFROM scratch\n",
            host()
        ),
    );
    let syntax = format!("BUILDKIT_SYNTAX={}/frontend", host());
    let out = bed.build_files(&[
        "--build-arg",
        &syntax,
        "--build-arg",
        "TEXT=passed",
        "--target",
        "first",
    ]);
    assert_eq!(
        std::fs::read_to_string(out.join("text")).unwrap(),
        "passed\n"
    );
}

#[test]
fn a_frontend_has_containers() {
    let (bed, _registry) = (Bed::new(), registry());
    bed.dockerfile(&asking(&format!(
        "from {}/base\nrun echo -n A=1 >/variable\nexec cat /variable\n",
        host()
    )));
    bed.build(&["--output", "type=oci,dest=image.tar"]).ok();
    let config = bed.tool("skopeo", &["inspect", "--config", "oci-archive:image.tar"]);
    let env = json(&config)["config"]["Env"].clone();
    assert!(env.as_array().unwrap().contains(&"A=1".into()), "{config}");
}

#[test]
fn a_frontend_may_return_several_platforms() {
    let (bed, _registry) = (Bed::new(), registry());
    bed.dockerfile(&asking(&format!(
        "from {}/base\nrun true\nplatforms\n",
        host()
    )));
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let output = ["--output", "type=oci,tar=false,dest=layout"];
    bed.build(&[platforms, output].concat()).ok();
    let index = json(&bed.tool("skopeo", &["inspect", "--raw", "oci:layout"]));
    let manifests = index["manifests"].as_array().unwrap().iter();
    let built: Vec<_> = manifests
        .map(|manifest| manifest["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(built, ["amd64", "arm64"], "{index}");
}

#[test]
fn how_a_frontend_fails_is_told_with_the_line_that_asks_for_it() {
    let (bed, _registry) = (Bed::new(), registry());
    let asked_by = ">>> # syntax=";
    let base = format!("from {}/base\n", host());
    for (text, parts) in [
        (
            "refuse this is not right\n",
            &["this is not right", asked_by][..],
        ),
        (
            "crash all is lost\n",
            &["all is lost", "exit code: 7", asked_by],
        ),
        ("vanish\n", &["no result for incomplete build", asked_by]),
        (
            "from 127.0.0.1:1/nothing\n",
            &["127.0.0.1:1/nothing", asked_by],
        ),
        (
            &format!("{base}run exit 5\n"),
            &["frontend: exit 5", "exit code: 5"],
        ),
    ] {
        bed.dockerfile(&asking(text));
        bed.build(&[]).fails(parts);
    }
    bed.dockerfile(&asking(&base));
    bed.build(&[]).ok();
    let outline = bed.build(&["--call", "outline"]);
    outline.fails(&["unsupported frontend capability moby.buildkit.frontend.subrequests"]);
}

#[test]
fn an_interrupted_build_ends_its_frontend() {
    let (bed, _registry) = (Bed::new(), registry());
    // A time that no other process sleeps for.
    let sleep = format!("sleep 86{:06}", std::process::id());
    bed.dockerfile(&asking(&format!("from {}/base\nrun {sleep}\n", host())));
    let mut command = bed.build_command(&[], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(&sleep)));
    assert!(begun.is_some(), "the step did not begin");
    bed.tool("kill", &["-INT", &child.id().to_string()]);
    lines.for_each(drop);
    assert!(!child.wait().unwrap().success());
    let processes = std::fs::read_dir("/proc").unwrap();
    let left = processes.filter_map(|process| {
        let path = process.unwrap().path().join("cmdline");
        let line = String::from_utf8_lossy(&std::fs::read(path).ok()?).replace('\0', " ");
        let state = bed.path("").to_str().unwrap().to_owned();
        (line.starts_with(&sleep) || line.contains(&state)).then_some(line)
    });
    let left: Vec<_> = left.collect();
    assert!(left.is_empty(), "{left:?}");
}
