//! The command line: from arguments to requests, and from results to text.

mod args;
mod build;
mod context;
mod fields;
mod offers;
mod outputs;
mod report;
mod run;
mod solve;
mod store;
mod trace;
mod units;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use tokio_util::sync::CancellationToken;
use weld_engine::{Config, Engine, RuntimeKind, SnapshotterKind};

use args::{Cli, Command, DebugCommand, EngineArgs, Snapshotter};
use report::Failure;

/// Runs the command that the process was started with.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::failure(&failure),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "weld", &mut script);
            solve::write_stdout(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            manual(&mut page).map_err(Failure::Start)?;
            solve::write_stdout(&page)
        }
        Command::Debug(DebugCommand::DumpLlb { dot, file }) => solve::dump(file.as_deref(), *dot),
        Command::Trace(command) => trace::run(command),
        _ => with_engine(&cli),
    }
}

fn with_engine(cli: &Cli) -> Result<(), Failure> {
    let config = config(&cli.engine)?;
    // Before any thread: only then does the whole process see the change.
    weld_engine::enter_privileges()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let result = runtime.block_on(async {
        let tracer = trace::tracer(&cli.command)?;
        let sink = tracer.clone().map(|tracer| Arc::new(tracer) as _);
        let mut engine = Engine::open_traced(config, sink).await?;
        if matches!(&cli.command, Command::Build(args) if args.explain) {
            engine.explain();
        }
        let cancel = CancellationToken::new();
        let signals = tokio::spawn(on_signals(cancel.clone()));
        let result = command(&engine, &cli.command, cancel).await;
        signals.abort();
        engine.close().await;
        trace::finish(tracer).await;
        result
    });
    runtime.shutdown_background();
    result
}

async fn command(
    engine: &Engine,
    command: &Command,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    match command {
        Command::Build(args) => build::build(engine, args, cancel).await,
        Command::Solve(args) => solve::solve(engine, args, cancel).await,
        Command::Du(args) => store::du(engine, args),
        Command::Prune(args) => store::prune(engine, args),
        Command::Debug(DebugCommand::EmitLlb(args)) => {
            let prepared = build::prepare(args)?;
            let definition =
                engine
                    .definition(prepared.request)
                    .await
                    .map_err(|error| Failure::Build {
                        error,
                        steps: Vec::new(),
                    })?;
            solve::write_stdout(&definition)
        }
        Command::Debug(DebugCommand::DumpLlb { .. })
        | Command::Trace(_)
        | Command::Completion { .. }
        | Command::Man => Ok(()),
    }
}

/// Cancels the build at the first SIGINT or SIGTERM; the second ends the process at once.
async fn on_signals(cancel: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
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
        eprintln!("\nstopping; press Ctrl-C again to end at once");
        cancel.cancel();
    }
}

fn config(args: &EngineArgs) -> Result<Config, Failure> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(root) = &args.root {
        config.root = root.clone();
    }
    if let Some(program) = &args.oci_runtime {
        config.runtime = RuntimeKind::Oci(program.into());
    }
    if let Some(snapshotter) = args.snapshotter {
        config.snapshotter = match snapshotter {
            Snapshotter::Auto => SnapshotterKind::Auto,
            Snapshotter::Overlay => SnapshotterKind::Overlay,
            Snapshotter::Copy => SnapshotterKind::Copy,
        };
    }
    Ok(config)
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
