//! What the frontends of a build ask for, each in a scope of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weld_llb::pb;

use super::capture::{self, Capture, ImageMaterial, Sources};
use super::inputs::{Produced, Producers};
use super::request::{Asked, Request};
use crate::error::BuildError;
use crate::metadata::Place;
use crate::reference::Ref;
use crate::result::FrontendResult;

/// What one frontend asks for, and what other frontends do that it asks in turn.
pub(crate) struct Scope {
    /// What the frontend was asked for; nothing where no frontend was.
    asked: Option<Arc<Asked>>,
    /// What the client asked for.
    root: Arc<Asked>,
    producers: Producers,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    images: Vec<ImageMaterial>,
    /// Names of the client's directories that were looked into without building.
    locals: Vec<String>,
    refs: Vec<Ref>,
    below: Vec<Arc<Scope>>,
    /// Results that may be inputs of other frontends.
    produced: Vec<Produced>,
}

impl Scope {
    /// The scope of a client, which asks for this.
    pub(crate) fn new(root: Asked, producers: Producers) -> Arc<Self> {
        Arc::new(Self {
            asked: None,
            root: Arc::new(root),
            producers,
            noted: Mutex::default(),
        })
    }

    /// The scope of a frontend that is asked for this.
    pub(crate) fn below(
        &self,
        name: &str,
        opts: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, pb::Definition>,
    ) -> Arc<Self> {
        let asked = Arc::new(Asked::new(name, opts, inputs));
        let root = match self.root.is_empty() {
            true => self.asked.as_ref().unwrap_or(&self.root),
            false => &self.root,
        };
        let below = Arc::new(Self {
            root: Arc::clone(root),
            asked: Some(asked),
            producers: self.producers.clone(),
            noted: Mutex::default(),
        });
        self.noted().below.push(Arc::clone(&below));
        below
    }

    /// An image's config was asked for.
    pub(crate) fn note_image(&self, image: ImageMaterial) {
        self.noted().images.push(image);
    }

    /// A directory of the client's was looked into.
    pub(crate) fn note_local(&self, name: &str) {
        self.noted().locals.push(name.to_owned());
    }

    /// A file system was made known.
    pub(crate) fn note_ref(&self, reference: &Ref) {
        self.noted().refs.push(reference.clone());
    }

    /// The scope's frontend answered: its own file systems may be inputs of others.
    pub(crate) fn note_result(&self, result: &FrontendResult) {
        let Some(asked) = &self.asked else {
            return;
        };
        let request = Request::of(asked, &Sources::default(), &self.producers);
        let mut noted = self.noted();
        for reference in result.each_ref() {
            let Some(head) = reference.head() else {
                continue;
            };
            if noted.refs.iter().any(|own| own.same(reference)) {
                let produced = self.producers.note(head, request.clone());
                noted.produced.push(produced);
            }
        }
    }

    /// The innermost scope that a file system is of.
    pub(crate) fn find(self: &Arc<Self>, reference: &Ref) -> Option<Arc<Self>> {
        let (refs, below) = {
            let noted = self.noted();
            (noted.refs.clone(), noted.below.clone())
        };
        let inner = below.iter().find_map(|scope| scope.find(reference));
        let own = || refs.iter().any(|one| one.same(reference));
        inner.or_else(|| own().then(|| Arc::clone(self)))
    }

    /// How a file system of a result was made: of all that this scope came across, but for what the
    /// result's other file systems were made of alone.
    pub(super) async fn capture(
        &self,
        reference: &Ref,
        name: &str,
        result: &FrontendResult,
        platforms: &[Place],
    ) -> Result<Capture, BuildError> {
        let mut capture = Capture::of(reference).await?;
        let mut all = Noted::default();
        self.gather(&mut all);
        let is_result = |one: &Ref| result.each_ref().any(|of_result| of_result.same(one));
        let counts = |one: &Ref| !is_result(one) && one.is_built() && !one.same(reference);
        all.refs.retain(counts);
        for other in &all.refs {
            capture.merge(Capture::of(other).await?);
        }
        for local in all.locals {
            capture.add_local(&local);
        }
        for image in capture::of_platform(all.images, name, platforms) {
            capture.add_image(image);
        }
        capture.complete();
        if let Some(asked) = &self.asked {
            capture.request = Request::of(asked, &capture.sources, &self.producers);
            let root = Request::of(&self.root, &capture.sources, &self.producers);
            if !self.root.is_empty() && root != capture.request {
                capture.root = Some(root);
            }
        }
        Ok(capture)
    }

    /// All that was noted here and below.
    fn gather(&self, all: &mut Noted) {
        let below = {
            let noted = self.noted();
            all.images.extend(noted.images.iter().cloned());
            all.locals.extend(noted.locals.iter().cloned());
            all.refs.extend(noted.refs.iter().cloned());
            noted.below.clone()
        };
        for scope in below {
            scope.gather(all);
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        // Complete between any two statements.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
