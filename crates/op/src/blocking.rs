use weld_solver::OpError;

/// Runs blocking work on the pool for it.
///
/// When the future is dropped the work goes on to its end: it must not need more than it owns.
pub(crate) async fn blocking<T: Send + 'static, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, OpError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(OpError::failed),
        // The work panicked, or the process is shutting down.
        Err(stopped) => Err(OpError::failed(stopped)),
    }
}
