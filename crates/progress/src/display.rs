use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::time::Duration;

use crate::build::{Build, Outcome};
use crate::channel::Receiver;
use crate::json;
use crate::model::{Batch, Timestamp};
use crate::plain::Plain;
use crate::tty::{Size, Tty};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// [`Mode::Tty`] on a terminal, [`Mode::Plain`] elsewhere.
    #[default]
    Auto,
    /// Text that only grows.
    Plain,
    /// A picture that is redrawn in place.
    Tty,
    /// One JSON object a line, as `client.SolveStatus` in BuildKit.
    RawJson,
    /// Nothing.
    Quiet,
}

/// A progress mode that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown progress mode {0:?} (known: auto, plain, tty, rawjson, quiet)")]
pub struct ParseModeError(String);

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "" | "auto" => Self::Auto,
            "plain" => Self::Plain,
            "tty" => Self::Tty,
            "rawjson" => Self::RawJson,
            "quiet" | "none" => Self::Quiet,
            _ => return Err(ParseModeError(text.to_owned())),
        })
    }
}

/// Shows the progress of one build on standard error.
pub struct Display {
    face: Face,
    build: Build,
    began: Timestamp,
}

enum Face {
    Plain(Plain),
    Tty(Tty),
    RawJson,
    Quiet,
}

/// How often a running build's picture is redrawn.
const FRAME: Duration = Duration::from_millis(100);
/// How often a running build's text grows: a build whose steps are all cached tells of them in
/// one piece.
const PIECE: Duration = Duration::from_millis(10);

/// Whether colours are wanted: <https://no-color.org>.
pub fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Display {
    /// A display that begins now.
    pub fn new(mode: Mode) -> Self {
        let face = match mode {
            Mode::Auto if io::stderr().is_terminal() => Face::Tty(Tty::new(colours())),
            Mode::Tty => Face::Tty(Tty::new(colours())),
            Mode::Auto | Mode::Plain => Face::Plain(Plain::default()),
            Mode::RawJson => Face::RawJson,
            Mode::Quiet => Face::Quiet,
        };
        Self {
            face,
            build: Build::default(),
            began: Timestamp::now_utc(),
        }
    }

    /// Shows what is received until all senders are gone. A failure to write ends the showing, not
    /// the build: what comes is still taken in.
    pub async fn run(mut self, mut receiver: Receiver) -> Outcome {
        let mut writes = true;
        loop {
            // Batches are taken no faster than a person can see them: they coalesce meanwhile.
            let frame = tokio::time::sleep(match self.face {
                Face::Tty(_) => FRAME,
                Face::Plain(_) | Face::RawJson | Face::Quiet => PIECE,
            });
            let received = tokio::select! {
                batch = receiver.receive() => batch,
                () = tokio::time::sleep(FRAME), if matches!(self.face, Face::Tty(_)) => Some(Batch::default()),
            };
            let Some(batch) = received else { break };
            self.build.apply(&batch);
            writes = writes && self.show(&batch, false).is_ok();
            if !batch.is_empty() {
                tokio::select! {
                    () = frame => {}
                    () = receiver.closed() => {}
                }
            }
        }
        if writes {
            // The build is over: nobody is left to tell of a failure to write.
            let _ = self.show(&Batch::default(), true);
        }
        self.build.outcome()
    }

    fn show(&mut self, batch: &Batch, last: bool) -> io::Result<()> {
        let now = Timestamp::now_utc();
        let mut out = io::BufWriter::new(io::stderr().lock());
        match &mut self.face {
            Face::Plain(plain) if last => plain.finish(&mut out, &self.build, now),
            Face::Plain(plain) => plain.update(&mut out, &self.build, batch, now),
            Face::Tty(tty) => tty.draw(
                &mut out,
                &self.build,
                terminal_size(),
                (self.began, now),
                last,
            ),
            Face::RawJson if batch.is_empty() => Ok(()),
            Face::RawJson => json::write(&mut out, batch),
            Face::Quiet => Ok(()),
        }?;
        out.flush()
    }
}

fn terminal_size() -> Size {
    let (width, height) = terminal_size::terminal_size_of(io::stderr())
        .map_or((80, 25), |(width, height)| (width.0, height.0));
    Size {
        width: usize::from(width).max(20),
        height: usize::from(height).max(4),
    }
}
