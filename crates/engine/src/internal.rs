//! Steps that are no vertices of a definition: what the engine itself does for a build.

use std::sync::Arc;

use time::OffsetDateTime;
use weld_digest::Digest;
use weld_llb::mask_credentials;
use weld_progress::{Log, Sender, Stream, TransferStatus, Vertex};
use weld_source::progress::{Phase, Progress, ProgressSink, Status};

/// Shows a step from here until it is ended.
pub(crate) struct Internal {
    progress: Sender,
    vertex: Vertex,
}

impl Internal {
    /// Begins a step, which is told from others of its name by `key`.
    pub(crate) fn begin(progress: &Sender, name: &str, key: &str) -> Self {
        let digest = Self::digest(name, key);
        let name = mask_credentials(name);
        let vertex = Vertex {
            started: Some(OffsetDateTime::now_utc()),
            ..Vertex::new(digest, name)
        };
        progress.vertex(vertex.clone());
        Self {
            progress: progress.clone(),
            vertex,
        }
    }

    /// What a step of this name and key is known by.
    pub(crate) fn digest(name: &str, key: &str) -> Digest {
        Digest::sha256_of(format!("{name}\n{key}"))
    }

    /// The way for transfers to be shown under the step.
    pub(crate) fn transfers(&self) -> Progress {
        Progress::new(Arc::new(Transfers {
            progress: self.progress.clone(),
            vertex: self.vertex.digest.clone(),
        }))
    }

    /// Tells the client of something that it should look at.
    pub(crate) fn warn(&self, short: String) {
        let warning = weld_progress::Warning::new(self.vertex.digest.clone(), short);
        self.progress.warning(warning);
    }

    /// Ends the step as `result` says.
    pub(crate) fn end<T, E: std::fmt::Display>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.vertex.completed = Some(OffsetDateTime::now_utc());
        if let Err(error) = &result {
            self.vertex.error = mask_credentials(&error.to_string()).into_owned();
        }
        self.progress.vertex(self.vertex.clone());
        result
    }
}

impl Drop for Internal {
    /// A step that is given up was cancelled.
    fn drop(&mut self) {
        if self.vertex.completed.is_none() {
            self.vertex.completed = Some(OffsetDateTime::now_utc());
            self.vertex.error = "cancelled".to_owned();
            self.progress.vertex(self.vertex.clone());
        }
    }
}

struct Transfers {
    progress: Sender,
    vertex: Digest,
}

impl ProgressSink for Transfers {
    fn report(&self, status: &Status<'_>) {
        let now = OffsetDateTime::now_utc();
        self.progress.status(TransferStatus {
            id: status.name.to_owned(),
            vertex: self.vertex.clone(),
            name: String::new(),
            total: status.total.unwrap_or(0),
            current: status.current,
            timestamp: now,
            started: Some(now),
            completed: (status.phase == Phase::Completed).then_some(now),
        });
    }

    fn log(&self, _id: &str, text: &str) {
        self.progress.log(Log {
            vertex: self.vertex.clone(),
            stream: Stream::Stderr,
            data: text.as_bytes().to_vec(),
            timestamp: OffsetDateTime::now_utc(),
        });
    }
}
