//! Messages of BuildKit's low-level build definition (package `pb`, `solver/pb/ops.proto`).

mod exec;
mod file;
mod graph;
mod metadata;
mod source_map;

pub use exec::{
    CacheOpt, CacheSharingOpt, CdiDevice, ExecOp, HostIp, Meta, Mount, MountContentCache,
    MountType, NetMode, ProxyEnv, SecretEnv, SecretOpt, SecurityMode, SshOpt, TmpfsOpt, Ulimit,
};
pub use file::{
    ChownOpt, FileAction, FileActionCopy, FileActionMkDir, FileActionMkFile, FileActionRm,
    FileActionSymlink, FileOp, NamedUserOpt, UserOpt, file_action, user_opt,
};
pub use graph::{
    BuildInput, BuildOp, Definition, DiffOp, Input, LowerDiffInput, MergeInput, MergeOp, Op,
    PassthroughOp, Platform, SourceOp, UpperDiffInput, WorkerConstraints, op,
};
pub use metadata::{ExportCache, LinuxResources, OpMetadata, ProgressGroup};
pub use source_map::{Location, Locations, Position, Range, Source, SourceInfo};

/// Where a step's root file system is mounted.
pub const ROOT_MOUNT: &str = "/";
/// The output index of a mount or file action whose result nobody can use.
pub const SKIP_OUTPUT: i64 = -1;
/// The input index of an empty file system.
pub const EMPTY_INPUT: i64 = -1;
/// The builder index of a [`BuildOp`] whose input holds a definition.
pub const LLB_BUILDER: i64 = -1;
/// The input of a [`BuildOp`] that holds the definition, and the definition's default file name.
pub const LLB_DEFINITION_INPUT: &str = "buildkit.llb.definition";
