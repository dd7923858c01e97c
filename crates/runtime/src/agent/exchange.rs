//! One connection of a step to an agent. An agent answers one message with one other, so a question that is left unanswered when
//! its agent goes away can be asked of the next one. What does not look like that protocol is passed on as it is.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{AgentConnector, AgentStream};

/// Bytes read at once.
const CHUNK: usize = 8 * 1024;

/// The longest message, without its length, that OpenSSH sends or takes.
const LONGEST: usize = 256 * 1024;

/// How many connections in a row may be lost without an answer.
const LOST: u32 = 4;

/// How many sessions are told to each further agent, the number that OpenSSH's agent takes for one connection.
const BINDS: usize = 16;

/// Message types of the protocol, from draft-ietf-sshm-ssh-agent.
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// Further requests: adding and removing keys, locking.
const CHANGES: [u8; 9] = [17, 18, 19, 20, 21, 22, 23, 25, 26];
const EXTENSION: u8 = 27;

/// Passes on what `near` and an agent say until either is done.
///
/// # Errors
/// If an agent cannot be connected to, or none of several answers.
pub(super) async fn carry(near: UnixStream, connector: AgentConnector) -> io::Result<()> {
    let far = connector.connect().await?;
    let exchange = Exchange {
        near,
        far,
        connector,
        question: Vec::new(),
        answer: Vec::new(),
        binds: Vec::new(),
        lost: 0,
    };
    exchange.run().await
}

struct Exchange {
    near: UnixStream,
    far: Box<dyn AgentStream>,
    connector: AgentConnector,
    /// What was asked since the last answer; the agent has it.
    question: Vec<u8>,
    /// What was answered; it is held back until it is whole, since another agent cannot go on with it.
    answer: Vec<u8>,
    /// Extension requests that were answered: OpenSSH's tell an agent of the session that it signs for, and belong to a connection.
    binds: Vec<Vec<u8>>,
    lost: u32,
}

enum Heard {
    Near(io::Result<usize>),
    Far(io::Result<usize>),
}

impl Exchange {
    async fn run(mut self) -> io::Result<()> {
        let (mut from_near, mut from_far) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut is_asking = true;
        let mut was_asked = false;
        loop {
            let heard = tokio::select! {
                read = self.near.read(&mut from_near), if is_asking => Heard::Near(read),
                read = self.far.read(&mut from_far) => Heard::Far(read),
            };
            match heard {
                Heard::Near(Err(_)) => return Ok(()),
                Heard::Near(Ok(0)) if self.question.is_empty() => return Ok(()),
                Heard::Near(Ok(0)) if is_whole(&self.question) => is_asking = false,
                Heard::Near(Ok(length)) => {
                    let chunk = &from_near[..length];
                    let was_whole = is_whole(&self.question);
                    self.question.extend_from_slice(chunk);
                    was_asked = true;
                    if self.far.write_all(chunk).await.is_err() {
                        self.ask_another().await?;
                    }
                    if length == 0 || was_whole || !is_question(&self.question) {
                        return self.pass_on().await;
                    }
                }
                Heard::Far(Ok(0)) if !was_asked => return Ok(()),
                Heard::Far(Ok(0)) => self.ask_another().await?,
                Heard::Far(Err(error)) => {
                    tracing::debug!("an agent went away: {error}");
                    self.ask_another().await?;
                }
                Heard::Far(Ok(length)) => {
                    self.answer.extend_from_slice(&from_far[..length]);
                    if !is_whole(&self.question) || !is_message(&self.answer) {
                        return self.pass_on().await;
                    }
                    if is_whole(&self.answer) {
                        if self.near.write_all(&self.answer).await.is_err() {
                            return Ok(());
                        }
                        self.answered();
                    }
                }
            }
        }
    }

    fn answered(&mut self) {
        let question = std::mem::take(&mut self.question);
        if kind(&question) == Some(EXTENSION) && self.binds.len() < BINDS {
            self.binds.push(question);
        }
        self.answer.clear();
        self.lost = 0;
    }

    /// Connects again, to whichever agent there is now, and asks it what the one before left unanswered.
    async fn ask_another(&mut self) -> io::Result<()> {
        self.answer.clear();
        let may_have_acted =
            is_whole(&self.question) && kind(&self.question).is_none_or(|it| CHANGES.contains(&it));
        while !may_have_acted && self.lost < LOST {
            self.lost += 1;
            self.far = self.connector.connect().await?;
            if self.catch_up().await.is_ok() {
                return Ok(());
            }
        }
        Err(io::Error::from(io::ErrorKind::BrokenPipe))
    }

    async fn catch_up(&mut self) -> io::Result<()> {
        for bind in &self.binds {
            self.far.write_all(bind).await?;
            let mut answer = vec![0; 4];
            self.far.read_exact(&mut answer).await?;
            let length = length(&answer).filter(|length| *length <= LONGEST);
            answer.resize(length.ok_or(io::ErrorKind::InvalidData)?, 0);
            self.far.read_exact(&mut answer).await?;
        }
        self.far.write_all(&self.question).await
    }

    /// Passes on all bytes, from the answer that was held back on.
    async fn pass_on(mut self) -> io::Result<()> {
        if self.near.write_all(&self.answer).await.is_ok() {
            // Either side may break off.
            drop(tokio::io::copy_bidirectional(&mut self.near, &mut self.far).await);
        }
        Ok(())
    }
}

/// The length of a message that begins so.
fn length(message: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*message.first_chunk()?);
    usize::try_from(length).ok()
}

fn kind(message: &[u8]) -> Option<u8> {
    message.get(4).copied()
}

/// Whether a message may begin so.
fn is_message(bytes: &[u8]) -> bool {
    length(bytes).is_none_or(|length| (1..=LONGEST).contains(&length) && bytes.len() <= 4 + length)
}

/// Whether a request to an agent may begin so.
fn is_question(bytes: &[u8]) -> bool {
    let is_known = |kind| {
        matches!(kind, REQUEST_IDENTITIES | SIGN_REQUEST | EXTENSION) || CHANGES.contains(&kind)
    };
    is_message(bytes) && kind(bytes).is_none_or(is_known)
}

fn is_whole(message: &[u8]) -> bool {
    length(message).is_some_and(|length| message.len() == 4 + length)
}
