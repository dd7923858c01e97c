//! The object stores that builds under way named, with what their clients said of who they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use weld_source::objects::{Location, ObjectCredentials, ObjectError, ObjectOptions, Objects};

/// The session that named a store, and where it is.
type Key = (String, Location);

/// Object stores by the session that named them and the place. One is known for as long as a build holds it.
#[derive(Default)]
pub struct ObjectStores(Mutex<HashMap<Key, Vec<Weak<Objects>>>>);

impl ObjectStores {
    /// Makes a store known to the builds of a session, until the last holder of it is gone.
    pub fn add(&self, session: &str, objects: &Arc<Objects>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, stores| {
            stores.retain(|store| store.strong_count() > 0);
            !stores.is_empty()
        });
        let key = (session.to_owned(), objects.location().clone());
        known.entry(key).or_default().push(Arc::downgrade(objects));
    }

    fn find(&self, session: &str, location: &Location) -> Option<Arc<Objects>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = known.get(&(session.to_owned(), location.clone()))?;
        stores.iter().rev().find_map(Weak::upgrade)
    }

    /// The store at a place, as a session named it; one that is asked with nobody's secrets may also be asked by others.
    pub(crate) fn open(
        &self,
        session: Option<&str>,
        location: &Location,
        by_client: bool,
    ) -> Result<Option<Arc<Objects>>, ObjectError> {
        if let Some(known) = session.and_then(|session| self.find(session, location)) {
            return Ok(Some(known));
        }
        if by_client {
            return Ok(None);
        }
        let credentials = ObjectCredentials::Environment;
        let opened = Objects::open(location.clone(), &credentials, &ObjectOptions::default());
        opened.map(|opened| Some(Arc::new(opened)))
    }
}
