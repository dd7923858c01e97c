//! Running one build with its progress shown.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use weld_engine::{BuildRequest, BuildResponse};
use weld_progress::{Display, Mode, Outcome};

use super::args::ProgressArgs;
use super::place::Worker;
use super::report::{self, Failure};

/// Builds, and shows progress on standard error until the build has ended.
pub(crate) async fn build(
    worker: &Worker,
    request: BuildRequest,
    progress: &ProgressArgs,
    cancel: CancellationToken,
) -> Result<BuildResponse, Failure> {
    shown(progress, |sender| async {
        match worker {
            Worker::Engine(engine) => engine
                .build(request, sender, cancel)
                .await
                .map_err(Cause::Engine),
            Worker::Daemon(client) => client
                .build(request, sender, cancel)
                .await
                .map_err(Cause::Daemon),
        }
    })
    .await
}

/// Asks a frontend for something else than a build, and shows progress on standard error meanwhile.
pub(crate) async fn ask(
    worker: &Worker,
    request: BuildRequest,
    progress: &ProgressArgs,
    cancel: CancellationToken,
) -> Result<BTreeMap<String, Bytes>, Failure> {
    shown(progress, |sender| async {
        match worker {
            Worker::Engine(engine) => engine
                .ask(request, sender, cancel)
                .await
                .map_err(Cause::Engine),
            Worker::Daemon(client) => client
                .ask(request, sender, cancel)
                .await
                .map_err(Cause::Daemon),
        }
    })
    .await
}

async fn shown<T, W>(
    progress: &ProgressArgs,
    work: impl FnOnce(weld_progress::Sender) -> W,
) -> Result<T, Failure>
where
    W: Future<Output = Result<T, Cause>>,
{
    let mode = progress.mode();
    let (sender, receiver) = weld_progress::channel();
    let display = tokio::spawn(Display::new(mode).run(receiver));
    let result = work(sender).await;
    // The display ends when the engine has dropped its sender; a panic in it costs the summary only.
    let outcome = display.await.unwrap_or_default();
    if mode != Mode::RawJson {
        report::warnings(&outcome, mode);
    }
    result.map_err(|error| failure(error, outcome, mode))
}

/// Who failed.
enum Cause {
    Engine(weld_engine::BuildError),
    Daemon(weld_client::ClientError),
}

fn failure(cause: Cause, outcome: Outcome, mode: Mode) -> Failure {
    let steps = if mode == Mode::RawJson {
        Vec::new()
    } else {
        outcome.failed
    };
    match cause {
        Cause::Engine(error) => Failure::Build { error, steps },
        Cause::Daemon(error) => Failure::Remote { error, steps },
    }
}
