//! Commits with their history in one file.

use super::*;

#[tokio::test]
async fn a_bundle_has_a_commit_with_its_history_and_takes_the_place_of_the_remote() {
    let (repository, world) = (Repository::new(), World::new());
    let second = repository.commit("file", "second");
    repository.git(&["tag", "-a", "-m", "x", "bundled", &second]);
    let moved_on = repository.commit("file", "three");
    let exported = |reference: &str| GitSpec {
        checkout_bundle: true,
        ..spec(&repository.url(), reference)
    };
    for (reference, name, commit) in [
        ("main", "refs/heads/main", &moved_on),
        ("bundled", "refs/tags/bundled", &second),
        (second.as_str(), "refs/heads/main", &second),
    ] {
        // A shallow mirror of the same remote is in nobody's way.
        world
            .checkout(&spec(&repository.url(), reference))
            .await
            .unwrap();
        let made = world.checkout(&exported(reference)).await.unwrap();
        assert_eq!(names(made.path()), ["bundle"]);
        let bundle = made.path().join("bundle");
        let clone = tempfile::tempdir().unwrap();
        git_in(clone.path(), &["init", "-q", "--bare"]);
        let from = bundle.to_str().unwrap();
        git_in(clone.path(), &["fetch", "-q", from, "+refs/*:refs/*"]);
        let peeled = format!("{name}^{{commit}}");
        assert_eq!(git_in(clone.path(), &["rev-parse", &peeled]), *commit);
        let history = git_in(clone.path(), &["log", "--format=%H", name]);
        assert_eq!(history, repository.git(&["log", "--format=%H", commit]));

        // The remote is not asked: it is not there.
        let fresh = World::new();
        let imported = |wanted: &str, checksum: &str| GitSpec {
            bundle: Some(bundle.clone()),
            checksum: Some(checksum.to_owned()),
            ..spec("https://localhost:1/gone.git", wanted)
        };
        for wanted in [reference, name, commit.as_str()] {
            let tree = fresh.checkout(&imported(wanted, commit)).await.unwrap();
            let expected = if *commit == second { "second" } else { "three" };
            assert_eq!(read(&tree, "file"), expected, "{wanted}");
        }
        let kept = GitSpec {
            keep_git_dir: true,
            ..imported(name, commit)
        };
        let tree = fresh.checkout(&kept).await.unwrap();
        let refs = git_in(tree.path(), &["for-each-ref", "--format=%(refname)"]);
        assert_eq!(refs, name);
        // What the bundle has is what the checksum says, or nothing.
        let absent = "0".repeat(40);
        let other = World::new().checkout(&imported(&absent, &absent)).await;
        assert!(
            matches!(other, Err(GitError::NoReference { .. })),
            "{other:?}"
        );
        let mismatch = fresh.checkout(&imported(name, &absent)).await;
        assert!(mismatch.is_err(), "{mismatch:?}");
        let unpinned = GitSpec {
            checksum: None,
            ..imported(name, commit)
        };
        let unpinned = fresh.checkout(&unpinned).await.unwrap_err().to_string();
        assert!(unpinned.contains("full name of a commit"), "{unpinned}");
    }
    for spec in [
        GitSpec {
            keep_git_dir: true,
            ..exported("main")
        },
        GitSpec {
            subdir: "x".to_owned(),
            ..exported("main")
        },
    ] {
        let refused = world.checkout(&spec).await;
        assert!(matches!(refused, Err(GitError::Bundle(_))), "{refused:?}");
    }
}
