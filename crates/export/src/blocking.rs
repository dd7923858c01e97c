/// Runs work that blocks on the pool for it; its panic goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Such work is never aborted; only a runtime that ends lets go of it.
            Err(_) => std::future::pending().await,
        },
    }
}
