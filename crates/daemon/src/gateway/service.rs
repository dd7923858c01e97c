//! The calls of one frontend.

use std::collections::BTreeMap;

use bytes::Bytes;
use tonic::Status;
use weld_digest::Digest;
use weld_engine::{
    Bridge, BuildError, CacheImport, FileError, FrontendResult, ImageConfigRequest, Refs,
    SolveInput, SolveRequest, SourcePolicies,
};
use weld_proto::frontend as wire;
use weld_proto::pb;
use weld_proto::sourcepolicy::Policy;
use weld_proto::types::WorkerRecord;

use super::session::Session;
use super::{caps, convert, source_meta};

/// The resolver that is an OCI layout of the client's.
const LAYOUT_RESOLVER: i32 = 1;

/// The longest text of a warning, in bytes.
const MAX_WARNING: usize = 1 << 20;
/// The largest file that a warning may be about, in bytes.
const MAX_WARNING_FILE: usize = 2 << 20;
/// How many ranges of it a warning may have; further ones are left out.
const MAX_WARNING_RANGES: usize = 100;

impl Session {
    /// The way to the build, with what the request wants to be kept to.
    fn bridge_under(&self, policies: Vec<Policy>) -> Result<Bridge, Status> {
        let policies = SourcePolicies::new(policies)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(self.bridge().with_policies(&policies))
    }

    pub(super) async fn resolve_image_config(
        &self,
        request: wire::ResolveImageConfigRequest,
    ) -> Result<wire::ResolveImageConfigResponse, Status> {
        let bridge = self.bridge_under(request.source_policies)?;
        let layout = request.resolver_type == LAYOUT_RESOLVER;
        let asked = ImageConfigRequest {
            reference: request.r#ref,
            platform: convert::platform(request.platform),
            layout: layout.then_some(request.store_id),
            log_name: request.log_name,
        };
        let resolved = bridge.resolve_image_config(asked).await;
        let resolved = resolved.map_err(|error| self.error(&error))?;
        Ok(wire::ResolveImageConfigResponse {
            digest: resolved.digest.to_string(),
            config: resolved.config,
            r#ref: resolved.reference,
        })
    }

    pub(super) async fn resolve_source_meta(
        &self,
        mut request: wire::ResolveSourceMetaRequest,
    ) -> Result<wire::ResolveSourceMetaResponse, Status> {
        let bridge = self.bridge_under(std::mem::take(&mut request.source_policies))?;
        let asked = source_meta::request(request)?;
        let resolved = bridge.resolve_source_metadata(asked).await;
        let resolved = resolved.map_err(|error| self.error(&error))?;
        Ok(source_meta::response(resolved.source, resolved.meta))
    }

    pub(super) async fn solve(
        &self,
        request: wire::SolveRequest,
    ) -> Result<wire::SolveResponse, Status> {
        let bridge = self.bridge_under(request.source_policies)?;
        let definition = request
            .definition
            .filter(|definition| !definition.def.is_empty());
        let input = match (definition, request.frontend.as_str()) {
            (Some(_), name) if !name.is_empty() => {
                let text = "cannot solve with both Definition and Frontend specified";
                return Err(Status::invalid_argument(text));
            }
            (Some(definition), _) => SolveInput::Definition(definition),
            (None, "") => SolveInput::Nothing,
            (None, _) => SolveInput::Frontend {
                name: request.frontend,
                opts: request.frontend_opt,
                inputs: request.frontend_inputs,
            },
        };
        let cache_imports = request.cache_imports.into_iter();
        let asked = SolveRequest {
            input,
            evaluate: request.evaluate,
            no_cache: false,
            cache_imports: cache_imports
                .map(|import| CacheImport {
                    kind: import.r#type,
                    attrs: import.attrs,
                })
                .collect(),
        };
        let solved = bridge.solve(asked).await;
        let result = solved.map_err(|error| self.solve_error(&error))?;
        if matches!(result.refs, Refs::Map(_)) && !request.allow_result_return {
            return Err(Status::unknown("solve did not return default result"));
        }
        let (wire_result, default) =
            self.result_to_wire(&result, request.allow_result_array_ref)?;
        if request.r#final {
            self.finish_with(with_attrs(result, &request.exporter_attr)?)?;
        }
        Ok(wire::SolveResponse {
            r#ref: match request.allow_result_return {
                true => String::new(),
                false => default,
            },
            result: Some(wire_result),
        })
    }

    pub(super) async fn read_file(
        &self,
        request: wire::ReadFileRequest,
    ) -> Result<wire::ReadFileResponse, Status> {
        let range = request.range.map(convert::range);
        let reference = self.get(&request.r#ref)?;
        let read = reference.read_file(&request.file_path, range).await;
        let data = read.map_err(|error| self.file_error(&error))?;
        Ok(wire::ReadFileResponse { data })
    }

    pub(super) async fn read_dir(
        &self,
        request: wire::ReadDirRequest,
    ) -> Result<wire::ReadDirResponse, Status> {
        let include = Some(request.include_pattern.as_str()).filter(|pattern| !pattern.is_empty());
        let reference = self.get(&request.r#ref)?;
        let read = reference.read_dir(&request.dir_path, include).await;
        let entries = read.map_err(|error| self.file_error(&error))?;
        Ok(wire::ReadDirResponse {
            entries: entries.into_iter().map(convert::stat).collect(),
        })
    }

    pub(super) async fn stat_file(
        &self,
        request: wire::StatFileRequest,
    ) -> Result<wire::StatFileResponse, Status> {
        let reference = self.get(&request.r#ref)?;
        let stat = reference.stat_file(&request.path).await;
        let stat = stat.map_err(|error| self.file_error(&error))?;
        Ok(wire::StatFileResponse {
            stat: Some(convert::stat(stat)),
        })
    }

    fn file_error(&self, error: &BuildError) -> Status {
        match error {
            BuildError::File(error) => file_status(error),
            error => self.solve_error(error),
        }
    }

    pub(super) async fn evaluate(
        &self,
        request: wire::EvaluateRequest,
    ) -> Result<wire::EvaluateResponse, Status> {
        let reference = self.get(&request.r#ref)?;
        let evaluated = reference.evaluate().await;
        evaluated.map_err(|error| self.solve_error(&error))?;
        Ok(wire::EvaluateResponse {})
    }

    pub(super) fn pong(&self) -> wire::PongResponse {
        let platform = self.bridge().platform().clone();
        wire::PongResponse {
            frontend_api_caps: caps::frontend(),
            llb_caps: caps::llb(),
            workers: vec![WorkerRecord {
                id: "weld".to_owned(),
                platforms: vec![platform.into()],
                ..WorkerRecord::default()
            }],
        }
    }

    pub(super) fn warning(&self, request: wire::WarnRequest) -> Result<wire::WarnResponse, Status> {
        let vertex = match request.digest.as_str() {
            // About no step; that of nothing is of none either.
            "" => Digest::sha256_of(""),
            digest => digest.parse().map_err(|error| {
                Status::invalid_argument(format!("digest of a warning's vertex: {error}"))
            })?,
        };
        let file = request.info.as_ref().map_or(0, |info| info.data.len());
        let size = request.short.len() + request.detail.iter().map(Bytes::len).sum::<usize>();
        if size > MAX_WARNING || file > MAX_WARNING_FILE {
            return Err(Status::invalid_argument("a warning is too long"));
        }
        let level = u32::try_from(request.level).unwrap_or(0).max(1);
        let line = request.ranges.first().and_then(|range| range.start);
        let location = match (&request.info, line) {
            (Some(info), Some(line)) => format!("{}:{}", info.filename, line.line),
            (Some(info), None) => info.filename.clone(),
            (None, _) => String::new(),
        };
        let position = |position: Option<pb::Position>| weld_progress::Position {
            line: position.map_or(0, |position| position.line),
            character: position.map_or(0, |position| position.character),
        };
        let ranges = request.ranges.iter().take(MAX_WARNING_RANGES);
        self.bridge().warn(weld_progress::Warning {
            level,
            detail: request.detail.iter().map(|line| line.to_vec()).collect(),
            url: request.url,
            location,
            source: request.info.map(|info| weld_progress::SourceInfo {
                filename: info.filename,
                data: info.data.to_vec(),
                language: info.language,
            }),
            ranges: ranges
                .map(|range| weld_progress::Range {
                    start: position(range.start),
                    end: position(range.end),
                })
                .collect(),
            ..weld_progress::Warning::new(vertex, request.short)
        });
        Ok(wire::WarnResponse {})
    }
}

/// An error that says which file and why.
pub(super) fn file_status(error: &FileError) -> Status {
    Status::unknown(error.to_string())
}

/// A result with the metadata that old clients send beside it, as JSON of base 64.
fn with_attrs(mut result: FrontendResult, attrs: &[u8]) -> Result<FrontendResult, Status> {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    if attrs.is_empty() {
        return Ok(result);
    }
    let malformed =
        |reason: String| Status::invalid_argument(format!("exporter attributes: {reason}"));
    let attrs: Option<BTreeMap<String, String>> =
        serde_json::from_slice(attrs).map_err(|error| malformed(error.to_string()))?;
    for (key, value) in attrs.unwrap_or_default() {
        let value = BASE64_STANDARD.decode(value);
        let value = value.map_err(|error| malformed(error.to_string()))?;
        result.metadata.entry(key).or_insert_with(|| value.into());
    }
    Ok(result)
}
