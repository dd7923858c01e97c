//! The tasks under way, as the pump knows them.

use std::{collections::VecDeque, sync::Arc};

use super::context::TaskControl;
use crate::core::TaskId;

/// Most controls of ended tasks that are kept to be used again.
const KEPT: usize = 1024;

/// Controls of the tasks under way, by the place of the task's id.
#[derive(Default)]
pub(super) struct Running {
    places: Vec<Option<(TaskId, Arc<TaskControl>)>>,
    len: usize,
    /// Of ended tasks; the oldest is the surest to be held by nobody else any more.
    ended: VecDeque<Arc<TaskControl>>,
}

impl Running {
    /// The control of a new task.
    pub(super) fn insert(&mut self, task: TaskId) -> Arc<TaskControl> {
        let control = self.unused();
        let place = task.place();
        if self.places.len() <= place {
            self.places.resize_with(place + 1, || None);
        }
        self.places[place] = Some((task, Arc::clone(&control)));
        self.len += 1;
        control
    }

    fn unused(&mut self) -> Arc<TaskControl> {
        let mut kept = self.ended.pop_front();
        match kept.as_mut().and_then(Arc::get_mut) {
            Some(control) => {
                *control = TaskControl::default();
                kept.unwrap_or_default()
            }
            None => Arc::default(),
        }
    }

    pub(super) fn get(&self, task: TaskId) -> Option<&Arc<TaskControl>> {
        let (id, control) = self.places.get(task.place())?.as_ref()?;
        (*id == task).then_some(control)
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        if self.get(task).is_none() {
            return;
        }
        if let Some((_, control)) = self.places[task.place()].take() {
            self.len -= 1;
            control.end();
            if self.ended.len() < KEPT {
                self.ended.push_back(control);
            }
        }
        if self.len == 0 && self.places.len() > KEPT {
            self.places = Vec::new();
        }
    }

    pub(super) fn into_controls(self) -> impl Iterator<Item = Arc<TaskControl>> {
        self.places
            .into_iter()
            .flatten()
            .map(|(_, control)| control)
    }
}
