//! What steps have of clients of a daemon that leave while a step goes on for others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use support::{Bed, kept::Daemon};

/// Asks the agent at `/run/agent` who it is and prints the answer; busybox has no such program.
const ASK: &str = r#"
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <unistd.h>
    int main(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/agent" };
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return 1;
        if (write(fd, "\0\0\0\1\13", 5) != 5) return 2;
        char answer[64];
        long got = read(fd, answer, sizeof answer);
        return got > 5 && write(1, answer + 5, got - 5) == got - 5 ? 0 : 3;
    }"#;

/// An agent whose one key is its name, or that never answers; how often it was asked.
fn agent(socket: &Path, name: Option<&'static str>) -> Arc<AtomicU32> {
    let listener = UnixListener::bind(socket).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut unanswered = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = [0; 5];
            // Who asks may be gone by now.
            if stream.read_exact(&mut question).is_err() {
                continue;
            }
            count.fetch_add(1, Ordering::SeqCst);
            match name {
                Some(name) => {
                    let length = u32::try_from(name.len() + 1).unwrap().to_be_bytes();
                    let answer = [length.as_slice(), &[12], name.as_bytes()].concat();
                    drop(stream.write_all(&answer));
                }
                None => unanswered.push(stream),
            }
        }
    });
    asked
}

fn compile(program: &Path) {
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-x", "c", "-", "-o"]).arg(program);
    let mut gcc = gcc.stdin(Stdio::piped()).spawn().unwrap();
    let mut source = gcc.stdin.take().unwrap();
    source.write_all(ASK.as_bytes()).unwrap();
    drop(source);
    assert!(gcc.wait().unwrap().success());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The agent of a step that several builds wait for is that of a client that is there, whoever it began for.
#[test]
fn a_step_asks_the_agent_of_a_client_that_is_still_there() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.context()).unwrap();
    compile(&bed.context().join("ask"));
    // Each question may fail, and takes a while where nobody answers: then there are too few.
    bed.dockerfile(
        "FROM base\nCOPY ask /ask\n\
         RUN --mount=type=ssh,target=/run/agent \
             i=0; until [ \"$(/ask)\" = second ] || [ $i = 20 ]; do i=$((i+1)); sleep 0.1; done; \
             [ \"$(/ask)\" = second ] && [ \"$(/ask)\" = second ]\n",
    );
    first_is_killed(&bed, Some("first"), 2);
}

/// A question that the first client leaves unanswered is asked of the second.
#[test]
fn an_agents_unanswered_question_is_asked_elsewhere() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.context()).unwrap();
    compile(&bed.context().join("ask"));
    bed.dockerfile(
        "FROM base\nCOPY ask /ask\n\
         RUN --mount=type=ssh,target=/run/agent [ \"$(/ask)\" = second ]\n",
    );
    first_is_killed(&bed, None, 1);
}

/// Two clients build the same; the first is killed once its agent, of that key, has been asked so often. The second must succeed.
fn first_is_killed(bed: &Bed, key: Option<&'static str>, asked: u32) {
    let daemon = Daemon::start(bed);
    let client = |name: &str| -> Child {
        let ssh = format!("default={}", bed.path(name).display());
        let arguments = ["--addr", &daemon.address, "--ssh", &ssh];
        let mut command = bed.build_command(&[], &arguments);
        let file = std::fs::File::create(bed.path(&format!("{name}.log"))).unwrap();
        command.stderr(file).spawn().unwrap()
    };
    let said = |name: &str| std::fs::read_to_string(bed.path(&format!("{name}.log"))).unwrap();
    let first_asked = agent(&bed.path("first"), key);
    agent(&bed.path("second"), Some("second"));
    let mut first = client("first");
    until("the first is asked", || {
        first_asked.load(Ordering::SeqCst) >= asked
    });
    let mut second = client("second");
    until("the second waits for the step", || {
        said("second").contains("RUN --mount=type=ssh")
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let ended = second.wait().unwrap();
    assert!(ended.success(), "{}", said("second"));
}
