//! Between the digests of content and the solver's, which are opaque to it.

use weld_digest::{Digest, FieldHasher};

/// The solver's form of a digest. One that is not SHA-256 is digested again.
pub fn to_solver(digest: &Digest) -> weld_solver::Digest {
    match digest.as_sha256() {
        Some(hash) => weld_solver::Digest(*hash),
        None => to_solver(&FieldHasher::new("weld.digest.v1").digest(digest).finish()),
    }
}

/// The digest that the solver knows by this one.
pub fn from_solver(digest: weld_solver::Digest) -> Digest {
    Digest::from_sha256(digest.0)
}
