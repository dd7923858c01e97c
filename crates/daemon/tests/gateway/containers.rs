//! Containers that a frontend has, and processes in them.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use tonic::Code;
use weld_llb::{Builder, Platform, pb};
use weld_proto::frontend as wire;
use weld_proto::frontend::exec_message::Input;

use crate::world::{World, shell};

pub(crate) fn init(container: &str, script: &str, fds: &[u32], tty: bool) -> Input {
    Input::Init(wire::InitMessage {
        container_id: container.to_owned(),
        meta: Some(pb::Meta {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["GREETING=hi".to_owned()],
            cwd: "/".to_owned(),
            ..pb::Meta::default()
        }),
        fds: fds.to_vec(),
        tty,
        ..wire::InitMessage::default()
    })
}

/// A world, and the name of a root with a shell in it.
async fn with_shell() -> (World, String) {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let root = shell(&mut builder).output;
    let definition = builder.definition(root, &Platform::host()).unwrap();
    let id = world.solve(definition).await.unwrap();
    (world, id)
}

/// Requests that are sent while answers come.
fn requests() -> (
    tokio::sync::mpsc::Sender<wire::ExecMessage>,
    impl futures_util::Stream<Item = wire::ExecMessage>,
) {
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let requests = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    (sender, requests)
}

fn message(process: &str, input: Input) -> wire::ExecMessage {
    wire::ExecMessage {
        process_id: process.to_owned(),
        input: Some(input),
    }
}

#[tokio::test]
async fn processes_run_in_containers() {
    let (mut world, id) = with_shell().await;

    world.container("pipes", &id).await;
    let data = |data: &'static str, eof| {
        Input::File(wire::FdMessage {
            fd: 0,
            eof,
            data: data.into(),
        })
    };
    let script = "read x; echo $GREETING $x; echo kept > /kept; exit 3";
    let started = init("pipes", script, &[0, 1, 2], false);
    let out = world.exec("p", vec![started, data("you\n", true)]).await;
    assert!(out.started && out.done);
    assert_eq!((out.text().as_str(), out.code()), ("hi you\n", 3));
    let kept = world.client.read_file_container(wire::ReadFileRequest {
        r#ref: "pipes".to_owned(),
        file_path: "kept".to_owned(),
        ..wire::ReadFileRequest::default()
    });
    assert_eq!(kept.await.unwrap().into_inner().data, "kept\n");
    let unchanged = world.client.read_file(wire::ReadFileRequest {
        r#ref: id.clone(),
        file_path: "kept".to_owned(),
        ..wire::ReadFileRequest::default()
    });
    assert!(unchanged.await.is_err(), "a container changed the result");

    world.container("signals", &id).await;
    let waits = "trap 'echo caught; exit 5' TERM; kill -TERM $$; exit 6";
    let out = world
        .exec("p", vec![init("signals", waits, &[1], false)])
        .await;
    assert_eq!((out.text().as_str(), out.code()), ("caught\n", 5));

    world.container("terminal", &id).await;
    let terminal = init(
        "terminal",
        "[ -t 0 ] && [ -t 1 ] && echo terminal",
        &[0, 1],
        true,
    );
    let out = world.exec("p", vec![terminal]).await;
    assert_eq!((out.text().as_str(), out.code()), ("terminal\r\n", 0));

    let release = wire::ReleaseContainerRequest {
        container_id: "pipes".to_owned(),
    };
    world
        .client
        .release_container(release.clone())
        .await
        .unwrap();
    let again = world.client.release_container(release).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
}

#[tokio::test]
async fn further_processes_join_the_first() {
    let (mut world, id) = with_shell().await;
    world.container("c", &id).await;
    let (sender, requests) = requests();
    let first = init(
        "c",
        "echo ready; read x < /dev/stdin; exit 4",
        &[0, 1],
        false,
    );
    sender.send(message("first", first)).await.unwrap();
    let mut answers = world
        .client
        .exec_process(requests)
        .await
        .unwrap()
        .into_inner();
    let mut exits = BTreeMap::new();
    let mut second = String::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        match (answer.process_id.as_str(), answer.input.unwrap()) {
            ("first", Input::File(file)) if &file.data[..] == b"ready\n" => {
                let joining = init("c", "echo $$; [ -d /proc/1 ] && echo seen", &[1], false);
                sender.send(message("second", joining)).await.unwrap();
            }
            ("second", Input::File(file)) => second.push_str(&String::from_utf8_lossy(&file.data)),
            (id, Input::Exit(exit)) => {
                exits.insert(id.to_owned(), exit.code);
                if id == "second" {
                    let end = wire::FdMessage {
                        fd: 0,
                        eof: true,
                        data: "x\n".into(),
                    };
                    sender
                        .send(message("first", Input::File(end)))
                        .await
                        .unwrap();
                }
            }
            _ => {}
        }
        if exits.len() == 2 {
            break;
        }
    }
    assert_eq!((exits["first"], exits["second"]), (4, 0));
    let (pid, seen) = second.split_once('\n').unwrap();
    assert!(
        pid.parse::<u32>().unwrap() > 1,
        "it is not the first of the sandbox: {pid}"
    );
    assert_eq!(seen, "seen\n");
}

#[tokio::test]
async fn nothing_joins_a_first_process_that_has_ended() {
    let (mut world, id) = with_shell().await;
    world.container("c", &id).await;
    let (sender, requests) = requests();
    let first = init("c", "exit 4", &[1], false);
    sender.send(message("first", first)).await.unwrap();
    let answers = world.client.exec_process(requests).await.unwrap();
    let mut answers = answers.into_inner();
    let told = loop {
        let answer = answers.next().await.unwrap().unwrap();
        match (answer.process_id.as_str(), answer.input.unwrap()) {
            ("first", Input::Exit(_)) => {
                let joining = init("c", "echo on", &[1], false);
                sender.send(message("second", joining)).await.unwrap();
            }
            ("second", Input::Exit(exit)) => break exit.error.unwrap().message,
            _ => {}
        }
    };
    assert!(told.contains("has ended"), "{told}");
}

#[tokio::test]
async fn what_cannot_be_started_ends_and_others_go_on() {
    let (mut world, id) = with_shell().await;
    world.container("c", &id).await;
    for (mode, part) in [
        (
            i32::from(pb::SecurityMode::Insecure),
            "security.insecure is not allowed",
        ),
        (2, "invalid security mode 2"),
    ] {
        let Input::Init(init) = init("c", "true", &[1], false) else {
            unreachable!();
        };
        let refused = Input::Init(wire::InitMessage {
            security: mode,
            ..init
        });
        let out = world.exec("p", vec![refused]).await;
        assert!(out.started && out.done, "{mode}");
        let message = out.exit.unwrap().error.unwrap().message;
        assert!(message.contains(part), "{message}");
    }
    let out = world.exec("q", vec![init("c", "echo on", &[1], false)]);
    assert_eq!(out.await.text(), "on\n");
}

#[tokio::test]
async fn a_container_that_still_runs_says_so_when_it_is_released() {
    let (mut world, id) = with_shell().await;
    world.container("c", &id).await;
    let (sender, requests) = requests();
    let sleeping = init("c", "echo ready; read x", &[0, 1], false);
    sender.send(message("p", sleeping)).await.unwrap();
    let answers = world.client.exec_process(requests).await.unwrap();
    let mut answers = answers.into_inner();
    loop {
        match answers.next().await.unwrap().unwrap().input.unwrap() {
            Input::File(file) if !file.data.is_empty() => break,
            _ => {}
        }
    }
    let release = wire::ReleaseContainerRequest {
        container_id: "c".to_owned(),
    };
    let released = world.client.release_container(release).await.unwrap_err();
    assert_eq!(released.code(), Code::Cancelled);
}
