//! Steps of a schedule: small, and meaningful in any state, so that a schedule can be shortened.

use super::rng::Rng;

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A job begins.
    Open,
    /// A job loads a graph.
    Load,
    /// A job asks for a result.
    Build,
    /// A job reports a result as lost.
    Rebuild,
    /// A request is cancelled.
    Cancel,
    /// A job is discarded.
    Discard,
    /// A task ends well.
    Finish,
    /// A task fails.
    Fail,
    /// A task finds that the result of an input is lost.
    LoseInput,
    /// A query is answered.
    Answer,
    /// A job's session closes.
    CloseSession,
    /// A stored result vanishes.
    DropRecord,
    /// A job begins to listen.
    Subscribe,
}

const WEIGHTS: [(Action, u64); 13] = [
    (Action::Finish, 40),
    (Action::Answer, 30),
    (Action::Build, 8),
    (Action::Load, 8),
    (Action::Open, 4),
    (Action::Discard, 3),
    (Action::Cancel, 4),
    (Action::Fail, 1),
    (Action::LoseInput, 1),
    (Action::CloseSession, 1),
    (Action::DropRecord, 1),
    (Action::Rebuild, 1),
    (Action::Subscribe, 1),
];

/// One step. The numbers pick among what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub action: Action,
    /// To whom.
    pub a: u64,
    /// How.
    pub b: u64,
}

impl Step {
    /// How many bytes a step is made of.
    pub const BYTES: usize = 11;

    /// A step out of bytes that a fuzzer made up: every action is as likely.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [action, low, high, b @ ..] = bytes;
        let (action, _) = WEIGHTS[usize::from(action) % WEIGHTS.len()];
        Self {
            action,
            a: u64::from(u16::from_le_bytes([low, high])),
            b: u64::from_le_bytes(b),
        }
    }

    pub(super) fn draw(rng: &mut Rng) -> Self {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.below(total);
        let action = WEIGHTS
            .iter()
            .find(|(_, weight)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            })
            .map_or(Action::Finish, |(action, _)| *action);
        Self {
            action,
            a: rng.below(1 << 20),
            b: rng.next(),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} {}", self.action, self.a, self.b)
    }
}

/// A line is not a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a step of a schedule: {0:?}")]
pub struct NotAStep(pub String);

impl std::str::FromStr for Step {
    type Err = NotAStep;

    fn from_str(line: &str) -> Result<Self, NotAStep> {
        let error = || NotAStep(line.to_owned());
        let mut words = line.split_whitespace();
        let name = words.next().ok_or_else(error)?;
        let (action, _) = WEIGHTS
            .iter()
            .find(|(action, _)| format!("{action:?}") == name)
            .ok_or_else(error)?;
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(error)
        };
        let step = Self {
            action: *action,
            a: number()?,
            b: number()?,
        };
        words.next().map_or(Ok(step), |_| Err(error()))
    }
}
