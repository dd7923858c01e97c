//! The command line: from arguments to requests, and from results to text.

mod annotations;
mod args;
mod attest;
mod build;
mod caches;
mod call;
mod context;
mod daemon;
mod destination;
mod dial;
mod docker_options;
mod dockerfile_url;
mod fields;
mod home;
mod input;
mod metadata;
mod offers;
mod outputs;
mod place;
mod report;
mod resources;
mod run;
mod solve;
mod store;
mod streams;
mod trace;
mod units;
mod workflow;

use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use weld_client::Address;
use weld_daemon::gateway::{IMAGE_FRONTEND, ImageFrontend};
use weld_engine::{
    Config, Definition, DiskSpace, Engine, OnDamage, OnFullDisk, RuntimeKind, SnapshotterKind,
};

use args::{Cli, Command, DebugCommand, EngineArgs, Snapshotter, StoreCommand};
use daemon::Place;
use place::{ClientArgs, Worker};
use report::Failure;

/// Runs the command that the process was started with.
pub(crate) fn main() -> ExitCode {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !weld_engine::panic_becomes_error() {
            hook(info);
        }
    }));
    let (run, debug) = match daemon::called_as_daemon() {
        Some((place, args)) => (daemon::run(&place, &args), false),
        None => {
            let cli = parse();
            let debug = cli.engine.debug.unwrap_or(false);
            (run(cli), debug)
        }
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::failure(&failure, debug),
    }
}

fn parse() -> Cli {
    if let Some(build) = BuildCli::parse_quietly() {
        return build;
    }
    let matches = without_empty_variables(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// `weld build` alone: to describe every command to the parser takes a twentieth of a build that is all cached.
#[derive(Parser)]
#[command(name = "weld", subcommand_required = true)]
struct BuildCli {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(subcommand)]
    command: BuildCommand,
}

#[derive(Subcommand)]
enum BuildCommand {
    Build(Box<args::BuildArgs>),
}

impl BuildCli {
    /// `None` for what is not a whole and right build: what is wrong with it, or help, is for the whole parser to say.
    fn parse_quietly() -> Option<Cli> {
        if !std::env::args_os().any(|word| word == "build") {
            return None;
        }
        let matches = without_empty_variables(Self::command())
            .try_get_matches()
            .ok()?;
        let Self {
            engine,
            command: BuildCommand::Build(args),
        } = Self::from_arg_matches(&matches).ok()?;
        Some(Cli {
            engine,
            command: Command::Build(args),
        })
    }
}

/// An empty variable of the environment is as good as none.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|option| match option.get_env().is_some_and(is_empty) {
            true => option.env(Resettable::Reset),
            false => option,
        })
        .mut_subcommands(without_empty_variables)
}

fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "weld", &mut script);
            streams::write(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            manual(&mut page).map_err(Failure::Start)?;
            streams::write(&page)
        }
        Command::Daemon(args) => {
            let place = Place {
                config: cli.engine.config.clone(),
                root: cli.engine.root.clone(),
                oci_runtime: cli.engine.oci_runtime.clone(),
                snapshotter: cli.engine.snapshotter,
                disk_limit: cli.engine.disk_limit.clone(),
                beside_buildkitd: false,
            };
            daemon::run(&place, args)
        }
        Command::DialStdio(args) => dial::run(args),
        Command::Debug(DebugCommand::DumpLlb { dot, file }) => solve::dump(file.as_deref(), *dot),
        Command::Trace(command) => trace::run(command),
        _ => {
            let input = match &cli.command {
                // To its end, before the state directory is taken: who writes it may have that.
                Command::Solve(_) => Some(solve::read(None)?),
                _ => None,
            };
            let output = match remote(&cli)? {
                Some((client, address)) => with_daemon(&cli, input, client, &address),
                None => with_engine(&cli, input),
            }?;
            // When the state directory is free again: who reads it may want that.
            streams::write(&output)
        }
    }
}

/// The daemon that is to do the command; `None` for this process.
fn remote(cli: &Cli) -> Result<Option<(&ClientArgs, Address)>, Failure> {
    let client = match &cli.command {
        Command::Build(args) => &args.client,
        Command::Solve(args) => &args.client,
        Command::Du(args) => &args.client,
        Command::Prune(args) => &args.client,
        _ => return Ok(None),
    };
    let address = client.address(&cli.engine)?;
    if trace::wanted(&cli.command) {
        return match client.addr {
            Some(_) if address.is_some() => Err(Failure::usage(
                "--trace is of builds in this process: leave out --addr and WELD_HOST, or say none",
            )),
            _ => Ok(None),
        };
    }
    Ok(address.map(|address| (client, address)))
}

fn with_daemon(
    cli: &Cli,
    input: Option<Vec<u8>>,
    client: &ClientArgs,
    address: &Address,
) -> Result<Vec<u8>, Failure> {
    let ways = [
        ("--oci-runtime", cli.engine.oci_runtime.is_some()),
        ("--snapshotter", cli.engine.snapshotter.is_some()),
        ("--disk-limit", cli.engine.disk_limit.is_some()),
    ];
    for (option, _) in ways.iter().filter(|(_, given)| *given) {
        streams::tell(format_args!(
            "WARNING: {option} has no effect: the daemon at {address} does the work"
        ));
    }
    let input = decoded(input)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let worker = Worker::Daemon(client.connect(address).await?);
        let cancel = CancellationToken::new();
        let _signals = on_signals(cancel.clone());
        command(&worker, &cli.command, input, cancel).await
    });
    leave(runtime);
    result
}

/// The process ends: to take the threads apart first would only take time. All that has to be finished is.
fn leave(runtime: tokio::runtime::Runtime) {
    std::mem::forget(runtime);
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        // Else it reads the machine's facts twice.
        .worker_threads(processors)
        .enable_all()
        .build()
        .map_err(Failure::Start)
}

/// A large definition is decoded by threads.
fn decoded(input: Option<Vec<u8>>) -> Result<Option<Definition>, Failure> {
    let decoded = input.map(|bytes| Definition::decode(&bytes)).transpose();
    Ok(decoded?)
}

fn with_engine(cli: &Cli, input: Option<Vec<u8>>) -> Result<Vec<u8>, Failure> {
    let mut config = config(&cli.engine)?;
    if matches!(cli.command, Command::Build(_) | Command::Solve(_)) {
        config.on_full_disk = OnFullDisk::Refuse;
    }
    if let Command::Store(StoreCommand::Check { repair }) = cli.command {
        config.verify_database = true;
        config.on_damage = match repair {
            true => OnDamage::StartAnew,
            false => OnDamage::Refuse,
        };
    }
    if matches!(cli.command, Command::Store(_)) && !config.root.exists() {
        let root = config.root.display();
        return Err(Failure::usage(format!(
            "there is no state directory at {root}"
        )));
    }
    // Before any thread: only then does the whole process see the change.
    weld_engine::enter_privileges()?;
    let input = decoded(input)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let cancel = CancellationToken::new();
        // Until the end: a second signal ends what winds down, too.
        let _signals = on_signals(cancel.clone());
        let done = in_process(&cli.command, config.clone(), input.clone(), &cancel).await;
        match done {
            Done {
                result: Err(_),
                is_damaged: true,
            } if !cancel.is_cancelled() && is_repeatable(&cli.command) => {
                streams::tell("WARNING: the state database is damaged: the command begins anew");
                let again = in_process(&cli.command, config, input, &cancel);
                again.await.result
            }
            done => done.result,
        }
    });
    leave(runtime);
    result
}

/// What became of a command in this process.
struct Done {
    result: Result<Vec<u8>, Failure>,
    /// The database proved damaged, which the next to open it mends.
    is_damaged: bool,
}

async fn in_process(
    wanted: &Command,
    config: Config,
    input: Option<Definition>,
    cancel: &CancellationToken,
) -> Done {
    let mut is_damaged = false;
    let result = async {
        let tracer = trace::tracer(wanted)?;
        let sink = tracer.clone().map(|tracer| Arc::new(tracer) as _);
        let mut engine = Engine::open_traced(config, sink).await?;
        for mended in engine.store().mended() {
            streams::tell(format_args!("WARNING: {mended}"));
        }
        let images = Arc::new(ImageFrontend::new(Vec::new()));
        engine.add_frontend(IMAGE_FRONTEND, images);
        let worker = Worker::Engine(engine);
        let result = command(&worker, wanted, input, cancel.clone()).await;
        if let Worker::Engine(engine) = worker {
            is_damaged = engine.store().db().is_suspect();
            engine.close().await;
        }
        trace::finish(tracer).await;
        result
    }
    .await;
    Done { result, is_damaged }
}

/// Whether a command can be done again.
fn is_repeatable(command: &Command) -> bool {
    match command {
        Command::Build(args) => !args.has_streams(),
        Command::Store(_) => false,
        _ => true,
    }
}

/// Does a command; what is to be printed when the worker is closed.
async fn command(
    worker: &Worker,
    command: &Command,
    input: Option<Definition>,
    cancel: CancellationToken,
) -> Result<Vec<u8>, Failure> {
    match command {
        Command::Build(args) => build::build(worker, args, cancel).await,
        Command::Solve(args) => match input {
            Some(definition) => solve::solve(worker, args, definition, cancel).await,
            None => Ok(()),
        },
        Command::Du(args) => store::du(worker, args).await,
        Command::Prune(args) => store::prune(worker, args).await,
        Command::Store(StoreCommand::Check { repair }) => store::check(worker, *repair),
        Command::Debug(DebugCommand::EmitLlb(args)) => {
            // Only an engine in this process is ever asked.
            let Worker::Engine(engine) = worker else {
                return Ok(Vec::new());
            };
            let input = input::Input::new(cancel.clone());
            let prepared = build::prepare(args, false, input)?;
            prepared.fetch(worker, args, cancel).await?;
            let definition = engine.definition(prepared.request).await;
            return definition.map_err(|error| Failure::Build {
                error,
                steps: Vec::new(),
            });
        }
        Command::Debug(DebugCommand::DumpLlb { .. })
        | Command::Daemon(_)
        | Command::DialStdio(_)
        | Command::Trace(_)
        | Command::Completion { .. }
        | Command::Man => Ok(()),
    }?;
    Ok(Vec::new())
}

/// Cancels the build at the first SIGINT or SIGTERM from now on; the second ends the process at once.
fn on_signals(cancel: CancellationToken) -> Option<AbortOnDropHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    // Before the task runs: a signal before that would end the process as if it were killed.
    let mut interrupt = signal(SignalKind::interrupt()).ok()?;
    let mut terminate = signal(SignalKind::terminate()).ok()?;
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        let mut count = 0;
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => {}
                Some(()) = terminate.recv() => {}
                else => return,
            }
            count += 1;
            if count > 1 {
                std::process::exit(130);
            }
            streams::tell("\nstopping; press Ctrl-C again to end at once");
            cancel.cancel();
        }
    })))
}

fn config(args: &EngineArgs) -> Result<Config, Failure> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(root) = &args.root {
        config.root = root.clone();
    }
    set_ways(&mut config, args.oci_runtime.as_deref(), args.snapshotter);
    set_disk_limit(&mut config, args.disk_limit.as_deref())?;
    Ok(config)
}

/// How steps are run and snapshots are kept, where the command line says so.
fn set_ways(config: &mut Config, runtime: Option<&str>, snapshotter: Option<Snapshotter>) {
    if let Some(program) = runtime {
        config.runtime = RuntimeKind::Oci(program.into());
    }
    if let Some(snapshotter) = snapshotter {
        config.snapshotter = match snapshotter {
            Snapshotter::Auto => SnapshotterKind::Auto,
            Snapshotter::Overlay => SnapshotterKind::Overlay,
            Snapshotter::Copy => SnapshotterKind::Copy,
        };
    }
}

/// How much the state directory may hold, where the command line says so.
fn set_disk_limit(config: &mut Config, limit: Option<&str>) -> Result<(), Failure> {
    if let Some(text) = limit {
        let limit = DiskSpace::parse_limit(text);
        config.disk_limit =
            Some(limit.map_err(|reason| Failure::usage(format!("--disk-limit: {reason}")))?);
    }
    Ok(())
}

/// One page: the command and, below it, its subcommands.
fn manual(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(page)?;
    for subcommand in command
        .get_subcommands()
        .filter(|subcommand| subcommand.get_name() != "help")
    {
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_name_section(page)?;
        man.render_synopsis_section(page)?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
    }
    Ok(())
}
