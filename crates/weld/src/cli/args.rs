//! The command line's shape.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::daemon::DaemonArgs;
use super::dial::DialArgs;
use super::docker_options::DockerArgs;
use super::fields;
use super::place::ClientArgs;
use super::resources::ResourceArgs;

/// Build container images from Dockerfiles and LLB definitions.
///
/// Weldkit builds in this process: no daemon is needed. Results go where --output says; what was
/// done once is kept under the state directory (--root) and not done again.
#[derive(Debug, Parser)]
#[command(
    name = "weld",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Reads a truth value as docker does, for which `--pull=true` is as good as `--pull`.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    fields::truth(text).ok_or_else(|| "must be true or false".to_owned())
}

/// What every command that opens the engine takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// The state directory: blobs, snapshots, records [default: /var/lib/weld, or
    /// $XDG_DATA_HOME/weld for a normal user].
    #[arg(long, global = true, env = "WELD_ROOT", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
    /// The configuration file [default: /etc/weld/weld.toml, or ~/.config/weld/weld.toml; may be
    /// absent]. Registries are configured as in buildkitd.toml.
    #[arg(long, global = true, env = "WELD_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Run steps with this OCI runtime (such as runc or crun) in place of the embedded one.
    #[arg(long, global = true, env = "WELD_OCI_RUNTIME", value_name = "PROGRAM", value_hint = ValueHint::ExecutablePath)]
    pub(crate) oci_runtime: Option<String>,
    /// How snapshots are kept: with overlay mounts, as copies, or (auto) with overlay mounts where
    /// they can be had [default: the configuration file's, or auto].
    #[arg(long, global = true, env = "WELD_SNAPSHOTTER", value_name = "KIND")]
    pub(crate) snapshotter: Option<Snapshotter>,
    /// How much the state directory may hold, such as 20GB, or 30% of its disk: what is worth least is deleted while builds run, and what
    /// does not fit fails [default: the configuration file's, or what the disk has].
    #[arg(long, global = true, env = "WELD_DISK_LIMIT", value_name = "SIZE")]
    pub(crate) disk_limit: Option<String>,
    /// Tell more where something fails: which step, and what is behind it.
    // The daemon has an option of this name of its own, which this one is where it stands before the command.
    #[arg(short = 'D', long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub(crate) debug: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Snapshotter {
    Auto,
    Overlay,
    Copy,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile.
    Build(Box<BuildArgs>),
    /// Build an LLB definition that is read from standard input.
    Solve(Box<SolveArgs>),
    /// List what the state directory holds, and how large it is.
    Du(DuArgs),
    /// Delete what no build uses, what is worth least first.
    Prune(PruneArgs),
    /// Verify the state directory, and mend it.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Serve BuildKit's API to `buildctl`, `docker buildx` and other clients.
    Daemon(Box<DaemonArgs>),
    /// Connect standard input and output to a daemon, for clients that come by ssh.
    DialStdio(DialArgs),
    /// Learn from a trace that `--trace FILE` wrote.
    #[command(subcommand)]
    Trace(super::trace::TraceCommand),
    /// Look inside.
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print a completion script: source it from your shell's start-up file.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page: view it with `weld man | man -l -`.
    Man,
}

#[derive(Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  \
    weld build .\n  \
    weld build -t app:1 --output type=oci,dest=app.tar .\n  \
    weld build --build-context base=oci-layout://./base:latest --target test .\n  \
    weld build --secret id=token,env=TOKEN --output out/ .\n  \
    weld build -t registry.example/app:1 --push https://github.com/org/repo.git#main"
)]
pub(crate) struct BuildArgs {
    /// The Dockerfile [default: CONTEXT/Dockerfile]: a file, an HTTP address, or `-` for standard input.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<String>,
    /// Name the image, with a tag; may be repeated.
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<String>,
    /// Build this stage [default: the last one].
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a build argument; without a value it is taken from the environment.
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(crate) build_args: Vec<String>,
    /// Name another context: a directory, oci-layout://DIR:TAG or oci-layout://DIR@DIGEST,
    /// docker-image://REF, or a git or HTTP address.
    #[arg(long = "build-context", value_name = "NAME=CONTEXT")]
    pub(crate) build_contexts: Vec<String>,
    /// Offer a secret to steps that mount it: id=NAME[,src=FILE|,env=VARIABLE].
    #[arg(long = "secret", value_name = "FIELDS")]
    pub(crate) secrets: Vec<String>,
    /// Offer an SSH agent socket or keys to steps that mount it: default, ID=SOCKET or ID=KEY,KEY.
    #[arg(long = "ssh", value_name = "ID[=PATHS]")]
    pub(crate) ssh: Vec<String>,
    /// Build for these platforms, such as linux/amd64,linux/arm64 [default: this machine's].
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
    /// Where the result goes: type=local|tar|oci|docker|image|cacheonly with its fields, a
    /// directory, or `-` for a tar archive on standard output; may be repeated.
    #[arg(short, long = "output", value_name = "FIELDS")]
    pub(crate) outputs: Vec<String>,
    /// Push the image: short for --output type=image,push=true.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = truth, value_name = "BOOL")]
    pub(crate) push: bool,
    /// Ask for something else than a build: check (what the linter finds), outline (the arguments,
    /// secrets and agents of the target) or targets, with `[,format=json][,ignorestatus=true]`.
    #[arg(long, value_name = "METHOD", default_value = "build", alias = "print")]
    pub(crate) call: String,
    /// Short for --call check.
    #[arg(long, conflicts_with = "call")]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) caches: CacheArgs,
    /// Do not use the cache.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = truth, value_name = "BOOL")]
    pub(crate) no_cache: bool,
    /// Tell beside each step that was not cached why it was not: which file, argument or input
    /// differs from the last time.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Do not use the cache for these stages.
    #[arg(long = "no-cache-filter", value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Ask registries for newer images even where a local one serves.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = truth, value_name = "BOOL")]
    pub(crate) pull: bool,
    /// Write what was built as JSON: digests, names, descriptor, and how it was made: all of it if
    /// $BUILDX_METADATA_PROVENANCE is max, nothing if that is disabled.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Write the image's ID (its digest).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) iidfile: Option<PathBuf>,
    /// Set a label of the image.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Add an annotation to the image. Where to, several with commas: manifest (unless told), index,
    /// manifest-descriptor or index-descriptor, each also for one platform as in
    /// `manifest[linux/amd64]:key=value`.
    #[arg(long = "annotation", value_name = "[TYPE:]KEY=VALUE")]
    pub(crate) annotations: Vec<String>,
    /// Attach a statement on the result: type=provenance or type=sbom with its fields; may be
    /// repeated.
    #[arg(long = "attest", value_name = "FIELDS")]
    pub(crate) attests: Vec<String>,
    /// Attach how the result was made (SLSA provenance): true, false, or fields such as mode=max:
    /// short for --attest type=provenance.
    #[arg(long, value_name = "BOOL|FIELDS")]
    pub(crate) provenance: Option<String>,
    /// Attach a list of what is in the result, made by a scanner image: true, false, or fields such
    /// as generator=IMAGE: short for --attest type=sbom.
    #[arg(long, value_name = "BOOL|FIELDS")]
    pub(crate) sbom: Option<String>,
    /// The network of RUN instructions: default, none or host, which grants --allow network.host.
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: String,
    /// Grant what steps must not do by default: network.host, security.insecure, device, device=NAME,
    /// device=NAME,alias=NAME-IN-BUILD; several with commas between them.
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
    /// Add a line to the /etc/hosts of RUN instructions.
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_hosts: Vec<String>,
    /// The size of /dev/shm for RUN instructions, such as 64m.
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// A limit for RUN instructions, such as nofile=1024:2048.
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimits: Vec<String>,
    /// The parent cgroup of RUN instructions.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
    #[command(flatten)]
    pub(crate) docker: DockerArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The context: a directory, a git or HTTP address, or `-` for a tar archive or a Dockerfile
    /// on standard input.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) context: String,
}

impl BuildArgs {
    /// Whether it reads standard input, or writes a result to standard output: it is not to be done twice.
    pub(crate) fn has_streams(&self) -> bool {
        let is_stream = |output: &String| {
            let mut fields = output.split(',').map(str::trim);
            output == "-" || fields.any(|field| field == "dest=-")
        };
        self.context == "-"
            || self.file.as_deref() == Some("-")
            || self.outputs.iter().any(is_stream)
    }
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CacheArgs {
    /// Read a build cache: type=registry,ref=NAME (a cache, or an image with one in it),
    /// type=local,src=DIR[,tag=TAG], type=s3, type=azblob or type=gha;
    /// type=mount,ref=NAME|src=DIR[,id=ID;ID] for the content of cache mounts; a name alone is one in
    /// a registry; may be repeated.
    #[arg(long = "cache-from", value_name = "FIELDS")]
    pub(crate) from: Vec<String>,
    /// Write a build cache: type=registry,ref=NAME, type=local,dest=DIR[,tag=TAG], type=s3,
    /// type=azblob, type=gha or type=inline, with mode=min|max and more fields;
    /// type=mount,id=ID;ID,ref=NAME|dest=DIR[,max-size=SIZE] for the content of cache mounts; a
    /// name alone is one in a registry; may be repeated.
    #[arg(long = "cache-to", value_name = "FIELDS")]
    pub(crate) to: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// Write the scheduler's events to this file, a JSON object a line; compressed if its name ends
    /// in .zst. `weld trace` reads it.
    #[arg(long, env = "WELD_TRACE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ProgressArgs {
    /// How progress is shown: auto, plain, tty, rawjson or quiet.
    #[arg(
        long,
        env = "BUILDKIT_PROGRESS",
        value_name = "MODE",
        default_value = "auto"
    )]
    pub(crate) progress: weld_progress::Mode,
    /// Print the image's ID and nothing else.
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = truth, value_name = "BOOL")]
    pub(crate) quiet: bool,
}

impl ProgressArgs {
    /// How progress is shown, `--quiet` included.
    pub(crate) fn mode(&self) -> weld_progress::Mode {
        match self.quiet {
            true => weld_progress::Mode::Quiet,
            false => self.progress,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct SolveArgs {
    /// Offer a directory to the definition's local sources.
    #[arg(long = "local", value_name = "NAME=DIR")]
    pub(crate) locals: Vec<String>,
    /// Offer an OCI layout directory to the definition's oci-layout sources.
    #[arg(long = "oci-layout", value_name = "NAME=DIR")]
    pub(crate) layouts: Vec<String>,
    /// Offer a secret: id=NAME[,src=FILE|,env=VARIABLE].
    #[arg(long = "secret", value_name = "FIELDS")]
    pub(crate) secrets: Vec<String>,
    /// Offer an SSH agent socket or keys: default, ID=SOCKET or ID=KEY,KEY.
    #[arg(long = "ssh", value_name = "ID[=PATHS]")]
    pub(crate) ssh: Vec<String>,
    /// Where the result goes: as for `weld build`.
    #[arg(short, long = "output", value_name = "FIELDS")]
    pub(crate) outputs: Vec<String>,
    #[command(flatten)]
    pub(crate) caches: CacheArgs,
    /// Do not use the cache.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Grant what steps must not do by default: network.host, security.insecure, device, device=NAME,
    /// device=NAME,alias=NAME-IN-BUILD; several with commas between them.
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
    /// Write what was built as JSON.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DuArgs {
    /// Only what matches, such as type==exec.cachemount or id~=^abc; several must all match.
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// One block of lines for each record.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Also delete what is used by builds' frontends and internals.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only what matches, as for `weld du`.
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Keep the most recently used up to this size, such as 10gb.
    #[arg(long, value_name = "BYTES")]
    pub(crate) keep_storage: Option<String>,
    /// Keep what was used within this time, such as 48h.
    #[arg(long, value_name = "DURATION")]
    pub(crate) keep_duration: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Verify every blob, snapshot, record and reference; fails if something is wrong.
    ///
    /// Nothing else may use the state directory meanwhile: stop the daemon that does.
    Check {
        /// Drop exactly what is damaged, with what was made of it: steps whose results go run again
        /// in the next build.
        #[arg(long)]
        repair: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print an LLB definition that is read from a file or standard input.
    DumpLlb {
        /// Print a graph for Graphviz.
        #[arg(long)]
        dot: bool,
        /// The file, if not standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Print the LLB definition of a Dockerfile's build (protobuf, for `weld solve`) and build
    /// nothing.
    EmitLlb(Box<BuildArgs>),
}
