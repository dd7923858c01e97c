//! A file behind HTTP, with an entity tag, and a count of who asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) content: &'static str,
    pub(crate) etag: &'static str,
    /// The `Authorization` that is required, if any.
    pub(crate) authorization: Option<&'static str>,
    /// The status of each answer.
    pub(crate) answers: Vec<u16>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/dir/file.txt", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, &shared).await;
            }
        });
        Self { url, state, task }
    }

    pub(crate) fn set(&self, content: &'static str, etag: &'static str) {
        let mut state = self.state.lock().unwrap();
        (state.content, state.etag) = (content, etag);
    }

    pub(crate) fn answers(&self) -> Vec<u16> {
        self.state.lock().unwrap().answers.clone()
    }
}

async fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted)
                .then(|| value.trim().to_owned())
        })
    };
    let reply = {
        let mut state = state.lock().unwrap();
        let etag = format!("\"{}\"", state.etag);
        let refused = state
            .authorization
            .is_some_and(|wanted| header("authorization").as_deref() != Some(wanted));
        let known = header("if-none-match").is_some_and(|tags| tags.contains(&etag));
        let (status, body) = match (refused, known) {
            (true, _) => (401, ""),
            (_, true) => (304, ""),
            _ => (200, state.content),
        };
        state.answers.push(status);
        let length = match status {
            304 => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        format!(
            "HTTP/1.1 {status} x\r\n{length}ETag: {etag}\r\n\
             Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\nConnection: close\r\n\r\n{body}"
        )
    };
    // The client may have gone.
    drop(stream.write_all(reply.as_bytes()).await);
    drop(stream.shutdown().await);
}
