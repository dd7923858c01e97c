//! What the service that frontends work through may be able to do (`frontend/gateway/pb/caps.go`).

/// `solve.base`.
pub const SOLVE_BASE: &str = "solve.base";
/// `solve.inlinereturn`.
pub const SOLVE_INLINE_RETURN: &str = "solve.inlinereturn";
/// `resolveimage`.
pub const RESOLVE_IMAGE: &str = "resolveimage";
/// `resolveimage.resolvemode`.
pub const RESOLVE_IMAGE_RESOLVE_MODE: &str = "resolveimage.resolvemode";
/// `readfile`.
pub const READ_FILE: &str = "readfile";
/// `return`.
pub const RETURN_RESULT: &str = "return";
/// `returnmap`.
pub const RETURN_MAP: &str = "returnmap";
/// `readdir`.
pub const READ_DIR: &str = "readdir";
/// `statfile`.
pub const STAT_FILE: &str = "statfile";
/// `importcaches`.
pub const IMPORT_CACHES: &str = "importcaches";
/// `proto.refarray`.
pub const PROTO_REF_ARRAY: &str = "proto.refarray";
/// `reference.output`.
pub const REFERENCE_OUTPUT: &str = "reference.output";
/// `frontend.inputs`.
pub const FRONTEND_INPUTS: &str = "frontend.inputs";
/// `gateway.solve.metadata`.
pub const GATEWAY_SOLVE_METADATA: &str = "gateway.solve.metadata";
/// `gateway.exec`.
pub const GATEWAY_EXEC: &str = "gateway.exec";
/// `gateway.exec.extrahosts`.
pub const GATEWAY_EXEC_EXTRA_HOSTS: &str = "gateway.exec.extrahosts";
/// `gateway.exec.secretenv`.
pub const GATEWAY_EXEC_SECRET_ENV: &str = "gateway.exec.secretenv";
/// `gateway.exec.signals`.
pub const GATEWAY_EXEC_SIGNALS: &str = "gateway.exec.signals";
/// `gateway.exec.filesystem`.
pub const GATEWAY_EXEC_FILESYSTEM: &str = "gateway.exec.filesystem";
/// `frontend.caps`.
pub const FRONTEND_CAPS: &str = "frontend.caps";
/// `gateway.solve.evaluate`.
pub const GATEWAY_EVALUATE_SOLVE: &str = "gateway.solve.evaluate";
/// `gateway.evaluate`.
pub const GATEWAY_EVALUATE: &str = "gateway.evaluate";
/// `gateway.warnings`.
pub const GATEWAY_WARNINGS: &str = "gateway.warnings";
/// `reference.attestations`.
pub const ATTESTATIONS: &str = "reference.attestations";
/// `source.metaresolver`.
pub const SOURCE_META_RESOLVER: &str = "source.metaresolver";
/// `source.metaresolver.image.attestations`.
pub const SOURCE_META_RESOLVER_IMAGE_ATTESTATIONS: &str = "source.metaresolver.image.attestations";
/// `source.metaresolver.http.checksumrequest`.
pub const SOURCE_META_RESOLVER_HTTP_CHECKSUM_REQUEST: &str =
    "source.metaresolver.http.checksumrequest";
