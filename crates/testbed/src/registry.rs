use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Debian's `docker-registry` on a port of its own; it ends when this is dropped, and with the process that started it.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    /// Closed by the end of this process, however that comes.
    lifeline: Option<ChildStdin>,
    port: u16,
    directory: TempDir,
    private: bool,
}

/// A published test vector of bcrypt for [`Registry::PASSWORD`].
const PASSWORD_HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// Becomes the registry, and leaves somebody behind who ends it at the end of standard input.
const SCRIPT: &str =
    "exec 3<&0; (read -r _ <&3; kill -9 $$) & exec docker-registry serve \"$1\" 3<&- </dev/null";

impl Registry {
    /// Who a registry lets in that was [started so](Self::start_private).
    pub const USER: &str = "someone";
    /// That user's password.
    pub const PASSWORD: &str = "U*U";

    /// Starts a registry with nothing in it and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_as(false)
    }

    /// As [`Registry::start`], for one that lets nobody in but [`Registry::USER`].
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_private() -> anyhow::Result<Self> {
        Self::start_as(true)
    }

    /// A registry with the image `base` (see [`write_base_image`](crate::write_base_image)), which tests of one process have in common that
    /// run at the same time.
    ///
    /// # Errors
    /// If it does not start, or there is nothing to make the image of.
    pub fn shared_with_base() -> anyhow::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Registry>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = shared.upgrade() {
            return Ok(registry);
        }
        let directory = tempfile::tempdir()?;
        let layout = directory.path().join("base");
        let busybox =
            crate::static_busybox().context("no static busybox (Debian's busybox-static)")?;
        crate::write_base_image(&layout, &busybox)?;
        let registry = Arc::new(Self::start()?);
        registry.push_layout(&layout, "latest", "base")?;
        *shared = Arc::downgrade(&registry);
        Ok(registry)
    }

    fn start_as(private: bool) -> anyhow::Result<Self> {
        // Another process may take the port between its choice and its use: then another try.
        let mut last = None;
        for _ in 0..5 {
            match Self::try_start(private) {
                Ok(registry) => return Ok(registry),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no try was made")))
    }

    fn try_start(private: bool) -> anyhow::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("registry.yml");
        let storage = directory.path().join("storage");
        let passwords = directory.path().join("htpasswd");
        std::fs::write(&passwords, format!("{}:{PASSWORD_HASH}\n", Self::USER))?;
        let auth = match private {
            true => format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                passwords.display()
            ),
            false => String::new(),
        };
        std::fs::write(
            &config,
            format!(
                "version: 0.1\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '127.0.0.1:{port}'}}\n{auth}",
                storage.display()
            ),
        )?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let mut process = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a shell for docker-registry")?;
        let mut registry = Self {
            lifeline: process.stdin.take(),
            process,
            port,
            directory,
            private,
        };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("docker-registry (Debian's package of that name) ended at once: {status}");
            }
            if began.elapsed() > Duration::from_secs(20) {
                bail!("docker-registry did not listen within 20 seconds");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it keeps its files.
    pub fn storage(&self) -> std::path::PathBuf {
        self.directory.path().join("storage")
    }

    /// What it wrote of the requests that it got.
    pub fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("log")
    }

    /// Copies the image of an OCI layout into it with `skopeo`.
    ///
    /// # Errors
    /// If skopeo fails.
    pub fn push_layout(&self, layout: &Path, tag: &str, name: &str) -> anyhow::Result<()> {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        if self.private {
            skopeo.arg(format!("--dest-creds={}:{}", Self::USER, Self::PASSWORD));
        }
        let output = skopeo
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}/{name}", self.host()))
            .output()
            .context("cannot start skopeo (Debian's package of that name)")?;
        if !output.status.success() {
            bail!("skopeo failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards. Who waits for the lifeline's end goes first: the number may
        // be another process's once it is waited for.
        drop(self.lifeline.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
