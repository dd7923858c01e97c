//! The sources against real directories, registries, repositories and servers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod auth;
mod git;
mod http;
mod local;
mod metadata_only;
mod oci_layout;
mod pull;
mod push;
mod store_tree;
mod support;

/// What is given to a task of its own must be `Send`, which nothing else here would find out.
#[test]
fn futures_can_be_tasks() {
    use weld_source::{git, http, image, local, progress, registry, sink};

    fn is_send<T: Send>(_: impl Fn() -> T) {}
    fn absent<T>() -> T {
        unreachable!("only types are looked at")
    }
    #[allow(clippy::too_many_arguments, reason = "each is the receiver of a call")]
    fn all(
        registry: &registry::Registry,
        repository: &weld_source::reference::Repository,
        reference: &weld_source::reference::Reference,
        descriptor: &image::Descriptor,
        progress: &progress::Progress,
        upload: &registry::BlobUpload,
        http: &http::HttpSource,
        git: &git::GitSource,
    ) {
        is_send(|| registry.resolve(reference));
        is_send(|| registry.resolve_document(reference));
        is_send(|| registry.fetch_document(repository, descriptor));
        is_send(|| registry.fetch_bytes(repository, descriptor, 0));
        is_send(|| registry.fetch_blob(repository, descriptor, sink::MemorySink::new(), progress));
        is_send(|| registry.push_blob(repository, upload, progress));
        is_send(|| registry.push_document(reference, absent()));
        is_send(|| http.fetch(absent(), absent(), absent(), progress));
        is_send(|| git.resolve(absent(), progress));
        is_send(|| git.checkout(absent(), absent(), absent(), progress));
        is_send(|| {
            let provider: std::sync::Arc<dyn local::TreeProvider> = absent();
            local::sync_into_store(provider, absent(), "", absent(), absent(), progress)
        });
    }
    let _ = all;
}
