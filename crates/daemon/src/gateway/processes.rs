//! Processes in containers: one stream of messages carries any number of them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use weld_engine::{ProcessError, ProcessRequest, RuntimeError, Stdio, StepProcess, Terminal};
use weld_proto::frontend::exec_message::Input;
use weld_proto::frontend::{self as wire, ExecMessage};
use weld_proto::{google, pb};

use super::session::Session;
use super::{details, signals};

/// The messages to the client.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<ExecMessage, Status>> + Send>>;

/// How many messages wait for the client.
const QUEUE: usize = 32;

/// How many pieces of input wait for a process.
const INPUT_QUEUE: usize = 16;

/// The most that is sent at once, in bytes.
const CHUNK: usize = 32 << 10;

/// For how long output is waited for once a process has ended: others that it left behind may hold
/// its streams.
const DRAIN: Duration = Duration::from_secs(2);

/// The exit code of a process of which none is known.
const UNKNOWN_CODE: u32 = 255;

type Sender = mpsc::Sender<Result<ExecMessage, Status>>;

impl Session {
    /// Carries messages until the client has ended its side and all processes have ended. When the
    /// client drops the stream, its processes are killed.
    pub(super) fn exec_process<S>(&self, requests: S) -> Messages
    where
        S: Stream<Item = Result<ExecMessage, Status>> + Send + Unpin + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let session = self.clone();
        let task = tokio::spawn(async move {
            if let Err(status) = carry(&session, requests, &sender).await {
                // A client that is gone does not want to know.
                let _ = sender.send(Err(status)).await;
            }
        });
        let state = (receiver, AbortOnDropHandle::new(task));
        Box::pin(futures_util::stream::unfold(state, |mut state| async {
            Some((state.0.recv().await?, state))
        }))
    }
}

/// A process as its client's messages reach it.
struct Running {
    /// `None` once the client has ended it.
    input: Option<mpsc::Sender<Bytes>>,
    terminal: Option<Arc<Terminal>>,
    handle: Option<StepProcess>,
}

async fn carry<S>(session: &Session, mut requests: S, sender: &Sender) -> Result<(), Status>
where
    S: Stream<Item = Result<ExecMessage, Status>> + Unpin,
{
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let message = tokio::select! {
            message = requests.next() => message,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let Some(message) = message.transpose()? else {
            break;
        };
        let id = message.process_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("ProcessID required"));
        }
        let Some(input) = message.input else {
            continue;
        };
        if let Input::Init(init) = input {
            if running.contains_key(&id) {
                return Err(Status::already_exists(format!(
                    "Process {id} already exists"
                )));
            }
            match start(session, &id, init, sender, &mut tasks).await {
                Ok(process) => drop(running.insert(id, process)),
                Err(status) => refuse(sender, &id, &status).await?,
            }
            continue;
        }
        let process = running.get_mut(&id);
        let process =
            process.ok_or_else(|| Status::not_found(format!("IO for process {id:?} not found")))?;
        process.take(input).await?;
    }
    running.clear();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

impl Running {
    async fn take(&mut self, input: Input) -> Result<(), Status> {
        match input {
            Input::File(file) => {
                let Some(sender) = &self.input else {
                    let text = format!("fd {} unavailable to write", file.fd);
                    return Err(Status::out_of_range(text));
                };
                if !file.data.is_empty() {
                    // A process that has ended reads no more.
                    let _ = sender.send(file.data).await;
                }
                if file.eof {
                    self.input = None;
                }
            }
            Input::Resize(size) => {
                let side = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
                if let Some(terminal) = &self.terminal {
                    terminal.resize(side(size.rows), side(size.cols))?;
                }
            }
            Input::Signal(signal) => {
                let number = signals::number(&signal.name).ok_or_else(|| {
                    Status::invalid_argument(format!("Unknown signal {}", signal.name))
                })?;
                if let Some(handle) = &self.handle {
                    handle.signal(number)?;
                }
            }
            Input::Init(_) | Input::Started(_) | Input::Exit(_) | Input::Done(_) => {}
        }
        Ok(())
    }
}

/// The engine's ends of a process's streams.
struct Ends {
    stdin: Option<Stdin>,
    outputs: Vec<(u32, Output)>,
    terminal: Option<Arc<Terminal>>,
}

enum Stdin {
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
}

enum Output {
    Pipe(pipe::Receiver),
    Terminal(Arc<Terminal>),
}

fn streams(init: &wire::InitMessage) -> std::io::Result<(Stdio, Ends)> {
    let has = |fd: u32| init.fds.contains(&fd);
    if init.tty {
        let (near, far) = Terminal::open()?;
        let near = Arc::new(near);
        let ends = Ends {
            stdin: has(0).then(|| Stdin::Terminal(Arc::clone(&near))),
            outputs: vec![(1, Output::Terminal(Arc::clone(&near)))],
            terminal: Some(near),
        };
        return Ok((Stdio::terminal(far)?, ends));
    }
    let mut stdio = Stdio::discard();
    let mut ends = Ends {
        stdin: None,
        outputs: Vec::new(),
        terminal: None,
    };
    if has(0) {
        let (near, far) = pipe::pipe()?;
        stdio = stdio.with_stdin(far.into_blocking_fd()?);
        ends.stdin = Some(Stdin::Pipe(near));
    }
    if has(1) {
        let (far, near) = pipe::pipe()?;
        stdio = stdio.with_stdout(far.into_blocking_fd()?);
        ends.outputs.push((1, Output::Pipe(near)));
    }
    if has(2) {
        let (far, near) = pipe::pipe()?;
        stdio = stdio.with_stderr(far.into_blocking_fd()?);
        ends.outputs.push((2, Output::Pipe(near)));
    }
    Ok((stdio, ends))
}

async fn start(
    session: &Session,
    id: &str,
    init: wire::InitMessage,
    sender: &Sender,
    tasks: &mut JoinSet<()>,
) -> Result<Running, Status> {
    let container = session.container(&init.container_id)?;
    let (stdio, ends) = streams(&init)?;
    let security = pb::SecurityMode::try_from(init.security).map_err(|_| {
        Status::invalid_argument(format!("invalid security mode {}", init.security))
    })?;
    let meta = init.meta.unwrap_or_default();
    let process = container.start(ProcessRequest {
        args: meta.args,
        env: meta.env,
        secret_env: init.secretenv,
        user: meta.user,
        cwd: meta.cwd,
        terminal: init.tty,
        security,
        remove_mount_stubs: meta.remove_mount_stubs_recursive,
        stdio,
    });
    let process = process.await.map_err(|error| super::to_status(&error))?;
    send(sender, id, Input::Started(wire::StartedMessage {})).await?;
    let running = Running {
        input: ends.stdin.map(|stdin| {
            let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
            tasks.spawn(feed(stdin, receiver));
            sender
        }),
        terminal: ends.terminal,
        handle: process.handle(),
    };
    let mut readers = JoinSet::new();
    for (fd, output) in ends.outputs {
        readers.spawn(read(output, fd, id.to_owned(), sender.clone()));
    }
    let (id, sender) = (id.to_owned(), sender.clone());
    tasks.spawn(async move {
        let ended = process.wait().await;
        let drained = async { while readers.join_next().await.is_some() {} };
        // What others still hold is not waited for.
        let _ = tokio::time::timeout(DRAIN, drained).await;
        readers.shutdown().await;
        // A client that is gone does not want to know.
        let _ = send(&sender, &id, Input::Exit(exit(ended))).await;
        let _ = send(&sender, &id, Input::Done(wire::DoneMessage {})).await;
    });
    Ok(running)
}

/// Tells of a process that cannot be started: as one that has ended, since others go on and clients
/// wait for its start.
async fn refuse(sender: &Sender, id: &str, status: &Status) -> Result<(), Status> {
    send(sender, id, Input::Started(wire::StartedMessage {})).await?;
    let detailed = google::Status::decode(status.details()).ok();
    let exit = wire::ExitMessage {
        code: UNKNOWN_CODE,
        error: Some(google::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: detailed.map(|status| status.details).unwrap_or_default(),
        }),
    };
    send(sender, id, Input::Exit(exit)).await?;
    send(sender, id, Input::Done(wire::DoneMessage {})).await
}

async fn send(sender: &Sender, id: &str, input: Input) -> Result<(), Status> {
    let message = ExecMessage {
        process_id: id.to_owned(),
        input: Some(input),
    };
    let sent = sender.send(Ok(message)).await;
    sent.map_err(|_| Status::cancelled("the client is gone"))
}

/// Writes what the client sends to a process, until one of them has ended.
async fn feed(stdin: Stdin, mut input: mpsc::Receiver<Bytes>) {
    match stdin {
        Stdin::Pipe(mut pipe) => {
            while let Some(bytes) = input.recv().await {
                if pipe.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
        Stdin::Terminal(terminal) => {
            while let Some(bytes) = input.recv().await {
                if terminal.write(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Sends what a process writes, and that it has ended.
async fn read(mut output: Output, fd: u32, id: String, sender: Sender) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match &mut output {
            Output::Pipe(pipe) => pipe.read(&mut buffer).await,
            Output::Terminal(terminal) => terminal.read(&mut buffer).await,
        };
        // What cannot be read any more has ended.
        let bytes = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
        let message = wire::FdMessage {
            fd,
            eof: bytes.is_empty(),
            data: Bytes::copy_from_slice(bytes),
        };
        let ended = message.eof;
        if send(&sender, &id, Input::File(message)).await.is_err() || ended {
            return;
        }
    }
}

fn exit(ended: Result<(), ProcessError>) -> wire::ExitMessage {
    let Err(error) = ended else {
        return wire::ExitMessage::default();
    };
    let code = match &error {
        ProcessError::Exit(status) => u32::try_from(status.code).unwrap_or(UNKNOWN_CODE),
        ProcessError::Runtime(error) => error
            .exit_code()
            .and_then(|code| u32::try_from(code).ok())
            .unwrap_or(UNKNOWN_CODE),
        ProcessError::Stopped(_) => UNKNOWN_CODE,
    };
    let (status, message) = match &error {
        ProcessError::Runtime(RuntimeError::Cancelled) => {
            (Code::Cancelled, "context canceled".to_owned())
        }
        error => (Code::Unknown, error.to_string()),
    };
    wire::ExitMessage {
        code,
        error: Some(google::Status {
            code: status.into(),
            message,
            details: vec![details::exit(code)],
        }),
    }
}
