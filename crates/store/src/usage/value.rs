//! What a cached object is worth: how much time it is likely to save, for what it takes of the disk.

/// Bytes a second at which what was never measured counts as made, such as a cache mount.
const UNMEASURED_RATE: u64 = 50_000_000;
/// Nothing takes less: it has to be looked for, started and recorded.
const LEAST_COST: u64 = 10_000_000;
/// What takes less on disk costs as much to look after.
const LEAST_SIZE: u64 = 4096;
/// After so long without a use the next one is only half as likely, in seconds.
const IDLE: f64 = 3600.0;

/// What is known of an object when it is asked what it is worth.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// How long it took to make or to fetch, in nanoseconds; `None` if that was not measured.
    pub cost: Option<u64>,
    /// Its bytes on disk.
    pub size: u64,
    /// How often it was used since it was made.
    pub uses: u64,
    /// How long it was not used, in nanoseconds.
    pub idle: u64,
}

impl Worth {
    /// The cost to make it again, by the likelihood that it is wanted, divided by its size: what is worth
    /// least goes first. Comparable only between objects that are asked at one moment.
    pub fn value(&self) -> f64 {
        let size = self.size.max(LEAST_SIZE);
        let unmeasured = || {
            let nanoseconds = u128::from(size) * 1_000_000_000 / u128::from(UNMEASURED_RATE);
            u64::try_from(nanoseconds).unwrap_or(u64::MAX)
        };
        let cost = self.cost.unwrap_or_else(unmeasured).max(LEAST_COST);
        cost as f64 / size as f64 * self.likelihood()
    }

    /// How likely it is that it is wanted again, compared with what was made a moment ago: more so the more often
    /// it was used, less so the longer ago that was. The square lets this outweigh costs and sizes, which are
    /// measured once and lie far apart.
    fn likelihood(&self) -> f64 {
        let idle = self.idle as f64 / 1e9 / IDLE;
        let rate = (self.uses as f64 + 1.0) / (1.0 + idle * idle);
        rate * rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn worth() -> Worth {
        Worth {
            cost: Some(10 * SECOND),
            size: 1 << 20,
            uses: 1,
            idle: 600 * SECOND,
        }
    }

    #[test]
    fn what_costs_more_is_used_more_or_is_smaller_is_worth_more() {
        let value = worth().value();
        let cost = Some(20 * SECOND);
        assert!(Worth { cost, ..worth() }.value() > value);
        assert!(Worth { uses: 2, ..worth() }.value() > value);
        let idle = 60 * SECOND;
        assert!(Worth { idle, ..worth() }.value() > value);
        let size = 1 << 19;
        assert!(Worth { size, ..worth() }.value() > value);
    }

    #[test]
    fn extremes_have_values_that_compare() {
        for number in [0, 1, u64::MAX] {
            for cost in [None, Some(number)] {
                let value = Worth {
                    cost,
                    size: number,
                    uses: number,
                    idle: number,
                }
                .value();
                assert!(value.is_finite() && value > 0.0, "{number}: {value}");
            }
        }
    }
}
