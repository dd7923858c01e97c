//! Where a command is done: in this process, or by a daemon.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use weld_client::{Address, Client, TlsOptions};
use weld_engine::Engine;

use super::args::EngineArgs;
use super::home::Home;
use super::report::Failure;

/// How long a daemon at that place may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(1);
/// The address that means this process.
const HERE: &str = "none";

/// Which daemon to use.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ClientArgs {
    /// Have this daemon do it, Weldkit's or BuildKit's: unix://PATH or tcp://HOST:PORT; `none` for
    /// this process [default: $BUILDKIT_HOST; else the daemon at /run/buildkit/buildkitd.sock, for a
    /// normal user first at $XDG_RUNTIME_DIR/buildkit/buildkitd.sock, if it answers and no option says
    /// how this process should work; else this process].
    #[arg(long, env = "WELD_HOST", value_name = "ADDRESS")]
    pub(crate) addr: Option<String>,
    /// Who signed the daemon's certificate.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tlscacert: Option<PathBuf>,
    /// The client's certificate.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tlscert: Option<PathBuf>,
    /// The client's key.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tlskey: Option<PathBuf>,
    /// A directory with the three as ca.pem, cert.pem and key.pem (or ca.crt, tls.crt, tls.key).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath,
        conflicts_with_all = ["tlscacert", "tlscert", "tlskey"])]
    pub(crate) tlsdir: Option<PathBuf>,
    /// The name in the daemon's certificate, if it is not the host's.
    #[arg(long, value_name = "NAME")]
    pub(crate) tlsservername: Option<String>,
}

/// Who does what is asked.
pub(crate) enum Worker {
    Engine(Engine),
    Daemon(Client),
}

impl ClientArgs {
    /// The daemon that is to be used; `None` for this process.
    pub(crate) fn address(&self, engine: &EngineArgs) -> Result<Option<Address>, Failure> {
        let named = self
            .addr
            .clone()
            .or_else(|| std::env::var("BUILDKIT_HOST").ok());
        match named.as_deref() {
            Some(HERE) => Ok(None),
            Some(address) if !address.is_empty() => {
                let parsed = address.parse();
                parsed
                    .map(Some)
                    .map_err(|error: weld_client::ParseAddressError| {
                        Failure::usage(error.to_string())
                    })
            }
            _ if is_configured(engine) => Ok(None),
            _ => Ok(answering()),
        }
    }

    pub(crate) async fn connect(&self, address: &Address) -> Result<Client, Failure> {
        let of_directory = |names: [&str; 2]| {
            let directory = self.tlsdir.as_deref()?;
            let paths = names.map(|name| directory.join(name));
            paths.into_iter().find(|path| path.exists())
        };
        let tls = TlsOptions {
            ca: of_directory(["ca.pem", "ca.crt"]).or_else(|| self.tlscacert.clone()),
            cert: of_directory(["cert.pem", "tls.crt"]).or_else(|| self.tlscert.clone()),
            key: of_directory(["key.pem", "tls.key"]).or_else(|| self.tlskey.clone()),
            server_name: self.tlsservername.clone(),
        };
        if self.tlsdir.is_some() && tls.ca.is_none() && tls.cert.is_none() {
            return Err(Failure::usage(
                "--tlsdir: there is neither ca.pem nor cert.pem in it",
            ));
        }
        Ok(Client::connect(address, &tls).await?)
    }
}

/// Whether the command line says how this process should work.
fn is_configured(args: &EngineArgs) -> bool {
    args.root.is_some()
        || args.config.is_some()
        || args.oci_runtime.is_some()
        || args.snapshotter.is_some()
        || args.disk_limit.is_some()
}

/// The daemon at one of the default places that is alive: the user's own before the machine's.
fn answering() -> Option<Address> {
    let (own, machines) = (Home::here(false).socket(), Home::default().socket());
    let others = (own != machines).then_some(machines);
    let mut places = std::iter::once(own).chain(others);
    places.find(|place| answers(place)).map(Address::Unix)
}

fn answers(socket: &Path) -> bool {
    if UnixStream::connect(socket).is_err() {
        return false;
    }
    // Without threads: they would keep this process from entering a user namespace.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return false;
    };
    let asked = async {
        let address = Address::Unix(socket.to_owned());
        let client = Client::connect(&address, &TlsOptions::default()).await?;
        client.info().await
    };
    let answered = runtime.block_on(async { tokio::time::timeout(ANSWER, asked).await });
    matches!(answered, Ok(Ok(_)))
}
