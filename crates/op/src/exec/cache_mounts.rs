//! Cache mounts of a step.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use weld_digest::FieldHasher;
use weld_llb::{CacheMount, CacheSharingOpt, MountKind};
use weld_runtime::{MountPlan, Source};
use weld_solver::{OpContext, OpError, ResultRef};
use weld_store::snapshot::SnapshotRef;
use weld_store::{CacheMountError, CacheMountRequest, CacheMounts, RecordType, Sharing, Staged};

use super::mounts::{Made, Prepared};
use super::{Exec, ExecError};
use crate::{Tree, room, session};

impl Prepared {
    /// Takes all cache mounts, in the order of their keys, so that two steps that need the same
    /// ones never wait for each other.
    pub(super) async fn caches(
        &mut self,
        exec: &Exec,
        ctx: &OpContext<Tree>,
        inputs: &[ResultRef<Tree>],
    ) -> Result<(), OpError> {
        let mut wanted: Vec<_> = exec
            .op
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Cache(cache) => Some((mount.dest.as_str(), cache)),
                _ => None,
            })
            .map(|(dest, cache)| {
                let base = cache
                    .input
                    .and_then(|input| inputs.get(input))
                    .and_then(|tree| tree.snapshot().cloned());
                let key = key(dest, cache, base.as_ref());
                (exec.worker.domain().scoped(key), dest, cache, base)
            })
            .collect();
        wanted.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        // The same one in several places of a step is one, whoever else may use it.
        let mut held: HashMap<String, PathBuf> = HashMap::new();
        for (key, dest, cache, base) in wanted {
            if let Some(index) = cache.output {
                self.outputs.push((
                    index,
                    Made::AsIs(base.clone().map_or_else(Tree::scratch, Tree::of)),
                ));
            }
            if let Some(path) = held.get(&key) {
                let source = Source::Plan(MountPlan::Bind(path.clone()));
                self.mount(exec, dest, source, &cache.selector, cache.readonly);
                continue;
            }
            let mut request = CacheMountRequest {
                id: exec
                    .worker
                    .domain()
                    .scoped(cache_id(dest, cache).to_owned()),
                key: key.clone(),
                sharing: match cache.sharing {
                    CacheSharingOpt::Shared => Sharing::Shared,
                    CacheSharingOpt::Private => Sharing::Private,
                    CacheSharingOpt::Locked => Sharing::Locked,
                },
                refills: false,
                record_type: RecordType::CacheMount,
                description: format!("cached mount {dest} from exec {}", exec.description),
            };
            let snapshots = exec.worker.snapshots.clone();
            let staged = staged(exec, ctx, cache_id(dest, cache), &request);
            let staged = tokio::select! {
                staged = Box::pin(staged) => staged,
                () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
            };
            request.refills = staged.is_some();
            let fill = move |directory: &Path| {
                let begins = std::fs::read_dir(directory)?.next().is_none();
                if let (Some(base), true) = (&base, begins) {
                    let copied = snapshots.copy_into(base, directory);
                    copied.map_err(std::io::Error::other)?;
                }
                match &staged {
                    Some(staged) => staged.fill(directory),
                    None => Ok(()),
                }
            };
            let mounts = exec.worker.store.cache_mounts();
            let acquired = tokio::select! {
                acquired = acquire(ctx, mounts, dest, request, fill) => acquired,
                () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
            };
            let acquired = acquired.map_err(|source| {
                OpError::failed(ExecError::CacheMount {
                    dest: dest.to_owned(),
                    source: source.into(),
                })
            })?;
            let source = Source::Plan(MountPlan::Bind(acquired.path()));
            room::writes_into(&acquired.path());
            held.insert(key, acquired.path());
            self.caches.push(acquired);
            self.mount(exec, dest, source, &cache.selector, cache.readonly);
        }
        Ok(())
    }
}

/// Takes a cache mount. Where another step has it, this one waits without a slot: others are to execute meanwhile.
async fn acquire(
    ctx: &OpContext<Tree>,
    mounts: &CacheMounts,
    dest: &str,
    request: CacheMountRequest,
    fill: impl Fn(&Path) -> std::io::Result<()> + Clone + Send + 'static,
) -> Result<weld_store::CacheMount, CacheMountError> {
    let (own, wanted, first) = (mounts.clone(), request.clone(), fill.clone());
    let free = tokio::task::spawn_blocking(move || own.try_acquire(&wanted, first));
    match free.await {
        Ok(Ok(Some(mount))) => return Ok(mount),
        Ok(Err(error)) => return Err(error),
        // An attempt that ended early does so again below, and is told there.
        Ok(Ok(None)) | Err(_) => {}
    }
    let what = format!("waiting for the cache mount {dest}");
    let wait = ctx.wait_for_lock(mounts.acquire(&request, fill));
    ctx.told(what, SystemTime::now(), wait).await
}

/// What builds that wait for the step have elsewhere for a cache mount that is empty.
async fn staged(
    exec: &Exec,
    ctx: &OpContext<Tree>,
    id: &str,
    request: &CacheMountRequest,
) -> Option<Arc<Staged>> {
    let sources = &exec.worker.mount_sources;
    if sources.is_empty() {
        return None;
    }
    let (mounts, wanted) = (exec.worker.store.cache_mounts().clone(), request.clone());
    let empty = tokio::task::spawn_blocking(move || mounts.wants_content(&wanted)).await;
    if !matches!(empty, Ok(Ok(true))) {
        return None;
    }
    let mut tried = Vec::new();
    while let Some(handle) = ctx.next_session(&tried).await {
        let session = session::of(&handle);
        for contents in session.iter().flat_map(|session| sources.of(session.id())) {
            if let Some(staged) = contents.stage(id).await {
                return Some(staged);
            }
        }
        tried.push(handle);
    }
    None
}

/// What a user calls a cache mount.
pub(super) fn cache_id<'a>(dest: &'a str, cache: &'a CacheMount) -> &'a str {
    if cache.id.is_empty() { dest } else { &cache.id }
}

/// What tells a cache mount's directory from others: its id, and what it starts with.
fn key(dest: &str, cache: &CacheMount, base: Option<&SnapshotRef>) -> String {
    let id = cache_id(dest, cache);
    match base {
        None => id.to_owned(),
        Some(base) => {
            let start = FieldHasher::new("weld.op.cache-mount.v1")
                .number(base.id().0)
                .finish();
            format!("{id}:{}", &start.hex()[..16])
        }
    }
}
