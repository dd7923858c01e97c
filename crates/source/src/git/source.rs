use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;
use weld_store::CacheMounts;

use super::checkout::Checkout;
use super::command::Git;
use super::error::GitError;
use super::is_commit_name;
use super::mirror::{History, Mirror, Mirrors};
use super::url::{GitUrl, scrub};
use crate::progress::Progress;
use crate::retry::RetryPolicy;
use crate::secret::Secret;

/// How repositories are reached and where they are mirrored.
#[derive(Clone, Debug)]
pub struct GitConfig {
    /// Where mirrors are kept.
    pub mirrors: CacheMounts,
    /// The program.
    pub program: PathBuf,
    /// When a broken connection is tried again.
    pub retry: RetryPolicy,
    /// Whether `file:` remotes are allowed: they can read all that this process can.
    pub allow_file: bool,
}

impl GitConfig {
    /// The `git` of the `PATH`, with mirrors in a store.
    pub fn new(mirrors: CacheMounts) -> Self {
        Self {
            mirrors,
            program: PathBuf::from("git"),
            retry: RetryPolicy::default(),
            allow_file: false,
        }
    }
}

/// Which commit is wanted, and how much of it.
#[derive(Clone, Debug, Default)]
pub struct GitSpec {
    /// The remote, as a user wrote it; user and password in it are used.
    pub remote: String,
    /// A branch, tag or commit, also with `refs/heads/` or `refs/tags/` in front; empty, or
    /// `HEAD`, for the default branch.
    pub reference: String,
    /// The directory that is wanted; empty for all.
    pub subdir: String,
    /// The commit that the reference must stand for, or the beginning of its name.
    pub checksum: Option<String>,
    /// Whether to keep the `.git` directory. With a subdir there is none.
    pub keep_git_dir: bool,
    /// Whether to leave submodules out.
    pub skip_submodules: bool,
    /// Whether to fetch the checksum's commit without asking what the reference stands for.
    pub fetch_by_commit: bool,
    /// What the files' times are.
    pub mtime: MtimePolicy,
    /// A file of this machine's with the commits, as git bundles them, instead of the remote. Nobody
    /// answers for it, so it takes the full name of a commit as `checksum`.
    pub bundle: Option<PathBuf>,
    /// Whether a checkout is one file, named `bundle`, with the commit and all its history.
    pub checkout_bundle: bool,
    /// Who to be at the remote.
    pub auth: GitAuth,
    /// For whom it is fetched, if not for everybody: owners share no mirror, so that each of them
    /// has to be let in by the remote.
    pub owner: Option<String>,
}

impl GitSpec {
    fn check_bundles(&self) -> Result<(), GitError> {
        let is_pinned = self.checksum.as_deref().is_some_and(is_commit_name);
        let reason = match self {
            Self {
                bundle: Some(_), ..
            } if !is_pinned => "it takes the full name of a commit as checksum",
            Self {
                checkout_bundle: true,
                keep_git_dir: true,
                ..
            } => "a checkout as a bundle has no .git directory to keep",
            Self {
                checkout_bundle: true,
                subdir,
                ..
            } if !subdir.is_empty() => "a checkout as a bundle has no directories",
            _ => return Ok(()),
        };
        Err(GitError::Bundle(reason))
    }
}

/// What the files' times of a checkout are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtimePolicy {
    /// Those of the checkout.
    #[default]
    Checkout,
    /// That of the commit.
    Commit,
}

/// Who to be at a remote.
#[derive(Clone, Debug, Default)]
pub struct GitAuth {
    /// The value of an `Authorization` header.
    pub header: Option<Secret>,
    /// The socket of an SSH agent.
    pub ssh_agent: Option<PathBuf>,
    /// Lines of a `known_hosts` file. Without them any host is believed, as in BuildKit.
    pub known_hosts: Option<String>,
}

impl GitAuth {
    /// The header that a token, such as one of GitHub's, makes.
    pub fn token_header(token: &Secret) -> Secret {
        use base64::Engine as _;
        let pair = format!("x-access-token:{}", token.expose().trim());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        Secret::new(format!("basic {encoded}"))
    }
}

/// What a reference stands for at its remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedCommit {
    /// The full name of the reference, such as `refs/heads/main`, or of a commit.
    pub reference: String,
    /// The object that it stands for: a commit, or an annotated tag.
    pub checksum: String,
    /// The commit, if that is an annotated tag.
    pub tagged_commit: Option<String>,
}

impl ResolvedCommit {
    /// The commit, as far as it is known without fetching.
    pub fn commit(&self) -> &str {
        self.tagged_commit.as_deref().unwrap_or(&self.checksum)
    }

    /// What a checkout is made of, as text: equal texts, equal files. It has BuildKit's form.
    pub fn cache_key(&self, spec: &GitSpec) -> String {
        let mut key = if spec.keep_git_dir {
            format!("{}.git#{}", self.checksum, self.reference)
        } else {
            self.commit().to_owned()
        };
        if !spec.subdir.is_empty() {
            key.push(':');
            key.push_str(&spec.subdir);
        }
        if spec.skip_submodules {
            key.push_str("(skip-submodules)");
        }
        if spec.mtime == MtimePolicy::Commit {
            key.push_str("(mtime=commit)");
        }
        if spec.checkout_bundle {
            // It names the reference.
            key.push_str("(bundle)");
            key.push_str(&self.reference);
        }
        key
    }
}

/// Objects as git has them, without their headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitObjects {
    /// The commit.
    pub commit: Vec<u8>,
    /// The annotated tag that names it, if it was asked for by one.
    pub tag: Option<Vec<u8>>,
    /// The commit's name, if there is such a tag.
    pub tagged_commit: Option<String>,
}

/// Resolves references and makes checkouts.
#[derive(Debug)]
pub struct GitSource {
    config: GitConfig,
    mirrors: Mirrors,
}

/// A remote, and a git that can reach it.
pub(super) struct Access {
    pub(super) url: GitUrl,
    /// What tells it from others: the remote, with user and password if the URL has them.
    identity: String,
    pub(super) git: Git,
    _known_hosts: Option<tempfile::NamedTempFile>,
}

impl GitSource {
    /// A source with this configuration.
    pub fn new(config: GitConfig) -> Self {
        Self {
            mirrors: Mirrors::new(config.mirrors.clone()),
            config,
        }
    }

    /// Asks the remote what the reference stands for. A full commit stands for itself and asks
    /// nobody.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn resolve(
        &self,
        spec: &GitSpec,
        progress: &Progress,
    ) -> Result<ResolvedCommit, GitError> {
        self.resolve_once(spec, &OnceCell::new(), progress).await
    }

    /// The same with what the remote said before, if it was asked already. `answer` belongs to a
    /// remote and reference.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn resolve_once(
        &self,
        spec: &GitSpec,
        answer: &OnceCell<ResolvedCommit>,
        progress: &Progress,
    ) -> Result<ResolvedCommit, GitError> {
        let access = self.access(spec, progress)?;
        if let Some(resolved) = without_asking(spec, &access)? {
            return Ok(resolved);
        }
        let resolved = answer.get_or_try_init(|| self.ask(spec, &access)).await?;
        check(spec, &access, resolved)?;
        Ok(resolved.clone())
    }

    /// Makes a checkout in `directory`, which must be there and empty.
    ///
    /// # Errors
    /// [`GitError`]; the directory then has parts of it.
    pub async fn checkout(
        &self,
        spec: &GitSpec,
        resolved: &ResolvedCommit,
        directory: &Path,
        progress: &Progress,
    ) -> Result<(), GitError> {
        let access = self.access(spec, progress)?;
        let transfer = progress.start(access.url.remote(), access.url.remote(), None);
        let mirror = self.mirror(spec, resolved, &access).await?;
        let commit = self.verify(spec, resolved, &access, &mirror).await?;
        let checkout = Checkout {
            spec,
            resolved,
            commit,
            access: &access,
            mirror: &mirror,
        };
        checkout.make(directory).await?;
        transfer.complete();
        Ok(())
    }

    /// The objects that a reference stands for, which are fetched if they are not here.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn objects(
        &self,
        spec: &GitSpec,
        resolved: &ResolvedCommit,
        progress: &Progress,
    ) -> Result<GitObjects, GitError> {
        let access = self.access(spec, progress)?;
        let remote = access.url.remote();
        let mirror = self.mirror(spec, resolved, &access).await?;
        let commit = self.verify(spec, resolved, &access, &mirror).await?;
        let read = async |kind: &str, name: &str| {
            let action = format!("read {kind} {name} of {remote}");
            let output = mirror.git().run(&action, ["cat-file", kind, name]).await?;
            Ok::<_, GitError>(output.stdout)
        };
        // What was asked for by the name of an object may be a tag as well.
        let is_tag = commit != resolved.checksum;
        Ok(GitObjects {
            commit: read("commit", &commit).await?,
            tag: match is_tag {
                true => Some(read("tag", &resolved.checksum).await?),
                false => None,
            },
            tagged_commit: is_tag.then_some(commit),
        })
    }

    /// A mirror that has a commit.
    async fn mirror(
        &self,
        spec: &GitSpec,
        resolved: &ResolvedCommit,
        access: &Access,
    ) -> Result<Mirror, GitError> {
        let (identity, history) = match (&spec.bundle, spec.checkout_bundle) {
            // What somebody's file has is not what the remote gave to one whom it let in.
            (Some(_), _) => (format!("{}\nbundle", access.identity), History::Whole),
            (None, true) => (format!("{}\nwhole", access.identity), History::Whole),
            (None, false) => (access.identity.clone(), History::Least),
        };
        let remote = access.url.remote();
        let mirror = self.mirrors.lock(&identity, remote, &access.git, history);
        let mirror = mirror.await?;
        match &spec.bundle {
            Some(bundle) => mirror.import(resolved, bundle).await?,
            None => mirror.fetch(resolved, &self.config.retry).await?,
        }
        Ok(mirror)
    }

    fn access(&self, spec: &GitSpec, progress: &Progress) -> Result<Access, GitError> {
        let url = GitUrl::parse_with(&spec.remote, self.config.allow_file).map_err(|source| {
            GitError::Url {
                remote: scrub(&spec.remote),
                source,
            }
        })?;
        if spec.reference.starts_with('-') || spec.reference.contains([' ', ':', '*', '?', '\\']) {
            return Err(GitError::Reference(spec.reference.clone()));
        }
        if let Some(checksum) = &spec.checksum
            && (checksum.is_empty() || !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(GitError::Checksum(checksum.clone()));
        }
        spec.check_bundles()?;
        let mut git = Git::new(&self.config.program, self.config.allow_file, progress);
        let header = spec.auth.header.as_ref().or(url.authorization());
        if let Some(header) = header {
            let key = format!("http.{}.extraHeader", header_scope(url.remote()));
            git = git.with_config(key, format!("Authorization: {}", header.expose()));
        }
        if let Some(socket) = &spec.auth.ssh_agent {
            git = git.with_env("SSH_AUTH_SOCK", socket);
        }
        let known_hosts = self.known_hosts(spec)?;
        let ssh = ssh_command(known_hosts.as_ref().map(tempfile::NamedTempFile::path));
        let authorization = url.authorization().map(Secret::expose).unwrap_or_default();
        Ok(Access {
            identity: match &spec.owner {
                None => format!("{}\n{authorization}", url.remote()),
                Some(owner) => format!("{}\n{authorization}\n{owner}", url.remote()),
            },
            git: git.with_env("GIT_SSH_COMMAND", ssh),
            url,
            _known_hosts: known_hosts,
        })
    }

    fn known_hosts(&self, spec: &GitSpec) -> Result<Option<tempfile::NamedTempFile>, GitError> {
        let Some(lines) = &spec.auth.known_hosts else {
            return Ok(None);
        };
        let written = tempfile::NamedTempFile::new().and_then(|mut file| {
            io::Write::write_all(&mut file, lines.as_bytes())?;
            Ok(file)
        });
        written.map(Some).map_err(|source| GitError::File {
            action: "write known hosts into",
            path: std::env::temp_dir(),
            source,
        })
    }

    async fn ask(&self, spec: &GitSpec, access: &Access) -> Result<ResolvedCommit, GitError> {
        let remote = access.url.remote();
        let action = format!("list the refs of {remote}");
        let wanted = spec.reference.as_str();
        let bundle = spec.bundle.as_ref().map(|file| file.display().to_string());
        let asked = bundle.as_deref().unwrap_or(remote);
        let mut arguments = vec!["ls-remote", "--symref", "--end-of-options", asked];
        let peeled = format!("{wanted}^{{}}");
        if matches!(wanted, "" | "HEAD") {
            arguments.push("HEAD");
        } else {
            arguments.extend([wanted, peeled.as_str()]);
        }
        let output = self.ask_with_retry(access, &action, &arguments).await?;
        let listed = Listed::parse(&output);
        if matches!(wanted, "" | "HEAD") {
            return listed.head().ok_or_else(|| GitError::NoDefaultBranch {
                remote: remote.to_owned(),
            });
        }
        let found = listed.find(wanted).ok_or_else(|| GitError::NoReference {
            remote: remote.to_owned(),
            reference: wanted.to_owned(),
        })?;
        Ok(match (&spec.bundle, &found.tagged_commit) {
            // The list of a bundle does not say what its tags are of. What was fetched is held to this.
            (Some(_), None) if found.reference.starts_with("refs/tags/") => ResolvedCommit {
                tagged_commit: spec
                    .checksum
                    .clone()
                    .filter(|commit| *commit != found.checksum),
                ..found
            },
            _ => found,
        })
    }

    async fn ask_with_retry(
        &self,
        access: &Access,
        action: &str,
        arguments: &[&str],
    ) -> Result<String, GitError> {
        let mut attempts = self.config.retry.start();
        loop {
            match access.git.run(action, arguments).await {
                Ok(output) => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
                Err(error) if super::mirror::is_transient(&error) => {
                    if !attempts.again(None).await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The commit that was fetched, if it is what the checksum says.
    async fn verify(
        &self,
        spec: &GitSpec,
        resolved: &ResolvedCommit,
        access: &Access,
        mirror: &Mirror,
    ) -> Result<String, GitError> {
        let action = format!("find the commit of {} in {}", resolved.checksum, access.url);
        let name = format!("{}^{{commit}}", resolved.checksum);
        let output = mirror
            .git()
            .run(
                &action,
                ["rev-parse", "--verify", "--end-of-options", &name],
            )
            .await?;
        let commit = output.text();
        let fetched = ResolvedCommit {
            tagged_commit: Some(commit.clone()),
            ..resolved.clone()
        };
        check(spec, access, &fetched)?;
        Ok(commit)
    }
}

/// Resolves what needs no remote.
fn without_asking(spec: &GitSpec, access: &Access) -> Result<Option<ResolvedCommit>, GitError> {
    if is_commit_name(&spec.reference) {
        let resolved = ResolvedCommit {
            reference: spec.reference.clone(),
            checksum: spec.reference.clone(),
            tagged_commit: None,
        };
        check(spec, access, &resolved)?;
        return Ok(Some(resolved));
    }
    if !spec.fetch_by_commit {
        return Ok(None);
    }
    let checksum = spec
        .checksum
        .as_ref()
        .filter(|checksum| is_commit_name(checksum));
    let checksum = checksum.ok_or(GitError::FetchByCommit)?.clone();
    let reference = match spec.reference.as_str() {
        "" => checksum.clone(),
        full if full.starts_with("refs/") => full.to_owned(),
        branch => format!("refs/heads/{branch}"),
    };
    Ok(Some(ResolvedCommit {
        reference,
        checksum,
        tagged_commit: None,
    }))
}

fn check(spec: &GitSpec, access: &Access, resolved: &ResolvedCommit) -> Result<(), GitError> {
    let Some(expected) = &spec.checksum else {
        return Ok(());
    };
    let expected = expected.to_ascii_lowercase();
    let matches = |name: &str| name.starts_with(&expected);
    if matches(&resolved.checksum) || resolved.tagged_commit.as_deref().is_some_and(matches) {
        return Ok(());
    }
    Err(GitError::Mismatch {
        remote: access.url.remote().to_owned(),
        reference: spec.reference.clone(),
        expected,
        actual: resolved.commit().to_owned(),
    })
}

/// What `git ls-remote --symref` lists.
#[derive(Default)]
struct Listed {
    refs: Vec<(String, String)>,
    head: Option<String>,
}

impl Listed {
    fn parse(text: &str) -> Self {
        let mut listed = Self::default();
        for line in text.lines() {
            match line.split_once('\t') {
                Some((target, "HEAD")) if target.starts_with("ref: ") => {
                    listed.head = target.strip_prefix("ref: ").map(str::to_owned);
                }
                Some((object, name)) if is_commit_name(object) => {
                    listed.refs.push((name.to_owned(), object.to_owned()));
                }
                _ => {}
            }
        }
        listed
    }

    fn object(&self, name: &str) -> Option<&String> {
        let found = self.refs.iter().find(|(listed, _)| listed == name);
        found.map(|(_, object)| object)
    }

    fn head(&self) -> Option<ResolvedCommit> {
        let checksum = self.object("HEAD")?.clone();
        Some(ResolvedCommit {
            // A detached HEAD is no branch: the commit speaks for itself.
            reference: self.head.clone().unwrap_or_else(|| checksum.clone()),
            checksum,
            tagged_commit: None,
        })
    }

    /// A reference by its full or short name. A branch goes before a tag, as in git-checkout.
    fn find(&self, wanted: &str) -> Option<ResolvedCommit> {
        let bare = wanted.strip_prefix("refs/").unwrap_or(wanted);
        let of =
            |prefix: &str| format!("{prefix}{}", wanted.strip_prefix(prefix).unwrap_or(wanted));
        let names = [format!("refs/{bare}"), of("refs/heads/"), of("refs/tags/")];
        names.into_iter().find_map(|name| {
            let checksum = self.object(&name)?.clone();
            let tagged_commit = match name.starts_with("refs/tags/") {
                true => self.object(&format!("{name}^{{}}")).cloned(),
                false => None,
            };
            Some(ResolvedCommit {
                reference: name,
                checksum,
                tagged_commit,
            })
        })
    }
}

/// Where a header may be sent. A token for one of GitHub's repositories is sent to the others
/// too: submodules are often there.
fn header_scope(remote: &str) -> &str {
    let github = ["https://github.com/", "https://www.github.com/"];
    let known = github.into_iter().find(|host| remote.starts_with(host));
    known.unwrap_or(remote)
}

fn ssh_command(known_hosts: Option<&Path>) -> String {
    const QUIET: &str = "ssh -F /dev/null -o BatchMode=yes";
    match known_hosts {
        None => format!("{QUIET} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"),
        Some(path) => {
            // For ssh's own parser within the shell's.
            let path = path.display().to_string().replace('\'', "'\\''");
            format!("{QUIET} -o StrictHostKeyChecking=yes -o 'UserKnownHostsFile=\"{path}\"'")
        }
    }
}
