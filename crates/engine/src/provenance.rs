//! How results were made (SLSA provenance): of what, by whose request, in which steps.
//!
//! A [`Scope`] notes what each frontend of a build asks for. When a result is exported, the solver is
//! asked for what it was made of: what a user named comes from the job's own vertices, what that
//! turned out to be from its operations ([`Capture`]). A [`Predicate`] is both, as documents of SLSA
//! have it.

mod capture;
mod inputs;
mod predicate;
mod request;
mod scope;
mod steps;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;
use weld_export::{Attestation, AttestationContent, AttestationKind};

use crate::error::BuildError;
use crate::job::JobCore;
use crate::metadata::Place;
use crate::reference::Ref;
use crate::result::FrontendResult;

pub(crate) use capture::ImageMaterial;
pub(crate) use inputs::Producers;
pub use request::Asked;
pub(crate) use scope::Scope;

use capture::Capture;
use predicate::Predicate;
use steps::StepLayers;

/// How much provenance says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Materials and the request, without build arguments, secrets' names and steps.
    Min,
    /// All: every step, the Dockerfile, each step's layers.
    #[default]
    Max,
}

/// The version of SLSA's documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlsaVersion {
    /// 1.0.
    #[default]
    V1,
    /// 0.2.
    V02,
}

impl SlsaVersion {
    /// The version of predicates of this type.
    pub fn of_predicate_type(name: &str) -> Option<Self> {
        [Self::V1, Self::V02]
            .into_iter()
            .find(|version| version.predicate_type() == name)
    }

    /// The type of such a predicate.
    pub const fn predicate_type(self) -> &'static str {
        match self {
            Self::V1 => "https://slsa.dev/provenance/v1",
            Self::V02 => "https://slsa.dev/provenance/v0.2",
        }
    }
}

/// Which provenance is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenanceOptions {
    /// How much it says.
    pub mode: Mode,
    /// Of which version it is.
    pub version: SlsaVersion,
    /// Whether it goes only where it costs no more than it is worth: into images that stay with the
    /// builder or are pushed, and not among exported files.
    pub inline_only: bool,
    /// What its file is called.
    pub filename: String,
    /// What it says of who built.
    pub builder_id: String,
    /// That the user says that the build is reproducible.
    pub reproducible: bool,
    /// Fail if something was used of which nobody can say what it was.
    pub complete_materials: bool,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            version: SlsaVersion::default(),
            inline_only: false,
            filename: "provenance.json".to_owned(),
            builder_id: String::new(),
            reproducible: false,
            complete_materials: false,
        }
    }
}

/// What provenance says of the build as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Occasion {
    /// Tells builds apart.
    pub(crate) invocation: String,
    pub(crate) started: OffsetDateTime,
    /// What the operator wants to be said of this builder.
    pub(crate) environment: Arc<BTreeMap<String, Value>>,
}

/// The provenance of one file system of a result.
struct Provenance {
    job: Arc<JobCore>,
    capture: Capture,
    reference: Ref,
    options: ProvenanceOptions,
}

impl Provenance {
    async fn make(&self) -> Result<Bytes, BuildError> {
        let layers = match self.options.mode {
            Mode::Min => StepLayers::default(),
            Mode::Max => StepLayers::of(&self.job, &self.reference).await?,
        };
        let predicate = Predicate {
            capture: &self.capture,
            options: &self.options,
            occasion: &self.job.occasion,
            platform: &self.job.worker.platform,
            definition: self.reference.to_definition(),
            layers,
            finished: OffsetDateTime::now_utc(),
        };
        Ok(predicate.encode()?.into())
    }
}

#[async_trait]
impl weld_export::Predicate for Provenance {
    async fn content(&self) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        Ok(self.make().await?)
    }
}

/// What was captured of a result's file systems, by their names.
pub(crate) struct Captures(BTreeMap<String, (Capture, Ref)>);

impl Captures {
    /// Looks at how each file system of a result was made; all have to be built.
    pub(crate) async fn of(
        scope: &Arc<Scope>,
        result: &FrontendResult,
        named: &[(String, Ref)],
        platforms: &[Place],
    ) -> Result<Self, BuildError> {
        let mut captures = BTreeMap::new();
        for (name, reference) in named {
            let within = scope.find(reference).unwrap_or_else(|| Arc::clone(scope));
            let capture = within.capture(reference, name, result, platforms).await?;
            captures.insert(name.clone(), (capture, reference.clone()));
        }
        Ok(Self(captures))
    }

    /// The provenance of the file system of that name.
    pub(crate) fn attestation(
        &self,
        job: &Arc<JobCore>,
        name: &str,
        options: &ProvenanceOptions,
    ) -> Result<Option<Attestation>, BuildError> {
        let Some((capture, reference)) = self.0.get(name) else {
            return Ok(None);
        };
        if options.complete_materials && capture.is_incomplete() {
            return Err(BuildError::IncompleteMaterials {
                locals: capture.locals().to_vec(),
            });
        }
        Ok(Some(Attestation {
            kind: AttestationKind::InToto,
            predicate_type: options.version.predicate_type().to_owned(),
            path: options.filename.clone(),
            subjects: Vec::new(),
            content: AttestationContent::Predicate(Arc::new(Provenance {
                job: Arc::clone(job),
                capture: capture.clone(),
                reference: reference.clone(),
                options: options.clone(),
            })),
            inline_only: options.inline_only,
            sbom_core: None,
        }))
    }

    /// The provenance of every file system, as documents.
    pub(crate) async fn documents(
        self,
        job: &Arc<JobCore>,
        options: &ProvenanceOptions,
    ) -> Result<Vec<(String, Bytes)>, BuildError> {
        let mut documents = Vec::with_capacity(self.0.len());
        for (name, (capture, reference)) in self.0 {
            let provenance = Provenance {
                job: Arc::clone(job),
                capture,
                reference,
                options: options.clone(),
            };
            documents.push((name, provenance.make().await?));
        }
        Ok(documents)
    }
}
