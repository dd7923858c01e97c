//! Package URLs of images, by which statements and lists name them.

use std::fmt::Write as _;

use crate::Platform;
use crate::reference::Reference;

/// The type of images in registries.
pub const DOCKER: &str = "docker";
/// The type of images in OCI layouts.
pub const OCI: &str = "oci";

/// The package URL of an image, maybe for a platform, with further qualifiers.
pub fn of_image(
    kind: &str,
    reference: &Reference,
    platform: Option<&Platform>,
    qualifiers: &[(&str, &str)],
) -> String {
    let reference = reference.clone().with_default_tag();
    let familiar = reference.repository().familiar();
    let mut url = format!("pkg:{kind}/");
    let parts: Vec<_> = familiar.split('/').map(|part| escape(part, b"")).collect();
    url.push_str(&parts.join("/"));
    if let Some(tag) = reference.tag() {
        url.push('@');
        url.push_str(&escape(tag, b"$&+=:@"));
    }
    let digest = reference.digest().map(ToString::to_string);
    let platform = platform.map(|platform| platform.clone().normalize().to_string());
    let own = [("digest", digest), ("platform", platform)];
    let own = own
        .iter()
        .filter_map(|(key, value)| Some((*key, value.as_deref()?)));
    let mut separator = '?';
    for (key, value) in own.chain(qualifiers.iter().copied()) {
        url.push(separator);
        url.push_str(key);
        url.push('=');
        url.push_str(&escape(value, b"$&+=:@"));
        separator = '&';
    }
    url
}

/// Percent-encodes all but letters, digits, `-_.~` and what else is `safe`.
fn escape(text: &str, safe: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || safe.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // A text has room for more.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_name_images_as_docker_does() {
        let amd64 = Platform::new("linux", "amd64", "");
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (reference, platform, expected) in [
            ("busybox", None, "pkg:docker/busybox@latest".to_owned()),
            (
                "docker.io/library/busybox:1",
                Some(&amd64),
                "pkg:docker/busybox@1?platform=linux%2Famd64".to_owned(),
            ),
            (
                "localhost:5000/a/b:v1",
                None,
                "pkg:docker/localhost%3A5000/a/b@v1".to_owned(),
            ),
            (
                &format!("ghcr.io/a/b@{digest}"),
                Some(&amd64),
                format!("pkg:docker/ghcr.io/a/b?digest={digest}&platform=linux%2Famd64"),
            ),
        ] {
            let reference = reference.parse().unwrap();
            assert_eq!(of_image(DOCKER, &reference, platform, &[]), expected);
        }
        let blob = format!("ghcr.io/a/b@{digest}").parse().unwrap();
        assert_eq!(
            of_image(OCI, &blob, None, &[("ref_type", "blob")]),
            format!("pkg:oci/ghcr.io/a/b?digest={digest}&ref_type=blob")
        );
    }
}
