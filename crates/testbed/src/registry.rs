use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Debian's `docker-registry` on a port of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    port: u16,
    directory: TempDir,
}

impl Registry {
    /// Starts a registry with nothing in it and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start() -> anyhow::Result<Self> {
        // Another process may take the port between its choice and its use: then another try.
        let mut last = None;
        for _ in 0..5 {
            match Self::try_start() {
                Ok(registry) => return Ok(registry),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no try was made")))
    }

    fn try_start() -> anyhow::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("registry.yml");
        let storage = directory.path().join("storage");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '127.0.0.1:{port}'}}\n",
                storage.display()
            ),
        )?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry (Debian's package of that name)")?;
        let mut registry = Self {
            process,
            port,
            directory,
        };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("docker-registry ended at once: {status}");
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
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
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
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
