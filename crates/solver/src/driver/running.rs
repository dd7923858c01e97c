//! The tasks under way, as the pump knows them.

use std::{collections::VecDeque, sync::Arc};

use super::control::TaskControl;
use crate::{WaitReason, core::TaskId};

/// Most controls of ended tasks that are kept to be used again.
const KEPT: usize = 1024;

/// Controls of the tasks under way, by the place of the task's id: tasks end much in the order in which they were started.
#[derive(Default)]
pub(super) struct Running {
    places: Vec<Option<Place>>,
    len: usize,
    /// Tasks since the places were last given back.
    since: usize,
    /// Of ended tasks; the oldest is the surest to be held by nobody else any more.
    ended: VecDeque<Arc<TaskControl>>,
}

/// A task under way.
pub(super) struct Place {
    pub(super) task: TaskId,
    pub(super) control: Arc<TaskControl>,
    /// When it was started, in microseconds of the clock.
    pub(super) began: u64,
    /// Whether the trace was told last that it waits for a slot.
    pub(super) told_to_wait: Option<WaitReason>,
}

impl Running {
    /// The control of a task that is started at that time.
    pub(super) fn insert(&mut self, task: TaskId, now: u64) -> Arc<TaskControl> {
        let control = self.unused();
        if self.places.len() <= task.place() {
            self.places.resize_with(task.place() + 1, || None);
        }
        self.places[task.place()] = Some(Place {
            task,
            control: Arc::clone(&control),
            began: now,
            told_to_wait: None,
        });
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
        let place = self.places.get(task.place())?.as_ref()?;
        (place.task == task).then_some(&place.control)
    }

    /// Notes what the trace is told of a task's waiting; whether it is news.
    pub(super) fn is_news(&mut self, task: TaskId, waits: Option<WaitReason>) -> bool {
        let place = self.places.get_mut(task.place()).and_then(Option::as_mut);
        let place = place.filter(|place| place.task == task);
        place.is_some_and(|place| std::mem::replace(&mut place.told_to_wait, waits) != waits)
    }

    /// All of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Place> {
        self.places.iter_mut().flatten()
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        let Some(place) = self.places.get_mut(task.place()) else {
            return;
        };
        let Some(Place { control, .. }) = place.take_if(|place| place.task == task) else {
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
        places.map(|place| place.control)
    }
}
