//! What a file system was made of, as the solver and the operations know it.

use std::collections::BTreeMap;

use serde::Serialize;
use weld_digest::Digest;
use weld_llb::reference::Reference;
use weld_llb::without_credentials;
use weld_llb::{ExecOp, GitSource, MountKind, NetMode, Op, Platform, Source, Vertex};
use weld_op::{Pin, captured};

use super::request::Request;
use crate::error::BuildError;
use crate::metadata::Place;
use crate::reference::Ref;

/// An image that something was made of, or whose config was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageMaterial {
    pub(crate) reference: String,
    pub(crate) platform: Option<Platform>,
    pub(crate) digest: Option<Digest>,
    /// Whether it is of an OCI layout of the client's.
    pub(crate) is_local: bool,
}

/// A blob that something was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlobMaterial {
    pub(super) reference: String,
    pub(super) digest: Option<Digest>,
    pub(super) is_local: bool,
    /// The repository whose commits it has, if it is a git bundle.
    pub(super) bundle_of: Option<String>,
}

/// Digests of one thing, by their algorithms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct DigestSet(BTreeMap<&'static str, String>);

impl DigestSet {
    pub(super) fn of(digest: &Digest) -> Self {
        Self([(digest.algorithm().name(), digest.hex())].into())
    }

    /// Git names commits by either of two algorithms, which differ in length.
    pub(super) fn of_commit(commit: &str) -> Self {
        let algorithm = match commit.len() {
            64 => "sha256",
            _ => "sha1",
        };
        Self([(algorithm, commit.to_owned())].into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What comes from outside. URLs have no credentials in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub(super) images: Vec<ImageMaterial>,
    pub(super) blobs: Vec<BlobMaterial>,
    /// Commits by the URL with the reference.
    pub(super) git: BTreeMap<String, String>,
    /// Files by their URLs.
    pub(super) http: BTreeMap<String, Digest>,
    /// Names of the client's directories, sorted.
    pub(super) locals: Vec<String>,
}

/// What a file system was made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Capture {
    pub(super) request: Request,
    /// What the client asked for, if that is something else.
    pub(super) root: Option<Request>,
    pub(super) sources: Sources,
    /// Secrets by their names, and whether each is optional. What they hold is nowhere here.
    pub(super) secrets: BTreeMap<String, bool>,
    /// SSH agents likewise.
    pub(super) agents: BTreeMap<String, bool>,
    /// Whether any step could reach a network.
    pub(super) network: bool,
    /// Something was used of which nobody can say what it was.
    unknown: bool,
}

impl Capture {
    /// What a file system that is built was made of.
    pub(super) async fn of(reference: &Ref) -> Result<Self, BuildError> {
        let mut capture = Self::default();
        for walked in reference.provenance().await? {
            let Some(own) = captured(&*walked.op) else {
                continue;
            };
            // What the user named is of the own operation, and so is what that was found to stand
            // for; one that was never asked stands for what the one that ran in its place does.
            let pin = own
                .pin
                .or_else(|| captured(&*walked.ran).and_then(|ran| ran.pin));
            // What a build inside of it was made of, nobody knows where its result was found.
            capture.unknown |=
                matches!(own.vertex.op(), Op::Build(_)) && walked.sub_builds.is_empty();
            capture.add_vertex(own.vertex, pin);
        }
        Ok(capture)
    }

    fn add_vertex(&mut self, vertex: &Vertex, pin: Option<Pin>) {
        match vertex.op() {
            Op::Source(source) => self.add_source(source, vertex.platform(), pin),
            Op::Exec(exec) => self.add_exec(exec),
            _ => {}
        }
    }

    fn add_exec(&mut self, exec: &ExecOp) {
        self.network |= exec.network != NetMode::None;
        for mount in &exec.mounts {
            match &mount.kind {
                MountKind::Secret(secret) => grant(&mut self.secrets, &secret.id, secret.optional),
                MountKind::Ssh(ssh) => self.add_agent(&ssh.id, ssh.optional),
                _ => {}
            }
        }
        for secret in &exec.secret_env {
            grant(&mut self.secrets, &secret.id, secret.optional);
        }
    }

    fn add_agent(&mut self, id: &str, optional: bool) {
        let id = if id.is_empty() { "default" } else { id };
        grant(&mut self.agents, id, optional);
    }

    fn add_source(&mut self, source: &Source, platform: Option<&Platform>, pin: Option<Pin>) {
        let digest = match &pin {
            Some(Pin::Digest(digest)) => Some(digest.clone()),
            _ => None,
        };
        let image = |reference: &str, is_local| ImageMaterial {
            digest: digest.clone().or_else(|| digest_in(reference)),
            reference: reference.to_owned(),
            platform: platform.cloned(),
            is_local,
        };
        let blob = |reference: &str, is_local| BlobMaterial {
            digest: digest_in(reference),
            reference: reference.to_owned(),
            is_local,
            bundle_of: None,
        };
        match source {
            Source::Image(source) => self.add_image(image(&source.reference, false)),
            Source::OciLayout(source) => self.add_image(image(&source.reference, true)),
            Source::ImageBlob(source) => self.add_blob(blob(&source.reference, false)),
            Source::OciLayoutBlob(source) => self.add_blob(blob(&source.reference, true)),
            Source::Local(local) => self.add_local(&local.name),
            Source::Git(git) => self.add_git(git, pin),
            Source::Http(http) => match digest {
                Some(digest) => {
                    let url = without_credentials(&http.url);
                    self.sources.http.entry(url).or_insert(digest);
                }
                None => self.unknown = true,
            },
        }
    }

    fn add_git(&mut self, git: &GitSource, pin: Option<Pin>) {
        let url = match git.reference.as_str() {
            "" => git.remote(),
            reference => format!("{}#{reference}", git.remote()),
        };
        match pin {
            Some(Pin::Commit(commit)) => {
                let entry = self.sources.git.entry(without_credentials(&url));
                entry.or_insert_with(|| commit.commit().to_owned());
            }
            _ => self.unknown = true,
        }
        if let Some(bundle) = &git.bundle {
            let (scheme, reference) = bundle.locator.split_once("://").unwrap_or_default();
            self.add_blob(BlobMaterial {
                digest: digest_in(reference),
                reference: reference.to_owned(),
                is_local: scheme == "oci-layout+blob",
                bundle_of: Some(without_credentials(&git.remote())),
            });
        }
        let secrets = [&git.auth_token_secret, &git.auth_header_secret];
        for secret in secrets.into_iter().flatten() {
            grant(&mut self.secrets, secret, true);
        }
        if let Some(agent) = &git.mount_ssh_sock {
            self.add_agent(agent, true);
        }
    }

    pub(super) fn add_image(&mut self, image: ImageMaterial) {
        let same = |known: &ImageMaterial| {
            known.reference == image.reference
                && known.is_local == image.is_local
                && match (&known.platform, &image.platform) {
                    (Some(one), Some(other)) => same_platform(one, other),
                    (None, None) => true,
                    _ => false,
                }
        };
        if !self.sources.images.iter().any(same) {
            self.sources.images.push(image);
        }
    }

    fn add_blob(&mut self, blob: BlobMaterial) {
        let same = |known: &BlobMaterial| {
            known.reference == blob.reference
                && known.is_local == blob.is_local
                && known.bundle_of == blob.bundle_of
        };
        if !self.sources.blobs.iter().any(same) {
            self.sources.blobs.push(blob);
        }
    }

    pub(super) fn add_local(&mut self, name: &str) {
        let locals = &mut self.sources.locals;
        if let Err(place) = locals.binary_search_by(|known| known.as_str().cmp(name)) {
            locals.insert(place, name.to_owned());
        }
    }

    /// Adds what another file system was made of, which this one came from.
    pub(super) fn merge(&mut self, other: Self) {
        for image in other.sources.images {
            self.add_image(image);
        }
        for blob in other.sources.blobs {
            self.add_blob(blob);
        }
        for local in &other.sources.locals {
            self.add_local(local);
        }
        for (url, commit) in other.sources.git {
            self.sources.git.entry(url).or_insert(commit);
        }
        for (url, digest) in other.sources.http {
            self.sources.http.entry(url).or_insert(digest);
        }
        for (id, optional) in other.secrets {
            grant(&mut self.secrets, &id, optional);
        }
        for (id, optional) in other.agents {
            grant(&mut self.agents, &id, optional);
        }
        self.network |= other.network;
        self.unknown |= other.unknown;
    }

    /// Puts images in order. One that is named by its digest goes where the same is there under the
    /// name that the user wrote.
    pub(super) fn complete(&mut self) {
        let images = &mut self.sources.images;
        let written: Vec<String> = images
            .iter()
            .filter_map(|image| {
                let reference: Reference = image.reference.parse().ok()?;
                reference.digest().is_none().then(|| tagged(&reference))
            })
            .collect();
        images.retain(|image| {
            let reference = image.reference.parse::<Reference>();
            !reference.is_ok_and(|reference| {
                reference.digest().is_some() && written.contains(&tagged(&reference))
            })
        });
        images.sort_by(|one, other| one.reference.cmp(&other.reference));
        self.sources
            .blobs
            .sort_by(|one, other| one.reference.cmp(&other.reference));
    }

    /// Whether something was used of which nobody can say what it was: a directory of the client's,
    /// or a source that was never asked.
    pub(super) fn is_incomplete(&self) -> bool {
        self.unknown || !self.sources.locals.is_empty()
    }

    pub(super) fn locals(&self) -> &[String] {
        &self.sources.locals
    }
}

/// Notes that something is used; it is optional if all who use it say so.
fn grant(granted: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
    let known = granted.entry(id.to_owned()).or_insert(optional);
    *known &= optional;
}

fn digest_in(reference: &str) -> Option<Digest> {
    reference.parse::<Reference>().ok()?.digest().cloned()
}

fn tagged(reference: &Reference) -> String {
    let tag = reference.tag().unwrap_or("latest");
    format!("{}:{tag}", reference.repository())
}

fn same_platform(one: &Platform, other: &Platform) -> bool {
    // Nobody tells images apart by features alone.
    let without = |platform: &Platform| Platform {
        os_features: Vec::new(),
        ..platform.clone().normalize()
    };
    without(one) == without(other)
}

/// The images that count for one platform's result: of those that were asked for on every platform
/// of the result, the ones for this platform.
pub(super) fn of_platform(
    images: Vec<ImageMaterial>,
    name: &str,
    platforms: &[Place],
) -> Vec<ImageMaterial> {
    let Some(own) = platforms.iter().find(|place| place.id == name) else {
        return images;
    };
    let is_for = |image: &ImageMaterial, platform: &Platform| {
        image.platform.as_ref().is_some_and(|of_image| {
            of_image.os == platform.os && of_image.architecture == platform.architecture
        })
    };
    let everywhere = |image: &ImageMaterial| {
        platforms.iter().all(|place| {
            let mut same = images
                .iter()
                .filter(|other| other.reference == image.reference);
            same.any(|other| is_for(other, &place.platform))
        })
    };
    let counts = |image: &&ImageMaterial| is_for(image, &own.platform) || !everywhere(image);
    images.iter().filter(counts).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str, architecture: &str) -> ImageMaterial {
        ImageMaterial {
            reference: reference.to_owned(),
            platform: Some(Platform::new("linux", architecture, "")),
            digest: Some(Digest::sha256_of(reference)),
            is_local: false,
        }
    }

    fn references(images: &[ImageMaterial]) -> Vec<&str> {
        images
            .iter()
            .map(|image| image.reference.as_str())
            .collect()
    }

    #[test]
    fn an_image_is_named_as_the_user_wrote_it() {
        let digest = Digest::sha256_of("a");
        let mut capture = Capture::default();
        capture.add_image(image("docker.io/library/b:2", "amd64"));
        capture.add_image(image(&format!("docker.io/library/a:1@{digest}"), "amd64"));
        capture.add_image(image("docker.io/library/a:1", "amd64"));
        capture.add_image(image("docker.io/library/a:1", "amd64"));
        capture.add_image(image(&format!("docker.io/library/c@{digest}"), "amd64"));
        capture.complete();
        assert_eq!(
            references(&capture.sources.images),
            [
                "docker.io/library/a:1",
                "docker.io/library/b:2",
                &format!("docker.io/library/c@{digest}"),
            ]
        );
    }

    #[test]
    fn a_platform_has_its_own_images_and_those_that_all_share() {
        let place = |id: &str, architecture: &str| Place {
            id: id.to_owned(),
            platform: Platform::new("linux", architecture, ""),
        };
        let platforms = [place("linux/amd64", "amd64"), place("linux/arm64", "arm64")];
        let images = vec![
            image("base", "amd64"),
            image("base", "arm64"),
            image("tool", "amd64"),
        ];
        let arm = of_platform(images.clone(), "linux/arm64", &platforms);
        assert_eq!(references(&arm), ["base", "tool"]);
        assert_eq!(arm[0].platform, Some(Platform::new("linux", "arm64", "")));
        assert_eq!(of_platform(images, "other", &platforms).len(), 3);
    }

    #[test]
    fn what_one_needs_is_not_optional() {
        let mut granted = BTreeMap::new();
        grant(&mut granted, "a", true);
        assert!(granted["a"]);
        grant(&mut granted, "a", false);
        grant(&mut granted, "a", true);
        assert!(!granted["a"]);
    }
}
