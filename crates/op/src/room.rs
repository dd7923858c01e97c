//! Room on disk for what operations write.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use weld_solver::{OpContext, OpError};
use weld_store::{NoRoom, Space, SpaceError, Writer};

use crate::Tree;

/// What an operation met on a disk that is full, and why that is.
#[derive(Debug, thiserror::Error)]
#[error("{met}: {shortage}")]
struct Full {
    met: Arc<dyn Error + Send + Sync>,
    #[source]
    shortage: SpaceError,
}

/// What a program said that ended where there was no room, and that there was none.
#[derive(Debug)]
struct Ended {
    met: Arc<dyn Error + Send + Sync>,
    shortage: SpaceError,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.met, self.shortage)
    }
}

impl Error for Ended {
    // Not the `Arc`, which is an error of its own.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.met)
    }
}

tokio::task_local! {
    /// The operation that this task runs, as somebody who writes.
    static WRITER: Arc<Writer>;
}

/// The operation that this task runs, as somebody who writes; where it writes is to be told. `None` where nobody looks after room.
pub(crate) fn writer() -> Option<Arc<Writer>> {
    WRITER.try_with(Arc::clone).ok()
}

/// The operation that this task runs writes into a directory.
pub(crate) fn writes_into(directory: &Path) {
    if let Some(writer) = writer() {
        writer.writes_into(directory);
    }
}

/// Runs an operation while it is seen to that there is room for what it writes. One that failed because
/// there was none runs once more if some could be made.
pub(crate) async fn with_room<T, F>(
    space: &Space,
    ctx: &OpContext<Tree>,
    mut run: impl FnMut() -> F,
) -> Result<T, OpError>
where
    F: Future<Output = Result<T, OpError>>,
{
    let mut again = true;
    loop {
        space.prepare().await.map_err(OpError::failed)?;
        let writer = Arc::new(space.writer());
        // Dropped, an operation ends by itself.
        let ended = tokio::select! {
            biased;
            ended = WRITER.scope(Arc::clone(&writer), run()) => ended,
            shortage = writer.watch() => Err(OpError::failed(shortage)),
        };
        let met = match ended {
            Err(OpError::Failed(met)) => met,
            Ok(made) => {
                let Err(passed) = space.look_again().await else {
                    return Ok(made);
                };
                // What it made goes with the error, and at once: a process that ends now would leave it. What this look tells is
                // less than what the first one did.
                drop(made);
                let _ = space.look_again().await;
                return Err(OpError::failed(passed));
            }
            ended => return ended,
        };
        let room = NoRoom::in_error(&*met);
        // A program fails in a way of its own.
        let cut_short = room == Some(NoRoom::Known) && writer.is_cut_short();
        let is_short =
            room == Some(NoRoom::Met) || (room.is_none() && writer.met_no_room()) || cut_short;
        if !is_short {
            return Err(OpError::Failed(met));
        }
        let makes_room = async {
            let made = writer.make_headroom().await;
            Ok::<_, SpaceError>(made || writer.others_made_room().await?)
        };
        if again && makes_room.await.map_err(OpError::failed)? {
            again = false;
            let text = format!("{met}\nroom was made on the disk: it runs again\n");
            ctx.log(2, text);
            continue;
        }
        if cut_short {
            return Err(OpError::Failed(met));
        }
        let shortage = writer.shortage().await;
        if room.is_none() {
            ctx.log(2, format!("{shortage}\n"));
            return Err(OpError::failed(Ended { met, shortage }));
        }
        return Err(OpError::failed(Full { met, shortage }));
    }
}
