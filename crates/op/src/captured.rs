//! What an operation was asked to do and what that turned out to be, for provenance.

use weld_digest::Digest;
use weld_llb::Vertex;
use weld_solver::Op;
use weld_source::git::ResolvedCommit;

use crate::Tree;
use crate::recall::Remembered;

/// What a source turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The digest of an image's index or manifest, or of a file.
    Digest(Digest),
    /// What a reference of a git repository stands for.
    Commit(ResolvedCommit),
}

/// An operation of this crate, as provenance sees it.
#[derive(Clone, Debug)]
pub struct Captured<'a> {
    /// The vertex that it was made of.
    pub vertex: &'a Vertex,
    /// What it turned out to be, if it is a source that was asked.
    pub pin: Option<Pin>,
}

/// What is known of an operation; `None` for one that is not of this crate.
pub fn captured(op: &dyn Op<Tree>) -> Option<Captured<'_>> {
    let remembered: &Remembered = op.as_any()?.downcast_ref()?;
    Some(remembered.captured())
}
