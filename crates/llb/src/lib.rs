//! BuildKit's low-level build definition (LLB).
//!
//! A [`Graph`] is a validated definition: [`Graph::decode`] accepts what a BuildKit client sends, or says
//! what is wrong with it. Its vertices are in topological order, inputs first, and each carries a typed
//! [`Op`], its digest (SHA-256 of the encoded operation), its inputs as indexes, and its metadata.
//!
//! A [`Builder`] makes definitions. [`State`] is the file system and the process settings that a build
//! has come to, as in BuildKit's Go client; operations of equal content get the bytes, and so the
//! digests, that the Go client gives them.

mod builder;
mod credentials;
mod dump;
mod env;
mod exec;
mod file;
mod graph;
pub mod json;
mod op;
pub mod path;
mod platform;
pub mod purl;
pub mod reference;
mod source;
mod state;

pub use builder::{BuildError, Builder, Constraints, Output, SourceFileId};
pub use credentials::{mask_credentials, without_credentials};
pub use env::EnvList;
pub use exec::{
    BindMount, CacheMount, ExecError, ExecOp, Mount, MountKind, Process, SecretMount, SshMount,
};
pub use file::{
    CopyAction, CopyMode, FileAction, FileChange, FileError, FileInput, FileOp, MkdirAction,
    MkfileAction, Owner, RmAction, SymlinkAction, UserRef,
};
pub use graph::{DecodeError, Edge, Graph, Limits, SourceLocation, Vertex};
pub use op::{BuildOp, DiffOp, MergeOp, Op, OpError, PassthroughOp};
pub use platform::{ParsePlatformError, Platform, PlatformMatcher};
pub use source::{
    BlobSource, FileAttributes, GitBundle, GitSignature, GitSource, HttpSource, ImageSource,
    LocalSource, MetadataTransfer, OciLayoutSource, ResolveMode, Source, SourceError,
};
pub use state::{MountSpec, Run, RunOutputs, Secret, Ssh, State};

pub use weld_proto::pb::{
    CacheSharingOpt, CdiDevice, HostIp, LinuxResources, MountContentCache, NetMode, OpMetadata,
    Position, ProgressGroup, ProxyEnv, Range, SecretEnv, SecurityMode, Ulimit,
};
pub use weld_proto::{attr, cap, pb};
