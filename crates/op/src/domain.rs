use std::sync::Arc;

use weld_digest::FieldHasher;

/// An isolation domain: whose builds a [`Worker`](crate::Worker) works for.
///
/// What builds of one domain keep under a name of their choice is not found by those of another:
/// cache mounts, the trees of local directories, downloads, mirrors of git repositories, and what
/// steps were made of when they last ran. Without a name it is the domain of everybody who has
/// none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain(Option<Arc<str>>);

impl Domain {
    /// The domain of this name.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self(Some(name.into()))
    }

    /// Its name, if it has one.
    pub const fn name(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }

    /// `key` as it is used inside of the domain: no two domains have an equal one.
    pub fn scoped(&self, key: String) -> String {
        match &self.0 {
            None => key,
            Some(name) => {
                let digest = FieldHasher::new("weld.domain.v1")
                    .text(name)
                    .text(&key)
                    .finish();
                format!("domain/{}", digest.hex())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_another_one_in_each_domain() {
        let key = |domain: Domain| domain.scoped("go-build".to_owned());
        assert_eq!(key(Domain::default()), "go-build");
        assert_ne!(key(Domain::named("a")), key(Domain::named("b")));
        assert_ne!(key(Domain::named("")), key(Domain::default()));
        // Nobody gets at a key of a domain by spelling it out, other than who knows its name.
        let spelled = Domain::named("b").scoped(key(Domain::named("a")));
        assert_ne!(spelled, key(Domain::named("a")));
    }
}
