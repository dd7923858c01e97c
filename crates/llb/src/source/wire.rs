//! Sources to and from their identifier and attributes.

use std::collections::BTreeMap;
use std::str::FromStr;

use weld_proto::{attr, pb};

use super::*;

impl Source {
    /// The source that an operation names. Attributes that are not known are passed over.
    pub fn from_pb(op: &pb::SourceOp) -> Result<Self, SourceError> {
        let identifier = op.identifier.as_str();
        let (scheme, name) = identifier
            .split_once("://")
            .ok_or_else(|| SourceError::NoScheme(identifier.to_owned()))?;
        if name.is_empty() {
            return Err(SourceError::Empty(identifier.to_owned()));
        }
        let attrs = Attributes {
            identifier,
            attrs: &op.attrs,
        };
        match scheme {
            "docker-image" => attrs.image(name).map(Self::Image),
            "docker-image+blob" => attrs.blob(name).map(Self::ImageBlob),
            "oci-layout" => attrs.oci_layout(name).map(Self::OciLayout),
            "oci-layout+blob" => attrs.blob(name).map(Self::OciLayoutBlob),
            "local" => attrs.local(name).map(Self::Local),
            "git" => Ok(Self::Git(attrs.git(name))),
            "http" | "https" => attrs.http(identifier).map(Self::Http),
            scheme => Err(SourceError::UnknownScheme {
                identifier: identifier.to_owned(),
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// The operation that names the source.
    pub fn to_pb(&self) -> pb::SourceOp {
        let mut attrs = BTreeMap::new();
        match self {
            Self::Image(image) => image.write(&mut attrs),
            Self::OciLayout(image) => image.write(&mut attrs),
            Self::ImageBlob(blob) | Self::OciLayoutBlob(blob) => blob.write(&mut attrs),
            Self::Local(local) => local.write(&mut attrs),
            Self::Git(git) => git.write(&mut attrs),
            Self::Http(http) => http.write(&mut attrs),
        }
        pb::SourceOp {
            identifier: self.identifier(),
            attrs,
        }
    }
}

/// The attributes of one source, read with what to say of a malformed one.
struct Attributes<'a> {
    identifier: &'a str,
    attrs: &'a BTreeMap<String, String>,
}

impl Attributes<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.attrs
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    }

    fn flag(&self, name: &str) -> bool {
        self.attrs.get(name).is_some_and(|value| value == "true")
    }

    fn bad(&self, name: &str, value: &str, expected: &'static str) -> SourceError {
        SourceError::BadAttribute {
            identifier: self.identifier.to_owned(),
            name: name.to_owned(),
            value: value.to_owned(),
            expected,
        }
    }

    fn parsed<T: FromStr>(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<T>, SourceError> {
        self.text(name)
            .map(|value| value.parse().map_err(|_| self.bad(name, &value, expected)))
            .transpose()
    }

    /// A number of layers, of which an image has at least one.
    fn layer_limit(&self, name: &str) -> Result<Option<u64>, SourceError> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        let limit = value.parse().ok().filter(|limit| *limit > 0);
        let limit = limit.ok_or_else(|| SourceError::LayerLimit {
            identifier: self.identifier.to_owned(),
            value,
        })?;
        Ok(Some(limit))
    }

    fn list(&self, name: &str) -> Result<Vec<String>, SourceError> {
        let Some(value) = self.text(name) else {
            return Ok(Vec::new());
        };
        serde_json::from_str(&value).map_err(|_| self.bad(name, &value, "a JSON list of texts"))
    }

    fn mode(&self, name: &str) -> Result<Option<u32>, SourceError> {
        self.text(name)
            .map(|value| {
                u32::from_str_radix(&value, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| self.bad(name, &value, "octal permission bits"))
            })
            .transpose()
    }

    fn file(&self) -> Result<FileAttributes, SourceError> {
        Ok(FileAttributes {
            filename: self.text(attr::HTTP_FILENAME),
            mode: self.mode(attr::HTTP_PERM)?,
            uid: self.parsed(attr::HTTP_UID, "a user number")?,
            gid: self.parsed(attr::HTTP_GID, "a group number")?,
        })
    }

    fn image(&self, name: &str) -> Result<ImageSource, SourceError> {
        let resolve_mode = self
            .text(attr::IMAGE_RESOLVE_MODE)
            .map(|value| {
                ResolveMode::from_name(&value).ok_or_else(|| {
                    self.bad(attr::IMAGE_RESOLVE_MODE, &value, "default, pull or local")
                })
            })
            .transpose()?;
        Ok(ImageSource {
            reference: name.to_owned(),
            resolve_mode,
            record_type: self.text(attr::IMAGE_RECORD_TYPE),
            layer_limit: self.layer_limit(attr::IMAGE_LAYER_LIMIT)?,
            checksum: self.parsed(attr::IMAGE_CHECKSUM, "a digest")?,
        })
    }

    fn oci_layout(&self, name: &str) -> Result<OciLayoutSource, SourceError> {
        Ok(OciLayoutSource {
            reference: name.to_owned(),
            session: self.text(attr::OCI_LAYOUT_SESSION),
            store: self.text(attr::OCI_LAYOUT_STORE),
            layer_limit: self.layer_limit(attr::OCI_LAYOUT_LAYER_LIMIT)?,
        })
    }

    fn blob(&self, name: &str) -> Result<BlobSource, SourceError> {
        Ok(BlobSource {
            reference: name.to_owned(),
            file: self.file()?,
            session: self.text(attr::OCI_LAYOUT_SESSION),
            store: self.text(attr::OCI_LAYOUT_STORE),
        })
    }

    fn local(&self, name: &str) -> Result<LocalSource, SourceError> {
        let metadata_transfer = self
            .flag(attr::LOCAL_METADATA_TRANSFER)
            .then(|| {
                let exceptions = self.list(attr::LOCAL_METADATA_TRANSFER_EXCLUDE)?;
                Ok(MetadataTransfer { exceptions })
            })
            .transpose()?;
        Ok(LocalSource {
            name: name.to_owned(),
            session: self.text(attr::LOCAL_SESSION),
            unique: self.text(attr::LOCAL_UNIQUE),
            include_patterns: self.list(attr::LOCAL_INCLUDE_PATTERNS)?,
            exclude_patterns: self.list(attr::LOCAL_EXCLUDE_PATTERNS)?,
            follow_paths: self.list(attr::LOCAL_FOLLOW_PATHS)?,
            shared_key_hint: self.text(attr::LOCAL_SHARED_KEY_HINT),
            differ: self.text(attr::LOCAL_DIFFER),
            metadata_transfer,
        })
    }

    fn git(&self, name: &str) -> GitSource {
        let (id, fragment) = name.split_once('#').unwrap_or((name, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let bundle = self.text(attr::GIT_BUNDLE).map(|locator| GitBundle {
            locator,
            session: self.text(attr::OCI_LAYOUT_SESSION),
            store: self.text(attr::OCI_LAYOUT_STORE),
        });
        let signature = self
            .text(attr::GIT_SIG_PUBKEY)
            .map(|public_key| GitSignature {
                public_key,
                reject_expired: self.flag(attr::GIT_SIG_REJECT_EXPIRED),
                require_signed_tag: self.flag(attr::GIT_SIG_REQUIRE_SIGNED_TAG),
                ignore_signed_tag: self.flag(attr::GIT_SIG_IGNORE_SIGNED_TAG),
            });
        GitSource {
            id: id.to_owned(),
            reference: reference.to_owned(),
            subdir: subdir.to_owned(),
            url: self.text(attr::GIT_FULL_URL),
            keep_git_dir: self.flag(attr::GIT_KEEP_DIR),
            auth_token_secret: self.text(attr::GIT_AUTH_TOKEN_SECRET),
            auth_header_secret: self.text(attr::GIT_AUTH_HEADER_SECRET),
            known_ssh_hosts: self.text(attr::GIT_KNOWN_SSH_HOSTS),
            mount_ssh_sock: self.text(attr::GIT_MOUNT_SSH_SOCK),
            checksum: self.text(attr::GIT_CHECKSUM),
            skip_submodules: self.flag(attr::GIT_SKIP_SUBMODULES),
            mtime: self.text(attr::GIT_MTIME),
            fetch_by_commit: self.flag(attr::GIT_FETCH_BY_COMMIT),
            bundle,
            checkout_bundle: self.flag(attr::GIT_CHECKOUT_BUNDLE),
            signature,
        }
    }

    fn http(&self, url: &str) -> Result<HttpSource, SourceError> {
        let headers = self
            .attrs
            .iter()
            .filter_map(|(name, value)| {
                let name = name.strip_prefix(attr::HTTP_HEADER_PREFIX)?;
                Some((name.to_owned(), value.clone()))
            })
            .collect();
        Ok(HttpSource {
            url: url.to_owned(),
            checksum: self.parsed(attr::HTTP_CHECKSUM, "a digest")?,
            file: self.file()?,
            auth_header_secret: self.text(attr::HTTP_AUTH_HEADER_SECRET),
            headers,
            signature_public_key: self.text(attr::HTTP_SIG_PUBKEY),
            signature: self.text(attr::HTTP_SIG_SIGNATURE),
        })
    }
}

type Attrs = BTreeMap<String, String>;

fn put(attrs: &mut Attrs, name: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        attrs.insert(name.to_owned(), value.to_string());
    }
}

fn put_flag(attrs: &mut Attrs, name: &str, value: bool) {
    put(attrs, name, value.then_some("true"));
}

fn put_list(attrs: &mut Attrs, name: &str, list: &[String]) {
    if !list.is_empty() {
        attrs.insert(name.to_owned(), go_json_list(list));
    }
}

/// A JSON list as Go's encoder writes it, which also escapes what HTML or JavaScript would trip over.
fn go_json_list(list: &[String]) -> String {
    let mut json = String::from("[");
    for (index, text) in list.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push('"');
        for c in text.chars() {
            match c {
                '"' => json.push_str("\\\""),
                '\\' => json.push_str("\\\\"),
                '\n' => json.push_str("\\n"),
                '\r' => json.push_str("\\r"),
                '\t' => json.push_str("\\t"),
                '\u{8}' => json.push_str("\\b"),
                '\u{c}' => json.push_str("\\f"),
                c if c < ' ' || matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
                    json.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => json.push(c),
            }
        }
        json.push('"');
    }
    json.push(']');
    json
}

impl ImageSource {
    fn write(&self, attrs: &mut Attrs) {
        let mode = self.resolve_mode.map(ResolveMode::name);
        put(attrs, attr::IMAGE_RESOLVE_MODE, mode);
        put(attrs, attr::IMAGE_RECORD_TYPE, self.record_type.as_ref());
        put(attrs, attr::IMAGE_LAYER_LIMIT, self.layer_limit);
        put(attrs, attr::IMAGE_CHECKSUM, self.checksum.as_ref());
    }
}

impl OciLayoutSource {
    fn write(&self, attrs: &mut Attrs) {
        put(attrs, attr::OCI_LAYOUT_SESSION, self.session.as_ref());
        put(attrs, attr::OCI_LAYOUT_STORE, self.store.as_ref());
        put(attrs, attr::OCI_LAYOUT_LAYER_LIMIT, self.layer_limit);
    }
}

impl FileAttributes {
    fn write(&self, attrs: &mut Attrs) {
        put(attrs, attr::HTTP_FILENAME, self.filename.as_ref());
        put(
            attrs,
            attr::HTTP_PERM,
            self.mode.map(|mode| format!("0{mode:o}")),
        );
        put(attrs, attr::HTTP_UID, self.uid.filter(|uid| *uid != 0));
        put(attrs, attr::HTTP_GID, self.gid.filter(|gid| *gid != 0));
    }
}

impl BlobSource {
    fn write(&self, attrs: &mut Attrs) {
        self.file.write(attrs);
        put(attrs, attr::OCI_LAYOUT_SESSION, self.session.as_ref());
        put(attrs, attr::OCI_LAYOUT_STORE, self.store.as_ref());
    }
}

impl LocalSource {
    fn write(&self, attrs: &mut Attrs) {
        put(attrs, attr::LOCAL_SESSION, self.session.as_ref());
        put(attrs, attr::LOCAL_UNIQUE, self.unique.as_ref());
        put_list(attrs, attr::LOCAL_INCLUDE_PATTERNS, &self.include_patterns);
        put_list(attrs, attr::LOCAL_FOLLOW_PATHS, &self.follow_paths);
        put_list(attrs, attr::LOCAL_EXCLUDE_PATTERNS, &self.exclude_patterns);
        put(
            attrs,
            attr::LOCAL_SHARED_KEY_HINT,
            self.shared_key_hint.as_ref(),
        );
        put(attrs, attr::LOCAL_DIFFER, self.differ.as_ref());
        if let Some(transfer) = &self.metadata_transfer {
            put_flag(attrs, attr::LOCAL_METADATA_TRANSFER, true);
            put_list(
                attrs,
                attr::LOCAL_METADATA_TRANSFER_EXCLUDE,
                &transfer.exceptions,
            );
        }
    }
}

impl GitSource {
    fn write(&self, attrs: &mut Attrs) {
        put_flag(attrs, attr::GIT_KEEP_DIR, self.keep_git_dir);
        put(attrs, attr::GIT_FULL_URL, self.url.as_ref());
        put(
            attrs,
            attr::GIT_AUTH_TOKEN_SECRET,
            self.auth_token_secret.as_ref(),
        );
        put(
            attrs,
            attr::GIT_AUTH_HEADER_SECRET,
            self.auth_header_secret.as_ref(),
        );
        put(
            attrs,
            attr::GIT_KNOWN_SSH_HOSTS,
            self.known_ssh_hosts.as_ref(),
        );
        put(
            attrs,
            attr::GIT_MOUNT_SSH_SOCK,
            self.mount_ssh_sock.as_ref(),
        );
        put(attrs, attr::GIT_CHECKSUM, self.checksum.as_ref());
        put_flag(attrs, attr::GIT_SKIP_SUBMODULES, self.skip_submodules);
        put(attrs, attr::GIT_MTIME, self.mtime.as_ref());
        put_flag(attrs, attr::GIT_FETCH_BY_COMMIT, self.fetch_by_commit);
        if let Some(bundle) = &self.bundle {
            put(attrs, attr::GIT_BUNDLE, Some(&bundle.locator));
            put(attrs, attr::OCI_LAYOUT_SESSION, bundle.session.as_ref());
            put(attrs, attr::OCI_LAYOUT_STORE, bundle.store.as_ref());
        }
        put_flag(attrs, attr::GIT_CHECKOUT_BUNDLE, self.checkout_bundle);
        if let Some(signature) = &self.signature {
            put(attrs, attr::GIT_SIG_PUBKEY, Some(&signature.public_key));
            put_flag(
                attrs,
                attr::GIT_SIG_REJECT_EXPIRED,
                signature.reject_expired,
            );
            put_flag(
                attrs,
                attr::GIT_SIG_REQUIRE_SIGNED_TAG,
                signature.require_signed_tag,
            );
            put_flag(
                attrs,
                attr::GIT_SIG_IGNORE_SIGNED_TAG,
                signature.ignore_signed_tag,
            );
        }
    }
}

impl HttpSource {
    fn write(&self, attrs: &mut Attrs) {
        put(attrs, attr::HTTP_CHECKSUM, self.checksum.as_ref());
        self.file.write(attrs);
        put(
            attrs,
            attr::HTTP_AUTH_HEADER_SECRET,
            self.auth_header_secret.as_ref(),
        );
        for (name, value) in &self.headers {
            let name = format!("{}{name}", attr::HTTP_HEADER_PREFIX);
            put(attrs, &name, Some(value));
        }
        put(
            attrs,
            attr::HTTP_SIG_PUBKEY,
            self.signature_public_key.as_ref(),
        );
        put(attrs, attr::HTTP_SIG_SIGNATURE, self.signature.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
        pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn sources_come_back_as_they_were_written() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for source in [
            op("docker-image://docker.io/library/a:1", &[]),
            op(
                "docker-image://docker.io/library/a:1",
                &[
                    (attr::IMAGE_RESOLVE_MODE, "pull"),
                    (attr::IMAGE_LAYER_LIMIT, "3"),
                    (attr::IMAGE_CHECKSUM, &digest),
                ],
            ),
            op(
                "oci-layout://a@sha256:00",
                &[
                    (attr::OCI_LAYOUT_STORE, "s"),
                    (attr::OCI_LAYOUT_SESSION, "t"),
                ],
            ),
            op(
                "local://context",
                &[
                    (attr::LOCAL_SESSION, "s"),
                    (attr::LOCAL_FOLLOW_PATHS, r#"["a","b\"\\"]"#),
                    (
                        attr::LOCAL_EXCLUDE_PATTERNS,
                        r#"["\u003cx\u0026y\u003e","ü"]"#,
                    ),
                    (attr::LOCAL_METADATA_TRANSFER, "true"),
                    (attr::LOCAL_METADATA_TRANSFER_EXCLUDE, r#"["c"]"#),
                ],
            ),
            op(
                "git://github.com/a/b.git#main:dir",
                &[
                    (attr::GIT_FULL_URL, "https://github.com/a/b.git"),
                    (attr::GIT_KEEP_DIR, "true"),
                ],
            ),
            op("git://github.com/a/b.git#:dir", &[]),
            op(
                "https://a/b",
                &[
                    (attr::HTTP_CHECKSUM, &digest),
                    (attr::HTTP_PERM, "0755"),
                    ("http.header.accept", "x"),
                ],
            ),
            op(
                "docker-image+blob://a/b@sha256:00",
                &[(attr::HTTP_FILENAME, "f")],
            ),
        ] {
            assert_eq!(Source::from_pb(&source).unwrap().to_pb(), source);
        }
    }

    #[test]
    fn malformed_sources_are_refused_with_the_reason() {
        for (source, part) in [
            (op("context", &[]), "has no scheme"),
            (op("local://", &[]), "names nothing"),
            (op("ftp://a", &[]), "\"ftp\" is not supported"),
            (
                op("docker-image://a", &[(attr::IMAGE_RESOLVE_MODE, "x")]),
                "default, pull or local",
            ),
            (
                op("local://a", &[(attr::LOCAL_FOLLOW_PATHS, "a")]),
                "JSON list",
            ),
            (
                op("https://a", &[(attr::HTTP_CHECKSUM, "md5:0")]),
                "a digest",
            ),
            (op("https://a", &[(attr::HTTP_PERM, "99")]), "octal"),
        ] {
            let error = Source::from_pb(&source).unwrap_err().to_string();
            assert!(error.contains(part), "{source:?}: {error}");
        }
    }
}
