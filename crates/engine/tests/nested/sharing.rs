//! Who shares a build inside of others.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weld_llb::{Builder, Constraints, Run};
use weld_proto::Message as _;

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_build_inside_of_two_goes_on_when_the_first_is_cancelled() {
    let world = World::new().await;
    // The definition comes late, out of a step that both wait for.
    let mut builder = Builder::new();
    let late = Run {
        args: ["/bin/sleep", "1.5"].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let late = image(&mut builder).run(&mut builder, late).unwrap().root;
    let inner = run("echo inner > /out").encode_to_vec();
    let late = late
        .file(
            &mut builder,
            vec![mkfile(DEFAULT, inner)],
            Constraints::new(),
        )
        .unwrap();
    let built = build(&mut builder, &late, None);
    let definition = encoded(&builder, &built);
    let cancel = CancellationToken::new();
    let first = world.open_until(Rights::default(), definition.clone(), cancel.clone());
    let second = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.solve(definition.clone()).await
    };
    let cancelled = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(first, second, cancelled);
    assert!(first.is_err_and(|error| error.is_cancelled()));
    assert_eq!(second.out, "inner\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_step_goes_on_when_the_first_of_two_is_cancelled() {
    let world = World::new().await;
    let definition = nested(&run("echo begun; sleep 1.5; echo ended; echo inner > /out"));
    let cancel = CancellationToken::new();
    let first = world.open_until(Rights::default(), definition.clone(), cancel.clone());
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.solve(definition.clone()).await
    };
    let cancelled = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(first, second, cancelled);
    assert!(first.is_err_and(|error| error.is_cancelled()));
    assert_eq!(second.out, "inner\n");
    assert_eq!(second.log, "begun\nended\n");
    assert_eq!(second.errors, [""; 0]);
}

/// Builds that share one inside of them, of which some are cancelled at any moment: the others hear all of it, once.
/// `WELD_TEST_ROUNDS` has it done more often.
#[tokio::test(flavor = "multi_thread")]
async fn who_shares_an_inner_build_hears_all_of_it_whoever_goes() {
    let rounds = std::env::var("WELD_TEST_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(8, |rounds| rounds.parse().unwrap());
    let world = World::new().await;
    for round in 0..rounds {
        let inner = run(&format!(
            "echo begun {round}; sleep 0.3; echo ended; echo inner > /out"
        ));
        let definition = nested(&inner);
        let builds = (0..4_u64).map(|number| {
            let (world, definition) = (&world, definition.clone());
            // Spread over the whole build, and not in step with anything.
            let moment =
                move |prime: u64| Duration::from_millis((round * prime + number * 211) % 500);
            async move {
                let cancel = CancellationToken::new();
                tokio::time::sleep(moment(37) / 2).await;
                let build = world.open_until(Rights::default(), definition, cancel.clone());
                if number % 2 == 1 {
                    let built = build.await.unwrap().close().await;
                    assert_eq!(built.out, "inner\n");
                    return Some(built.heard);
                }
                let cancelled = async {
                    tokio::time::sleep(moment(53)).await;
                    cancel.cancel();
                };
                if let (Ok(open), ()) = tokio::join!(build, cancelled) {
                    open.job.close().await;
                }
                None
            }
        });
        let heard = futures_util::future::join_all(builds).await;
        let log = format!("begun {round}\nended\n");
        for heard in heard.into_iter().flatten() {
            assert_eq!(heard.errors, [""; 0], "round {round}");
            // One that came when all was done heard of a cached step.
            let all = match heard.cached.contains("outer") {
                true => "",
                false => &log,
            };
            assert_eq!(heard.log, all, "round {round}");
        }
    }
}
