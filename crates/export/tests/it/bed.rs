//! A store with snapshots to export, and the programs that read what comes out.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weld_export::{
    Built, BuiltPlatform, ExportError, ExportKind, ExportRequest, ExportTarget, Exporter,
};
use weld_llb::Platform;
use weld_source::progress::Progress;
use weld_source::registry::{Anonymous, Registry, RegistryConfig};
use weld_store::mount::Mounted;
use weld_store::snapshot::{SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType, Store, StoreOptions};

pub(crate) type Response = Result<BTreeMap<String, String>, ExportError>;

pub(crate) struct Bed {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
    pub(crate) snapshots: Snapshots,
    pub(crate) exporter: Exporter,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("state"), StoreOptions::default()).unwrap();
        let snapshots = Snapshots::open(&store).unwrap();
        let registry = Registry::new(RegistryConfig::default(), Arc::new(Anonymous));
        Self {
            exporter: Exporter::new(store.clone(), snapshots.clone(), registry),
            directory,
            store,
            snapshots,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A snapshot over `parent` with what `fill` puts into its directory.
    pub(crate) fn snapshot(
        &self,
        parent: Option<&SnapshotRef>,
        description: &str,
        fill: impl FnOnce(&Path),
    ) -> SnapshotRef {
        let snapshot = self.snapshots.create(parent).unwrap();
        {
            let mounted = snapshot.mount().unwrap();
            fill(&path_of(&mounted));
        }
        snapshot
            .commit(NewUsage {
                record_type: RecordType::Regular,
                description: description.to_owned(),
                mutable: false,
                size: None,
            })
            .unwrap()
    }

    /// Two layers: programs of a base, and an application over it.
    pub(crate) fn app(&self) -> SnapshotRef {
        let base = self.snapshot(None, "base", |root| {
            fs::create_dir_all(root.join("usr/bin")).unwrap();
            fs::write(root.join("usr/bin/tool"), "tool").unwrap();
            fs::write(root.join("usr/gone"), "gone").unwrap();
        });
        self.snapshot(Some(&base), "RUN make", |root| {
            fs::remove_file(root.join("usr/gone")).unwrap();
            fs::create_dir(root.join("app")).unwrap();
            fs::write(root.join("app/main"), "main").unwrap();
            fs::hard_link(root.join("app/main"), root.join("app/again")).unwrap();
            std::os::unix::fs::symlink("main", root.join("app/link")).unwrap();
        })
    }

    pub(crate) async fn export(
        &self,
        kind: ExportKind,
        target: ExportTarget,
        attrs: &[(&str, &str)],
        built: &Built,
    ) -> Response {
        let request = request(kind, target, attrs);
        Exporter::validate(&request)?;
        self.exporter
            .export(
                &request,
                built,
                Arc::new(Anonymous),
                &Progress::none(),
                &CancellationToken::new(),
            )
            .await
    }
}

pub(crate) fn request(
    kind: ExportKind,
    target: ExportTarget,
    attrs: &[(&str, &str)],
) -> ExportRequest {
    let mut request = ExportRequest::new(kind, target);
    request.attrs = attrs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    request
}

pub(crate) fn config(platform: &Platform) -> Value {
    json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {"Cmd": ["/app/main"], "Labels": {"a": "b"}},
        "history": [
            {"created_by": "base"},
            {"created_by": "CMD", "empty_layer": true},
            {"created_by": "RUN make"},
        ],
    })
}

/// One platform's result.
pub(crate) fn one(tree: Option<SnapshotRef>) -> Built {
    let platform = Platform::new("linux", "amd64", "");
    Built {
        platforms: vec![BuiltPlatform {
            config: Some(config(&platform).to_string().into_bytes()),
            platform,
            tree,
            base_config: None,
            cache: None,
            attestations: Vec::new(),
        }],
        is_multi_platform: false,
        epoch: None,
    }
}

/// Results for two platforms.
pub(crate) fn two(amd64: SnapshotRef, arm64: SnapshotRef) -> Built {
    let mut built = one(Some(amd64));
    let platform = Platform::new("linux", "arm64", "");
    built.platforms.push(BuiltPlatform {
        config: Some(config(&platform).to_string().into_bytes()),
        platform,
        tree: Some(arm64),
        base_config: None,
        cache: None,
        attestations: Vec::new(),
    });
    built.is_multi_platform = true;
    built
}

/// What a program prints; it has to succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn skopeo(arguments: &[&str]) -> Value {
    serde_json::from_str(&run("skopeo", arguments)).unwrap()
}

/// A path to a mount that other programs understand too.
pub(crate) fn path_of(mounted: &Mounted) -> PathBuf {
    let number = mounted.as_fd().as_raw_fd();
    PathBuf::from(format!("/proc/{}/fd/{number}", std::process::id()))
}

const NOTE: &str = "user.note";

/// Notes something in an extended attribute.
pub(crate) fn set_note(path: &Path, note: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, NOTE, note.as_bytes(), flags).unwrap();
}

/// What [`set_note`] noted.
pub(crate) fn note(path: &Path) -> String {
    let mut buffer = [0; 100];
    let length = rustix::fs::getxattr(path, NOTE, &mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// The names in a directory, sorted.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
