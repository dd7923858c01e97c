//! The options of `RUN --mount`: defaults, checks, expansion.

#![allow(clippy::unwrap_used)]

use weld_dockerfile::instruction::{Kind, Mount, MountType, SharingMode};
use weld_dockerfile::shell::Expander;
use weld_dockerfile::{Error, SourceFile, parse};

fn mount_with(options: &str, variables: &[(&str, &str)]) -> Result<Mount, Error> {
    let text = format!("FROM a\nRUN --mount={options} x\n");
    let file = parse(&SourceFile::new("Dockerfile", text.as_bytes()))?;
    let Kind::Run(run) = &file.stages[0].instructions[0].kind else {
        panic!()
    };
    let variables: Vec<(String, String)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    run.mounts[0].resolve(&mut Expander::new(file.escape, &variables))
}

fn mount(options: &str) -> Mount {
    mount_with(options, &[]).unwrap()
}

fn refused(options: &str) -> String {
    mount_with(options, &[]).unwrap_err().kind().to_string()
}

#[test]
fn bind_is_the_default_and_read_only() {
    assert_eq!(
        mount("target=/t,from=stage,src=/s"),
        Mount {
            kind: MountType::Bind,
            from: Some("stage".into()),
            source: Some("/s".into()),
            target: Some("/t".into()),
            readonly: true,
            ..Mount::default()
        }
    );
    assert!(!mount("target=/t,rw").readonly);
    assert!(!mount("target=/t,ro=false").readonly);
    assert!(mount("target=/t,readwrite=0").readonly);
}

#[test]
fn cache_tmpfs_secret_ssh() {
    let cache = mount("TYPE=Cache,dst=/c,id=x,sharing=Locked,mode=0770,uid=1,gid=2");
    assert_eq!(cache.kind, MountType::Cache);
    assert_eq!(cache.sharing, Some(SharingMode::Locked));
    assert_eq!(
        (cache.mode, cache.uid, cache.gid),
        (Some(0o770), Some(1), Some(2))
    );
    assert!(!cache.readonly);
    assert!(mount("type=cache,target=/c,readonly").readonly);
    assert_eq!(mount("type=tmpfs,target=/t,size=1.5g").size, Some(3 << 29));

    let secret = mount("type=secret,id=token,required,env=TOKEN");
    assert!(secret.required && secret.readonly);
    assert_eq!(secret.env.as_deref(), Some("TOKEN"));
    assert!(mount("type=ssh,required=true,mode=600").required);
}

#[test]
fn values_are_expanded_but_not_from() {
    let variables = [("T", "/some where"), ("KIND", "cache")];
    let mount = mount_with("type=${KIND},target=$T/x,id='a'", &variables).unwrap();
    assert_eq!(mount.kind, MountType::Cache);
    assert_eq!(mount.target.as_deref(), Some("/some where/x"));
    // The flag's own quotes are gone by then.
    assert_eq!(mount.id.as_deref(), Some("a"));
    assert_eq!(
        refused("from=$X,target=/t"),
        "'from' doesn't support variable expansion, define alias stage instead"
    );
}

#[test]
fn quoted_fields_hold_commas() {
    let mount = mount("\\\"target=/a,b\\\",\\\"source=\\\"\\\"q\\\"\\\"\\\"");
    assert_eq!(mount.target.as_deref(), Some("/a,b"));
    // Quotes within a value are the expansion's.
    assert_eq!(mount.source.as_deref(), Some("q"));
    assert!(refused("\\\"target=/a").contains("csv"));
    assert!(refused("target=a\\\"b").contains("bare"));
}

#[test]
fn wrong_options_are_refused_with_a_hint() {
    let error = mount_with("type=cahce,target=/x", &[]).unwrap_err();
    assert_eq!(error.suggestion(), Some("cache"));
    let error = mount_with("type=cache,traget=/x", &[]).unwrap_err();
    assert_eq!(error.suggestion(), Some("target"));
    let mark = error.marked().unwrap();
    assert_eq!((mark.line, mark.column, mark.width), (2, 5, 28));
    assert_eq!(
        mount_with("type=cache,sharing=lokced,target=/x", &[])
            .unwrap_err()
            .suggestion(),
        Some("locked")
    );

    for (options, message) in [
        (
            "target=/x,required",
            "unexpected key 'required' for mount type 'bind'",
        ),
        (
            "type=cache,target=/x,size=1",
            "unexpected key 'size' for mount type 'cache'",
        ),
        (
            "target=/x,mode=1",
            "mode not allowed for \"bind\" type mounts",
        ),
        (
            "type=tmpfs,target=/x,gid=1",
            "gid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "target=/x,sharing=shared",
            "invalid cache sharing set for bind mount",
        ),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("type=cache,target=/x,uid=-1", "invalid value for uid: -1"),
        ("type=cache,target=/x,mode=9", "invalid value for mode: 9"),
        ("target=/x,ro=maybe", "invalid value for ro: maybe"),
        (
            "type=tmpfs,size=big,target=/x",
            "invalid value for size: big",
        ),
    ] {
        assert_eq!(refused(options), message, "{options}");
    }
}
