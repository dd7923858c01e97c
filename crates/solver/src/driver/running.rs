//! The tasks under way, as the pump knows them.

use std::{collections::VecDeque, sync::Arc};

use hashbrown::HashMap;

use super::context::TaskControl;
use crate::core::{FixedState, TaskId};

/// Most controls of ended tasks that are kept to be used again.
const KEPT: usize = 1024;

/// Controls of the tasks under way.
#[derive(Default)]
pub(super) struct Running {
    controls: HashMap<TaskId, Arc<TaskControl>, FixedState>,
    /// Of ended tasks; the oldest is the surest to be held by nobody else any more.
    ended: VecDeque<Arc<TaskControl>>,
}

impl Running {
    /// The control of a new task.
    pub(super) fn insert(&mut self, task: TaskId) -> Arc<TaskControl> {
        let control = self.unused();
        self.controls.insert(task, Arc::clone(&control));
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
        self.controls.get(&task)
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        if let Some(control) = self.controls.remove(&task)
            && self.ended.len() < KEPT
        {
            self.ended.push_back(control);
        }
        if self.controls.is_empty() && self.controls.capacity() > KEPT {
            self.controls = HashMap::default();
        }
    }

    pub(super) fn into_controls(self) -> impl Iterator<Item = Arc<TaskControl>> {
        self.controls.into_values()
    }
}
