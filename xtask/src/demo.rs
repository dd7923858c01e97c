use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::packages;
use crate::process::{build_weld, run, workspace};

/// `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Keep the state directory and the image here [default: a temporary directory].
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn run_in(work: &Path) -> anyhow::Result<()> {
    let weld = build_weld()?;
    let layout = work.join("base");
    weld_testbed::write_base_image(&layout, &packages::busybox(work)?)?;
    let image = work.join("hello.tar");
    let metadata = work.join("metadata.json");
    for round in ["first build", "the same again: everything is cached"] {
        println!("\n== {round}\n");
        let began = Instant::now();
        run(Command::new(&weld)
            .arg("--root")
            .arg(work.join("state"))
            .args(["build", "--progress", "plain", "--tag", "hello:latest"])
            .arg("--build-context")
            .arg(format!("base=oci-layout://{}:latest", layout.display()))
            .args(["--secret", "id=token,env=HELLO_TOKEN"])
            .arg("--output")
            .arg(format!("type=oci,dest={}", image.display()))
            .arg("--metadata-file")
            .arg(&metadata)
            .arg(workspace().join("examples/hello"))
            .env("HELLO_TOKEN", "not to be found in any layer"))?;
        println!(
            "\n== {round}: {:.0} ms",
            began.elapsed().as_secs_f64() * 1000.0
        );
    }
    describe(&image, &metadata)
}

pub(crate) fn demo(args: &DemoArgs) -> anyhow::Result<()> {
    match &args.keep {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            run_in(&directory.canonicalize()?)
        }
        None => run_in(tempfile::tempdir()?.path()),
    }
}

/// Shows the image that the archive holds.
fn describe(image: &Path, metadata: &Path) -> anyhow::Result<()> {
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata)?)?;
    let digest = metadata["containerimage.digest"]
        .as_str()
        .context("the metadata names no image")?;
    let manifest: Value = serde_json::from_slice(&blob(image, digest)?)?;
    println!("\nimage   {digest}");
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        println!(
            "layer   {} {:>9} bytes",
            layer["digest"].as_str().unwrap_or_default(),
            layer["size"]
        );
    }
    let config = manifest["config"]["digest"]
        .as_str()
        .context("the manifest names no config")?;
    let config: Value = serde_json::from_slice(&blob(image, config)?)?;
    println!(
        "config  {}",
        serde_json::to_string_pretty(&config["config"])?
    );
    Ok(())
}

/// A blob of an OCI archive.
fn blob(image: &Path, digest: &str) -> anyhow::Result<Vec<u8>> {
    let name = PathBuf::from("blobs").join(digest.replace(':', "/"));
    let mut archive = tar::Archive::new(std::fs::File::open(image)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()? == name {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content)?;
            return Ok(content);
        }
    }
    anyhow::bail!("{} holds no blob {digest}", image.display())
}
