//! Where variables come from.

use std::collections::{BTreeMap, HashMap};

/// Variables by name.
pub trait Environment {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<&str>;

    /// All names, for suggestions.
    fn names(&self) -> Vec<&str>;
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

impl<S: std::hash::BuildHasher> Environment for HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// Pairs in order; the last of a name counts.
impl Environment for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        let pair = self.iter().rev().find(|(key, _)| key == name)?;
        Some(&pair.1)
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Pairs in order; the last of a name counts.
impl Environment for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        Environment::get(self.as_slice(), name)
    }

    fn names(&self) -> Vec<&str> {
        Environment::names(self.as_slice())
    }
}

/// Nothing is set.
pub(crate) struct NoVariables;

impl Environment for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}
