//! A request to build, read once: what comes after need not ask again whether it makes sense.

use std::collections::BTreeMap;

use tonic::Status;
use weld_engine::{
    AttestOptions, CacheExport, CacheImport, Entitlement, SolveInput, SourcePolicies,
};
use weld_export::cache::CacheExportOptions;
use weld_proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};
use weld_proto::pb;

use crate::config::DaemonConfig;
use crate::gateway::request_error;

/// The build argument that sets the times in a result.
const EPOCH_ARG: &str = "build-arg:SOURCE_DATE_EPOCH";
/// The exporters' attribute of the same meaning.
const EPOCH_ATTR: &str = "source-date-epoch";

/// The option by which a client asks to be told why steps were not cached.
const EXPLAIN: &str = "weld.explain";

/// What a client wants built.
pub(super) struct Plan {
    pub(super) reference: String,
    pub(super) session: String,
    pub(super) work: Work,
    pub(super) frontend: String,
    pub(super) frontend_attrs: BTreeMap<String, String>,
    pub(super) entitlements: Vec<Entitlement>,
    pub(super) exporters: Vec<Exporter>,
    /// Whether the client is asked for further ones once the result is known.
    pub(super) session_exporters: bool,
    pub(super) cache_imports: Vec<CacheImport>,
    pub(super) cache_exports: Vec<CacheExport>,
    /// What is to be said of the result.
    pub(super) attest: AttestOptions,
    /// Which sources may be used.
    pub(super) source_policies: SourcePolicies,
    /// The session that decides on them; empty if none does.
    pub(super) policy_session: String,
    /// Whether the history is to know of it.
    pub(super) recorded: bool,
}

/// Who says what is built.
pub(super) enum Work {
    /// The request itself.
    Solve(SolveInput),
    /// The client, which calls the gateway; with definitions that it may ask for.
    Client(BTreeMap<String, pb::Definition>),
}

impl Plan {
    /// Whether the client wants to be told why steps were not cached.
    pub(super) fn explain(&self) -> bool {
        let wanted = self.frontend_attrs.get(EXPLAIN);
        wanted.is_some_and(|wanted| matches!(wanted.as_str(), "1" | "true"))
    }

    pub(super) fn read(mut request: SolveRequest, config: &DaemonConfig) -> Result<Self, Status> {
        if request.compatibility_version != 0 && !(10..=20).contains(&request.compatibility_version)
        {
            let version = request.compatibility_version;
            return Err(request_error(format!(
                "unsupported compatibility version {version}"
            )));
        }
        unsupported(&request)?;
        let mut cache = request.cache.take().unwrap_or_default();
        let cache_exports = cache_exports(&mut cache)?;
        let entitlements = entitlements(&request.entitlements, config)?;
        let attest = AttestOptions::from_attrs(&request.frontend_attrs)
            .map_err(|error| request_error(error.to_string()))?;
        let source_policies =
            SourcePolicies::new(request.source_policy.take().into_iter().collect())
                .map_err(|error| request_error(error.to_string()))?;
        let frontend = frontend(&mut request);
        let exporters = exporters(&mut request);
        let work = work(&mut request);
        let cache_imports = cache_imports(cache);
        Ok(Self {
            cache_imports,
            cache_exports,
            attest,
            source_policies,
            reference: request.reference,
            session: request.session,
            policy_session: request.source_policy_session,
            work,
            frontend,
            frontend_attrs: request.frontend_attrs,
            entitlements,
            exporters,
            session_exporters: request.enable_session_exporter,
            recorded: !request.internal,
        })
    }
}

/// Refuses what would otherwise be ignored although it protects or promises something.
fn unsupported(request: &SolveRequest) -> Result<(), Status> {
    match request.proxy_network {
        true => Err(Status::unimplemented(
            "proxy networks are not supported by weld",
        )),
        false => Ok(()),
    }
}

fn entitlements(asked: &[String], config: &DaemonConfig) -> Result<Vec<Entitlement>, Status> {
    let read = asked.iter().map(|name| {
        let entitlement: Entitlement = name
            .parse()
            .map_err(|_| request_error(format!("invalid entitlement {name}")))?;
        // Whoever describes devices means them to be used; what else they may do, they say.
        let is_allowed = match &entitlement {
            Entitlement::Device(_) | Entitlement::DeviceAlias { .. } => {
                !config.engine.devices.disabled
            }
            other => config.entitlements.contains(other),
        };
        if is_allowed {
            return Ok(entitlement);
        }
        Err(Status::unknown(format!(
            "granting entitlement {name} is not allowed by build daemon configuration"
        )))
    });
    read.collect()
}

/// The frontend's name. `gateway.v0` with `dockerfile.v0` as its image is the daemon's own.
fn frontend(request: &mut SolveRequest) -> String {
    let attrs = &mut request.frontend_attrs;
    let own_context = attrs
        .keys()
        .any(|key| key == "context:dockerfile.v0" || key.starts_with("context:dockerfile.v0::"));
    let own = attrs
        .get("source")
        .is_some_and(|source| source == "dockerfile.v0");
    if request.frontend == "gateway.v0" && own && !own_context {
        attrs.remove("source");
        request.frontend = "dockerfile.v0".to_owned();
    }
    request.frontend.clone()
}

/// A time that names a source is the frontend's to find out, which tells it with its result.
fn exporters(request: &mut SolveRequest) -> Vec<Exporter> {
    let mut exporters = std::mem::take(&mut request.exporters);
    if exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        exporters.push(Exporter {
            kind: std::mem::take(&mut request.exporter_deprecated),
            attrs: std::mem::take(&mut request.exporter_attrs_deprecated),
        });
    }
    if let Some(epoch) = request
        .frontend_attrs
        .get(EPOCH_ARG)
        .filter(|epoch| epoch.parse::<i64>().is_ok())
    {
        for exporter in &mut exporters {
            let attr = exporter.attrs.entry(EPOCH_ATTR.to_owned());
            attr.or_insert_with(|| epoch.clone());
        }
    }
    exporters
}

fn work(request: &mut SolveRequest) -> Work {
    let inputs = std::mem::take(&mut request.frontend_inputs);
    match (request.frontend.as_str(), request.definition.take()) {
        ("", Some(definition)) => Work::Solve(SolveInput::Definition(definition)),
        ("", None) => Work::Client(inputs),
        (name, _) => Work::Solve(SolveInput::Frontend {
            name: name.to_owned(),
            opts: request.frontend_attrs.clone(),
            inputs,
        }),
    }
}

/// The caches to write, in the old form too. They are checked before anything is built.
fn cache_exports(cache: &mut CacheOptions) -> Result<Vec<CacheExport>, Status> {
    let mut exports: Vec<_> = std::mem::take(&mut cache.exports)
        .into_iter()
        .map(|entry| CacheExport {
            kind: entry.kind,
            attrs: entry.attrs,
        })
        .collect();
    if !cache.export_ref_deprecated.is_empty() {
        let mut attrs = std::mem::take(&mut cache.export_attrs_deprecated);
        let reference = std::mem::take(&mut cache.export_ref_deprecated);
        attrs.insert("ref".to_owned(), reference);
        exports.push(CacheExport {
            kind: "registry".to_owned(),
            attrs,
        });
    }
    for export in &exports {
        CacheExportOptions::check(&export.kind, &export.attrs)
            .map_err(|error| request_error(error.to_string()))?;
    }
    Ok(exports)
}

fn cache_imports(cache: CacheOptions) -> Vec<CacheImport> {
    let old = cache
        .import_refs_deprecated
        .into_iter()
        .map(|reference| CacheOptionsEntry {
            kind: "registry".to_owned(),
            attrs: [("ref".to_owned(), reference)].into(),
        });
    let entries = cache.imports.into_iter().chain(old);
    let import = |entry: CacheOptionsEntry| CacheImport {
        kind: entry.kind,
        attrs: entry.attrs,
    };
    entries.map(import).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(request: SolveRequest) -> Result<Plan, Status> {
        let mut config = DaemonConfig::new("/nowhere");
        config.entitlements = vec![Entitlement::NetworkHost];
        Plan::read(request, &config)
    }

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn entitlements_need_both() {
        let ask = |name: &str| SolveRequest {
            entitlements: vec![name.to_owned()],
            ..SolveRequest::default()
        };
        let granted = plan(ask("network.host")).unwrap();
        assert_eq!(granted.entitlements, [Entitlement::NetworkHost]);
        let refused = plan(ask("security.insecure")).err().unwrap();
        assert!(
            refused
                .message()
                .contains("not allowed by build daemon configuration")
        );
        assert!(plan(ask("root")).is_err());
    }

    #[test]
    fn old_forms_mean_the_new_ones() {
        let read = plan(SolveRequest {
            frontend: "gateway.v0".to_owned(),
            frontend_attrs: attrs(&[("source", "dockerfile.v0"), (EPOCH_ARG, "7")]),
            exporter_deprecated: "image".to_owned(),
            exporter_attrs_deprecated: attrs(&[("name", "a")]),
            cache: Some(CacheOptions {
                import_refs_deprecated: vec!["r".to_owned()],
                ..CacheOptions::default()
            }),
            ..SolveRequest::default()
        })
        .unwrap();
        assert_eq!(read.frontend, "dockerfile.v0");
        assert!(!read.frontend_attrs.contains_key("source"));
        assert_eq!(
            read.exporters[0].attrs,
            attrs(&[("name", "a"), (EPOCH_ATTR, "7")])
        );
        assert_eq!(read.cache_imports[0].attrs, attrs(&[("ref", "r")]));
    }

    #[test]
    fn caches_to_write_are_checked_at_once() {
        let export = |kind: &str, pairs| SolveRequest {
            cache: Some(CacheOptions {
                exports: vec![CacheOptionsEntry {
                    kind: kind.to_owned(),
                    attrs: attrs(pairs),
                }],
                ..CacheOptions::default()
            }),
            ..SolveRequest::default()
        };
        assert_eq!(plan(export("inline", &[])).unwrap().cache_exports.len(), 1);
        let refused = plan(export("local", &[])).err().unwrap();
        assert!(refused.message().contains("requires dest"), "{refused}");
        let old = SolveRequest {
            cache: Some(CacheOptions {
                export_ref_deprecated: "r".to_owned(),
                export_attrs_deprecated: attrs(&[("mode", "max")]),
                ..CacheOptions::default()
            }),
            ..SolveRequest::default()
        };
        let export = &plan(old).unwrap().cache_exports[0];
        assert_eq!(export.attrs, attrs(&[("mode", "max"), ("ref", "r")]));
    }

    #[test]
    fn attestations_are_read_or_refused() {
        let ask = |key: &str, value: &str| SolveRequest {
            frontend_attrs: attrs(&[(key, value)]),
            ..SolveRequest::default()
        };
        for value in ["false", "disabled=true"] {
            let read = plan(ask("attest:provenance", value)).unwrap();
            assert_eq!(read.attest.provenance, None, "{value}");
        }
        let read = plan(ask("attest:provenance", "mode=min,inline-only=true")).unwrap();
        assert!(read.attest.provenance.unwrap().inline_only);
        assert!(plan(ask("attest:provenance", "mode=most")).is_err());
        assert!(plan(ask("attest:signature", "")).is_err());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let request = SolveRequest {
            proxy_network: true,
            ..SolveRequest::default()
        };
        let status = plan(request).err().unwrap();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
    }
}
