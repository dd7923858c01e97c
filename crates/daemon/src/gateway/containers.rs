//! The containers of one frontend.

use std::sync::Arc;

use tonic::Status;
use weld_engine::{
    BuildError, Container, ContainerMount, ContainerMountKind, ContainerRequest, SandboxMountKind,
};
use weld_llb::{SecretMount, SshMount};
use weld_proto::frontend as wire;
use weld_proto::pb;

use super::session::Session;
use super::{convert, service, status};

/// How many containers one frontend may have.
const MAX_CONTAINERS: usize = 1000;

impl Session {
    pub(super) async fn new_container(
        &self,
        request: wire::NewContainerRequest,
    ) -> Result<wire::NewContainerResponse, Status> {
        let id = request.container_id.clone();
        if self.containers().len() >= MAX_CONTAINERS {
            let text = format!("a frontend may have no more than {MAX_CONTAINERS} containers");
            return Err(Status::resource_exhausted(text));
        }
        if self.containers().contains_key(&id) {
            return Err(exists(&id));
        }
        let network = request.network();
        let mounts = request.mounts.into_iter();
        let mounts = mounts.map(|mount| self.mount(mount));
        let asked = ContainerRequest {
            mounts: mounts.collect::<Result<_, Status>>()?,
            network: Some(network),
            extra_hosts: request.extra_hosts,
            hostname: request.hostname,
            platform: convert::platform(request.platform),
        };
        let made = self.bridge().new_container(asked).await;
        let made = Arc::new(made.map_err(|error| self.solve_error(&error))?);
        match self.containers().entry(id.clone()) {
            std::collections::hash_map::Entry::Occupied(_) => Err(exists(&id)),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(made);
                Ok(wire::NewContainerResponse {})
            }
        }
    }

    fn mount(&self, mount: pb::Mount) -> Result<ContainerMount, Status> {
        let kind = match mount.mount_type() {
            pb::MountType::Bind => {
                let reference = match mount.result_id.as_str() {
                    "" => None,
                    id => Some(self.get(id).map_err(|_| {
                        let text = format!("failed to find ref {id} for {:?} mount", mount.dest);
                        Status::not_found(text)
                    })?),
                };
                ContainerMountKind::Ref(reference)
            }
            _ if mount.dest == pb::ROOT_MOUNT => {
                return Err(Status::invalid_argument("the root must be a bind mount"));
            }
            pb::MountType::Tmpfs => {
                let size = mount.tmpfs_opt.as_ref().map_or(0, |tmpfs| tmpfs.size);
                ContainerMountKind::Other(SandboxMountKind::Tmpfs {
                    size: u64::try_from(size).unwrap_or(0),
                })
            }
            pb::MountType::Cache => {
                let cache = mount.cache_opt.clone().unwrap_or_default();
                ContainerMountKind::Other(SandboxMountKind::Cache {
                    sharing: cache.sharing(),
                    id: cache.id,
                })
            }
            pb::MountType::Secret => {
                let secret = mount.secret_opt.clone().unwrap_or_default();
                ContainerMountKind::Other(SandboxMountKind::Secret(SecretMount {
                    id: secret.id,
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                }))
            }
            pb::MountType::Ssh => {
                let ssh = mount.ssh_opt.clone().unwrap_or_default();
                ContainerMountKind::Other(SandboxMountKind::Ssh(SshMount {
                    id: ssh.id,
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }))
            }
        };
        Ok(ContainerMount {
            dest: mount.dest,
            selector: mount.selector,
            readonly: mount.readonly,
            kind,
        })
    }

    pub(super) async fn release_container(
        &self,
        request: wire::ReleaseContainerRequest,
    ) -> Result<wire::ReleaseContainerResponse, Status> {
        let id = &request.container_id;
        let container = self.containers().remove(id);
        let container = container.ok_or_else(|| missing(id))?;
        match container.release().await {
            true => Ok(wire::ReleaseContainerResponse {}),
            // As clients know it: processes were still running.
            false => Err(Status::cancelled("context canceled")),
        }
    }

    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        let found = self.containers().get(id).cloned();
        found.ok_or_else(|| missing(id))
    }

    pub(super) async fn read_file_container(
        &self,
        request: wire::ReadFileRequest,
    ) -> Result<wire::ReadFileResponse, Status> {
        let (container, mount) = self.container_mount(&request.r#ref, request.mount_index)?;
        let range = request.range.map(convert::range);
        let read = container.read_file(mount, &request.file_path, range).await;
        let data = read.map_err(|error| error_status(&error))?;
        Ok(wire::ReadFileResponse { data })
    }

    pub(super) async fn read_dir_container(
        &self,
        request: wire::ReadDirRequest,
    ) -> Result<wire::ReadDirResponse, Status> {
        let (container, mount) = self.container_mount(&request.r#ref, request.mount_index)?;
        let include = Some(request.include_pattern.as_str()).filter(|pattern| !pattern.is_empty());
        let read = container.read_dir(mount, &request.dir_path, include).await;
        let entries = read.map_err(|error| error_status(&error))?;
        Ok(wire::ReadDirResponse {
            entries: entries.into_iter().map(convert::stat).collect(),
        })
    }

    pub(super) async fn stat_file_container(
        &self,
        request: wire::StatFileRequest,
    ) -> Result<wire::StatFileResponse, Status> {
        let (container, mount) = self.container_mount(&request.r#ref, request.mount_index)?;
        let stat = container.stat_file(mount, &request.path).await;
        let stat = stat.map_err(|error| error_status(&error))?;
        Ok(wire::StatFileResponse {
            stat: Some(convert::stat(stat)),
        })
    }

    fn container_mount(&self, id: &str, mount: i32) -> Result<(Arc<Container>, usize), Status> {
        let container = self.container(id)?;
        let index = usize::try_from(mount);
        let index = index.map_err(|_| {
            Status::invalid_argument(format!("mount index {mount} is out of bounds"))
        })?;
        Ok((container, index))
    }
}

fn exists(id: &str) -> Status {
    Status::already_exists(format!("Container {id} already exists"))
}

fn missing(id: &str) -> Status {
    Status::not_found(format!(
        "container {id:?} previously released or not created"
    ))
}

fn error_status(error: &BuildError) -> Status {
    match error {
        BuildError::File(error) => service::file_status(error),
        error => status::to_status(error),
    }
}
