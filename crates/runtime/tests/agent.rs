//! Connections to agents that go away in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Tests fail by panics.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use weld_runtime::{AgentConnector, AgentStream};

const IDENTITIES: u8 = 11;
const SIGN: u8 = 13;
const REMOVE_ALL: u8 = 19;
const EXTENSION: u8 = 27;

/// What an agent does with one connection: how many bytes it takes, then what it says, then the next; it breaks off at the end.
type Script = Vec<(usize, Vec<u8>)>;

struct World {
    step: UnixStream,
    /// What each connection was told, in order.
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    _socket: AbortOnDropHandle<io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl World {
    /// A step connected to agents that do as told, one after the other. There is no further one.
    async fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let scripts: Mutex<VecDeque<Script>> = Mutex::new(scripts.into_iter().collect());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let connector = AgentConnector::new(move || {
            let script = scripts.lock().unwrap().pop_front();
            let hearing = Arc::clone(&hearing);
            Box::pin(async move {
                let script = script.ok_or_else(|| io::Error::other("no agent is left"))?;
                let (near, far) = tokio::io::duplex(1 << 20);
                let number = {
                    let mut hearing = hearing.lock().unwrap();
                    hearing.push(Vec::new());
                    hearing.len() - 1
                };
                tokio::spawn(act(far, script, number, hearing));
                Ok(Box::new(near) as Box<dyn AgentStream>)
            })
        });
        let socket = AbortOnDropHandle::new(tokio::spawn(connector.serve(listener)));
        let step = UnixStream::connect(&path).await.unwrap();
        Self {
            step,
            heard,
            _socket: socket,
            _dir: dir,
        }
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.step.write_all(bytes).await.unwrap();
    }

    /// The next bytes that the step is told.
    async fn hears(&mut self, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        let read = self.step.read_exact(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        read.expect("nothing is said").unwrap();
        assert_eq!(bytes, expected);
    }

    /// The step's connection is over.
    async fn is_over(&mut self) {
        let mut rest = Vec::new();
        let read = self.step.read_to_end(&mut rest);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        // With bytes that nobody took, the connection is reset.
        drop(read.expect("the connection stays"));
        assert_eq!(rest, b"");
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

async fn act(
    mut stream: DuplexStream,
    script: Script,
    number: usize,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    for (takes, says) in script {
        let mut taken = vec![0; takes];
        if stream.read_exact(&mut taken).await.is_err() {
            return;
        }
        heard.lock().unwrap()[number].extend(taken);
        if stream.write_all(&says).await.is_err() {
            return;
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
    [length.as_slice(), &[kind], body].concat()
}

#[tokio::test]
async fn an_unanswered_question_is_asked_of_the_next_agent() {
    let question = message(SIGN, &[7; 100_000]);
    let answer = message(14, b"signature");
    let mut world = World::new([
        vec![(question.len(), Vec::new())],
        // Half an answer is none.
        vec![(question.len(), answer[..6].to_vec())],
        vec![(question.len(), answer.clone())],
    ])
    .await;
    world.says(&question).await;
    world.hears(&answer).await;
    assert_eq!(world.heard(), vec![question; 3]);
}

#[tokio::test]
async fn the_next_agent_is_told_of_sessions_and_asked_only_what_is_left() {
    let (bind, done) = (message(EXTENSION, b"session-bind"), message(6, b""));
    let (list, keys) = (message(IDENTITIES, b""), message(12, b"two keys"));
    let (sign, signed) = (message(SIGN, b"this"), message(14, b"signature"));
    let mut world = World::new([
        vec![
            (bind.len(), done.clone()),
            (list.len(), keys.clone()),
            (sign.len(), Vec::new()),
        ],
        vec![(bind.len(), done.clone()), (sign.len(), signed.clone())],
    ])
    .await;
    for (question, answer) in [(&bind, &done), (&list, &keys), (&sign, &signed)] {
        world.says(question).await;
        world.hears(answer).await;
    }
    let all = [bind.clone(), list, sign.clone()].concat();
    assert_eq!(world.heard(), vec![all, [bind, sign].concat()]);
}

#[tokio::test]
async fn an_agent_that_may_have_changed_its_keys_is_not_asked_again() {
    let question = message(REMOVE_ALL, b"");
    let mut world = World::new([
        vec![(question.len(), Vec::new())],
        vec![(question.len(), message(6, b""))],
    ])
    .await;
    world.says(&question).await;
    world.is_over().await;
    assert_eq!(world.heard(), vec![question]);
}

#[tokio::test]
async fn agents_that_never_answer_are_not_asked_for_ever() {
    let question = message(IDENTITIES, b"");
    let silent = || vec![(question.len(), Vec::new())];
    let mut world = World::new((0..100).map(|_| silent())).await;
    world.says(&question).await;
    world.is_over().await;
    assert!(world.heard().len() < 10, "{}", world.heard().len());
}

#[tokio::test]
async fn other_protocols_pass_as_they_are() {
    // Short of a message's length; longer than any; two at once; an answer before its question.
    let list = message(IDENTITIES, b"");
    let cases: [(&[u8], &[u8]); 4] = [
        (b"who", b"me"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        (&[list.clone(), list.clone()].concat(), b"two"),
        (&list[..3], &message(12, b"keys")),
    ];
    for (says, hears) in cases {
        let mut world = World::new([vec![(says.len(), hears.to_vec())]]).await;
        world.says(says).await;
        world.hears(hears).await;
        world.is_over().await;
        assert_eq!(world.heard(), vec![says.to_vec()]);
    }
    let mut greeted =
        World::new([vec![(0, b"220 ready\r\n".to_vec()), (4, b"bye".to_vec())]]).await;
    greeted.hears(b"220 ready\r\n").await;
    greeted.says(b"QUIT").await;
    greeted.hears(b"bye").await;
    greeted.is_over().await;
}

#[tokio::test]
async fn a_step_that_says_no_more_still_hears_the_answer() {
    let (question, answer) = (message(IDENTITIES, b""), message(12, b"keys"));
    let mut world = World::new([vec![(question.len(), answer.clone())]]).await;
    world.says(&question).await;
    world.step.shutdown().await.unwrap();
    world.hears(&answer).await;
    world.is_over().await;
}
