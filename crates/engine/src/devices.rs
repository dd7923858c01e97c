//! Which devices of the host a build may have, and by what names.

use std::collections::BTreeMap;

use weld_llb::{CdiDevice, Graph, Op, pb};
use weld_op::Device;

use crate::error::BuildError;
use crate::job::JobCore;
use crate::policy::replace;
use crate::request::Entitlement;

impl JobCore {
    /// A definition whose steps ask for devices by the names that these have here: the client may have said that a name of the
    /// build's stands for another one.
    pub(crate) fn with_own_devices(
        &self,
        definition: pb::Definition,
    ) -> Result<pb::Definition, BuildError> {
        let aliases: BTreeMap<&str, &str> = self
            .entitlements
            .iter()
            .filter_map(|one| match one {
                Entitlement::DeviceAlias { alias, device } => Some((&**alias, &**device)),
                _ => None,
            })
            .collect();
        if aliases.is_empty() {
            return Ok(definition);
        }
        let graph = Graph::from_pb(definition)?;
        let is_named = |vertex: &weld_llb::Vertex| match vertex.op() {
            Op::Exec(exec) => {
                let mut wanted = exec.devices.iter();
                wanted.any(|device| aliases.contains_key(device.name.as_str()))
            }
            _ => false,
        };
        let renames = graph.vertices().iter().any(is_named);
        // Inputs before what they are inputs of.
        let definition = graph.to_pb();
        if !renames {
            return Ok(definition);
        }
        Ok(replace(definition, |_, op| {
            let pb::op::Op::Exec(exec) = op else {
                return false;
            };
            let mut renamed = false;
            for device in &mut exec.cdi_devices {
                if let Some(own) = aliases.get(device.name.as_str()) {
                    device.name = (*own).to_owned();
                    renamed = true;
                }
            }
            renamed
        })?)
    }

    /// Whether a step may have devices: all that it asks for, or those that the client allows by
    /// name, or that anybody may have. The descriptions are few and small: they are read here.
    pub(crate) fn allow_devices(&self, step: &str, wanted: &[CdiDevice]) -> Result<(), BuildError> {
        if self.entitlements.contains(&Entitlement::Device(None)) {
            return Ok(());
        }
        let failed = |source| BuildError::Device {
            step: step.to_owned(),
            source,
        };
        let devices = self.worker.devices.devices();
        let granted = self.entitlements.iter().filter_map(|one| match one {
            Entitlement::Device(Some(name)) | Entitlement::DeviceAlias { device: name, .. } => {
                Some(CdiDevice {
                    name: name.clone(),
                    optional: true,
                })
            }
            _ => None,
        });
        let granted: Vec<_> = granted.collect();
        let granted = devices.find_all(&granted).map_err(failed)?;
        let is_allowed = |device: &Device| {
            device.auto_allowed || granted.iter().any(|other| other.name == device.name)
        };
        let wanted = devices.find_all(wanted).map_err(failed)?;
        let forbidden = wanted.into_iter().find(|device| !is_allowed(device));
        match forbidden {
            Some(device) => Err(BuildError::DeviceForbidden {
                step: step.to_owned(),
                device: device.name,
            }),
            None => Ok(()),
        }
    }
}
