//! `weld dial-stdio`: a connection to a daemon over standard input and output, for clients that
//! come by `ssh`.

use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, stdin, stdout};
use tokio::net::{TcpStream, UnixStream};

use super::home::Home;
use super::report::Failure;

/// Connect standard input and output to a daemon.
#[derive(Args, Clone, Debug)]
pub(crate) struct DialArgs {
    /// The daemon's address: unix://PATH or tcp://HOST:PORT [default:
    /// unix:///run/buildkit/buildkitd.sock; for a normal user $XDG_RUNTIME_DIR/buildkit/buildkitd.sock].
    #[arg(long, env = "BUILDKIT_HOST", value_name = "ADDRESS")]
    addr: Option<String>,
}

pub(crate) fn run(args: &DialArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let default = || format!("unix://{}", Home::here(false).socket().display());
    let address = args.addr.clone().unwrap_or_else(default);
    let dialled = runtime.block_on(dial(&address));
    // Reading standard input cannot be given up.
    runtime.shutdown_background();
    dialled
}

async fn dial(address: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Dial {
        address: address.to_owned(),
        reason: error.to_string(),
    };
    if let Some(path) = address.strip_prefix("unix://") {
        return pump(UnixStream::connect(path).await.map_err(failed)?)
            .await
            .map_err(failed);
    }
    if let Some(host) = address.strip_prefix("tcp://") {
        return pump(TcpStream::connect(host).await.map_err(failed)?)
            .await
            .map_err(failed);
    }
    Err(Failure::usage(format!(
        "--addr {address:?}: neither unix:// nor tcp://"
    )))
}

/// Copies both ways until the daemon has said all that it has to say.
async fn pump(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> std::io::Result<()> {
    let (mut from_daemon, mut to_daemon) = tokio::io::split(stream);
    let input = tokio::spawn(async move {
        copy(&mut stdin(), &mut to_daemon).await?;
        to_daemon.shutdown().await
    });
    let mut output = stdout();
    copy(&mut from_daemon, &mut output).await?;
    output.flush().await?;
    input.abort();
    Ok(())
}
