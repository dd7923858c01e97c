//! `weld daemon`, which is also what the command is when it is called `buildkitd`; and
//! `weld dial-stdio`.

mod unsupported;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, ValueHint};
use tokio_util::sync::CancellationToken;
use weld_daemon::config::{
    DaemonConfig, GcSizes, LogFormat, LogLevel, OtlpConfig, Space, TlsConfig, default_gc, duration,
};
use weld_daemon::{ServeError, Server};
use weld_engine::RuntimeKind;

use super::args::Snapshotter;
use super::home::Home;
use super::report::Failure;
use unsupported::Unsupported;

/// So often in a row a daemon begins anew whose database proves damaged.
const MENDINGS: u32 = 3;
/// A database that was good for so long was mended.
const MENDED: Duration = Duration::from_secs(60);

/// The file names under which the command is a daemon at once.
const DAEMON_NAME: &str = "buildkitd";

/// Serve BuildKit's API to `buildctl`, `docker buildx` and other clients.
///
/// Options, environment and the configuration file are those of `buildkitd`; what has no effect
/// here is named in a warning at the start.
#[derive(Args, Clone, Debug)]
pub(crate) struct DaemonArgs {
    /// Listen here: unix://PATH, tcp://HOST:PORT or fd://; may be repeated [default:
    /// unix:///run/buildkit/buildkitd.sock; for a normal user $XDG_RUNTIME_DIR/buildkit/buildkitd.sock].
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append, value_delimiter = ',')]
    addr: Vec<String>,
    /// The group, by name or number, that may connect to unix sockets.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Serve metrics and debugging over HTTP here, such as 127.0.0.1:6060.
    #[arg(long, env = "BUILDKITD_DEBUGADDR", value_name = "HOST:PORT")]
    debugaddr: Option<String>,
    /// The server's certificate.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tlscert: Option<PathBuf>,
    /// The server's key.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tlskey: Option<PathBuf>,
    /// Who signs clients' certificates; clients then need one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tlscacert: Option<PathBuf>,
    /// Serve TCP without TLS: whoever can reach it runs builds as root.
    #[arg(long)]
    allow_plain_tcp: bool,
    /// Let clients with different certificates share no results, cache mounts and sessions; usage, pruning and the history with
    /// its logs are everybody's.
    #[arg(long)]
    isolate_clients: bool,
    /// Let clients ask for network.host or security.insecure; may be repeated.
    #[arg(long, value_name = "ENTITLEMENT", action = ArgAction::Append, value_delimiter = ',')]
    allow_insecure_entitlement: Vec<String>,
    /// How long running builds may go on after SIGTERM, such as 60s.
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<String>,
    /// Log what helps to find a fault.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    debug: Option<bool>,
    /// Log everything.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide = true)]
    trace: Option<bool>,
    /// How to log: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, env = "BUILDKITD_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Run steps with this OCI runtime in place of the embedded one.
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::ExecutablePath)]
    oci_worker_binary: Option<PathBuf>,
    /// How snapshots are kept: auto, overlayfs or native.
    #[arg(long, value_name = "KIND")]
    oci_worker_snapshotter: Option<String>,
    /// Tell clients this of the worker: KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append, value_delimiter = ',')]
    oci_worker_labels: Vec<String>,
    /// The platforms to build for [default: what this machine can run]; may be repeated.
    #[arg(long, value_name = "PLATFORM", action = ArgAction::Append, value_delimiter = ',')]
    oci_worker_platform: Vec<String>,
    /// Whether to delete what is not used by itself.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    oci_worker_gc: Option<bool>,
    /// What to keep, in megabytes: RESERVED,FREE,MAXIMUM.
    #[arg(long, value_name = "SIZES")]
    oci_worker_gc_keepstorage: Option<String>,
    /// How many steps run at once.
    #[arg(long, value_name = "COUNT")]
    oci_max_parallelism: Option<usize>,
    /// Offer no devices to steps.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    cdi_disabled: Option<bool>,
    /// A directory with descriptions of devices (CDI), in place of the usual ones.
    #[arg(long, value_name = "DIR", action = ArgAction::Append, value_delimiter = ',')]
    cdi_spec_dir: Vec<PathBuf>,
    #[command(flatten)]
    unsupported: Unsupported,
}

/// The command under the name of `buildkitd`.
#[derive(Debug, Parser)]
#[command(
    name = "buildkitd",
    version,
    disable_version_flag = true,
    max_term_width = 100
)]
struct Buildkitd {
    /// Print the version.
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    args: DaemonArgs,
}

/// Where a daemon's state and configuration are.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Place {
    /// The configuration file, in the form of buildkitd.toml [default:
    /// /etc/buildkit/buildkitd.toml, which may be absent].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// The directory of state, of which `weld` in it is used [default: /var/lib/buildkit].
    #[arg(long, env = "WELD_ROOT", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
    /// As for every command.
    #[arg(skip)]
    pub(crate) oci_runtime: Option<String>,
    /// As for every command.
    #[arg(skip)]
    pub(crate) snapshotter: Option<Snapshotter>,
    /// How much the state directory may hold, such as 20GB, or 30% of its disk: what is worth least is deleted while builds run, and what
    /// does not fit fails.
    #[arg(long, env = "WELD_DISK_LIMIT", value_name = "SIZE")]
    pub(crate) disk_limit: Option<String>,
    /// Whether the directory may have state of BuildKit's own, which is left alone.
    #[arg(skip)]
    pub(crate) beside_buildkitd: bool,
}

/// The arguments of a daemon if the command is called by a daemon's name.
pub(crate) fn called_as_daemon() -> Option<(Place, DaemonArgs)> {
    let name = std::env::args_os().next()?;
    if Path::new(&name).file_name()? != DAEMON_NAME {
        return None;
    }
    let Buildkitd {
        mut place, args, ..
    } = Buildkitd::parse();
    place.beside_buildkitd = true;
    Some((place, args))
}

/// Serves until it is told to stop.
pub(crate) fn run(place: &Place, args: &DaemonArgs) -> Result<(), Failure> {
    let config = configuration(place, args)?;
    start_log(&config);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    weld_engine::share_arenas();
    // Before any thread: only then does the whole process see the change.
    weld_engine::enter_privileges()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_background();
    served
}

async fn serve(config: DaemonConfig) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(on_signals(stop.clone()));
    let mut mended = 0;
    let served = loop {
        let begun = Instant::now();
        let server = Server::bind(config.clone()).await?;
        for address in server.addresses() {
            tracing::info!("running server on {address}");
        }
        match server.run(stop.clone()).await {
            Err(ServeError::Damaged) if mended < MENDINGS || begun.elapsed() > MENDED => {
                mended = if begun.elapsed() > MENDED {
                    1
                } else {
                    mended + 1
                };
                tracing::warn!("the state database is damaged: the daemon begins anew");
            }
            served => break served,
        }
    };
    signals.abort();
    Ok(served?)
}

/// Has the daemon end at the first SIGINT or SIGTERM; the second ends the process at once.
async fn on_signals(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    loop {
        tokio::select! {
            Some(()) = interrupt.recv() => {}
            Some(()) = terminate.recv() => {}
            else => return,
        }
        if stop.is_cancelled() {
            std::process::exit(1);
        }
        tracing::info!("stopping server");
        stop.cancel();
    }
}

fn start_log(config: &DaemonConfig) {
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = match config.log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What the libraries say of every frame helps only with everything else.
    let others = if level == LevelFilter::TRACE {
        level
    } else {
        level.min(LevelFilter::INFO)
    };
    let targets = Targets::new()
        .with_default(others)
        .with_target("weld", level);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // It would be told there, too, and by a panic: see `streams`.
        .log_internal_errors(false)
        .with_ansi(false);
    let log = tracing_subscriber::registry().with(targets);
    // Only one log can be started, and this is the only place that does.
    let _ = match config.log.format {
        LogFormat::Text => log.with(layer).try_init(),
        LogFormat::Json => log.with(layer.json()).try_init(),
    };
}

fn configuration(place: &Place, args: &DaemonArgs) -> Result<DaemonConfig, Failure> {
    let home = Home::here(place.beside_buildkitd);
    let mut config = DaemonConfig::new(home.state(match place.beside_buildkitd {
        true => "buildkit",
        false => "weld",
    }));
    match &place.config {
        // As buildkitd has it: a file that is not there says nothing.
        Some(path) => config.read(path, false)?,
        None => config.read(&home.file(), false)?,
    }
    if let Some(root) = &place.root {
        config.engine.root = root.clone();
    }
    if place.beside_buildkitd {
        config.engine.root.push("weld");
    }
    super::set_ways(
        &mut config.engine,
        place.oci_runtime.as_deref(),
        place.snapshotter,
    );
    super::set_disk_limit(&mut config.engine, place.disk_limit.as_deref())?;
    apply(args, &mut config)?;
    if config.listen.addresses.is_empty() {
        config.listen.addresses = vec![format!("unix://{}", home.socket().display())];
    }
    config.warnings.extend(args.unsupported.warnings());
    match OtlpConfig::from_variables(|name| std::env::var(name).ok()) {
        Ok(otlp) => config.otlp = otlp,
        Err(error) => config.warnings.push(error.to_string()),
    }
    Ok(config)
}

fn apply(args: &DaemonArgs, config: &mut DaemonConfig) -> Result<(), Failure> {
    let usage = |option: &str, reason: String| Failure::usage(format!("{option}: {reason}"));
    if !args.addr.is_empty() {
        config.listen.addresses = args.addr.clone();
    }
    if let Some(group) = &args.group {
        config.listen.gid = Some(group_id(group)?);
    }
    if let Some(address) = &args.debugaddr {
        config.debug_address = Some(address.clone());
    }
    apply_tls(args, config)?;
    config.listen.allow_plain_tcp |= args.allow_plain_tcp;
    config.listen.isolate_clients |= args.isolate_clients;
    let certified = config
        .listen
        .tls
        .as_ref()
        .is_some_and(|tls| tls.ca.is_some());
    if config.listen.isolate_clients && !certified {
        return Err(Failure::usage(
            "--isolate-clients tells clients apart by their certificates: it needs --tlscacert",
        ));
    }
    if !args.allow_insecure_entitlement.is_empty() {
        config
            .set_entitlements(&args.allow_insecure_entitlement)
            .map_err(|reason| usage("--allow-insecure-entitlement", reason))?;
    }
    if let Some(text) = &args.drain_timeout {
        config.drain_timeout = duration::parse(text)
            .ok_or_else(|| usage("--drain-timeout", format!("invalid duration {text}")))?;
    }
    match (args.log_level, args.trace, args.debug) {
        (Some(level), _, _) => config.log.level = level,
        (None, Some(true), _) => config.log.level = LogLevel::Trace,
        (None, _, Some(true)) => config.log.level = LogLevel::Debug,
        (None, ..) => {}
    }
    if let Some(format) = args.log_format {
        config.log.format = format;
    }
    apply_worker(args, config)
}

fn apply_tls(args: &DaemonArgs, config: &mut DaemonConfig) -> Result<(), Failure> {
    let old = config.listen.tls.take();
    let cert = args
        .tlscert
        .clone()
        .or_else(|| old.as_ref().map(|tls| tls.cert.clone()));
    let key = args
        .tlskey
        .clone()
        .or_else(|| old.as_ref().map(|tls| tls.key.clone()));
    let ca = args
        .tlscacert
        .clone()
        .or_else(|| old.and_then(|tls| tls.ca));
    config.listen.tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsConfig { cert, key, ca }),
        (None, None) if ca.is_none() => None,
        (None, None) => return Err(Failure::usage("--tlscacert needs --tlscert and --tlskey")),
        _ => {
            return Err(Failure::usage(
                "you must specify key and cert file if one is specified",
            ));
        }
    };
    Ok(())
}

fn apply_worker(args: &DaemonArgs, config: &mut DaemonConfig) -> Result<(), Failure> {
    if let Some(program) = &args.oci_worker_binary {
        config.engine.runtime = RuntimeKind::Oci(program.clone());
    }
    if let Some(name) = &args.oci_worker_snapshotter {
        config
            .set_snapshotter(name)
            .map_err(|reason| Failure::usage(format!("--oci-worker-snapshotter: {reason}")))?;
    }
    for label in &args.oci_worker_labels {
        let (key, value) = label.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--oci-worker-labels {label:?}: needs KEY=VALUE"))
        })?;
        config.labels.insert(key.to_owned(), value.to_owned());
    }
    if !args.oci_worker_platform.is_empty() {
        config
            .set_platforms(&args.oci_worker_platform)
            .map_err(|reason| Failure::usage(format!("--oci-worker-platform: {reason}")))?;
    }
    if let Some(text) = &args.oci_worker_gc_keepstorage {
        config.gc = Some(default_gc(keep_storage(text)?));
    }
    if args.oci_worker_gc == Some(false) {
        config.gc = None;
    }
    if let Some(disabled) = args.cdi_disabled {
        config.engine.devices.disabled = disabled;
    }
    if !args.cdi_spec_dir.is_empty() {
        config
            .engine
            .devices
            .directories
            .clone_from(&args.cdi_spec_dir);
    }
    if let Some(count) = args.oci_max_parallelism.filter(|count| *count > 0) {
        config.engine.max_parallelism = Some(count);
    }
    Ok(())
}

fn keep_storage(text: &str) -> Result<GcSizes, Failure> {
    let mut sizes = text.splitn(3, ',').map(|part| -> Result<Space, Failure> {
        let megabytes: u64 = part.trim().parse().map_err(|_| {
            Failure::usage(format!(
                "--oci-worker-gc-keepstorage {text:?}: not a number of megabytes"
            ))
        })?;
        Ok(Space::Bytes(megabytes.saturating_mul(1_000_000)))
    });
    Ok(GcSizes {
        reserved: sizes.next().transpose()?,
        min_free: sizes.next().transpose()?,
        max_used: sizes.next().transpose()?,
    })
}

/// A group by its number, or its name in `/etc/group`.
fn group_id(group: &str) -> Result<u32, Failure> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let path = Path::new("/etc/group");
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.parse().ok()?;
            (name == group).then_some(id)
        })
        .ok_or_else(|| Failure::usage(format!("--group {group:?}: there is no such group")))
}
