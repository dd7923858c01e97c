mod bundle;
mod http;

use http::backend;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use weld_source::git::{GitConfig, GitError, GitSource, GitSpec, MtimePolicy, ResolvedCommit};
use weld_source::progress::Progress;
use weld_store::{CacheMounts, PruneOptions, Store, StoreOptions};

use crate::support::quick_retry;

/// A repository with a history to ask for.
struct Repository {
    directory: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        Self::with_format("sha1")
    }

    fn with_format(format: &str) -> Self {
        let repository = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        repository.git(&[
            "init",
            "-q",
            "-b",
            "main",
            &format!("--object-format={format}"),
        ]);
        repository.commit("file", "one");
        repository.git(&["tag", "light"]);
        repository.git(&["tag", "-a", "-m", "annotated", "v1"]);
        repository.commit("sub/dir/deep", "deep");
        repository.commit("file", "two");
        repository.git(&["branch", "feature/x", "HEAD~1"]);
        repository
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    fn git(&self, arguments: &[&str]) -> String {
        git_in(self.path(), arguments)
    }

    fn commit(&self, path: &str, content: &str) -> String {
        let file = self.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self.commit_all()
    }

    fn commit_all(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "message"]);
        self.of("HEAD")
    }

    fn of(&self, name: &str) -> String {
        self.git(&["rev-parse", name])
    }
}

fn git_in(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
        .env("GIT_COMMITTER_DATE", "1445412480 +0000")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct World {
    source: GitSource,
    store: Store,
    state: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|mirrors| GitConfig {
            allow_file: true,
            retry: quick_retry(),
            ..GitConfig::new(mirrors)
        })
    }

    fn with(config: impl FnOnce(CacheMounts) -> GitConfig) -> Self {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), StoreOptions::default()).unwrap();
        Self {
            source: GitSource::new(config(store.cache_mounts().clone())),
            store,
            state,
        }
    }

    /// The directories of the mirrors.
    fn mirrors(&self) -> Vec<PathBuf> {
        let snapshots = self.state.path().join("snapshots");
        let kept = names(&snapshots).into_iter();
        kept.map(|name| snapshots.join(name).join("fs")).collect()
    }

    async fn resolve(&self, spec: &GitSpec) -> Result<ResolvedCommit, GitError> {
        self.source.resolve(spec, &Progress::none()).await
    }

    async fn checkout(&self, spec: &GitSpec) -> Result<tempfile::TempDir, GitError> {
        let directory = tempfile::tempdir().unwrap();
        let resolved = self.resolve(spec).await?;
        self.source
            .checkout(spec, &resolved, directory.path(), &Progress::none())
            .await?;
        Ok(directory)
    }
}

fn spec(remote: &str, reference: &str) -> GitSpec {
    GitSpec {
        remote: remote.to_owned(),
        reference: reference.to_owned(),
        ..GitSpec::default()
    }
}

fn read(directory: &tempfile::TempDir, path: &str) -> String {
    std::fs::read_to_string(directory.path().join(path)).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn references_of_all_kinds_are_resolved_and_checked_out() {
    let (repository, world) = (Repository::new(), World::new());
    let first = repository.of("light");
    let tag = repository.of("v1");
    for (reference, full, checksum, content) in [
        ("", "refs/heads/main", repository.of("main"), "two"),
        ("HEAD", "refs/heads/main", repository.of("main"), "two"),
        ("main", "refs/heads/main", repository.of("main"), "two"),
        (
            "heads/main",
            "refs/heads/main",
            repository.of("main"),
            "two",
        ),
        (
            "refs/heads/main",
            "refs/heads/main",
            repository.of("main"),
            "two",
        ),
        (
            "feature/x",
            "refs/heads/feature/x",
            repository.of("feature/x"),
            "one",
        ),
        ("light", "refs/tags/light", first.clone(), "one"),
        ("v1", "refs/tags/v1", tag.clone(), "one"),
        ("refs/tags/v1", "refs/tags/v1", tag.clone(), "one"),
        (&first, &first, first.clone(), "one"),
    ] {
        let spec = spec(&repository.url(), reference);
        let resolved = world.resolve(&spec).await.unwrap();
        assert_eq!(
            (resolved.reference.as_str(), &resolved.checksum),
            (full, &checksum),
            "{reference}"
        );
        let directory = world.checkout(&spec).await.unwrap();
        assert_eq!(read(&directory, "file"), content, "{reference}");
        assert!(!names(directory.path()).contains(&".git".to_owned()));
    }
    let resolved = world.resolve(&spec(&repository.url(), "v1")).await.unwrap();
    assert_eq!(resolved.commit(), first);
    assert_eq!(world.mirrors().len(), 1);
    world.store.db().flush().unwrap();
    let usage = world.store.disk_usage(&[]).unwrap();
    let description = format!("shared git repository of {}", repository.url());
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].description, description);
    assert!(usage[0].mutable && usage[0].size.is_some_and(|size| size > 4096));
    let everything = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    assert_eq!(world.store.prune(&everything).unwrap().len(), 1);
    assert_eq!(world.mirrors().len(), 0);
    world
        .checkout(&spec(&repository.url(), "main"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_branch_that_moved_is_followed_and_what_was_resolved_stays() {
    let (repository, world) = (Repository::new(), World::new());
    let spec = spec(&repository.url(), "main");
    let before = world.resolve(&spec).await.unwrap();
    world.checkout(&spec).await.unwrap();
    repository.commit("file", "three");
    assert_eq!(read(&world.checkout(&spec).await.unwrap(), "file"), "three");
    // Rewritten, and with a branch where a directory of branches was.
    repository.git(&["reset", "-q", "--hard", "light"]);
    repository.git(&["branch", "-D", "feature/x"]);
    repository.git(&["branch", "feature"]);
    repository.git(&["tag", "-f", "v1", "main"]);
    assert_eq!(read(&world.checkout(&spec).await.unwrap(), "file"), "one");
    world
        .checkout(&self::spec(&repository.url(), "feature"))
        .await
        .unwrap();
    world
        .checkout(&self::spec(&repository.url(), "v1"))
        .await
        .unwrap();
    let old = tempfile::tempdir().unwrap();
    world
        .source
        .checkout(&spec, &before, old.path(), &Progress::none())
        .await
        .unwrap();
    assert_eq!(read(&old, "file"), "two");
}

#[tokio::test]
async fn a_branch_that_moves_between_resolve_and_checkout_does_not_matter() {
    let (repository, world) = (Repository::new(), World::new());
    let spec = spec(&repository.url(), "main");
    let resolved = world.resolve(&spec).await.unwrap();
    repository.commit("file", "three");
    let directory = tempfile::tempdir().unwrap();
    world
        .source
        .checkout(&spec, &resolved, directory.path(), &Progress::none())
        .await
        .unwrap();
    assert_eq!(read(&directory, "file"), "two");
}

#[tokio::test]
async fn a_subdir_comes_alone_and_through_no_link() {
    let (repository, world) = (Repository::new(), World::new());
    symlink("sub", repository.path().join("link")).unwrap();
    repository.commit_all();
    let with_subdir = |subdir: &str| GitSpec {
        subdir: subdir.to_owned(),
        keep_git_dir: true,
        ..spec(&repository.url(), "")
    };
    let directory = world.checkout(&with_subdir("sub/dir")).await.unwrap();
    assert_eq!(names(directory.path()), ["deep"]);
    let directory = world.checkout(&with_subdir("/../sub/")).await.unwrap();
    assert_eq!(names(directory.path()), ["dir"]);
    for (subdir, part) in [
        ("link/dir", "symbolic link"),
        ("file", "Not a directory"),
        ("nope", "No such file"),
    ] {
        let error = world
            .checkout(&with_subdir(subdir))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("no directory {subdir:?}")) && error.contains(part),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_git_directory_is_kept_on_wish_and_is_a_usable_one() {
    let (repository, world) = (Repository::new(), World::new());
    for (reference, described) in [
        ("main", "main"),
        ("v1", "v1"),
        (&repository.of("feature/x"), ""),
    ] {
        let spec = GitSpec {
            keep_git_dir: true,
            ..spec(&repository.url(), reference)
        };
        let directory = world.checkout(&spec).await.unwrap();
        let git = |arguments: &[&str]| git_in(directory.path(), arguments);
        assert_eq!(git(&["status", "--porcelain"]), "");
        assert_eq!(
            git(&["rev-parse", "HEAD"]),
            repository.of(&format!("{reference}^{{commit}}"))
        );
        assert_eq!(git(&["remote", "get-url", "origin"]), repository.url());
        if !described.is_empty() {
            assert_eq!(git(&["rev-parse", described]), repository.of(described));
        }
        let all = String::from_utf8(
            Command::new("grep")
                .args([
                    "-r",
                    world.state.path().to_str().unwrap(),
                    directory.path().to_str().unwrap(),
                ])
                .output()
                .unwrap()
                .stdout,
        );
        assert_eq!(all.unwrap(), "", "nothing names the mirror");
    }
}

#[tokio::test]
async fn submodules_are_checked_out_unless_told_not_to() {
    let (inner, middle, world) = (Repository::new(), Repository::new(), World::new());
    middle.git(&["submodule", "--quiet", "add", &inner.url(), "deps/inner"]);
    middle.commit_all();
    let outer = Repository::new();
    outer.git(&["submodule", "--quiet", "add", &middle.url(), "middle"]);
    outer.commit_all();
    for keep_git_dir in [false, true] {
        let with = GitSpec {
            keep_git_dir,
            ..spec(&outer.url(), "main")
        };
        let directory = world.checkout(&with).await.unwrap();
        assert_eq!(read(&directory, "middle/deps/inner/file"), "two");
        let has_git = names(&directory.path().join("middle")).contains(&".git".to_owned());
        assert_eq!(has_git, keep_git_dir);
        let without = GitSpec {
            skip_submodules: true,
            ..with
        };
        let directory = world.checkout(&without).await.unwrap();
        assert!(names(&directory.path().join("middle")).is_empty());
    }
}

#[tokio::test]
async fn a_submodule_of_this_machines_files_is_refused() {
    let (inner, outer) = (Repository::new(), Repository::new());
    outer.git(&["submodule", "--quiet", "add", &inner.url(), "inner"]);
    outer.commit_all();
    let server = backend(outer.path(), |_| true).await;
    let world = World::with(GitConfig::new);
    let error = world
        .checkout(&spec(&server.url("/.git"), "main"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("transport 'file' not allowed"), "{error}");
    let error = world
        .resolve(&spec(&outer.url(), "main"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("protocol \"file\""), "{error}");
}

#[tokio::test]
async fn checksums_are_held_to() {
    let (repository, world) = (Repository::new(), World::new());
    let with = |reference: &str, checksum: &str| GitSpec {
        checksum: Some(checksum.to_owned()),
        ..spec(&repository.url(), reference)
    };
    let (first, tag, main) = (
        repository.of("light"),
        repository.of("v1"),
        repository.of("main"),
    );
    for (reference, checksum) in [
        ("main", main.as_str()),
        ("main", &main[..7]),
        ("v1", &tag),
        ("v1", &first),
        (&main, &main[..10]),
        // A tag's object by its name is what it tags.
        (&tag, &first),
    ] {
        if reference != tag {
            world.checkout(&with(reference, checksum)).await.unwrap();
        }
    }
    let error = world
        .resolve(&with("main", &first))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!(
            "expected checksum to match {first}, got {main} for \"main\" of {}",
            repository.url()
        )),
        "{error}"
    );
    let error = world
        .resolve(&with("main", "nothex"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("invalid git checksum \"nothex\""), "{error}");
    let by_commit = GitSpec {
        fetch_by_commit: true,
        ..with("no-such-branch", &first)
    };
    let resolved = world.resolve(&by_commit).await.unwrap();
    assert_eq!(resolved.reference, "refs/heads/no-such-branch");
    assert_eq!(
        read(&world.checkout(&by_commit).await.unwrap(), "file"),
        "one"
    );
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let (repository, world) = (Repository::new(), World::new());
    let absent = "1".repeat(40);
    for (reference, part) in [
        ("nope", "does not contain ref nope"),
        (absent.as_str(), &format!("does not contain ref {absent}")),
        ("--upload-pack=evil", "invalid git reference"),
        ("a b", "invalid git reference"),
    ] {
        let error = world
            .checkout(&spec(&repository.url(), reference))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = world
        .resolve(&spec("file:///nonexistent", "x"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("list the refs of file:///nonexistent: fatal:"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    git_in(empty.path(), &["init", "-q"]);
    let empty = format!("file://{}", empty.path().display());
    let error = world.resolve(&spec(&empty, "")).await.unwrap_err();
    assert!(matches!(error, GitError::NoDefaultBranch { .. }), "{error}");
    let config = GitConfig {
        program: PathBuf::from("/nonexistent/git"),
        ..GitConfig::new(world.store.cache_mounts().clone())
    };
    let source = GitSource::new(config);
    let error = source
        .resolve(&spec("https://h/x.git", "x"), &Progress::none())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/git"), "{error}");
}

#[tokio::test]
async fn times_and_permissions_are_git_s_own() {
    let (repository, world) = (Repository::new(), World::new());
    std::fs::set_permissions(
        repository.path().join("file"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    symlink("nowhere", repository.path().join("dangling")).unwrap();
    repository.commit_all();
    let spec = GitSpec {
        mtime: MtimePolicy::Commit,
        ..spec(&repository.url(), "main")
    };
    let directory = world.checkout(&spec).await.unwrap();
    for (path, mode) in [("file", 0o755), ("sub/dir/deep", 0o644), ("sub", 0o755)] {
        let metadata = std::fs::metadata(directory.path().join(path)).unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.mtime()),
            (mode, 1_445_412_480),
            "{path}"
        );
    }
    let link = std::fs::symlink_metadata(directory.path().join("dangling")).unwrap();
    assert_eq!(link.mtime(), 1_445_412_480);
}

#[tokio::test]
async fn a_mirror_that_is_damaged_is_made_anew() {
    let (repository, world) = (Repository::new(), World::new());
    let spec = spec(&repository.url(), "main");
    world.checkout(&spec).await.unwrap();
    let mirror = world.mirrors().remove(0);
    std::fs::write(mirror.join("HEAD"), "garbage").unwrap();
    world.checkout(&spec).await.unwrap();
    std::fs::write(mirror.join("shallow.lock"), "").unwrap();
    repository.commit("file", "three");
    assert_eq!(read(&world.checkout(&spec).await.unwrap(), "file"), "three");
}

#[tokio::test]
async fn many_at_once_share_a_mirror() {
    let (repository, world) = (Repository::new(), World::new());
    let references = ["main", "v1", "feature/x", "light", "main", ""];
    let checkouts = references.map(|reference| {
        let (world, url) = (&world, repository.url());
        async move { world.checkout(&spec(&url, reference)).await }
    });
    for directory in futures_util::future::join_all(checkouts).await {
        assert!(names(directory.unwrap().path()).contains(&"file".to_owned()));
    }
}

#[tokio::test]
async fn sha256_repositories_work() {
    let (repository, world) = (Repository::with_format("sha256"), World::new());
    for (reference, keep_git_dir) in [
        ("main", false),
        ("v1", true),
        (&repository.of("light"), false),
    ] {
        let spec = GitSpec {
            keep_git_dir,
            ..spec(&repository.url(), reference)
        };
        world.checkout(&spec).await.unwrap();
    }
}
