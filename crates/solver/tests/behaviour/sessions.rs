//! Which session an operation gets, and what happens when that goes away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use weld_solver::{Job, JobOptions, OpError, Session};

use crate::{abandoned::settled, support::*};

/// A job of the session `a`, and whether that one's client is there.
async fn job_of_a_client_that_may_be_away(world: &World) -> (Job<Value>, Arc<AtomicBool>) {
    let is_there = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_there);
    let session = Session::new("a", Arc::new("a".to_owned()))
        .there_while(move || asked.load(Ordering::SeqCst));
    let options = JobOptions {
        session: Some(session),
        ..JobOptions::new("a")
    };
    (world.solver.new_job(options).await.unwrap(), is_there)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_gets_the_session_of_its_own_job_first_and_then_another() {
    // J4
    let world = World::new();
    let gate = Gate::new();
    let ((a, sa), (b, _sb)) = (
        job_with_session(&world, "a").await,
        job_with_session(&world, "b").await,
    );
    let v = wants_session("v", "s", &gate);
    let mut heard = b.progress();
    let (_a, first) = spawn(a, &v).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(b, &v).await;
    settled(&world, 2).await;
    sa.close();
    gate.open();
    assert_eq!(logged(&mut heard).await, "b");
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_closes_in_the_middle_is_replaced() {
    // J4
    let world = World::new();
    let gate = Gate::new();
    let ((a, sa), (b, _sb)) = (
        job_with_session(&world, "a").await,
        job_with_session(&world, "b").await,
    );
    let pass = Arc::clone(&gate);
    let v = vtx("v", "s", "r")
        .before_exec(move |context| {
            let gate = Arc::clone(&pass);
            Box::pin(async move {
                context
                    .with_session(|session| {
                        let gate = Arc::clone(&gate);
                        async move {
                            if &**session.id() == "a" {
                                gate.knock().await;
                                std::future::pending::<()>().await;
                            }
                            Ok(())
                        }
                    })
                    .await
            })
        })
        .done();
    let (_a, first) = spawn(a, &v).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(b, &v).await;
    settled(&world, 2).await;
    sa.close();
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_as_its_session_closes_is_done_again_with_another() {
    // J4: who speaks through a session may notice that it closes before anybody else.
    for goes_on in [false, true] {
        let world = World::new();
        let gate = Gate::new();
        let ((a, sa), (b, _sb)) = (
            job_with_session(&world, "a").await,
            job_with_session(&world, "b").await,
        );
        let (pass, closing) = (Arc::clone(&gate), sa.clone());
        let v = vtx("v", "s", "r")
            .before_exec(move |context| {
                let (gate, closing) = (Arc::clone(&pass), closing.clone());
                Box::pin(async move {
                    let with = |session: Session| {
                        let (gate, closing) = (Arc::clone(&gate), closing.clone());
                        async move {
                            if &**session.id() == "a" {
                                gate.knock().await;
                                tokio::spawn(async move {
                                    tokio::time::sleep(Duration::from_millis(10)).await;
                                    closing.close();
                                });
                                return Err(OpError::failed(std::io::Error::other("cancelled")));
                            }
                            Ok(())
                        }
                    };
                    match goes_on {
                        false => context.with_session(with).await,
                        true => {
                            let some = |session: Option<Session>| with(session.unwrap());
                            context.with_some_session(some).await
                        }
                    }
                })
            })
            .done();
        let (_a, first) = spawn(a, &v).await;
        gate.arrivals(1).await;
        let (_b, second) = spawn(b, &v).await;
        settled(&world, 2).await;
        gate.open();
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_session_any_more_goes_on_without_it() {
    let world = World::new();
    let (job, session) = job_with_session(&world, "a").await;
    let closing = session.clone();
    let v = vtx("v", "s", "r")
        .before_exec(move |context| {
            let closing = closing.clone();
            Box::pin(async move {
                let mut calls = 0;
                let with = |_: Option<Session>| {
                    calls += 1;
                    let closing = closing.clone();
                    async move {
                        closing.close();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok(())
                    }
                };
                context.with_some_session(with).await?;
                assert_eq!(calls, 1);
                Ok(())
            })
        })
        .done();
    let (_job, built) = spawn(job, &v).await;
    assert!(built.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_where_its_client_is_away_is_done_again_with_another() {
    // J4: the connection is lost at once, and that the session closes may take a while.
    let world = World::new();
    let gate = Gate::new();
    let (a, is_there) = job_of_a_client_that_may_be_away(&world).await;
    let (b, _sb) = job_with_session(&world, "b").await;
    let (pass, lost) = (Arc::clone(&gate), Arc::clone(&is_there));
    let v = vtx("v", "s", "r")
        .before_exec(move |context| {
            let (gate, lost) = (Arc::clone(&pass), Arc::clone(&lost));
            Box::pin(async move {
                let with = |session: Session| {
                    let (gate, lost) = (Arc::clone(&gate), Arc::clone(&lost));
                    async move {
                        if &**session.id() == "a" {
                            gate.knock().await;
                            gate.opened().await;
                            lost.store(false, Ordering::SeqCst);
                            return Err(OpError::failed(std::io::Error::other("broken pipe")));
                        }
                        Ok(())
                    }
                };
                context.with_session(with).await
            })
        })
        .done();
    let (_a, first) = spawn(a, &v).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(b, &v).await;
    settled(&world, 2).await;
    gate.open();
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_away_or_does_not_answer_holds_nobody_up() {
    // J4: one that is away is asked last; one that is frozen keeps its connection, and others are asked beside it.
    let world = World::new();
    let gate = Gate::new();
    let (a, is_there) = job_of_a_client_that_may_be_away(&world).await;
    let (b, _sb) = job_with_session(&world, "b").await;
    let pass = Arc::clone(&gate);
    let v = vtx("v", "s", "r")
        .before_exec(move |context| {
            let (gate, is_there) = (Arc::clone(&pass), Arc::clone(&is_there));
            Box::pin(async move {
                gate.knock().await;
                gate.opened().await;
                let sessions = context.sessions();
                let with = |session: Session| async move {
                    let id = session.id().to_string();
                    if id == "a" {
                        std::future::pending::<()>().await;
                    }
                    Ok(id)
                };
                let first = sessions.with_first(Duration::from_millis(10), with).await?;
                assert_eq!(first, "b");
                let next = sessions.next(&[]).await.unwrap();
                assert_eq!(&**next.id(), "a");
                is_there.store(false, Ordering::SeqCst);
                let next = sessions.next(&[]).await.unwrap();
                assert_eq!(&**next.id(), "b");
                let last = sessions.next(&[next]).await.unwrap();
                assert_eq!(&**last.id(), "a");
                Ok(())
            })
        })
        .done();
    let (_a, first) = spawn(a, &v).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(b, &v).await;
    settled(&world, 2).await;
    gate.open();
    let built = tokio::time::timeout(Duration::from_secs(10), first).await;
    built
        .expect("it waits for a client that does not answer")
        .unwrap()
        .unwrap();
    assert!(second.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_is_asked_once_and_the_last_answer_is_told() {
    // J4
    let world = World::new();
    let (a, _sa) = job_with_session(&world, "a").await;
    let v = vtx("v", "s", "r")
        .before_exec(|context| {
            Box::pin(async move {
                let mut asked = 0;
                let with = |_| {
                    asked += 1;
                    async { Err::<(), _>(OpError::gone(std::io::Error::other("nothing"))) }
                };
                let sessions = context.sessions();
                let error = sessions.with_first(Duration::from_millis(1), with).await;
                assert!(matches!(error, Err(OpError::Gone(_))));
                assert_eq!(asked, 1);
                Ok(())
            })
        })
        .done();
    let (_a, built) = spawn(a, &v).await;
    assert!(built.await.unwrap().is_ok());
}
