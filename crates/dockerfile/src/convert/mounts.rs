//! `RUN --mount`.

use weld_llb::{
    CacheSharingOpt, Constraints, FileChange, MkdirAction, MountContentCache, MountSpec, Output,
    Owner, Run as LlbRun, Secret, Ssh, State, UserRef, path,
};

use super::ConvertError;
use super::dispatch::Current;
use super::stages::Converter;
use crate::error::Error;
use crate::instruction::{Instruction, Mount, MountType, Run, SharingMode};
use crate::shell::Expander;

/// Where a cache mount's own directory is made, if it needs an owner.
const CACHE_DIR: &str = "/cache";

impl Converter<'_> {
    /// The mounts with their variables expanded.
    pub(super) fn resolve_mounts(
        &mut self,
        current: &Current,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<Vec<Mount>, Error> {
        let mut expander = Expander::new(self.dockerfile.escape, &current.state.env);
        let mounts: Result<Vec<Mount>, Error> = run
            .mounts
            .iter()
            .map(|mount| mount.resolve(&mut expander))
            .collect();
        let unmatched = expander.unmatched().clone();
        self.report_undefined(current, instruction, &unmatched);
        mounts
    }

    /// Adds the mounts to a process; `sources` are the nodes that they take files from.
    pub(super) fn add_mounts(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        step: &mut LlbRun,
        mounts: Vec<Mount>,
        sources: &[Option<usize>],
    ) -> Result<(), Error> {
        for (index, mount) in mounts.into_iter().enumerate() {
            let source = sources.get(index).copied().flatten();
            match mount.kind {
                MountType::Secret => {
                    let secret = secret(&mount);
                    let declared = &mut current.node.declared;
                    declared.secret(&secret.id, mount.required, instruction.lines);
                    step.secrets.push(secret);
                }
                MountType::Ssh => {
                    let ssh = ssh(&mount)?;
                    let declared = &mut current.node.declared;
                    declared.agent(&ssh.id, mount.required, instruction.lines);
                    step.ssh.push(ssh);
                }
                MountType::Bind | MountType::Cache | MountType::Tmpfs => {
                    let spec = self.mount(current, &mount, source)?;
                    step.mounts.push(spec);
                }
            }
        }
        Ok(())
    }

    fn mount(
        &mut self,
        current: &Current,
        mount: &Mount,
        source: Option<usize>,
    ) -> Result<MountSpec, Error> {
        let target = mount_point(current, mount)?;
        if mount.kind == MountType::Tmpfs {
            return Ok(MountSpec::Tmpfs {
                target,
                size: mount.size.unwrap_or(0),
            });
        }
        let from = self.mount_source(mount, source, &target)?;
        let path = path::join(&["/", mount.source.as_deref().unwrap_or_default()]);
        let owned = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
        let (from, selector) = match (path.as_str(), owned) {
            ("/", true) => (self.owned_cache(from, mount)?, CACHE_DIR.to_owned()),
            ("/", false) => (from, String::new()),
            (path, _) => (from, path.to_owned()),
        };
        match source {
            Some(node) => self.use_path(node, &path),
            None if mount.kind == MountType::Bind => {
                self.context_paths.insert(path);
            }
            None => {}
        }
        if mount.kind == MountType::Bind {
            return Ok(MountSpec::Bind {
                target,
                source: from,
                selector,
                readonly: mount.readonly,
                // What is written to it is gone with the process.
                no_output: !mount.readonly,
                content_cache: MountContentCache::Default,
            });
        }
        let default_id = path::clean(mount.target.as_deref().unwrap_or_default());
        let id = mount.id.clone().unwrap_or(default_id);
        Ok(MountSpec::Cache {
            target,
            source: from,
            selector,
            id: format!("{}/{id}", self.request.cache_namespace),
            sharing: match mount.sharing.unwrap_or_default() {
                SharingMode::Shared => CacheSharingOpt::Shared,
                SharingMode::Private => CacheSharingOpt::Private,
                SharingMode::Locked => CacheSharingOpt::Locked,
            },
            readonly: mount.readonly,
        })
    }

    /// The files that a mount shows: of a node, of the context, or none.
    fn mount_source(
        &self,
        mount: &Mount,
        source: Option<usize>,
        target: &str,
    ) -> Result<Option<Output>, Error> {
        let Some(source) = source else {
            return Ok(match mount.kind {
                MountType::Bind => self.context_output,
                _ => None,
            });
        };
        match self.nodes.get(source) {
            Some(node) if node.progress.dispatched => {
                Ok(node.state.as_ref().and_then(|state| state.output))
            }
            _ => Err(ConvertError::MountFromLater {
                from: mount.from.clone().unwrap_or_default(),
                target: target.to_owned(),
            }
            .into()),
        }
    }

    /// A directory of its own for a cache mount, with an owner and a mode.
    fn owned_cache(
        &mut self,
        from: Option<Output>,
        mount: &Mount,
    ) -> Result<Option<Output>, Error> {
        let mkdir = FileChange::Mkdir(MkdirAction {
            path: CACHE_DIR.to_owned(),
            mode: mount.mode.unwrap_or(0o755) & 0o777,
            make_parents: false,
            owner: Some(Owner {
                user: Some(UserRef::Id(mount.uid.unwrap_or(0))),
                group: Some(UserRef::Id(mount.gid.unwrap_or(0))),
            }),
            timestamp: None,
        });
        let constraints = Constraints::new().named("[internal] setting cache mount permissions");
        let state = State::new(from)
            .file(&mut self.builder, vec![mkdir], constraints)
            .map_err(ConvertError::from)?;
        Ok(state.output)
    }
}

/// The mount point, which may be relative to the working directory and may not be the root.
fn mount_point(current: &Current, mount: &Mount) -> Result<String, Error> {
    let written = mount.target.as_deref().unwrap_or_default();
    let target = if path::is_absolute(written) {
        written.to_owned()
    } else {
        path::join(&["/", &current.state.dir, written])
    };
    if path::clean(&target) == "/" {
        return Err(ConvertError::MountTarget { target }.into());
    }
    Ok(target)
}

fn secret(mount: &Mount) -> Secret {
    let target = mount.target.clone();
    let named = mount.source.clone().or_else(|| mount.id.clone());
    let id = named.unwrap_or_else(|| path::base(target.as_deref().unwrap_or_default()).to_owned());
    // In a file, unless it is wanted in a variable alone.
    let target = match (&mount.env, target) {
        (Some(_), target) => target,
        (None, Some(target)) => Some(target),
        (None, None) => Some(format!("/run/secrets/{}", path::base(&id))),
    };
    Secret {
        id,
        target,
        env: mount.env.clone(),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o400),
        optional: !mount.required,
    }
}

fn ssh(mount: &Mount) -> Result<Ssh, Error> {
    if mount.source.is_some() {
        return Err(ConvertError::SshSource.into());
    }
    Ok(Ssh {
        id: mount.id.clone().unwrap_or_default(),
        target: mount.target.clone(),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o600),
        optional: !mount.required,
    })
}
