//! What is known of a disk and of what the state directory holds of it.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{FLOOR, part};

/// How long what was measured is believed at least, and how many times as long as it took.
const BELIEVED: (Duration, u32) = (Duration::from_secs(1), 20);
/// With fewer free inodes than this a file system that counts them counts as full …
const INODES: u64 = 64;
/// … or than this part of them, at most so many: what a step makes until it is looked again should fit.
const INODE_FLOOR: (u64, u64) = (32, 4096);
/// How many inodes are made free when something failed for want of them: this part of all, at most so many.
const INODE_BATCH: (u64, u64) = (4, 1 << 16);

/// A file system at one moment, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) total: u64,
    /// What this user can still write.
    pub(super) free: u64,
    inodes: Option<Inodes>,
}

/// How many files a file system may have.
#[derive(Clone, Copy, Debug)]
struct Inodes {
    total: u64,
    free: u64,
}

impl Disk {
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(root)?;
        if stat.f_blocks == 0 {
            // It does not count what it has.
            return Ok(Self {
                total: u64::MAX,
                free: u64::MAX,
                inodes: None,
            });
        }
        Ok(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: (stat.f_files > 0).then_some(Inodes {
                total: stat.f_files,
                free: stat.f_favail,
            }),
        })
    }

    /// How many more files there may be, and how many more there should be to begin again after there were too few.
    pub(super) fn inodes(&self) -> Option<(u64, u64)> {
        let Inodes { total, free } = self.inodes?;
        Some((free, part(total, INODE_BATCH)))
    }

    pub(super) fn lacks_inodes(&self) -> bool {
        self.inodes.is_some_and(|Inodes { total, free }| {
            let floor = part(total, INODE_FLOOR).max(INODES);
            free < floor
        })
    }

    /// What may be written so that records still can be.
    pub(super) fn usable(&self) -> u64 {
        if self.lacks_inodes() {
            return 0;
        }
        self.free.saturating_sub(part(self.total, FLOOR))
    }
}

/// What is put by, and what was measured.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Bytes that may be written and are not yet.
    pub(super) reserved: u64,
    /// `None` before the first measurement.
    pub(super) measured: Option<Measured>,
}

/// What the state directory held at one moment.
#[derive(Debug)]
pub(super) struct Measured {
    bytes: u64,
    free: u64,
    /// What was written until then, of the bytes that were put by.
    written: u64,
    at: Instant,
    took: Duration,
}

impl Measured {
    pub(super) fn new(bytes: u64, disk: &Disk, written: u64, began: Instant) -> Self {
        Self {
            bytes,
            free: disk.free,
            written,
            at: Instant::now(),
            took: began.elapsed(),
        }
    }

    /// What it holds now, rather too much than too little.
    pub(super) fn estimate(&self, disk: &Disk, written: u64) -> u64 {
        let gone = self.free.saturating_sub(disk.free);
        let ours = written.saturating_sub(self.written);
        self.bytes.saturating_add(gone.max(ours))
    }

    pub(super) fn is_stale(&self) -> bool {
        self.at.elapsed() > BELIEVED.0.max(self.took * BELIEVED.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(free: u64) -> Disk {
        Disk {
            total: 1 << 30,
            free,
            inodes: None,
        }
    }

    #[test]
    fn an_estimate_errs_to_the_safe_side() {
        let measured = Measured::new(1000, &disk(5000), 70, Instant::now());
        assert_eq!(measured.estimate(&disk(5000), 70), 1000);
        assert_eq!(measured.estimate(&disk(4900), 70), 1100, "somebody wrote");
        assert_eq!(measured.estimate(&disk(4900), 170), 1100, "we did");
        assert_eq!(measured.estimate(&disk(9000), 270), 1200, "others freed");
    }

    #[test]
    fn a_floor_is_left() {
        assert_eq!(disk(1 << 20).usable(), 0);
        assert_eq!(disk(20 << 20).usable(), 4 << 20);
        let with_inodes = |total, free| Disk {
            inodes: Some(Inodes { total, free }),
            ..disk(1 << 29)
        };
        assert_eq!(with_inodes(1000, INODES - 1).usable(), 0);
        assert_eq!(with_inodes(1 << 20, 4095).usable(), 0);
        assert!(with_inodes(1000, INODES).usable() > 0);
        assert!(with_inodes(1 << 20, 4096).usable() > 0);
    }
}
