use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a proxy does to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status in the server's place.
    Status(u16),
    /// Closes the connection without an answer.
    Close,
    /// Ends the answer's body half way.
    Truncate,
    /// Changes a byte of the answer's body.
    Corrupt,
    /// Gives half of the answer's body, and then nothing for as long as the client waits.
    Stall,
    /// Takes the request and says nothing for as long as the client waits.
    Silence,
    /// Gives the answer's body ten bytes a second.
    Trickle,
}

/// A rule of a proxy: requests of this method whose path contains the text meet the fault.
#[derive(Clone, Debug)]
struct Rule {
    method: String,
    path: String,
    fault: Fault,
    /// It holds for one request.
    once: bool,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<String>,
}

/// An HTTP proxy in front of a server that does to some answers what networks and servers do.
pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Starts a proxy in front of the server at `HOST:PORT`.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub fn start(server: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::<Mutex<State>>::default();
        let (shared, server) = (Arc::clone(&state), server.to_owned());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (state, server) = (Arc::clone(&shared), server.clone());
                // A client that goes away in the middle is what some tests are about.
                std::thread::spawn(move || drop(relay(client, &server, &state)));
            }
        });
        Ok(Self { port, state })
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on, requests of `method` whose path contains `path` meet `fault`.
    pub fn fault(&self, method: &str, path: &str, fault: Fault) {
        self.add(method, path, fault, false);
    }

    /// The next request of `method` whose path contains `path` meets `fault`.
    pub fn fault_once(&self, method: &str, path: &str, fault: Fault) {
        self.add(method, path, fault, true);
    }

    fn add(&self, method: &str, path: &str, fault: Fault, once: bool) {
        self.state().rules.push(Rule {
            method: method.to_owned(),
            path: path.to_owned(),
            fault,
            once,
        });
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// The requests since this was asked last, such as `GET /v2/`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one request; the connection ends with it.
fn relay(mut client: TcpStream, server: &str, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    let mut length = 0;
    // A client that tries TLS first is told that this is none.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    }
    loop {
        let start = head.len();
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&head[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.starts_with("connection:") {
            head.truncate(start);
        }
        if line.trim().is_empty() {
            head.truncate(start);
            break;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let fault = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(format!("{method} {path}"));
        let meets = |rule: &Rule| rule.method == method && path.contains(&rule.path);
        let met = state.rules.iter().position(meets);
        met.map(|number| match state.rules[number].once {
            true => state.rules.remove(number).fault,
            false => state.rules[number].fault,
        })
    };
    let chunked = text
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    if let Some(Fault::Status(status)) = fault {
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        let body = format!(r#"{{"errors":[{{"code":"X","message":"status {status}"}}]}}"#);
        write!(
            client,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        if method != "HEAD" {
            client.write_all(body.as_bytes())?;
        }
        return client.shutdown(Shutdown::Write);
    }
    if fault == Some(Fault::Close) {
        return client.shutdown(Shutdown::Both);
    }
    if fault == Some(Fault::Silence) {
        // Ends when the client closes the connection.
        return io::copy(&mut reader, &mut io::sink()).map(drop);
    }
    let mut upstream = TcpStream::connect(server)?;
    upstream.set_read_timeout(Some(Duration::from_secs(60)))?;
    upstream.write_all(&head)?;
    upstream.write_all(b"Connection: close\r\n\r\n")?;
    if chunked {
        let mut body = upstream.try_clone()?;
        std::thread::spawn(move || io::copy(&mut reader, &mut body));
    } else {
        io::copy(&mut (&mut reader).take(length), &mut upstream)?;
    }
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n");
    let body = body.map_or(answer.len(), |end| end + 4);
    match fault {
        Some(Fault::Truncate | Fault::Stall) => answer.truncate(body + (answer.len() - body) / 2),
        Some(Fault::Corrupt) => {
            if let Some(last) = answer[body..].last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
    if fault == Some(Fault::Trickle) {
        client.write_all(&answer[..body])?;
        for byte in &answer[body..] {
            client.write_all(std::slice::from_ref(byte))?;
            std::thread::sleep(Duration::from_millis(100));
        }
        return client.shutdown(Shutdown::Write);
    }
    client.write_all(&answer)?;
    if fault == Some(Fault::Stall) {
        // Ends when the client closes the connection.
        io::copy(&mut client, &mut io::sink())?;
    }
    client.shutdown(Shutdown::Write)
}
