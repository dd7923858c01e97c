//! One build, from the client's request to what is remembered of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use weld_digest::Digest;
use weld_engine::{
    Asked, BuildJob, BuildResponse, ExportRequest, HostSession, JobRequest, Refs, Session,
    SlsaVersion, SolveInput, SourceVerifier, mask_secrets,
};
use weld_proto::control::{BuildHistoryRecord, Exporter, SolveRequest, SolveResponse};
use weld_proto::google;
use weld_proto::session::exporter::FindExportersRequest;

use super::request::{Plan, Work};
use super::{exporters, traces};
use crate::builds::{Journal, LiveBuild, Running, Section};
use crate::gateway::{Attached, shutting_down, to_status};
use crate::history::{HistoryError, Kept};
use crate::metrics::Outcome;
use crate::server::Shared;
use crate::session::{ClientSession, ClientVerifier, SessionManager, SessionOffers};
use crate::telemetry::{Recorder, SpanContext};

/// What the history's progress is.
const STATUS_TYPE: &str = "application/vnd.buildkit.status.v0";
/// What the history's provenance is.
const PROVENANCE_TYPE: &str = "application/vnd.in-toto+json";
/// What the history's errors are, spelled as BuildKit spells it.
const ERROR_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";

/// Who asks for a build.
pub(super) struct Caller {
    /// The span of the call.
    pub(super) span: Option<SpanContext>,
    /// Whose results the build may have, if not everybody's.
    pub(super) domain: Option<String>,
}

pub(super) async fn solve(
    shared: &Arc<Shared>,
    request: SolveRequest,
    caller: Caller,
) -> Result<SolveResponse, Status> {
    let (reference, session) = (request.reference.clone(), request.session.clone());
    let cancel = CancellationToken::new();
    let (plan, running) = match begin(shared, request, cancel.clone()) {
        Ok(begun) => begun,
        Err(refusal) => {
            shared.builds.refuse(reference);
            // A client that closes a session that it is about to open waits for its end for seconds.
            if !session.is_empty() {
                let sessions = shared.sessions.in_domain(caller.domain.as_deref());
                let _ = sessions.get_within(&session, REFUSAL_WAIT).await;
            }
            return Err(refusal);
        }
    };
    // A client that goes away drops this future: the build ends, and is remembered as cancelled.
    let gone = cancel.drop_guard();
    let task = Build {
        shared: Arc::clone(shared),
        plan,
        running,
        recorder: shared.telemetry.record(caller.span),
        domain: caller.domain,
    };
    let built = shared.tasks.spawn(task.run()).await;
    gone.disarm();
    built.unwrap_or_else(|error| Err(Status::internal(format!("the build ended early: {error}"))))
}

/// How long a refusal waits for the session of the build.
const REFUSAL_WAIT: Duration = Duration::from_millis(500);

/// Begins a build that can be.
fn begin(
    shared: &Shared,
    request: SolveRequest,
    cancel: CancellationToken,
) -> Result<(Plan, Running), Status> {
    let plan = Plan::read(request, &shared.config)?;
    let journal = Journal::create(&shared.scratch, shared.config.limits.log)
        .map_err(|error| Status::internal(format!("keep the build's progress: {error}")))?;
    let running = shared.builds.begin(LiveBuild {
        reference: plan.reference.clone(),
        session: plan.session.clone(),
        frontend: plan.frontend.clone(),
        journal,
        cancel,
        started: SystemTime::now(),
    })?;
    Ok((plan, running))
}

/// What a build came to.
struct Built {
    response: BuildResponse,
    /// Whether the result has several file systems with names.
    is_map: bool,
    /// How each file system was made.
    provenance: Vec<(String, Bytes)>,
}

struct Build {
    shared: Arc<Shared>,
    plan: Plan,
    running: Running,
    recorder: Option<Recorder>,
    domain: Option<String>,
}

impl Build {
    async fn run(mut self) -> Result<SolveResponse, Status> {
        let recorded = self.plan.recorded;
        if recorded {
            self.shared.history.started(self.record());
        }
        let built = self.build().await.map_err(|error| self.why(error));
        self.running.build().journal.finish();
        self.count(built.as_ref().err());
        if recorded {
            match self.remember(&built).await {
                Ok(()) => {
                    self.running.forget();
                    self.trace(built.as_ref().err());
                }
                Err(error) => {
                    tracing::error!(build = self.plan.reference, %error, "cannot be remembered");
                    self.shared.history.abandoned(&self.plan.reference);
                }
            }
        }
        self.shared.gc_due.notify_one();
        built.map(|built| SolveResponse {
            exporter_response: built.response.attrs,
        })
    }

    /// An error as the client is to hear it: who has not cancelled its build does not know why that was cancelled.
    fn why(&self, error: Status) -> Status {
        let is_cancelled =
            error.code() == Code::Cancelled || error.message().contains("context canceled");
        match is_cancelled && self.shared.builds.given_up().is_cancelled() {
            true => shutting_down(),
            false => error,
        }
    }

    /// Tells the build's spans, and has its trace join its record once it is whole.
    fn trace(&mut self, error: Option<&Status>) {
        let Some(recorder) = self.recorder.take() else {
            return;
        };
        let build = self.running.build();
        let steps = build.journal.steps();
        recorder.tell(build.started, error.map(Status::message), steps);
        let (shared, reference) = (Arc::clone(&self.shared), self.plan.reference.clone());
        self.shared.tasks.spawn(async move {
            let (spans, _kept) = recorder.late(&reference, &shared.draining).await;
            let kept = traces::keep(&shared.history, &reference, spans).await;
            match kept {
                // It was deleted meanwhile.
                Ok(()) | Err(HistoryError::Absent(_)) => {}
                Err(error) => tracing::warn!(build = reference, %error, "the trace is not kept"),
            }
        });
    }

    /// Builds, with all that happens in the journal.
    async fn build(&self) -> Result<Built, Status> {
        let (sender, receiver) = weld_progress::channel();
        let journal = &self.running.build().journal;
        // Both in one task: the journal ends when the build has dropped all its senders.
        let (built, recorded) = tokio::join!(self.build_telling(sender), journal.record(receiver));
        recorded
            .map_err(|error| Status::internal(format!("keep the build's progress: {error}")))?;
        built
    }

    async fn build_telling(&self, progress: weld_progress::Sender) -> Result<Built, Status> {
        let cancel = &self.running.build().cancel;
        let client = tokio::select! {
            () = cancel.cancelled() => return Err(cancelled()),
            client = self.session() => client?,
        };
        let session: Arc<dyn Session> = match &client {
            Some(client) => Arc::new(SessionOffers::new(Arc::clone(client), self.sessions())),
            None => HostSession::new().into_session(),
        };
        let mut exports = exporters::requests(&self.plan.exporters, |number| {
            exporters::to_client(client.as_ref(), number)
        })?;
        let verifier = tokio::select! {
            () = cancel.cancelled() => return Err(cancelled()),
            verifier = self.verifier() => verifier?,
        };
        let request = JobRequest {
            id: self.plan.reference.clone(),
            session,
            entitlements: self.plan.entitlements.clone(),
            asked: self.asked(),
            explain: self.plan.explain(),
            domain: self.domain.clone(),
            source_policies: self.plan.source_policies.clone(),
            source_verifier: verifier,
        };
        let job = self
            .shared
            .engine
            .open_job(request, progress, cancel.clone());
        let job = job.await.map_err(|error| to_status(&error))?;
        let built = async {
            let (mut result, attached) = self.result(&job).await?;
            if let Some(attached) = attached.filter(|_| self.plan.session_exporters) {
                let named = self.session_exports(client.as_ref(), &attached, &result);
                let named = tokio::select! {
                    named = named => named?,
                    () = cancel.cancelled() => return Err(cancelled()),
                };
                exports.extend(named);
            }
            job.check_platforms(&self.plan.frontend_attrs, &result)
                .map_err(|error| to_status(&error))?;
            exporters::complement(&mut exports, &mut result.metadata);
            let (caches, attest) = (&self.plan.cache_exports, &self.plan.attest);
            let response = job.export(&result, &exports, caches, attest).boxed().await;
            let mut response = response.map_err(|error| to_status(&error))?;
            // What frontends tell their clients.
            for (key, value) in &result.metadata {
                if key.starts_with("frontend.") {
                    let value = String::from_utf8_lossy(value).into_owned();
                    response.attrs.insert(key.clone(), value);
                }
            }
            if let Some(client) = client.as_ref().filter(|_| self.plan.session_exporters) {
                tokio::select! {
                    told = client.finalize_export(response.attrs.clone()) => told?,
                    () = cancel.cancelled() => return Err(cancelled()),
                }
            }
            let provenance = match self.plan.recorded {
                true => {
                    let options = self.plan.attest.recorded_provenance();
                    job.provenance(&result, &options).boxed().await
                }
                false => Ok(Vec::new()),
            };
            Ok(Built {
                response,
                is_map: matches!(result.refs, Refs::Map(_)),
                provenance: provenance.map_err(|error| to_status(&error))?,
            })
        };
        let built = built.await;
        job.close().await;
        built
    }

    /// What the client asks for, as provenance tells it.
    fn asked(&self) -> Asked {
        let inputs = match &self.plan.work {
            Work::Solve(SolveInput::Frontend { inputs, .. }) | Work::Client(inputs) => inputs,
            Work::Solve(_) => &BTreeMap::new(),
        };
        Asked::new(&self.plan.frontend, &self.plan.frontend_attrs, inputs)
    }

    async fn session(&self) -> Result<Option<Arc<ClientSession>>, Status> {
        if self.plan.session.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.sessions().get(&self.plan.session).await?))
    }

    /// Who decides on sources.
    async fn verifier(&self) -> Result<Option<Arc<dyn SourceVerifier>>, Status> {
        if self.plan.policy_session.is_empty() {
            return Ok(None);
        }
        let decides = self.sessions().get(&self.plan.policy_session).await?;
        Ok(Some(Arc::new(ClientVerifier::new(decides))))
    }

    /// The sessions that the build may use.
    fn sessions(&self) -> SessionManager {
        self.shared.sessions.in_domain(self.domain.as_deref())
    }

    /// What is built, and the client's way to look into it where it has one.
    async fn result(
        &self,
        job: &BuildJob,
    ) -> Result<(weld_engine::FrontendResult, Option<Attached>), Status> {
        let bridge = job.bridge();
        let gateway = &self.shared.gateway;
        let attach = |inputs| {
            gateway.attach(
                self.domain.as_deref(),
                &self.plan.reference,
                job.bridge(),
                inputs,
            )
        };
        let (result, attached) = match &self.plan.work {
            Work::Solve(input) => {
                let request = weld_engine::SolveRequest {
                    input: input.clone(),
                    cache_imports: self.plan.cache_imports.clone(),
                    ..weld_engine::SolveRequest::default()
                };
                let result = bridge.solve(request).await;
                let looks = self.plan.session_exporters;
                (result, looks.then(|| attach(BTreeMap::new())).transpose()?)
            }
            Work::Client(inputs) => {
                let attached = attach(inputs.clone())?;
                (attached.result().await, Some(attached))
            }
        };
        Ok((result.map_err(|error| to_status(&error))?, attached))
    }

    /// The exporters that the client names now that it can look into what was built.
    async fn session_exports(
        &self,
        client: Option<&Arc<ClientSession>>,
        attached: &Attached,
        result: &weld_engine::FrontendResult,
    ) -> Result<Vec<ExportRequest>, Status> {
        let session = client.ok_or_else(|| {
            Status::invalid_argument("exporters can only be asked of a client with a session")
        })?;
        let metadata = result.metadata.iter();
        let question = FindExportersRequest {
            metadata: metadata
                .map(|(key, value)| (key.clone(), value.to_vec()))
                .collect(),
            refs: attached.keep(result)?,
        };
        let named = session.find_exporters(question).await?.into_iter();
        let named: Vec<_> = named
            .map(|exporter| Exporter {
                kind: exporter.r#type,
                attrs: exporter.attrs,
            })
            .collect();
        let first = self.plan.exporters.len();
        exporters::requests(&named, |number| {
            exporters::to_client(client, first + number)
        })
    }

    fn count(&self, error: Option<&Status>) {
        let outcome = match error {
            None => Outcome::Completed,
            Some(_) if self.running.build().cancel.is_cancelled() => Outcome::Canceled,
            Some(_) => Outcome::Failed,
        };
        let build = self.running.build();
        let summary = build.journal.summary();
        let took = build.started.elapsed().unwrap_or_default();
        let number = |count: i32| u64::try_from(count).unwrap_or(0);
        let (total, cached) = (number(summary.total), number(summary.cached));
        self.shared.metrics.build(outcome, took, total, cached);
        match error {
            None => tracing::debug!(build = build.reference, ?took, "built"),
            Some(error) => {
                tracing::info!(
                    build = build.reference,
                    ?took,
                    error = &*mask_secrets(error.message()),
                    "failed"
                );
            }
        }
    }

    /// What is known of the build at its start.
    fn record(&self) -> BuildHistoryRecord {
        BuildHistoryRecord {
            reference: self.plan.reference.clone(),
            frontend: self.plan.frontend.clone(),
            frontend_attrs: weld_engine::without_secrets(&self.plan.frontend_attrs),
            exporters: self.plan.exporters.clone(),
            created_at: Some(self.running.build().started.into()),
            ..BuildHistoryRecord::default()
        }
    }

    async fn remember(&self, built: &Result<Built, Status>) -> Result<(), HistoryError> {
        let history = &self.shared.history;
        let journal = &self.running.build().journal;
        let summary = journal.summary();
        let content = Section::new(journal.content());
        let logs = history.keep_from(content, STATUS_TYPE).await?;
        let mut record = BuildHistoryRecord {
            completed_at: Some(SystemTime::now().into()),
            logs: Some(logs.descriptor()),
            num_cached_steps: summary.cached,
            num_total_steps: summary.total,
            num_completed_steps: summary.completed,
            num_warnings: summary.warnings,
            ..self.record()
        };
        let mut kept = vec![logs];
        match built {
            Ok(built) => {
                record.exporter_response = built.response.attrs.clone();
                record.result = exporters::results(&built.response.exports);
                for (name, document) in &built.provenance {
                    let document = history.keep(document.to_vec(), PROVENANCE_TYPE).await?;
                    let mut descriptor = document.descriptor();
                    descriptor.annotations.insert(
                        "in-toto.io/predicate-type".to_owned(),
                        SlsaVersion::default().predicate_type().to_owned(),
                    );
                    let info = match built.is_map {
                        true => record.results.entry(name.clone()).or_default(),
                        false => record.result.get_or_insert_default(),
                    };
                    info.attestations.push(descriptor);
                    kept.push(document);
                }
            }
            Err(status) => {
                let message = error_message(status);
                let error = history.keep(message.encode_to_vec(), ERROR_TYPE).await?;
                record.external_error = Some(error.descriptor());
                record.error = Some(google::Status {
                    details: Vec::new(),
                    ..message
                });
                kept.push(error);
            }
        }
        let mut blobs: Vec<Digest> = kept.iter().map(Kept::digest).collect();
        blobs.extend(result_blob(&self.shared, record.result.as_ref()).await);
        history.completed(record, blobs).await
    }
}

/// The blob of an image that was built, which the history keeps.
async fn result_blob(
    shared: &Arc<Shared>,
    result: Option<&weld_proto::control::BuildResultInfo>,
) -> Option<Digest> {
    let digest: Digest = result?.result_deprecated.as_ref()?.digest.parse().ok()?;
    let (blobs, wanted) = (shared.engine.store().blobs().clone(), digest.clone());
    let there = tokio::task::spawn_blocking(move || blobs.contains(&wanted)).await;
    matches!(there, Ok(Ok(true))).then_some(digest)
}

/// An error as `google.rpc` has it, with its details.
fn error_message(status: &Status) -> google::Status {
    let detailed = google::Status::decode(status.details()).ok();
    let message = match status.code() {
        // What clients look for in the history to tell what was cancelled from what failed.
        Code::Cancelled if !status.message().contains("context canceled") => {
            format!("{}: context canceled", status.message())
        }
        _ => status.message().to_owned(),
    };
    let mut details = detailed.map(|status| status.details).unwrap_or_default();
    for detail in &mut details {
        // Where a client's own error passed through it, the command line that it was started with is in it.
        if detail.value.starts_with(b"{")
            && let Ok(text) = std::str::from_utf8(&detail.value)
        {
            detail.value = mask_secrets(text).into_owned().into_bytes();
        }
    }
    google::Status {
        code: status.code().into(),
        message: mask_secrets(&message).into_owned(),
        details,
    }
}

fn cancelled() -> Status {
    Status::cancelled("the build was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failures_command_line_is_kept_without_credentials() {
        let detail = |value: &str| prost_types::Any {
            type_url: "github.com/moby/buildkit/stack.Stack+json".to_owned(),
            value: value.as_bytes().to_vec(),
        };
        let line = r#"{"cmdline":["buildctl","context=https://me:pa55word@host/a.git#main"]}"#;
        let told = google::Status {
            details: vec![detail(line), detail("\u{fffd}no text")],
            ..google::Status::default()
        };
        let status = Status::with_details(
            Code::Unknown,
            "https://me:pa55word@host/a.git: not found",
            told.encode_to_vec().into(),
        );
        let kept = error_message(&status);
        assert!(!format!("{kept:?}").contains("pa55word"), "{kept:?}");
        let kept_line = String::from_utf8(kept.details[0].value.clone()).unwrap();
        assert_eq!(kept_line, line.replace("me:pa55word", "xxxxx:xxxxx"));
        assert_eq!(kept.details[1], told.details[1]);
    }
}
