use std::io::{self, Write};

use unicode_width::UnicodeWidthChar;

use crate::build::{Build, Step};
use crate::model::{Timestamp, TransferStatus};
use crate::units;

/// How many lines of a running step's output are shown.
const TAIL_LINES: usize = 6;

/// How many finished transfers of a running step are shown.
const TRANSFERS: usize = 10;

/// How large the terminal is, in columns and rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// A picture that is redrawn in place, in the format of docker's `--progress=tty`.
pub(crate) struct Tty {
    drawn: usize,
    frame: String,
    colours: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Paint {
    None,
    Done,
    Running,
    Failed,
    Cancelled,
}

struct Line {
    text: String,
    right: String,
    paint: Paint,
}

impl Tty {
    pub(crate) fn new(colours: bool) -> Self {
        Self {
            drawn: 0,
            frame: String::new(),
            colours,
        }
    }

    /// Draws the state of the build; the last picture (`last`) shows every step and stays.
    pub(crate) fn draw(
        &mut self,
        out: &mut dyn Write,
        build: &Build,
        size: Size,
        times: (Timestamp, Timestamp),
        last: bool,
    ) -> io::Result<()> {
        let mut lines = picture(build, times, last.then_some(size.width));
        if !last {
            fit(&mut lines, size.height.saturating_sub(1).max(3));
        }
        self.frame.clear();
        if self.drawn > 0 {
            self.frame.push_str(&format!("\x1b[{}A", self.drawn));
        }
        self.frame.push('\r');
        for line in &lines {
            line.render(&mut self.frame, size.width, self.colours);
        }
        // What is left of a longer picture before.
        self.frame.push_str("\x1b[J");
        self.drawn = lines.len();
        out.write_all(self.frame.as_bytes())?;
        out.flush()
    }
}

/// The last picture knows how wide it is: what it tells in words is not cut.
fn picture(build: &Build, (began, now): (Timestamp, Timestamp), width: Option<usize>) -> Vec<Line> {
    let last = width.is_some();
    let shown = || {
        build
            .steps
            .iter()
            .filter(|step| step.vertex.started.is_some() || step.vertex.completed.is_some())
    };
    let done = shown()
        .filter(|step| step.vertex.completed.is_some())
        .count();
    let failed = shown().any(|step| !step.vertex.error.is_empty());
    let state = match (last, failed) {
        (true, true) => " ERROR",
        (true, false) => " FINISHED",
        (false, _) => "",
    };
    let elapsed: std::time::Duration = (now - began).try_into().unwrap_or_default();
    let mut lines = vec![Line {
        text: format!(
            "[+] Building {} ({done}/{}){state}",
            units::seconds(elapsed),
            build.steps.len()
        ),
        right: String::new(),
        paint: if last && !failed {
            Paint::Done
        } else {
            Paint::None
        },
    }];
    for step in shown() {
        step_lines(step, now, last, &mut lines);
        if let (Some(width), Some(reason)) = (width, &step.reason) {
            reason_lines(reason, width, &mut lines);
        }
    }
    lines
}

fn step_lines(step: &Step, now: Timestamp, last: bool, lines: &mut Vec<Line>) {
    let vertex = &step.vertex;
    let cancelled = vertex.error.ends_with("cancelled") || vertex.error.ends_with("canceled");
    let (prefix, paint) = if cancelled {
        ("CANCELED ", Paint::Cancelled)
    } else if !vertex.error.is_empty() {
        ("ERROR ", Paint::Failed)
    } else if vertex.cached {
        ("CACHED ", Paint::Done)
    } else if vertex.completed.is_some() {
        ("", Paint::Done)
    } else {
        ("", Paint::Running)
    };
    lines.push(Line {
        text: format!(" => {prefix}{}", vertex.name),
        right: units::seconds(step.elapsed(now)),
        paint,
    });
    if vertex.completed.is_some() && (!last || vertex.error.is_empty()) && !step.is_running() {
        if !last {
            return;
        }
        lines.extend(
            step.statuses
                .iter()
                .map(|status| transfer_line(status, now)),
        );
        return;
    }
    let skipped = step.statuses.len().saturating_sub(TRANSFERS);
    lines.extend(
        step.statuses
            .iter()
            .skip(skipped)
            .map(|status| transfer_line(status, now)),
    );
    if !last {
        lines.extend(step.tail.last(TAIL_LINES).into_iter().map(|line| Line {
            text: format!(" => => # {line}"),
            right: String::new(),
            paint: Paint::None,
        }));
    }
}

fn reason_lines(reason: &str, width: usize, lines: &mut Vec<Line>) {
    const START: &str = " => => # ";
    let room = width.saturating_sub(START.len()).max(20);
    let chars: Vec<char> = reason.chars().collect();
    lines.extend(chars.chunks(room).map(|part| Line {
        text: START.to_owned() + &part.iter().collect::<String>(),
        right: String::new(),
        paint: Paint::None,
    }));
}

fn transfer_line(status: &TransferStatus, now: Timestamp) -> Line {
    let amount = match (status.current, status.total) {
        (0, 0) => String::new(),
        (current, 0) => format!(" {}", units::bytes(current)),
        (current, total) => format!(" {} / {}", units::bytes(current), units::bytes(total)),
    };
    let elapsed = status
        .started
        .map(|started| {
            (status.completed.unwrap_or(now) - started)
                .as_seconds_f64()
                .max(0.0)
        })
        .unwrap_or_default();
    Line {
        text: format!(" => => {}{amount}", status.id),
        right: format!("{elapsed:.1}s"),
        paint: if status.completed.is_some() {
            Paint::Done
        } else {
            Paint::Running
        },
    }
}

/// Leaves the headline and what fits below it, dropping finished steps first and the oldest first.
fn fit(lines: &mut Vec<Line>, height: usize) {
    let mut surplus = lines.len().saturating_sub(height);
    let mut number = 0;
    lines.retain(|line| {
        number += 1;
        let drop = number > 1 && surplus > 0 && line.paint == Paint::Done;
        surplus -= usize::from(drop);
        !drop
    });
    lines.drain(1..=surplus);
}

impl Line {
    fn render(&self, frame: &mut String, width: usize, colours: bool) {
        let (start, end) = match self.paint {
            _ if !colours => ("", ""),
            Paint::None | Paint::Running => ("", ""),
            Paint::Done => ("\x1b[34m", "\x1b[0m"),
            Paint::Failed => ("\x1b[31m", "\x1b[0m"),
            Paint::Cancelled => ("\x1b[33m", "\x1b[0m"),
        };
        frame.push_str(start);
        let room = width.saturating_sub(self.right.len() + usize::from(!self.right.is_empty()));
        let mut used = 0;
        for char in self.text.chars().filter(|char| !char.is_control()) {
            let columns = char.width().unwrap_or(0);
            if used + columns > room {
                break;
            }
            used += columns;
            frame.push(char);
        }
        if !self.right.is_empty() && width > used + self.right.len() {
            frame.extend(std::iter::repeat_n(' ', width - used - self.right.len()));
            frame.push_str(&self.right);
        }
        frame.push_str(end);
        frame.push_str("\x1b[K\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, Log, Stream, Vertex};
    use weld_digest::Digest;

    fn vertex(name: &str, started: i64, completed: Option<i64>) -> Vertex {
        let at = |second| Timestamp::from_unix_timestamp(second).unwrap();
        Vertex {
            started: Some(at(started)),
            completed: completed.map(at),
            ..Vertex::new(Digest::sha256_of(name), name)
        }
    }

    fn screen(pictures: &[(&Build, i64, bool)], size: Size) -> Vec<String> {
        let mut parser = vt100::Parser::new(size.height as u16, size.width as u16, 0);
        let mut tty = Tty::new(true);
        for (build, second, last) in pictures {
            let mut out = Vec::new();
            let now = Timestamp::from_unix_timestamp(*second).unwrap();
            tty.draw(&mut out, build, size, (Timestamp::UNIX_EPOCH, now), *last)
                .unwrap();
            // A terminal in its usual mode turns a line feed into a new line.
            let text = String::from_utf8(out).unwrap().replace('\n', "\r\n");
            parser.process(text.as_bytes());
        }
        let contents = parser.screen().contents();
        contents.lines().map(str::to_owned).collect()
    }

    const SIZE: Size = Size {
        width: 60,
        height: 10,
    };

    #[test]
    fn a_step_runs_and_ends_in_place() {
        let mut build = Build::default();
        build.apply(&Batch {
            vertexes: vec![vertex("[1/1] RUN make", 0, None)],
            ..Batch::default()
        });
        build.apply(&Batch {
            logs: vec![Log {
                vertex: Digest::sha256_of("[1/1] RUN make"),
                stream: Stream::Stdout,
                data: b"compiling\n\x1b[2Jmore".to_vec(),
                timestamp: Timestamp::UNIX_EPOCH,
            }],
            ..Batch::default()
        });
        let mut ended = Build::default();
        ended.apply(&Batch {
            vertexes: vec![vertex("[1/1] RUN make", 0, Some(3))],
            ..Batch::default()
        });
        let running = screen(&[(&build, 2, false)], SIZE);
        assert_eq!(running[0], "[+] Building 2.0s (0/1)");
        assert!(running[1].starts_with(" => [1/1] RUN make") && running[1].ends_with("2.0s"));
        assert_eq!(running[2..], [" => => # compiling", " => => # more"]);
        let last = screen(&[(&build, 2, false), (&ended, 3, true)], SIZE);
        assert_eq!(last[0], "[+] Building 3.0s (1/1) FINISHED");
        assert!(last[1].ends_with("3.0s"));
        assert_eq!(last.len(), 2, "{last:?}");
    }

    #[test]
    fn a_step_that_starts_again_runs_again() {
        let cached = Vertex {
            cached: true,
            ..vertex("RUN a", 1, Some(1))
        };
        let shown = |vertexes: &[Vertex]| {
            let mut build = Build::default();
            for vertex in vertexes {
                build.apply(&Batch {
                    vertexes: vec![vertex.clone()],
                    ..Batch::default()
                });
            }
            build
        };
        let [again, done] = [None, Some(6)].map(|end| vertex("RUN a", 3, end));
        let before = shown(std::slice::from_ref(&cached));
        let during = shown(&[cached.clone(), again.clone()]);
        let after = shown(&[cached, again, done]);
        let first = screen(&[(&before, 2, false)], SIZE);
        assert!(first[1].starts_with(" => CACHED RUN a"), "{first:?}");
        let second = screen(&[(&before, 2, false), (&during, 5, false)], SIZE);
        assert_eq!(second[0], "[+] Building 5.0s (0/1)");
        assert!(second[1].starts_with(" => RUN a") && second[1].ends_with("2.0s"));
        let last = screen(&[(&during, 5, false), (&after, 6, true)], SIZE);
        assert!(last[1].starts_with(" => RUN a") && last[1].ends_with("3.0s"));
    }

    #[test]
    fn many_steps_fit_the_screen_and_running_ones_stay() {
        let mut build = Build::default();
        let mut vertexes: Vec<_> = (0..30)
            .map(|number| vertex(&format!("done {number}"), 0, Some(1)))
            .collect();
        vertexes.insert(3, vertex("still running", 0, None));
        build.apply(&Batch {
            vertexes,
            ..Batch::default()
        });
        let lines = screen(&[(&build, 5, false), (&build, 6, false)], SIZE);
        assert!(lines.len() <= SIZE.height, "{lines:?}");
        assert_eq!(lines[0], "[+] Building 6.0s (30/31)");
        assert!(
            lines.iter().any(|line| line.contains("still running")),
            "{lines:?}"
        );
        assert!(
            lines.iter().any(|line| line.contains("done 29")),
            "{lines:?}"
        );
    }

    #[test]
    fn why_a_step_ran_is_there_at_the_end() {
        let mut build = Build::default();
        build.apply(&Batch {
            vertexes: vec![
                vertex("[1/2] RUN make", 0, Some(1)),
                vertex("[2/2] RUN true", 1, Some(2)),
            ],
            logs: vec![Log {
                vertex: Digest::sha256_of("[1/2] RUN make"),
                stream: Stream::Stderr,
                data: b"not cached: the command was make all, now make, and so on\n".to_vec(),
                timestamp: Timestamp::UNIX_EPOCH,
            }],
            ..Batch::default()
        });
        let last = screen(&[(&build, 2, false), (&build, 2, true)], SIZE);
        let told: Vec<_> = last.iter().map(|line| line.trim_end()).collect();
        assert_eq!(
            told[1..],
            [
                " => [1/2] RUN make                                      1.0s",
                " => => # not cached: the command was make all, now make, and",
                " => => #  so on",
                " => [2/2] RUN true                                      1.0s",
            ]
        );
    }

    #[test]
    fn long_names_are_cut_to_the_width() {
        let mut build = Build::default();
        build.apply(&Batch {
            vertexes: vec![vertex(&"ü".repeat(200), 0, None)],
            ..Batch::default()
        });
        let lines = screen(&[(&build, 1, false)], SIZE);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].ends_with("ü 1.0s"), "{lines:?}");
    }
}
