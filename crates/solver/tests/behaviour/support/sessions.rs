//! Jobs with sessions, and operations that want one.

use std::{sync::Arc, time::Duration};

use weld_solver::{Job, JobOptions, ProgressEvent, ProgressStream, Session};

use super::*;

pub(crate) async fn job_with_session(world: &World, id: &str) -> (Job<Value>, Session) {
    let session = Session::new(id, Arc::new(id.to_owned()));
    let options = JobOptions {
        session: Some(session.clone()),
        ..JobOptions::new(id)
    };
    (world.solver.new_job(options).await.unwrap(), session)
}

/// A vertex whose value is the client of the session that it got.
pub(crate) fn wants_session(name: &str, seed: &str, gate: &Arc<Gate>) -> Vtx {
    let gate = Arc::clone(gate);
    vtx(name, seed, "r")
        .before_exec(move |context| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.pass(context).await?;
                let who = context
                    .with_session(|session| async move { Ok(session.client::<String>().unwrap()) })
                    .await?;
                context.log(1, who.as_bytes().to_vec());
                Ok(())
            })
        })
        .done()
}

pub(crate) async fn logged(stream: &mut ProgressStream) -> String {
    loop {
        match tokio::time::timeout(Duration::from_secs(10), stream.next())
            .await
            .unwrap()
        {
            Some(ProgressEvent::Log { chunk, .. }) => {
                return String::from_utf8(chunk.data).unwrap();
            }
            Some(_) => {}
            None => panic!("nothing was logged"),
        }
    }
}
