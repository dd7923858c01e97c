//! The service on a daemon's address: calls are for the build that their metadata names, which is
//! found by clients of its own isolation domain alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};
use weld_engine::{Bridge, BuildError, FrontendResult};
use weld_proto::frontend as wire;
use weld_proto::frontend::llb_bridge_server::LlbBridge;
use weld_proto::pb;

use super::session::Session;
use crate::server::Peer;

/// The metadata that names a call's build.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// For how long a call waits for its build to be opened.
const PATIENCE: Duration = Duration::from_secs(3);

/// The builds whose frontends run in clients. Cheap to clone.
#[derive(Clone, Default)]
pub struct Gateway(Arc<Builds>);

/// A build's isolation domain and id.
type Key = (Option<String>, String);

#[derive(Default)]
struct Builds {
    sessions: Mutex<HashMap<Key, Session>>,
    /// Counts builds, so that those who wait look again.
    arrivals: watch::Sender<u64>,
    /// Fires when builds are cancelled because the daemon ends.
    given_up: CancellationToken,
}

impl Builds {
    fn sessions(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build whose frontend runs in its client, as long as this lives.
pub struct Attached {
    builds: Arc<Builds>,
    key: Key,
    session: Session,
}

impl Attached {
    /// What the frontend returns, once it has.
    ///
    /// # Errors
    /// What the frontend says that went wrong, or that the build was cancelled.
    pub async fn result(&self) -> Result<FrontendResult, BuildError> {
        self.session.result().await
    }

    /// The ids by which the client can look into what was built.
    ///
    /// # Errors
    /// If the client holds too many results already.
    pub fn keep(&self, result: &FrontendResult) -> Result<Vec<String>, Status> {
        let refs = result.each_ref().cloned();
        refs.map(|reference| self.session.keep(reference)).collect()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.builds.sessions().remove(&self.key);
    }
}

impl Gateway {
    /// A gateway without builds. When `given_up` fires, builds are cancelled because the daemon ends.
    pub fn new(given_up: CancellationToken) -> Self {
        Self(Arc::new(Builds {
            given_up,
            ..Builds::default()
        }))
    }

    /// Lets a client be the frontend of a build.
    ///
    /// # Errors
    /// A status if there is such a build already.
    pub fn attach(
        &self,
        domain: Option<&str>,
        id: &str,
        bridge: Bridge,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> Result<Attached, Status> {
        let session = Session::ended_by(bridge, inputs, self.0.given_up.clone());
        let key = (domain.map(str::to_owned), id.to_owned());
        match self.0.sessions().entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(Status::already_exists(format!(
                    "there is a build {id} already"
                )));
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(session.clone());
            }
        }
        self.0.arrivals.send_modify(|count| *count += 1);
        Ok(Attached {
            builds: Arc::clone(&self.0),
            key,
            session,
        })
    }

    async fn session(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Session, Status> {
        let id = metadata.get(BUILD_ID).and_then(|id| id.to_str().ok());
        let id = id.ok_or_else(|| Status::invalid_argument("no buildid found in context"))?;
        let key = (Peer::domain_of(extensions), id.to_owned());
        let mut arrivals = self.0.arrivals.subscribe();
        let found = arrivals.wait_for(|_| self.0.sessions().contains_key(&key));
        let unknown = || Status::not_found(format!("no such job {id}"));
        let waited = tokio::time::timeout(PATIENCE, found).await;
        if !matches!(waited, Ok(Ok(_))) {
            return Err(unknown());
        }
        self.0.sessions().get(&key).cloned().ok_or_else(unknown)
    }
}

/// Implements the service: `$session` finds the session of a call.
macro_rules! serve {
    ($service:ty, $self:ident, $metadata:ident, $extensions:ident => $session:expr) => {
        #[tonic::async_trait]
        impl LlbBridge for $service {
            async fn resolve_image_config(
                &$self,
                request: Request<wire::ResolveImageConfigRequest>,
            ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.resolve_image_config(request).await.map(Response::new)
            }

            async fn resolve_source_meta(
                &$self,
                request: Request<wire::ResolveSourceMetaRequest>,
            ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.resolve_source_meta(request).await.map(Response::new)
            }

            async fn solve(
                &$self,
                request: Request<wire::SolveRequest>,
            ) -> Result<Response<wire::SolveResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.solve(request).await.map(Response::new)
            }

            async fn read_file(
                &$self,
                request: Request<wire::ReadFileRequest>,
            ) -> Result<Response<wire::ReadFileResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.read_file(request).await.map(Response::new)
            }

            async fn read_dir(
                &$self,
                request: Request<wire::ReadDirRequest>,
            ) -> Result<Response<wire::ReadDirResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.read_dir(request).await.map(Response::new)
            }

            async fn stat_file(
                &$self,
                request: Request<wire::StatFileRequest>,
            ) -> Result<Response<wire::StatFileResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.stat_file(request).await.map(Response::new)
            }

            async fn evaluate(
                &$self,
                request: Request<wire::EvaluateRequest>,
            ) -> Result<Response<wire::EvaluateResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.evaluate(request).await.map(Response::new)
            }

            async fn ping(
                &$self,
                request: Request<wire::PingRequest>,
            ) -> Result<Response<wire::PongResponse>, Status> {
                let ($metadata, $extensions, _) = request.into_parts();
                Ok(Response::new($session.pong()))
            }

            async fn return_result(
                &$self,
                request: Request<wire::ReturnRequest>,
            ) -> Result<Response<wire::ReturnResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.finish(request).map(Response::new)
            }

            async fn inputs(
                &$self,
                request: Request<wire::InputsRequest>,
            ) -> Result<Response<wire::InputsResponse>, Status> {
                let ($metadata, $extensions, _) = request.into_parts();
                let definitions = $session.inputs().clone();
                Ok(Response::new(wire::InputsResponse { definitions }))
            }

            async fn new_container(
                &$self,
                request: Request<wire::NewContainerRequest>,
            ) -> Result<Response<wire::NewContainerResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.new_container(request).await.map(Response::new)
            }

            async fn release_container(
                &$self,
                request: Request<wire::ReleaseContainerRequest>,
            ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.release_container(request).await.map(Response::new)
            }

            async fn read_file_container(
                &$self,
                request: Request<wire::ReadFileRequest>,
            ) -> Result<Response<wire::ReadFileResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.read_file_container(request).await.map(Response::new)
            }

            async fn read_dir_container(
                &$self,
                request: Request<wire::ReadDirRequest>,
            ) -> Result<Response<wire::ReadDirResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.read_dir_container(request).await.map(Response::new)
            }

            async fn stat_file_container(
                &$self,
                request: Request<wire::StatFileRequest>,
            ) -> Result<Response<wire::StatFileResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.stat_file_container(request).await.map(Response::new)
            }

            async fn warn(
                &$self,
                request: Request<wire::WarnRequest>,
            ) -> Result<Response<wire::WarnResponse>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                $session.warning(request).map(Response::new)
            }

            type ExecProcessStream = super::processes::Messages;

            async fn exec_process(
                &$self,
                request: Request<Streaming<wire::ExecMessage>>,
            ) -> Result<Response<Self::ExecProcessStream>, Status> {
                let ($metadata, $extensions, request) = request.into_parts();
                Ok(Response::new($session.exec_process(request)))
            }
        }
    };
}

serve!(Gateway, self, metadata, extensions => self.session(&metadata, &extensions).await?);
serve!(Session, self, _metadata, _extensions => self);
