//! What answers must be like: right, for those who asked, and none of a kind that a healthy build never gets.

use super::{
    model::SimOp,
    world::{Asked, Nested, Request, Root, SimValue, Violation, World, violation},
};
use crate::{
    Failure, OpError,
    core::{Built, Call, Reply, TaskId, Ticket},
};

impl World {
    pub(super) fn replied(
        &mut self,
        ticket: Ticket,
        reply: Result<Reply<SimOp, SimValue>, Failure<SimValue>>,
    ) -> Result<(), Violation> {
        let Some(Request { asked, since }) = self.requests.remove(&ticket) else {
            return violation("a request is answered once", ticket);
        };
        if let Err(failure) = &reply
            && !matches!(asked, Asked::Discard)
        {
            self.check_failure(ticket, &asked, since, failure)?;
        }
        match (asked, reply) {
            (Asked::Open, Ok(Reply::Job(id))) => {
                let number = self.next_job - 1;
                if let Some(job) = self.jobs.get_mut(&number) {
                    job.id = id;
                }
            }
            (
                Asked::Load {
                    job,
                    spec,
                    output,
                    info,
                    bound,
                },
                Ok(Reply::Root(id)),
            ) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.roots.push(Root {
                        id,
                        spec,
                        output,
                        info,
                        bound,
                        last: None,
                        asked: false,
                    });
                }
            }
            (Asked::Build { job, root }, Ok(Reply::Built(built))) => {
                self.check_built(job, root, &built)?
            }
            (Asked::Nested { task }, reply) => {
                if let Some(running) = self.running.iter_mut().find(|running| running.id == task) {
                    running.nested = match reply {
                        Ok(Reply::Built(built)) => Nested::Built(built.value.0.value),
                        _ => Nested::Failed,
                    };
                }
            }
            (Asked::Session { task }, Ok(Reply::Session(session))) => {
                self.check_session(task, session)?
            }
            _ => {}
        }
        Ok(())
    }

    fn check_failure(
        &self,
        ticket: Ticket,
        asked: &Asked,
        since: u64,
        failure: &Failure<SimValue>,
    ) -> Result<(), Violation> {
        match failure {
            Failure::Cancelled if self.may_cancel.contains(&ticket) => Ok(()),
            Failure::Cancelled if matches!(asked, Asked::Nested { .. } | Asked::Session { .. }) => {
                Ok(())
            }
            Failure::Op { failure, .. } => match &failure.error {
                OpError::Failed(error) => {
                    let number = error.to_string().parse().ok();
                    let made_up = number.and_then(|number: u64| self.made_up.get(&number));
                    if made_up.is_none_or(|step| *step < since) {
                        return violation(
                            "a failure reaches those who asked before it",
                            (ticket, error.to_string()),
                        );
                    }
                    Ok(())
                }
                OpError::Gone(_) => self.check_stranded(asked, &failure.name),
                other => violation(
                    "only failures of operations are delivered",
                    (ticket, other.to_string()),
                ),
            },
            Failure::ResultLost { .. } => Ok(()),
            other => violation("no healthy request fails", (ticket, other.to_string())),
        }
    }

    /// A job may only hear that something went away if its own operation could not have helped.
    fn check_stranded(&self, asked: &Asked, name: &str) -> Result<(), Violation> {
        let Asked::Build { job, root } = asked else {
            return Ok(());
        };
        let Ok(spec) = name.parse::<usize>() else {
            return Ok(());
        };
        let Some(state) = self.jobs.get(job).filter(|state| state.session.is_some()) else {
            return Ok(());
        };
        let spec = &self.universe.specs[spec];
        let own = state.roots[*root]
            .bound
            .iter()
            .any(|own| self.universe.specs[*own].class == spec.class);
        let busy = self
            .running
            .iter()
            .any(|running| matches!(&running.call, Call::Exec { op, .. } if op.0.job == *job));
        // Another operation of the same class may be a different key; only leaves are surely the same.
        let alone = self.alone.contains(&spec.class);
        if own && !alone && !busy && spec.inputs.is_empty() && spec.maps == 1 {
            return violation(
                "the operation of another interested job is tried",
                (job, name),
            );
        }
        Ok(())
    }

    fn check_built(
        &mut self,
        job: u64,
        root: usize,
        built: &Built<SimValue>,
    ) -> Result<(), Violation> {
        let Some(state) = self.jobs.get_mut(&job) else {
            return violation("no answer after the discard", job);
        };
        let domain = state.domain;
        let root = &mut state.roots[root];
        root.last = Some(built.generation);
        let value = &built.value.0;
        let expected = self.universe.value(root.spec, root.output);
        if value.value != expected {
            return violation(
                "a result is what the plain evaluation gives",
                (root.spec, value.value, expected),
            );
        }
        if value.poisoned {
            return violation("a result of a cancelled run is not delivered", job);
        }
        if value.domain != domain && !value.public {
            return violation("domains share nothing", (job, value.domain));
        }
        let bound = self.universe.specs[root.spec].bound;
        let by = value.by.as_ref();
        if root.info.ignore_cache && !bound && !value.forced {
            return violation("an ignore-cache vertex runs", &root.info);
        }
        if root.info.never_merge && by.is_some_and(|by| by.digest != root.info.digest) {
            return violation("a never-merge vertex is not merged", &root.info);
        }
        Ok(())
    }

    fn check_session(&mut self, task: TaskId, session: Option<u64>) -> Result<(), Violation> {
        if let Some(number) = session {
            let lender = self.jobs.values().find(|job| job.session == Some(number));
            if !lender.is_some_and(|job| self.core.reaches(job.id, task)) {
                return violation(
                    "a session is lent to what its job is interested in",
                    (task, number),
                );
            }
        }
        if let Some(running) = self.running.iter_mut().find(|running| running.id == task) {
            running.session = Some(session);
        }
        Ok(())
    }
}
