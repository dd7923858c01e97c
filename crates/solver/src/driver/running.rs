//! The tasks under way, as the pump knows them.

use std::{collections::VecDeque, sync::Arc};

use super::control::TaskControl;
use crate::core::TaskId;

/// Most controls of ended tasks that are kept to be used again.
const KEPT: usize = 1024;

/// Controls of the tasks under way, by the place of the task's id: tasks end much in the order in which they were started.
#[derive(Default)]
pub(super) struct Running {
    places: Vec<Option<(TaskId, Arc<TaskControl>)>>,
    len: usize,
    /// Tasks since the places were last given back.
    since: usize,
    /// Of ended tasks; the oldest is the surest to be held by nobody else any more.
    ended: VecDeque<Arc<TaskControl>>,
}

impl Running {
    /// The control of a new task.
    pub(super) fn insert(&mut self, task: TaskId) -> Arc<TaskControl> {
        let control = self.unused();
        if self.places.len() <= task.place() {
            self.places.resize_with(task.place() + 1, || None);
        }
        self.places[task.place()] = Some((task, Arc::clone(&control)));
        self.len += 1;
        self.since += 1;
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
        let Some(place) = self.places.get_mut(task.place()) else {
            return;
        };
        let Some((_, control)) = place.take_if(|(id, _)| *id == task) else {
            return;
        };
        self.len -= 1;
        control.end();
        if self.ended.len() < KEPT {
            self.ended.push_back(control);
        }
        // Not more often than tasks were started: a single task with a high place must not cost the whole list each time.
        if self.len == 0 && self.places.len() > KEPT && self.since >= self.places.len() {
            self.places = Vec::new();
            self.since = 0;
        }
    }

    pub(super) fn into_controls(self) -> impl Iterator<Item = Arc<TaskControl>> {
        let places = self.places.into_iter().flatten();
        places.map(|(_, control)| control)
    }
}
