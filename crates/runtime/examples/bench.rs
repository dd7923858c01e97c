//! Prints the wall time of one run of `/bin/true` in a busybox image on an overlay, as root:
//! `bench [RUNS] [OCI-RUNTIME]`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weld_runtime::{
    CancellationToken, MountPlan, Network, Overlay, Runtime, RuntimeConfig, RuntimeKind, Source,
    Stdio, StepSpec, UpperDirs,
};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let runs = args
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(200);
    match bench(runs, args.next()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(runs: usize, oci: Option<String>) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    make_image(&dir.path().join("image"))?;
    let mut config = RuntimeConfig::embedded(dir.path().join("state"));
    let mut kinds = vec![RuntimeKind::Embedded];
    kinds.extend(oci.map(|path| RuntimeKind::Oci(path.into())));
    for kind in kinds {
        config.kind = kind.clone();
        let runtime = Runtime::new(config.clone())?;
        for network in [Network::Host, Network::None] {
            measure(
                &runtime,
                dir.path(),
                runs,
                network,
                &format!("{kind:?} {network:?}"),
            )
            .await?;
        }
    }
    Ok(())
}

async fn measure(
    runtime: &Runtime,
    dir: &Path,
    runs: usize,
    network: Network,
    name: &str,
) -> Result<(), Failure> {
    let mut times = Vec::with_capacity(runs);
    for index in 0..runs {
        let mut step = StepSpec::new(
            format!("bench-{index}"),
            root(dir)?,
            vec!["/bin/true".into()],
        );
        step.network = network;
        let start = Instant::now();
        let status = runtime
            .run(step, Stdio::discard(), CancellationToken::new())
            .await?;
        times.push(start.elapsed());
        if !status.success() {
            return Err(status.to_string().into());
        }
    }
    times.sort();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .map_or(0, Duration::as_micros)
    };
    println!(
        "{name}: median {} us, 10% {} us, 90% {} us",
        at(50),
        at(10),
        at(90)
    );
    Ok(())
}

fn root(dir: &Path) -> Result<Source, Failure> {
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    for path in [&upper, &work] {
        if path.exists() {
            std::fs::remove_dir_all(path)?;
        }
        std::fs::create_dir(path)?;
    }
    Ok(Source::Plan(MountPlan::Overlay(Overlay {
        lowers: vec![dir.join("image")],
        upper: Some(UpperDirs { upper, work }),
        options: vec![("volatile".to_owned(), None)],
    })))
}

fn make_image(image: &Path) -> Result<(), Failure> {
    for name in ["bin", "etc", "proc", "dev", "sys"] {
        std::fs::create_dir_all(image.join(name))?;
    }
    std::fs::copy("/bin/busybox", image.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", image.join("bin/true"))?;
    for name in ["hosts", "resolv.conf"] {
        std::fs::write(image.join("etc").join(name), "")?;
    }
    Ok(())
}
