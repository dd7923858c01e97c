//! What the service can do.

use weld_proto::apicaps::ApiCap;
use weld_proto::frontend::caps;

/// What the service has of what clients may ask for.
const HAS: [&str; 26] = [
    caps::SOLVE_BASE,
    caps::SOLVE_INLINE_RETURN,
    caps::RESOLVE_IMAGE,
    caps::RESOLVE_IMAGE_RESOLVE_MODE,
    caps::IMPORT_CACHES,
    caps::READ_FILE,
    caps::RETURN_RESULT,
    caps::RETURN_MAP,
    caps::READ_DIR,
    caps::STAT_FILE,
    caps::PROTO_REF_ARRAY,
    caps::REFERENCE_OUTPUT,
    caps::FRONTEND_INPUTS,
    caps::GATEWAY_SOLVE_METADATA,
    caps::GATEWAY_EXEC,
    caps::GATEWAY_EXEC_EXTRA_HOSTS,
    caps::GATEWAY_EXEC_SECRET_ENV,
    caps::GATEWAY_EXEC_SIGNALS,
    caps::GATEWAY_EXEC_FILESYSTEM,
    caps::FRONTEND_CAPS,
    caps::GATEWAY_EVALUATE_SOLVE,
    caps::GATEWAY_EVALUATE,
    caps::GATEWAY_WARNINGS,
    caps::ATTESTATIONS,
    caps::SOURCE_META_RESOLVER,
    caps::SOURCE_META_RESOLVER_IMAGE_ATTESTATIONS,
];

fn cap(id: &str) -> ApiCap {
    ApiCap {
        id: id.to_owned(),
        enabled: true,
        deprecated: id == caps::SOLVE_INLINE_RETURN,
        ..ApiCap::default()
    }
}

/// The capabilities of the service.
pub(super) fn frontend() -> Vec<ApiCap> {
    HAS.iter().map(|id| cap(id)).collect()
}

/// The capabilities of definitions.
pub(super) fn llb() -> Vec<ApiCap> {
    let has = weld_engine::llb_caps().filter(|(_, has)| *has);
    has.map(|(id, _)| cap(id)).collect()
}
