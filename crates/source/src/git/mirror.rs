use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use weld_digest::Digest;
use weld_store::{CacheMount, CacheMountRequest, CacheMounts, RecordType, Sharing};

use super::command::Git;
use super::error::GitError;
use super::source::ResolvedCommit;
use crate::retry::RetryPolicy;

/// The mirrors of a store: directories that are kept between builds, each used by one at a time.
#[derive(Debug)]
pub(super) struct Mirrors(CacheMounts);

/// A mirror that nobody else works on: a bare repository with the commits that were asked for.
/// Each is kept by a ref of ours, named by a digest of the ref that it was fetched as, so that no
/// two refs can be in each other's way.
pub(super) struct Mirror {
    directory: PathBuf,
    git: Git,
    remote: String,
    history: History,
    _kept: CacheMount,
}

/// How much of a commit's history a mirror has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    /// As little as the remote can give.
    Least,
    /// All.
    Whole,
}

impl Mirrors {
    pub(super) const fn new(directories: CacheMounts) -> Self {
        Self(directories)
    }

    /// The mirror of a remote. `identity` tells remotes apart; `git` has what it takes to reach
    /// this one.
    pub(super) async fn lock(
        &self,
        identity: &str,
        remote: &str,
        git: &Git,
        history: History,
    ) -> Result<Mirror, GitError> {
        let key = format!("git/{}", Digest::sha256_of(identity).hex());
        let request = CacheMountRequest {
            // No cache mount's id that a user may have: those have nothing before them.
            id: format!("\0{key}"),
            key,
            sharing: Sharing::Locked,
            refills: false,
            record_type: RecordType::Regular,
            description: format!("shared git repository of {remote}"),
        };
        let kept = self.0.acquire(&request, |_| Ok(())).await;
        let kept = kept.map_err(|source| GitError::Mirror {
            remote: remote.to_owned(),
            source: Box::new(source),
        })?;
        let directory = kept.path();
        Ok(Mirror {
            git: git.clone().in_repository(&directory),
            directory,
            remote: remote.to_owned(),
            history,
            _kept: kept,
        })
    }
}

impl Mirror {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory on the same disk, for what goes with the mirror at the latest.
    pub(super) fn beside(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    pub(super) fn git(&self) -> &Git {
        &self.git
    }

    /// Our name of a commit in the mirror.
    pub(super) fn name_of(commit: &ResolvedCommit) -> String {
        let text = format!("{}\n{}", commit.reference, commit.checksum);
        format!("refs/weld/{}", Digest::sha256_of(text).hex())
    }

    /// Sees to it that the mirror has a commit, under our name of it.
    pub(super) async fn fetch(
        &self,
        commit: &ResolvedCommit,
        retry: &RetryPolicy,
    ) -> Result<(), GitError> {
        self.create(commit).await?;
        match self.fetch_with_retry(commit, retry).await {
            Err(error) if is_about_the_mirror(&error) => {
                tracing::debug!(%error, "git mirror made anew");
                self.remove().await?;
                self.create(commit).await?;
                self.fetch_with_retry(commit, retry).await
            }
            other => other,
        }
    }

    /// The same from a bundle. The mirror is one of bundles alone.
    pub(super) async fn import(
        &self,
        commit: &ResolvedCommit,
        bundle: &Path,
    ) -> Result<(), GitError> {
        self.create(commit).await?;
        let (name, wanted) = (Self::name_of(commit), commit.checksum.as_str());
        if !self.has(wanted).await {
            let action = format!("import a bundle of {}", self.remote);
            // Beneath a name of its own: those of one bundle may be in the way of another's.
            let refs = format!("+refs/*:refs/weld-bundle/{wanted}/*");
            let options = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
            let arguments = options.map(OsStr::new).into_iter().chain([
                OsStr::new("--end-of-options"),
                bundle.as_os_str(),
                OsStr::new(&refs),
            ]);
            self.git.run(&action, arguments).await?;
        }
        if !self.has(wanted).await {
            return Err(GitError::NoReference {
                remote: format!("a bundle of {}", self.remote),
                reference: wanted.to_owned(),
            });
        }
        self.keep(&name, wanted).await
    }

    async fn fetch_with_retry(
        &self,
        commit: &ResolvedCommit,
        retry: &RetryPolicy,
    ) -> Result<(), GitError> {
        let mut attempts = retry.start();
        loop {
            match self.fetch_once(commit).await {
                Err(error) if is_transient(&error) => {
                    if !attempts.again(None).await {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    async fn create(&self, commit: &ResolvedCommit) -> Result<(), GitError> {
        let is_there = self
            .git
            .asking()
            .run("look into the mirror", ["rev-parse", "--git-dir"])
            .await
            .is_ok();
        if is_there {
            // Whoever left these is gone: the mirror is locked by us.
            let _ = tokio::fs::remove_file(self.directory.join("shallow.lock")).await;
            return Ok(());
        }
        self.remove().await?;
        let failed = |source| GitError::File {
            action: "make mirror",
            path: self.directory.clone(),
            source,
        };
        tokio::fs::create_dir_all(&self.directory)
            .await
            .map_err(failed)?;
        let format = match commit.checksum.len() {
            64 => "--object-format=sha256",
            _ => "--object-format=sha1",
        };
        let action = format!("make a mirror of {}", self.remote);
        self.git
            .run(&action, ["init", "--quiet", "--bare", format])
            .await?;
        Ok(())
    }

    async fn remove(&self) -> Result<(), GitError> {
        match tokio::fs::remove_dir_all(&self.directory).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(GitError::File {
                action: "remove mirror",
                path: self.directory.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }

    async fn fetch_once(&self, commit: &ResolvedCommit) -> Result<(), GitError> {
        let (name, wanted) = (Self::name_of(commit), commit.checksum.as_str());
        if self.has(wanted).await {
            return self.keep(&name, wanted).await;
        }
        // The reference first: some servers give out nothing else. Then the commit itself, since
        // the reference may have moved on. Last all there is: commits that no reference is on.
        if !super::is_commit_name(&commit.reference) {
            self.fetch_refs(&[format!("+{}:{name}", commit.reference)], true)
                .await?;
            if self.has(wanted).await {
                return self.keep(&name, wanted).await;
            }
        }
        let by_commit = self.fetch_refs(&[format!("+{wanted}:{name}")], true).await;
        if let Err(error) = by_commit {
            if !is_refused_commit(&error) {
                return Err(error);
            }
            let all = [
                "+refs/heads/*:refs/weld-all/heads/*",
                "+refs/tags/*:refs/weld-all/tags/*",
            ];
            self.fetch_refs(&all.map(str::to_owned), false).await?;
        }
        if !self.has(wanted).await {
            return Err(GitError::NoReference {
                remote: self.remote.clone(),
                reference: wanted.to_owned(),
            });
        }
        self.keep(&name, wanted).await
    }

    async fn has(&self, object: &str) -> bool {
        let object = format!("{object}^{{commit}}");
        // Of a shallow mirror the commit may be there but not its files; only ours are whole.
        self.git
            .asking()
            .run("look for a commit", ["cat-file", "-e", object.as_str()])
            .await
            .is_ok()
    }

    async fn keep(&self, name: &str, object: &str) -> Result<(), GitError> {
        let action = format!("keep {object} of {}", self.remote);
        self.git
            .run(&action, ["update-ref", "--no-deref", name, object])
            .await?;
        Ok(())
    }

    async fn fetch_refs(&self, refs: &[String], shallow: bool) -> Result<(), GitError> {
        let action = format!("fetch from {}", self.remote);
        let arguments = |depth: Option<&str>| {
            let mut arguments: Vec<String> =
                ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"]
                    .map(str::to_owned)
                    .to_vec();
            arguments.extend(depth.map(str::to_owned));
            arguments.push("--end-of-options".to_owned());
            arguments.push(self.remote.clone());
            arguments.extend(refs.iter().cloned());
            arguments
        };
        let is_shallow = self.directory.join("shallow").exists();
        let shallow = shallow && self.history == History::Least;
        let depth = match (shallow, is_shallow) {
            (true, _) => Some("--depth=1"),
            (false, true) => Some("--unshallow"),
            (false, false) => None,
        };
        let fetched = self.git.run(&action, arguments(depth)).await;
        match fetched {
            Err(error) if depth.is_some() && is_refused_depth(&error) => {
                self.git.run(&action, arguments(None)).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

fn says(error: &GitError, texts: &[&str]) -> bool {
    match error {
        GitError::Failed { stderr, .. } => texts.iter().any(|text| stderr.contains(text)),
        _ => false,
    }
}

/// Whether the server cannot fetch a part of the history: a plain web server cannot.
pub(super) fn is_refused_depth(error: &GitError) -> bool {
    says(error, &["shallow", "--depth"])
}

/// Whether the server gives out no commit by its name.
fn is_refused_commit(error: &GitError) -> bool {
    says(
        error,
        &[
            "not our ref",
            "unadvertised object",
            "couldn't find remote ref",
            "Server does not allow request",
        ],
    )
}

/// Whether the mirror itself is in the way, as after a crash.
fn is_about_the_mirror(error: &GitError) -> bool {
    says(
        error,
        &[
            "some local refs could not be updated",
            "cannot lock ref",
            ".lock': File exists",
            "bad object",
            "object file",
            "is corrupt",
            "missing blob",
            "missing tree",
            "shallow file has changed",
            "did not send all necessary objects",
            "not a git repository",
        ],
    )
}

/// Whether the network may do better the next time.
pub(super) fn is_transient(error: &GitError) -> bool {
    says(
        error,
        &[
            "Connection reset",
            "Connection timed out",
            "Operation timed out",
            "Connection refused",
            "early EOF",
            "unexpected disconnect",
            "remote end hung up unexpectedly",
            "returned error: 429",
            "returned error: 5",
            "Temporary failure in name resolution",
        ],
    )
}
