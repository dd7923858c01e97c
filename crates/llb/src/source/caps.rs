//! The capabilities that sources rely on.

use weld_proto::cap;

use super::*;

impl Source {
    /// The capabilities that the source needs.
    pub fn caps(&self) -> Vec<&'static str> {
        match self {
            Self::Image(image) => image.caps(),
            Self::OciLayout(_) => vec![cap::SOURCE_OCI_LAYOUT],
            Self::ImageBlob(_) | Self::OciLayoutBlob(_) => vec![cap::SOURCE_IMAGE_BLOB],
            Self::Local(local) => local.caps(),
            Self::Git(git) => git.caps(),
            Self::Http(http) => http.caps(),
        }
    }
}

impl ImageSource {
    fn caps(&self) -> Vec<&'static str> {
        let mut caps = vec![cap::SOURCE_IMAGE];
        if self.resolve_mode == Some(ResolveMode::ForcePull) {
            caps.push(cap::SOURCE_IMAGE_RESOLVE_MODE);
        }
        if self.layer_limit.is_some() {
            caps.push(cap::SOURCE_IMAGE_LAYER_LIMIT);
        }
        if self.checksum.is_some() {
            caps.push(cap::SOURCE_IMAGE_CHECKSUM);
        }
        caps
    }
}

impl LocalSource {
    fn caps(&self) -> Vec<&'static str> {
        [
            (self.session.is_some(), cap::SOURCE_LOCAL_SESSION_ID),
            (self.session.is_none(), cap::SOURCE_LOCAL_UNIQUE),
            (
                !self.include_patterns.is_empty(),
                cap::SOURCE_LOCAL_INCLUDE_PATTERNS,
            ),
            (
                !self.follow_paths.is_empty(),
                cap::SOURCE_LOCAL_FOLLOW_PATHS,
            ),
            (
                !self.exclude_patterns.is_empty(),
                cap::SOURCE_LOCAL_EXCLUDE_PATTERNS,
            ),
            (
                self.shared_key_hint.is_some(),
                cap::SOURCE_LOCAL_SHARED_KEY_HINT,
            ),
            (
                self.metadata_transfer.is_some(),
                cap::SOURCE_METADATA_TRANSFER,
            ),
            (true, cap::SOURCE_LOCAL),
        ]
        .into_iter()
        .filter_map(|(needed, cap)| needed.then_some(cap))
        .collect()
    }
}

impl GitSource {
    fn caps(&self) -> Vec<&'static str> {
        let default_secrets = self.auth_token_secret.as_deref() == Some("GIT_AUTH_TOKEN")
            && self.auth_header_secret.as_deref() == Some("GIT_AUTH_HEADER");
        let own_secrets = !default_secrets
            && (self.auth_token_secret.is_some() || self.auth_header_secret.is_some());
        [
            (self.keep_git_dir, cap::SOURCE_GIT_KEEP_DIR),
            (self.url.is_some(), cap::SOURCE_GIT_FULL_URL),
            (own_secrets, cap::SOURCE_GIT_HTTP_AUTH),
            (
                self.mount_ssh_sock.is_some(),
                cap::SOURCE_GIT_KNOWN_SSH_HOSTS,
            ),
            (
                self.mount_ssh_sock.is_some(),
                cap::SOURCE_GIT_MOUNT_SSH_SOCK,
            ),
            (self.checksum.is_some(), cap::SOURCE_GIT_CHECKSUM),
            (self.skip_submodules, cap::SOURCE_GIT_SKIP_SUBMODULES),
            (self.mtime.is_some(), cap::SOURCE_GIT_MTIME),
            (self.fetch_by_commit, cap::SOURCE_GIT_FETCH_BY_COMMIT),
            (self.bundle.is_some(), cap::SOURCE_GIT_BUNDLE),
            (self.checkout_bundle, cap::SOURCE_GIT_CHECKOUT_BUNDLE),
            (self.signature.is_some(), cap::SOURCE_GIT_SIGNATURE_VERIFY),
            (true, cap::SOURCE_GIT),
        ]
        .into_iter()
        .filter_map(|(needed, cap)| needed.then_some(cap))
        .collect()
    }
}

impl HttpSource {
    fn caps(&self) -> Vec<&'static str> {
        let owner = self.file.uid.unwrap_or(0) != 0 || self.file.gid.unwrap_or(0) != 0;
        let signature = self.signature_public_key.is_some() || self.signature.is_some();
        [
            (self.checksum.is_some(), cap::SOURCE_HTTP_CHECKSUM),
            (self.file.mode.is_some(), cap::SOURCE_HTTP_PERM),
            (owner, cap::SOURCE_HTTP_UID_GID),
            (self.auth_header_secret.is_some(), cap::SOURCE_HTTP_AUTH),
            (!self.headers.is_empty(), cap::SOURCE_HTTP_HEADER),
            (signature, cap::SOURCE_HTTP_SIGNATURE_VERIFY),
            (true, cap::SOURCE_HTTP),
        ]
        .into_iter()
        .filter_map(|(needed, cap)| needed.then_some(cap))
        .collect()
    }
}
