//! One checkout of a commit.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use super::error::GitError;
use super::mirror::{Mirror, is_refused_depth};
use super::source::{Access, GitSpec, MtimePolicy, ResolvedCommit};
use super::subdir;

/// One checkout.
pub(super) struct Checkout<'a> {
    pub(super) spec: &'a GitSpec,
    pub(super) resolved: &'a ResolvedCommit,
    pub(super) commit: String,
    pub(super) access: &'a Access,
    pub(super) mirror: &'a Mirror,
}

impl Checkout<'_> {
    pub(super) async fn make(&self, directory: &Path) -> Result<(), GitError> {
        if self.spec.checkout_bundle {
            self.write_bundle(directory).await?;
            return self.set_times(directory).await;
        }
        let subdir = weld_fileset::clean(&format!("/{}", self.spec.subdir));
        let subdir = subdir.trim_start_matches('/');
        if subdir.is_empty() {
            self.check_out(directory, self.spec.keep_git_dir).await?;
        } else {
            // Beside what is wanted, so that it can be moved.
            let whole = self.temporary(directory)?;
            self.check_out(whole.path(), false).await?;
            self.take_subdir(whole, subdir, directory).await?;
        }
        self.set_times(directory).await
    }

    /// Writes the commit and its history as one file. Submodules are not in it.
    async fn write_bundle(&self, directory: &Path) -> Result<(), GitError> {
        let scratch = self.temporary(self.mirror.beside())?;
        let git_dir = scratch.path();
        let action = self.action("bundle");
        let format = match self.commit.len() {
            64 => "--object-format=sha256",
            _ => "--object-format=sha1",
        };
        // The order of a pack's objects depends on how many threads make it.
        let git = self.access.git.clone().in_repository(git_dir);
        let git = git.with_config("pack.threads", "1");
        git.run(&action, ["init", "--quiet", "--bare", format])
            .await?;
        let objects = format!("{}\n", self.mirror.directory().join("objects").display());
        let alternates = git_dir.join("objects/info/alternates");
        let written = tokio::fs::write(&alternates, objects).await;
        written.map_err(|source| GitError::File {
            action: "write",
            path: alternates,
            source,
        })?;
        let name = bundled_name(&self.resolved.reference);
        let object = match name.starts_with("refs/tags/") {
            true => &self.resolved.checksum,
            false => &self.commit,
        };
        git.run(&action, ["update-ref", &name, object]).await?;
        let file = directory.join("bundle");
        let arguments = ["bundle", "create", "--quiet"].map(OsStr::new);
        let arguments = arguments
            .into_iter()
            .chain([file.as_os_str(), OsStr::new(&name)]);
        git.run(&action, arguments).await?;
        Ok(())
    }

    async fn set_times(&self, directory: &Path) -> Result<(), GitError> {
        if self.spec.mtime == MtimePolicy::Commit {
            let seconds = self.commit_time().await?;
            let path = directory.to_owned();
            blocking("set the times of", directory, move || {
                subdir::set_times(&path, seconds)
            })
            .await?;
        }
        Ok(())
    }

    async fn check_out(&self, directory: &Path, keep: bool) -> Result<(), GitError> {
        let submodules = !self.spec.skip_submodules && self.has_submodules().await?;
        if keep {
            let git_dir = directory.join(".git");
            self.with_own_repository(directory, &git_dir, submodules)
                .await
        } else if submodules {
            let repository = self.temporary(self.mirror.beside())?;
            let git_dir = repository.path().join("git");
            self.with_own_repository(directory, &git_dir, true).await?;
            let path = directory.to_owned();
            blocking("tidy", directory, move || subdir::remove_git_files(&path)).await
        } else {
            self.write_from_mirror(directory).await
        }
    }

    /// Writes the files straight from the mirror, with an index that is thrown away.
    async fn write_from_mirror(&self, directory: &Path) -> Result<(), GitError> {
        let scratch = self.temporary(self.mirror.beside())?;
        let git = self
            .mirror
            .git()
            .clone()
            .with_work_tree(directory)
            .with_env("GIT_INDEX_FILE", scratch.path().join("index"));
        let action = self.action("check out");
        git.run(&action, ["read-tree", "--reset", "-u", &self.commit])
            .await?;
        Ok(())
    }

    /// Fetches the commit from the mirror into a repository of its own and checks out there.
    async fn with_own_repository(
        &self,
        directory: &Path,
        git_dir: &Path,
        submodules: bool,
    ) -> Result<(), GitError> {
        let action = self.action("check out");
        let format = match self.commit.len() {
            64 => "--object-format=sha256",
            _ => "--object-format=sha1",
        };
        let git = self
            .access
            .git
            .clone()
            .in_repository(git_dir)
            .with_work_tree(directory);
        git.run(&action, ["init", "--quiet", format]).await?;
        let from = format!("file://{}", self.mirror.directory().display());
        let refspec = match self.resolved.reference.as_str() {
            full if full.starts_with("refs/") => {
                format!("+{}:{full}", Mirror::name_of(self.resolved))
            }
            _ => Mirror::name_of(self.resolved),
        };
        let fetch = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--update-head-ok",
            "--depth=1",
            "--end-of-options",
            &from,
            &refspec,
        ];
        git.run(&action, fetch).await?;
        let checkout = ["checkout", "--quiet", "--detach", &self.commit];
        git.run(&action, checkout).await?;
        let origin = ["remote", "add", "origin", self.access.url.remote()];
        git.run(&action, origin).await?;
        if submodules {
            let action = self.action("update the submodules of");
            let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
            let shallow = update.iter().copied().chain(["--depth=1"]);
            match git.run(&action, shallow.collect::<Vec<_>>()).await {
                Err(error) if is_refused_depth(&error) => {
                    git.run(&action, update).await?;
                }
                other => drop(other?),
            }
        }
        let expire = ["reflog", "expire", "--all", "--expire=now"];
        git.run(&action, expire).await?;
        // It names the mirror.
        match tokio::fs::remove_file(git_dir.join("FETCH_HEAD")).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(GitError::File {
                action: "tidy",
                path: git_dir.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    async fn has_submodules(&self) -> Result<bool, GitError> {
        let name = format!("{}:.gitmodules", self.commit);
        let git = self.mirror.git().asking();
        let probe = git.run("look for submodules", ["cat-file", "-e", &name]);
        match probe.await {
            Ok(_) => Ok(true),
            Err(GitError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn take_subdir(
        &self,
        whole: tempfile::TempDir,
        subdir: &str,
        directory: &Path,
    ) -> Result<(), GitError> {
        let failed = |reason: String| GitError::Subdir {
            remote: self.access.url.remote().to_owned(),
            subdir: subdir.to_owned(),
            commit: self.commit.clone(),
            reason,
        };
        let (wanted, to) = (subdir.to_owned(), directory.to_owned());
        let moved = tokio::task::spawn_blocking(move || {
            subdir::move_up(whole.path(), &wanted, &to)?;
            whole.close()
        });
        match moved.await {
            Ok(outcome) => outcome.map_err(|error| failed(error.to_string())),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn commit_time(&self) -> Result<i64, GitError> {
        let arguments = [
            "log",
            "-1",
            "--format=%ct",
            "--end-of-options",
            &self.commit,
        ];
        let action = self.action("read the time of");
        let output = self.mirror.git().run(&action, arguments).await?;
        output.text().parse().map_err(|_| GitError::Failed {
            action,
            stderr: format!("git gave {:?} for a time", output.text()),
        })
    }

    fn temporary(&self, beneath: &Path) -> Result<tempfile::TempDir, GitError> {
        let made = tempfile::Builder::new()
            .prefix(".weld-git-")
            .tempdir_in(beneath);
        made.map_err(|source| GitError::File {
            action: "make a directory in",
            path: beneath.to_owned(),
            source,
        })
    }

    fn action(&self, verb: &str) -> String {
        format!("{verb} {} of {}", self.resolved.reference, self.access.url)
    }
}

/// What a bundle calls the commit: a branch or a tag, since nothing else is found in it again by those who have its commit.
fn bundled_name(reference: &str) -> String {
    match reference.strip_prefix("refs/") {
        Some(name) if name.starts_with("heads/") || name.starts_with("tags/") => {
            reference.to_owned()
        }
        Some(name) => format!("refs/heads/{name}"),
        None => "refs/heads/main".to_owned(),
    }
}

async fn blocking(
    action: &'static str,
    path: &Path,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), GitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|source| GitError::File {
            action,
            path: path.to_owned(),
            source,
        }),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
