//! URLs as they may be shown: without the credentials that may be in them.

use url::Url;

/// The URL without user, password, and whatever its query may hold of secrets.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails where a URL cannot have any.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    let has_query = url.query().is_some();
    url.set_query(None);
    url.set_fragment(None);
    let text = url.to_string();
    if has_query { text + "?…" } else { text }
}
