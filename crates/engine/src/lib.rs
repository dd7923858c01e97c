//! One build engine: a request, solved for a job with its session, its progress and its results.
//!
//! An [`Engine`] owns a state directory. [`Engine::build`] takes a [`BuildRequest`]: a Dockerfile
//! or an LLB definition, what to do with the result, and a session that offers the client's
//! directories, secrets and credentials, such as a [`HostSession`]. Any number of builds may run
//! at once; equal work of theirs is done once.
//!
//! Builds of different isolation domains ([`JobRequest::domain`]) share base images and nothing else:
//! no result, no running step, no cache mount and no copy of a client's directory.
//!
//! Beneath that one call there is [`Engine::open_job`], which gives a [`BuildJob`]: its [`Bridge`]
//! is what frontends work through, wherever they run, and [`BuildJob::export`] delivers what they
//! come to.

mod attest;
mod bridge;
mod cache;
mod caps;
mod config;
mod container;
mod context;
mod definition;
mod devices;
mod disk_space;
mod dockerfile;
mod engine;
mod error;
mod export;
mod files;
mod frontend;
mod host;
mod host_session;
mod internal;
mod job;
mod limits;
mod metadata;
mod nested;
mod platforms;
mod policy;
mod provenance;
mod reference;
mod relay;
mod request;
mod result;
mod sbom;
mod source_meta;
mod source_time;
mod ssh_agent;
mod subrequest;
mod usage;

pub use attest::{AttestOptionError, AttestOptions, PROVENANCE_FIELDS};
pub use bridge::{Bridge, SolveInput, SolveRequest};
pub use cache::{
    CacheExport, CacheExportError, CacheImport, Unmerged, ignores_errors, is_merged, mask_secrets,
    merge_local_cache, without_secrets,
};
pub use caps::{LLB_UNSUPPORTED, llb_caps};
pub use config::{Config, ConfigError, RuntimeKind, SnapshotterKind};
pub use container::{
    Container, ContainerMount, ContainerMountKind, ContainerRequest, Process, ProcessError,
    ProcessRequest,
};
pub use context::{UnpackError, is_archive, unpack_context};
pub use definition::{Definition, DefinitionError};
pub use disk_space::DiskSpace;
pub use dockerfile::{NAME as DOCKERFILE_FRONTEND, VERSION as DOCKERFILE_VERSION};
pub use engine::{Engine, OpenError, enter_privileges};
pub use error::{BuildError, FailedStep, SourceRanges};
pub use files::{FileError, FileRange, Stat, SystemError};
pub use frontend::{Frontend, FrontendRequest};
pub use host_session::{HostSession, LayoutReference, SecretSource, SessionError};
pub use job::{BuildJob, JobRequest};
pub use policy::{
    PolicyError, SourcePolicies, SourceQuestion, SourceVerdict, SourceVerifier, VerifierError,
};
pub use provenance::{Asked, Mode, ProvenanceOptions, SlsaVersion};
pub use reference::Ref;
pub use request::{
    BuildInput, BuildRequest, BuildResponse, Entitlement, ParseEntitlementError, Provenance,
};
pub use result::{Attestation, FrontendResult, Refs};
pub use sbom::SbomOptions;
pub use source_meta::{
    Checksum, ChecksumRequest, ImageConfigRequest, ImageMetaRequest, ResolvedConfig,
    ResolvedSource, SourceMeta, SourceMetaRequest,
};
pub use ssh_agent::AgentError;
pub use usage::{CheckError, CheckReport, PruneOptions, RepairReport, StoreError, UsageRecord};
pub use weld_dockerfile::Error as DockerfileError;
pub use weld_dockerfile::convert::{Limits, OptionError};
pub use weld_export::cache::{
    export_attributes as cache_export_attributes, import_attributes as cache_import_attributes,
};
pub use weld_export::{AttestationKind, ExportKind, ExportRequest, ExportTarget, Subject};
pub use weld_llb::Platform;
pub use weld_llb::reference::Reference as ImageReference;
pub use weld_op::session::Session;
pub use weld_op::{AttestationChain, Device, DeviceConfig, Devices, SandboxMountKind};
pub use weld_runtime::memory::share_arenas;
pub use weld_runtime::privilege::PrivilegeError;
pub use weld_runtime::{Chunk, RuntimeError, Stdio, StepProcess, Terminal};
pub use weld_solver::{Census, TraceSink};
pub use weld_source::blob_store::LayoutStore;
pub use weld_source::index_lock::LockWait;
pub use weld_store::{OnDamage, OnFullDisk, panic_becomes_error};
