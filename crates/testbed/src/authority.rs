use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Gives out certificates, with the program `openssl`; they and their keys are files of one
/// directory.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes one with files in `directory`.
    ///
    /// # Errors
    /// What running `openssl` meets.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let authority = Self {
            directory: directory.to_owned(),
        };
        openssl(&[
            "-subj".into(),
            "/CN=authority".into(),
            "-keyout".into(),
            authority.key("authority").into(),
            "-out".into(),
            authority.certificate("authority").into(),
        ])?;
        Ok(authority)
    }

    /// Gives a certificate to a name, which is at 127.0.0.1.
    ///
    /// # Errors
    /// What running `openssl` meets.
    pub fn certify(&self, name: &str) -> io::Result<()> {
        openssl(&[
            "-subj".into(),
            format!("/CN={name}").into(),
            "-CA".into(),
            self.certificate("authority").into(),
            "-CAkey".into(),
            self.key("authority").into(),
            "-addext".into(),
            "subjectAltName=IP:127.0.0.1".into(),
            "-addext".into(),
            "basicConstraints=critical,CA:FALSE".into(),
            "-keyout".into(),
            self.key(name).into(),
            "-out".into(),
            self.certificate(name).into(),
        ])
    }

    /// The file of a name's certificate; the authority's own has the name `authority`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// The file of a name's key.
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}

fn openssl(arguments: &[std::ffi::OsString]) -> io::Result<()> {
    let done = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(arguments)
        .output()?;
    if done.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(io::Error::other(told))
}
