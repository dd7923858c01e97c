//! Which attributes caches have. What is written in another way has no effect, here as in BuildKit, so clients tell of it.

/// What reading one and writing one have in common, by the kind.
fn of_both(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "registry" => &["ref", "registry.insecure"],
        "local" => &["tag"],
        "inline" => &[],
        "mount" => &[
            "id",
            "ref",
            "registry.insecure",
            "tag",
            "digest",
            "max-size",
        ],
        "s3" => &[
            "name",
            "prefix",
            "blobs_prefix",
            "manifests_prefix",
            "bucket",
            "region",
            "endpoint_url",
            "use_path_style",
            "access_key_id",
            "secret_access_key",
            "session_token",
            "touch_refresh",
            "upload_parallelism",
            "retry_max_attempts",
            "retry_mode",
            "disable_accept_encoding",
        ],
        "azblob" => &[
            "name",
            "prefix",
            "blobs_prefix",
            "manifests_prefix",
            "account_url",
            "account_name",
            "container",
            "secret_access_key",
        ],
        "gha" => &[
            "scope",
            "url",
            "url_v2",
            "token",
            "version",
            "timeout",
            // They let a list of all keys be had from GitHub's other API, and nothing here needs it.
            "repository",
            "ghtoken",
        ],
        _ => return None,
    })
}

/// The attributes of caches that are written, by the kind; `None` if there is no such kind.
pub fn export_attributes(kind: &str) -> Option<Vec<&'static str>> {
    const ALL: [&str; 6] = [
        "mode",
        "compression",
        "compression-level",
        "force-compression",
        "ignore-error",
        "merge",
    ];
    let mut known = of_both(kind)?.to_vec();
    match kind {
        // It is what its image is.
        "inline" => return Some(known),
        // Its own are the whole of it: no build fails by it.
        "mount" => {
            known.extend(["dest", "timeout"]);
            return Some(known);
        }
        "registry" => known.extend(["image-manifest", "oci-mediatypes", "timeout"]),
        "local" => known.extend(["dest", "image-manifest", "oci-mediatypes"]),
        _ => {}
    }
    known.extend(ALL);
    Some(known)
}

/// The attributes of caches that are read, by the kind; `None` if there is no such kind.
pub fn import_attributes(kind: &str) -> Option<Vec<&'static str>> {
    let mut known = of_both(kind)?.to_vec();
    match kind {
        "inline" => return None,
        "local" => known.extend(["src", "digest"]),
        "mount" => known.push("src"),
        _ => {}
    }
    if kind != "gha" {
        known.push("timeout");
    }
    Some(known)
}
