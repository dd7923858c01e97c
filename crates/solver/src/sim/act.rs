//! The steps of a schedule, carried out.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use super::{
    model::OpInfo,
    rng::Rng,
    step::{Action, Step},
    world::{Asked, Nested, Running, SimJob, SimValue, ValueInfo, Violation, World, violation},
};
use crate::{
    Digest, OpError,
    core::{Call, Census, Input, JobId, LoadFailure, Outcome, RootId, Ticket},
    keystore::{Answer, KeyStore},
};

impl World {
    /// Takes one step; one that makes no sense now is skipped.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Violation> {
        let Step { action, a, b } = step;
        match action {
            Action::Open => self.open(a),
            Action::Load => self.load(a, b),
            Action::Build => self.build(a, b),
            Action::Rebuild => self.rebuild(a, b),
            Action::Cancel => self.cancel(a),
            Action::Discard => self.discard(a),
            Action::Finish => self.finish(a, b, Ending::Well),
            Action::Fail => self.finish(a, b, Ending::Failure),
            Action::LoseInput => self.finish(a, b, Ending::LostInput),
            // Reports have no action of their own: the schedules of the seeds would all be others.
            Action::Answer if b.is_multiple_of(4) => self.report(b / 4),
            Action::Answer => self.answer(a),
            Action::CloseSession => self.close_session(a),
            Action::DropRecord => {
                if let Some(record) =
                    pick(self.records.len(), a).and_then(|at| self.records.keys().nth(at))
                {
                    self.records.remove(&record.clone());
                }
                Ok(())
            }
            Action::Subscribe => self.subscribe(a),
        }
    }

    fn job(&self, a: u64) -> Option<u64> {
        pick(self.jobs.len(), a)
            .and_then(|at| self.jobs.keys().nth(at))
            .copied()
    }

    fn open(&mut self, a: u64) -> Result<(), Violation> {
        if self.jobs.len() >= 5 {
            return Ok(());
        }
        let number = self.next_job;
        self.next_job += 1;
        let domain = u64::from(a.is_multiple_of(5));
        let session = (!a.is_multiple_of(3)).then_some(number);
        let job = SimJob {
            id: JobId::default(),
            domain,
            session,
            roots: Vec::new(),
            listens: false,
        };
        self.jobs.insert(number, job);
        let domain = (domain != 0).then(|| Digest::of(b"domain"));
        self.ask(Asked::Open, |ticket| Input::Open {
            ticket,
            id: format!("{number}").into(),
            domain,
            session,
        })
    }

    fn load(&mut self, a: u64, b: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a) else {
            return Ok(());
        };
        let mut rng = Rng::new(b);
        let count = self.universe.specs.len() as u64;
        // High ones more often: they have more below them.
        let spec = rng.below(count).max(rng.below(count)) as usize;
        let output = rng.below(u64::from(self.universe.specs[spec].outputs)) as u32;
        // Few choices, so that jobs load the same now and then.
        let choice = rng.below(6);
        let domain = self.jobs[&job].domain;
        let (definition, infos) =
            self.universe
                .definition(spec, output, choice, (job, domain), &mut self.instances);
        let Some(state) = self.jobs.get(&job) else {
            return Ok(());
        };
        let mut bound = BTreeSet::new();
        for info in &infos {
            if info.never_merge || info.ignore_cache {
                self.alone.insert(self.universe.specs[info.spec].class);
            } else if self.universe.specs[info.spec].bound {
                bound.insert(info.spec);
            }
        }
        let id = state.id;
        let info = Arc::clone(&infos[spec]);
        self.ask(
            Asked::Load {
                job,
                spec,
                output,
                info,
                bound,
            },
            |ticket| Input::Load {
                ticket,
                job: id,
                definition,
            },
        )
    }

    fn root(&self, a: u64, b: u64) -> Option<(u64, usize)> {
        let job = self.job(a)?;
        Some((job, pick(self.jobs[&job].roots.len(), b)?))
    }

    fn build(&mut self, a: u64, b: u64) -> Result<(), Violation> {
        let Some((job, at)) = self.root(a, b) else {
            return Ok(());
        };
        let (id, root) = (self.jobs[&job].id, self.jobs[&job].roots[at].id);
        self.asks_for(job, root);
        self.ask(Asked::Build { job, root: at }, |ticket| Input::Build {
            ticket,
            job: id,
            root,
        })
    }

    fn rebuild(&mut self, a: u64, b: u64) -> Result<(), Violation> {
        let Some((job, at)) = self.root(a, b) else {
            return Ok(());
        };
        let (id, root) = (self.jobs[&job].id, &self.jobs[&job].roots[at]);
        let Some(generation) = root.last else {
            return Ok(());
        };
        let root = root.id;
        self.asks_for(job, root);
        self.ask(Asked::Build { job, root: at }, |ticket| Input::Rebuild {
            ticket,
            job: id,
            root,
            generation,
        })
    }

    fn asks_for(&mut self, job: u64, id: RootId) {
        let roots = self.jobs.get_mut(&job).into_iter();
        let asked = roots.flat_map(|job| job.roots.iter_mut().filter(|root| root.id == id));
        asked.for_each(|root| root.asked = true);
    }

    fn cancel(&mut self, a: u64) -> Result<(), Violation> {
        let open: Vec<Ticket> = self.builds().map(|(ticket, _)| ticket).collect();
        let Some(at) = pick(open.len(), a) else {
            return Ok(());
        };
        let ticket = open[at];
        self.may_cancel.insert(ticket);
        self.handle(Input::Cancel { ticket })?;
        if self.requests.contains_key(&ticket) {
            return violation("a cancelled request is answered at once", ticket);
        }
        Ok(())
    }

    fn builds(&self) -> impl Iterator<Item = (Ticket, u64)> + '_ {
        self.requests
            .iter()
            .filter_map(|(ticket, request)| match request.asked {
                Asked::Build { job, .. } => Some((*ticket, job)),
                _ => None,
            })
    }

    fn discard(&mut self, a: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a) else {
            return Ok(());
        };
        let cancelled: Vec<Ticket> = self
            .builds()
            .filter(|(_, owner)| *owner == job)
            .map(|(ticket, _)| ticket)
            .collect();
        self.may_cancel.extend(cancelled);
        let Some(state) = self.jobs.remove(&job) else {
            return Ok(());
        };
        self.ask(Asked::Discard, |ticket| Input::Discard {
            ticket,
            job: state.id,
        })?;
        if let Some((ticket, _)) = self.builds().find(|(_, owner)| *owner == job) {
            return violation("the requests of a discarded job are answered", ticket);
        }
        Ok(())
    }

    fn subscribe(&mut self, a: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a).and_then(|job| self.jobs.get_mut(&job)) else {
            return Ok(());
        };
        job.listens = true;
        let job = job.id;
        self.handle(Input::Subscribe { job })
    }

    /// A call reports on itself: those who can reach its vertex and listen hear of it, and it is kept as long as the vertex is.
    fn report(&mut self, a: u64) -> Result<(), Violation> {
        let calls = |running: &&Running| !matches!(running.call, Call::Load { .. });
        let calls: Vec<_> = self.running.iter().filter(calls).collect();
        let Some(running) = pick(calls.len(), a).map(|at| calls[at]) else {
            return Ok(());
        };
        let (task, cancelled) = (running.id, running.cancelled);
        let ran = self
            .core
            .reported(self.now, self.now, task, &mut self.effects);
        if ran.is_none() != cancelled {
            return violation("what runs may report, and what is cancelled not", task);
        }
        self.histories.extend(ran);
        self.carry_out()?;
        for (job, digest) in self.core.listeners(task) {
            self.check_listens(job, digest)?;
            if !self.core.reaches(job, task) {
                return violation("who hears of a vertex can reach it", (job, task));
            }
        }
        Ok(())
    }

    fn close_session(&mut self, a: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a) else {
            return Ok(());
        };
        let Some(state) = self.jobs.get_mut(&job) else {
            return Ok(());
        };
        state.session = None;
        let id = state.id;
        self.handle(Input::Session {
            job: id,
            session: None,
        })
    }

    fn answer(&mut self, a: u64) -> Result<(), Violation> {
        let Some(at) = pick(self.queries.len(), a) else {
            return Ok(());
        };
        let (query, ask) = self.queries.remove(at);
        let Answer::Ready(matches) = self.keys.query(ask) else {
            return Ok(());
        };
        self.handle(Input::Answer { query, matches })
    }

    fn finish(&mut self, a: u64, b: u64, ending: Ending) -> Result<(), Violation> {
        let Some(at) = pick(self.running.len(), a) else {
            return Ok(());
        };
        if !self.prepare(at)? {
            return Ok(());
        }
        let Some(at) = self.running.get(at).map(|_| at) else {
            return Ok(());
        };
        let running = self.running.remove(at);
        let outcome = self.outcome(&running, b, ending);
        if let Call::Exec { op, .. } = &running.call {
            self.executing.remove(&op.0.instance);
        }
        let task = running.id;
        drop(running);
        self.handle(Input::Finished { task, outcome })
    }

    /// Lets an execution ask for its build and its session. Returns whether it may end.
    fn prepare(&mut self, at: usize) -> Result<bool, Violation> {
        let running = &self.running[at];
        let Call::Exec { op, .. } = &running.call else {
            return Ok(true);
        };
        if running.cancelled {
            return Ok(true);
        }
        let (task, info) = (running.id, Arc::clone(&op.0));
        let spec = &self.universe.specs[info.spec];
        if let (Some(nested), Nested::Not) = (spec.nested, &running.nested) {
            self.running[at].nested = Nested::Asked;
            let choice = info.instance % 5;
            let (definition, _) = self.universe.definition(
                nested,
                0,
                choice,
                (info.job, info.domain),
                &mut self.instances,
            );
            self.ask(Asked::Nested { task }, |ticket| Input::SubBuild {
                ticket,
                task,
                definition,
            })?;
            return Ok(false);
        }
        if running.nested == Nested::Asked {
            return Ok(false);
        }
        if spec.wants_session && running.session.is_none() {
            self.ask(Asked::Session { task }, |ticket| Input::NextSession {
                ticket,
                task,
                tried: Vec::new(),
            })?;
            return Ok(false);
        }
        Ok(true)
    }

    fn made_up(&mut self) -> OpError {
        let number = self.number();
        self.made_up.insert(number, self.now + 1);
        OpError::failed(number.to_string())
    }

    fn outcome(&mut self, running: &Running, b: u64, ending: Ending) -> Outcome<SimValue> {
        let gave_up = running.cancelled && b.is_multiple_of(2);
        match &running.call {
            Call::CacheMap { op, index } => Outcome::CacheMap(match ending {
                _ if gave_up => Err(OpError::Cancelled),
                Ending::Failure => Err(self.made_up()),
                _ => Ok(self.universe.cache_map(op.0.spec, *index)),
            }),
            Call::Preprocess { .. } => Outcome::Preprocess(match ending {
                _ if gave_up => Err(OpError::Cancelled),
                Ending::Failure => Err(self.made_up()),
                Ending::LostInput => Err(OpError::lost_input(0, "lost")),
                Ending::Well => Ok(()),
            }),
            Call::SlowKey { op, input, value } => Outcome::SlowKey(match ending {
                _ if gave_up => Err(OpError::Cancelled),
                Ending::Failure => Err(self.made_up()),
                Ending::LostInput => Err(OpError::lost_input(0, "lost")),
                Ending::Well => {
                    let input = &self.universe.specs[op.0.spec].inputs[*input as usize];
                    Ok(Some(Digest::of(input.view(value.0.value).to_le_bytes())))
                }
            }),
            Call::Load { record } => Outcome::Load(match (ending, self.records.get(&record.id)) {
                (Ending::Failure, _) => Err(LoadFailure {
                    gone: false,
                    reason: "made up".into(),
                }),
                (_, None) => Err(LoadFailure {
                    gone: true,
                    reason: "gone".into(),
                }),
                (_, Some(stored)) => {
                    let (value, domain, public) = (stored.value, stored.domain, stored.public);
                    Ok(self.produce(value, None, domain, public, running))
                }
            }),
            Call::Exec { op, inputs } => {
                Outcome::Exec(self.execute(running, &op.0, inputs, b, ending, gave_up))
            }
        }
    }

    fn execute(
        &mut self,
        running: &Running,
        op: &Arc<OpInfo>,
        inputs: &[SimValue],
        b: u64,
        ending: Ending,
        gave_up: bool,
    ) -> Result<Vec<SimValue>, OpError> {
        let spec = self.universe.specs[op.spec].clone();
        if gave_up {
            return Err(OpError::Cancelled);
        }
        if running.nested == Nested::Failed || ending == Ending::Failure {
            return Err(self.made_up());
        }
        if ending == Ending::LostInput && !inputs.is_empty() {
            return Err(OpError::lost_input(
                (b % inputs.len() as u64) as u32,
                "lost",
            ));
        }
        let job = self.jobs.get(&op.job);
        if spec.bound && job.is_none_or(|job| job.session.is_none()) {
            return Err(OpError::gone("the job is gone"));
        }
        if running.session == Some(None) && spec.bound {
            return Err(OpError::gone("no session"));
        }
        let values: Vec<u64> = inputs.iter().map(|input| input.0.value).collect();
        let nested = match running.nested {
            Nested::Built(value) => Some(value),
            // A cancelled run that ends all the same: whatever it computes must not be used.
            _ => spec.nested.map(|_| 0),
        };
        // Some operations have more outputs than anyone refers to.
        let outputs = spec.outputs + u32::from(op.spec.is_multiple_of(3));
        let made = (0..outputs).map(|output| {
            let value = self.universe.compute(op.spec, output, &values, nested);
            self.produce(value, Some(Arc::clone(op)), op.domain, spec.public, running)
        });
        Ok(made.collect())
    }

    fn produce(
        &mut self,
        value: u64,
        by: Option<Arc<OpInfo>>,
        domain: u64,
        public: bool,
        running: &Running,
    ) -> SimValue {
        let forced = by.is_some() && self.core.is_forced(running.id);
        self.produced += 1;
        *self.alive.borrow_mut() += 1;
        let alive = Rc::clone(&self.alive);
        SimValue(Rc::new(ValueInfo {
            id: self.produced,
            value,
            by,
            forced,
            domain,
            public,
            poisoned: running.cancelled,
            alive,
        }))
    }

    /// Lets everything come to an end: first all that is under way, then the jobs, then what is winding down.
    pub(super) fn drain(&mut self) -> Result<(), Violation> {
        self.settle()?;
        if let Some((ticket, _)) = self.builds().next() {
            return violation("every request is answered in the end", ticket);
        }
        while let Some(job) = self.jobs.keys().next().copied() {
            let at = self
                .jobs
                .keys()
                .position(|other| *other == job)
                .unwrap_or(0) as u64;
            self.discard(at)?;
        }
        self.settle()?;
        if self.core.census() != Census::default() {
            return violation("nothing is left", self.core.census());
        }
        if !self.requests.is_empty() {
            return violation("every request is answered in the end", self.requests.len());
        }
        if self.released.len() as u64 != self.produced {
            return violation(
                "every result is released",
                (self.produced, self.released.len()),
            );
        }
        if let Some(ran) = self.histories.first() {
            return violation("what was reported is forgotten with its vertex", ran);
        }
        if *self.alive.borrow() != 0 {
            return violation("no handle of a result is left", *self.alive.borrow());
        }
        Ok(())
    }

    /// Ends everything that is under way, well, in the order of its beginning.
    fn settle(&mut self) -> Result<(), Violation> {
        let mut rounds = 0;
        while !self.running.is_empty() || !self.queries.is_empty() {
            rounds += 1;
            if rounds > 20_000 {
                return violation(
                    "work comes to an end",
                    (self.running.len(), self.queries.len()),
                );
            }
            while !self.queries.is_empty() {
                self.answer(0)?;
            }
            let before = (self.running.len(), self.handled);
            for at in (0..self.running.len()).rev() {
                if at < self.running.len() {
                    self.finish(at as u64, 1, Ending::Well)?;
                }
            }
            if !self.running.is_empty() && before == (self.running.len(), self.handled) {
                return violation(
                    "work comes to an end",
                    "every execution waits for a build of its own",
                );
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Well,
    Failure,
    LostInput,
}

fn pick(len: usize, a: u64) -> Option<usize> {
    (len > 0).then(|| (a % len as u64) as usize)
}
