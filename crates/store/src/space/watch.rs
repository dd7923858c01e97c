//! Looking after what is written past us, by steps.

use std::time::{Duration, Instant};

use super::{Space, SpaceError, Writer};

/// The longest and the shortest time between two looks: what a step writes meanwhile should fit into what is left.
const TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(1));
/// At the speed at which space went between the last two looks, the next one comes when this part of what is left is gone.
const PART: u32 = 4;
/// After making room was in vain, how long it is not tried again unless it gets urgent.
const RESPITE: Duration = Duration::from_secs(1);

impl Space {
    /// Makes sure of the [headroom](Self::headroom), or of what there can be of it, before something is
    /// written that does not ask for it.
    ///
    /// # Errors
    /// [`SpaceError`] if there is no room at all.
    pub async fn prepare(&self) -> Result<(), SpaceError> {
        let headroom = self.headroom();
        if self.watched_room().await? >= headroom
            || self.make_watched(headroom).await
            || self.watched_room().await? > 0
        {
            return Ok(());
        }
        Err(self.full_watched(headroom).await)
    }

    /// Whether there is no room now.
    pub fn is_out(&self) -> bool {
        self.last_known_room() == Some(0)
    }

    /// Looks when something has ended that did not ask for what it wrote: what came after the last look is made up for by
    /// removing what is worth least, if the directory holds more than it may.
    ///
    /// # Errors
    /// [`SpaceError`] if that cannot be done. On a full disk without a limit there is nothing to be made up for.
    pub async fn look_again(&self) -> Result<(), SpaceError> {
        if self.0.ceiling.is_none() || !self.is_out() || self.make_watched(1).await {
            return Ok(());
        }
        match self.full_watched(1).await {
            full @ SpaceError::Ceiling { .. } => Err(full),
            // The disk, which is no limit of ours.
            _ => Ok(()),
        }
    }

    pub(super) async fn watched_room(&self) -> Result<u64, SpaceError> {
        if self.is_stale() {
            let space = self.clone();
            let room = tokio::task::spawn_blocking(move || space.room()).await;
            return room.unwrap_or_else(|stopped| Err(self.stopped(stopped)));
        }
        // One system call that does not block.
        self.room()
    }

    /// Whether somebody is to be stopped now: one at a time.
    fn may_stop(&self) -> bool {
        let stopped = self.0.stopped.lock();
        let mut stopped = stopped.unwrap_or_else(std::sync::PoisonError::into_inner);
        if stopped.is_some_and(|since| since.elapsed() < RESPITE) {
            return false;
        }
        *stopped = Some(Instant::now());
        true
    }

    async fn full_watched(&self, bytes: u64) -> SpaceError {
        let space = self.clone();
        let told = tokio::task::spawn_blocking(move || space.full(bytes)).await;
        told.unwrap_or_else(|stopped| self.stopped(stopped))
    }

    async fn make_watched(&self, bytes: u64) -> bool {
        let space = self.clone();
        let made = tokio::task::spawn_blocking(move || space.make(bytes)).await;
        matches!(made, Ok(Ok(true)))
    }

    fn stopped(&self, stopped: tokio::task::JoinError) -> SpaceError {
        SpaceError::Ask {
            root: self.0.root.clone(),
            source: std::io::Error::other(stopped),
        }
    }
}

impl Writer {
    /// Makes the headroom again, after it met with none, and room for what it had written, if it was cut short; whether it could be.
    pub async fn make_headroom(&self) -> bool {
        let space = self.space().clone();
        let lacked = self.met_no_inodes() || space.disk().is_ok_and(|disk| disk.lacks_inodes());
        let wanted = space.headroom() + self.cut_short();
        let began = Instant::now();
        let mut made = space.make_watched(wanted).await;
        // What it wrote goes when what it ran has ended.
        while !made && self.is_cut_short() && began.elapsed() < RESPITE {
            tokio::time::sleep(TICK.0).await;
            made = space.make_watched(wanted).await;
        }
        if !made || !lacked {
            return made;
        }
        // What failed for want of inodes would find as few as it had before.
        let made = tokio::task::spawn_blocking(move || space.make_inodes()).await;
        matches!(made, Ok(Ok(true)))
    }

    /// What is to be said after room could not be made. What it met with may be gone by now, as what it had made is.
    pub async fn shortage(&self) -> SpaceError {
        let space = self.space();
        if self.met_no_inodes() {
            let root = space.0.root.clone();
            return SpaceError::Inodes { root };
        }
        space.full_watched(space.headroom()).await
    }

    /// Sees to it that there is room while it writes without asking for it: makes some whenever there is less than the
    /// [headroom](Space::headroom). Ends only when none can be made, what there is will not do for what is written until the next
    /// look, and of all who write now this one wrote most.
    pub async fn watch(&self) -> SpaceError {
        let space = self.space();
        let headroom = space.headroom();
        let mut before = None;
        let mut respite: Option<Instant> = None;
        let mut looked = Instant::now();
        let mut pause = TICK.1;
        loop {
            tokio::time::sleep(pause).await;
            if self.is_stopped() {
                self.stops().await;
                return space.full_watched(headroom).await;
            }
            let room = match space.watched_room().await {
                Ok(room) => room,
                Err(error) => return error,
            };
            if room == 0 {
                self.finds_no_room();
            }
            let growth = before.unwrap_or(room).saturating_sub(room);
            before = Some(room);
            pause = until_next(room, growth, looked.elapsed());
            looked = Instant::now();
            if room >= headroom {
                respite = None;
                continue;
            }
            let urgent = room <= growth;
            if !urgent && respite.is_some_and(|since| since.elapsed() < RESPITE) {
                continue;
            }
            self.runs_short(room);
            if space.make_watched(headroom).await {
                before = None;
                continue;
            }
            respite = Some(Instant::now());
            // A part of what was wanted may have been made.
            match space.watched_room().await {
                Ok(room) if room > growth => before = Some(room),
                // What another one that was stopped took will be free in a moment.
                Ok(_) if !space.may_stop() || !self.choose().await => before = None,
                Ok(_) => {
                    self.stops().await;
                    return space.full_watched(headroom).await;
                }
                Err(error) => return error,
            }
        }
    }
}

/// When to look again, where so much room is left of which so much went within a time.
fn until_next(room: u64, gone: u64, within: Duration) -> Duration {
    let (longest, shortest) = TICK;
    if gone == 0 {
        return longest;
    }
    let left = within.as_secs_f64() * room as f64 / gone as f64;
    let next = Duration::try_from_secs_f64(left / f64::from(PART)).unwrap_or(longest);
    next.clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_comes_before_what_is_left_is_gone() {
        let milliseconds = Duration::from_millis;
        let next = |room, gone| until_next(room, gone, milliseconds(10));
        assert_eq!(next(1 << 30, 0), milliseconds(10), "nothing is written");
        assert_eq!(next(1 << 30, 1 << 20), milliseconds(10), "slowly");
        assert_eq!(next(8 << 20, 4 << 20), milliseconds(5));
        assert_eq!(next(1 << 20, 4 << 20), milliseconds(1));
        assert_eq!(next(0, 1), milliseconds(1));
    }
}
