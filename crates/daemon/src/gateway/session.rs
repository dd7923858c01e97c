//! What one frontend has asked for so far, and what it has returned.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use weld_engine::{
    Attestation, AttestationKind, Bridge, BuildError, Container, FrontendResult, Ref, Refs,
};
use weld_proto::frontend::{self as wire, result};
use weld_proto::pb;

use super::{convert, details, status};

/// How many file systems one frontend may hold.
const MAX_REFS: usize = 100_000;

/// What one frontend works with. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

pub(super) struct Shared {
    pub(super) bridge: Bridge,
    pub(super) inputs: BTreeMap<String, pb::Definition>,
    refs: Mutex<Table>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    returned: watch::Sender<Option<Returned>>,
    /// Fires when the build is cancelled because the daemon ends.
    given_up: CancellationToken,
}

#[derive(Default)]
struct Table {
    last: u64,
    by_id: HashMap<String, Ref>,
}

/// What a frontend returned; a failure is told once.
#[derive(Clone)]
enum Returned {
    Result(Box<FrontendResult>),
    Failed(weld_proto::google::Status),
}

impl Session {
    /// A session for a frontend that was given `inputs`.
    pub fn new(bridge: Bridge, inputs: BTreeMap<String, pb::Definition>) -> Self {
        Self::ended_by(bridge, inputs, CancellationToken::new())
    }

    /// The same; when `given_up` fires, the build is cancelled because the daemon ends.
    pub(super) fn ended_by(
        bridge: Bridge,
        inputs: BTreeMap<String, pb::Definition>,
        given_up: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            bridge,
            inputs,
            refs: Mutex::default(),
            containers: Mutex::default(),
            returned: watch::Sender::new(None),
            given_up,
        }))
    }

    pub(super) fn bridge(&self) -> &Bridge {
        &self.0.bridge
    }

    pub(super) fn inputs(&self) -> &BTreeMap<String, pb::Definition> {
        &self.0.inputs
    }

    /// What the frontend returns, once it has.
    ///
    /// # Errors
    /// What the frontend says that went wrong, or that the build was cancelled.
    pub async fn result(&self) -> Result<FrontendResult, BuildError> {
        let mut returned = self.0.returned.subscribe();
        tokio::select! {
            returned = returned.wait_for(Option::is_some) => match returned.as_deref() {
                Ok(Some(Returned::Result(result))) => Ok((**result).clone()),
                Ok(Some(Returned::Failed(status))) => Err(BuildError::Returned(status.clone())),
                // The sender lives as long as this does.
                Ok(None) | Err(_) => Err(BuildError::Cancelled),
            },
            () = self.0.bridge.ended() => Err(BuildError::Cancelled),
        }
    }

    /// What the frontend has returned, if it has.
    pub fn returned(&self) -> Option<Result<FrontendResult, BuildError>> {
        let returned = self.0.returned.borrow().clone();
        returned.map(|returned| match returned {
            Returned::Result(result) => Ok(*result),
            Returned::Failed(status) => Err(BuildError::Returned(status)),
        })
    }

    pub(super) fn finish(
        &self,
        request: wire::ReturnRequest,
    ) -> Result<wire::ReturnResponse, Status> {
        let returned = match (request.result, request.error) {
            (_, Some(error)) => Returned::Failed(error),
            (Some(result), None) => Returned::Result(Box::new(self.result_from_wire(result)?)),
            (None, None) => {
                let text = "gateway return must be either result or err";
                return Err(Status::invalid_argument(text));
            }
        };
        self.set(returned)?;
        Ok(wire::ReturnResponse {})
    }

    /// For clients that return their result by their last solve.
    pub(super) fn finish_with(&self, result: FrontendResult) -> Result<(), Status> {
        self.set(Returned::Result(Box::new(result)))
    }

    fn set(&self, returned: Returned) -> Result<(), Status> {
        let set = self.0.returned.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(returned);
            }
            first
        });
        match set {
            true => Ok(()),
            false => Err(Status::unknown("gateway result is already set")),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.refs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        let containers = self.0.containers.lock();
        containers.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a file system for the frontend, under an id that it may ask for.
    pub(super) fn keep(&self, reference: Ref) -> Result<String, Status> {
        let mut table = self.table();
        if table.by_id.len() >= MAX_REFS {
            let text = format!("a frontend may hold no more than {MAX_REFS} results");
            return Err(Status::resource_exhausted(text));
        }
        table.last += 1;
        // Others' ids cannot be had by counting: tables are a session's own.
        let id = format!("ref-{}", table.last);
        table.by_id.insert(id.clone(), reference);
        Ok(id)
    }

    /// The file system of an id.
    pub(super) fn get(&self, id: &str) -> Result<Ref, Status> {
        let found = self.table().by_id.get(id).cloned();
        found.ok_or_else(|| Status::not_found(format!("no such ref: {id}")))
    }

    /// The file system of an id; none for the empty id, which stands for an empty one.
    fn get_or_empty(&self, id: &str) -> Result<Option<Ref>, Status> {
        match id {
            "" => Ok(None),
            id => self.get(id).map(Some),
        }
    }

    /// An error of what is no solve.
    pub(super) fn error(&self, error: &BuildError) -> Status {
        match error.is_cancelled() && self.0.given_up.is_cancelled() {
            true => status::shutting_down(),
            false => status::to_status(error),
        }
    }

    /// An error of a solve, with the ids by which the frontend can look into it.
    pub(super) fn solve_error(&self, error: &BuildError) -> Status {
        if error.is_cancelled() && self.0.given_up.is_cancelled() {
            return status::shutting_down();
        }
        let (code, message) = status::summary(error);
        let mut details = details::of(error);
        if let BuildError::Solve {
            step: Some(step), ..
        } = error.innermost()
        {
            let keep = |reference: Option<Ref>| match reference {
                // One more than it may hold is one that it cannot look into.
                Some(reference) => self.keep(reference).unwrap_or_default(),
                None => String::new(),
            };
            let bridge = self.bridge();
            let inputs = bridge.failed_inputs(error);
            let inputs = match step.unread_input {
                // The one that was to be looked at.
                Some(_) => inputs.into_iter().map(Some).collect(),
                None => inputs_by_mount(&step.op, inputs),
            };
            let inputs: Vec<_> = inputs.into_iter().map(keep).collect();
            let mounts = bridge.failed_results(error).into_iter();
            let mounts: Vec<_> = mounts.map(keep).collect();
            details.push(details::solve(step, &inputs, &mounts));
        }
        status::with_details(code, message, details)
    }

    /// A result for the frontend, with ids of its file systems; `with_definitions` as the frontend
    /// takes them.
    pub(super) fn result_to_wire(
        &self,
        result: &FrontendResult,
        with_definitions: bool,
    ) -> Result<(wire::Result, String), Status> {
        let mut default = String::new();
        let refs = match (&result.refs, with_definitions) {
            (Refs::Single(reference), true) => {
                let reference = self.ref_to_wire(reference.as_ref())?;
                default.clone_from(&reference.id);
                result::Result::Ref(reference)
            }
            (Refs::Single(reference), false) => {
                default = self.ref_to_wire(reference.as_ref())?.id;
                result::Result::RefDeprecated(default.clone())
            }
            (Refs::Map(refs), true) => {
                let refs = refs.iter().map(|(name, reference)| {
                    Ok((name.clone(), self.ref_to_wire(reference.as_ref())?))
                });
                let refs = refs.collect::<Result<_, Status>>()?;
                result::Result::Refs(wire::RefMap { refs })
            }
            (Refs::Map(refs), false) => {
                let refs = refs.iter().map(|(name, reference)| {
                    Ok((name.clone(), self.ref_to_wire(reference.as_ref())?.id))
                });
                let refs = refs.collect::<Result<_, Status>>()?;
                result::Result::RefsDeprecated(wire::RefMapDeprecated { refs })
            }
        };
        let attestations = result.attestations.iter().map(|(name, attestations)| {
            let attestations = attestations.iter();
            let attestation = attestations
                .map(|attestation| self.attestation_to_wire(attestation))
                .collect::<Result<_, Status>>()?;
            Ok((name.clone(), wire::Attestations { attestation }))
        });
        let result = wire::Result {
            metadata: convert::metadata_to_wire(&result.metadata),
            attestations: attestations.collect::<Result<_, Status>>()?,
            result: Some(refs),
        };
        Ok((result, default))
    }

    fn ref_to_wire(&self, reference: Option<&Ref>) -> Result<wire::Ref, Status> {
        Ok(match reference {
            Some(reference) => wire::Ref {
                id: self.keep(reference.clone())?,
                def: Some(reference.to_definition()),
            },
            None => wire::Ref::default(),
        })
    }

    fn attestation_to_wire(&self, attestation: &Attestation) -> Result<wire::Attestation, Status> {
        let reference = attestation.reference.as_ref();
        let reference = reference.map(|reference| self.ref_to_wire(Some(reference)));
        Ok(wire::Attestation {
            kind: convert::kind_to_wire(attestation.kind).into(),
            metadata: convert::metadata_to_wire(&attestation.metadata),
            r#ref: reference.transpose()?,
            path: attestation.path.clone(),
            in_toto_predicate_type: attestation.predicate_type.clone(),
            in_toto_subjects: attestation
                .subjects
                .iter()
                .map(convert::subject_to_wire)
                .collect(),
        })
    }

    /// A result that the frontend puts together of file systems that it was given.
    fn result_from_wire(&self, result: wire::Result) -> Result<FrontendResult, Status> {
        let by_name = |refs: Vec<(String, String)>| {
            let refs = refs.into_iter();
            let refs = refs.map(|(name, id)| Ok((name, self.get_or_empty(&id)?)));
            Ok::<_, Status>(Refs::Map(refs.collect::<Result<_, Status>>()?))
        };
        let refs = match result.result {
            None => Refs::default(),
            Some(result::Result::RefDeprecated(id)) => Refs::Single(self.get_or_empty(&id)?),
            Some(result::Result::Ref(reference)) => Refs::Single(self.get_or_empty(&reference.id)?),
            Some(result::Result::RefsDeprecated(map)) => by_name(map.refs.into_iter().collect())?,
            Some(result::Result::Refs(map)) => {
                let refs = map.refs.into_iter();
                by_name(refs.map(|(name, reference)| (name, reference.id)).collect())?
            }
        };
        let attestations = result.attestations.into_iter();
        let attestations = attestations.map(|(name, attestations)| {
            let attestations = attestations.attestation.into_iter();
            let attestations = attestations.map(|one| self.attestation_from_wire(one));
            Ok((name, attestations.collect::<Result<_, Status>>()?))
        });
        Ok(FrontendResult {
            refs,
            metadata: convert::metadata_from_wire(result.metadata),
            attestations: attestations.collect::<Result<_, Status>>()?,
        })
    }

    fn attestation_from_wire(&self, attestation: wire::Attestation) -> Result<Attestation, Status> {
        let kind = match wire::AttestationKind::try_from(attestation.kind) {
            Ok(wire::AttestationKind::InToto) => AttestationKind::InToto,
            Ok(wire::AttestationKind::Bundle) => AttestationKind::Bundle,
            Err(_) => return Err(Status::invalid_argument("unknown kind of attestation")),
        };
        let subjects = attestation.in_toto_subjects.into_iter();
        let subjects = subjects
            .map(convert::subject_from_wire)
            .collect::<Result<_, _>>();
        let subjects = subjects.map_err(|error| {
            Status::new(
                Code::InvalidArgument,
                format!("subject of an attestation: {error}"),
            )
        })?;
        let reference = attestation.r#ref.as_ref();
        let reference = reference.map(|reference| self.get_or_empty(&reference.id));
        Ok(Attestation {
            kind,
            metadata: convert::metadata_from_wire(attestation.metadata),
            reference: reference.transpose()?.flatten(),
            path: attestation.path,
            predicate_type: attestation.in_toto_predicate_type,
            subjects,
        })
    }
}

/// What a failed operation was given, as clients read it: of a process, one for each mount.
fn inputs_by_mount(op: &Bytes, inputs: Vec<Ref>) -> Vec<Option<Ref>> {
    let op = pb::Op::decode(op.clone()).ok().and_then(|op| op.op);
    let Some(pb::op::Op::Exec(exec)) = op else {
        return inputs.into_iter().map(Some).collect();
    };
    let of_mount = |mount: &pb::Mount| {
        let index = usize::try_from(mount.input).ok()?;
        inputs.get(index).cloned()
    };
    exec.mounts.iter().map(of_mount).collect()
}
