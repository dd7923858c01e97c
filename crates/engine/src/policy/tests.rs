use std::collections::HashMap;

use weld_llb::{Builder, Constraints, Graph, ImageSource, Platform, State};
use weld_proto::sourcepolicy::{AttrConstraint, Update};

use super::*;

#[test]
fn patterns_are_few_and_small() {
    let of = |pattern: &str, count: usize| {
        let rule = rule(PolicyAction::Deny, MatchType::Regex, pattern, None);
        SourcePolicies::new(vec![Policy {
            version: 1,
            rules: vec![rule; count],
        }])
    };
    let large = of(r"a\d\w{0,8}(?:x{40,90}y?){60}", 1).unwrap_err();
    assert!(matches!(large, PolicyError::Pattern { .. }), "{large}");
    let usual = r"^docker-image://(docker\.io/library|registry\.example\.com/[a-z0-9-]+)/[^:@]+(:[\w.-]+)?(@sha256:[0-9a-f]+)?$";
    assert!(of(usual, 10).is_ok());
    let many = of("a", MAX_PATTERNS + 1).unwrap_err();
    assert!(matches!(many, PolicyError::TooManyPatterns), "{many}");
}

fn rule(action: PolicyAction, kind: MatchType, identifier: &str, to: Option<&str>) -> Rule {
    Rule {
        action: action.into(),
        selector: Some(Selector {
            identifier: identifier.to_owned(),
            match_type: kind.into(),
            constraints: Vec::new(),
        }),
        updates: to.map(|to| Update {
            identifier: to.to_owned(),
            attrs: BTreeMap::new(),
        }),
    }
}

fn policies(rules: Vec<Rule>) -> SourcePolicies {
    SourcePolicies::new(vec![Policy { version: 1, rules }]).unwrap()
}

fn apply(policies: &SourcePolicies, identifier: &str) -> Result<String, PolicyError> {
    let mut source = pb::SourceOp {
        identifier: identifier.to_owned(),
        attrs: BTreeMap::new(),
    };
    let changed = policies.apply(&mut source)?;
    assert_eq!(changed, source.identifier != identifier);
    Ok(source.identifier)
}

#[test]
fn the_last_rule_that_matches_counts() {
    use MatchType::{Exact, Wildcard};
    use PolicyAction::{Allow, Deny};
    let all_but_one = policies(vec![
        rule(Deny, Wildcard, "docker-image://*", None),
        rule(Allow, Exact, "docker-image://h.example/good:1", None),
    ]);
    assert!(apply(&all_but_one, "docker-image://h.example/good:1").is_ok());
    assert_eq!(
        apply(&all_but_one, "docker-image://h.example/good2:1"),
        Err(PolicyError::Denied(
            "docker-image://h.example/good2:1".to_owned()
        ))
    );
    assert!(apply(&all_but_one, "https://docker-image://x").is_ok());
    let none = policies(vec![
        rule(Allow, Exact, "docker-image://h.example/good:1", None),
        rule(Deny, Wildcard, "docker-image://*", None),
    ]);
    assert!(apply(&none, "docker-image://h.example/good:1").is_err());
    // One policy does not allow what another forbids.
    let both = all_but_one.and(&none);
    assert!(apply(&both, "docker-image://h.example/good:1").is_err());
    assert!(apply(&both, "https://x").is_ok());
}

#[test]
fn sources_become_others_by_what_patterns_match() {
    use MatchType::{Exact, Regex, Wildcard};
    use PolicyAction::{Convert, Deny};
    let mirrored = policies(vec![
        rule(
            Convert,
            Wildcard,
            "docker-image://docker.io/*",
            Some("docker-image://m.example/$1"),
        ),
        rule(
            Convert,
            Regex,
            r"^https://(\w+)\.example/",
            Some("https://example/${1}/"),
        ),
        rule(Convert, Exact, "local://a", Some("local://$1")),
        rule(Deny, Exact, "docker-image://m.example/library/bad:1", None),
    ]);
    let image = "docker-image://docker.io/library/";
    assert_eq!(
        apply(&mirrored, &format!("{image}good:1")).unwrap(),
        "docker-image://m.example/library/good:1"
    );
    // What it becomes is looked at again.
    assert!(apply(&mirrored, &format!("{image}bad:1")).is_err());
    assert_eq!(
        apply(&mirrored, "https://a.example/b").unwrap(),
        "https://example/a/b"
    );
    assert_eq!(apply(&mirrored, "local://a").unwrap(), "local://$1");
    let endless = policies(vec![
        rule(Convert, Exact, "local://a", Some("local://b")),
        rule(Convert, Exact, "local://b", Some("local://a")),
    ]);
    assert_eq!(
        apply(&endless, "local://a"),
        Err(PolicyError::Endless("local://a".to_owned()))
    );
}

#[test]
fn another_spelling_is_the_same_source() {
    for (rule_for, written) in [
        (
            "docker-image://docker.io/library/a:latest",
            "docker-image://a",
        ),
        ("git://h/r.git#main:b/c", "git://h/r.git#main:../b/./c"),
    ] {
        let denied = policies(vec![rule(
            PolicyAction::Deny,
            MatchType::Exact,
            rule_for,
            None,
        )]);
        assert_eq!(
            apply(&denied, written),
            Err(PolicyError::Denied(rule_for.to_owned()))
        );
    }
}

#[test]
fn attributes_choose_and_are_set() {
    let mut pinned = rule(
        PolicyAction::Convert,
        MatchType::Exact,
        "https://x",
        Some(""),
    );
    let checksum = ("http.checksum".to_owned(), "sha256:ab".to_owned());
    pinned.updates.as_mut().unwrap().attrs = [checksum.clone()].into();
    pinned.selector.as_mut().unwrap().constraints = vec![AttrConstraint {
        key: "http.filename".to_owned(),
        value: "^a".to_owned(),
        condition: AttrMatch::Matches.into(),
    }];
    let pinned = policies(vec![pinned]);
    for (filename, expected) in [("a", true), ("b", false)] {
        let mut source = pb::SourceOp {
            identifier: "https://x".to_owned(),
            attrs: [("http.filename".to_owned(), filename.to_owned())].into(),
        };
        assert_eq!(pinned.apply(&mut source).unwrap(), expected);
        assert_eq!(source.identifier, "https://x");
        assert_eq!(source.attrs.contains_key(&checksum.0), expected);
    }
}

#[test]
fn a_definition_is_the_same_but_for_its_sources() {
    let build = |reference: &str| {
        let mut builder = Builder::new();
        let image = builder.add_source(
            Source::Image(ImageSource {
                reference: reference.to_owned(),
                ..ImageSource::default()
            }),
            Constraints::new(),
        );
        let state = State::new(Some(image));
        let run = weld_llb::Run {
            args: vec!["true".to_owned()],
            constraints: Constraints::new().named("step"),
            ..weld_llb::Run::default()
        };
        let state = state.run(&mut builder, run).unwrap().root;
        builder.definition(state.output, &Platform::host()).unwrap()
    };
    let mirror = policies(vec![rule(
        PolicyAction::Convert,
        MatchType::Exact,
        "docker-image://docker.io/library/a:1",
        Some("docker-image://docker.io/library/b:1"),
    )]);
    let graph = |definition| Graph::from_pb(definition).unwrap();
    let rewritten = |definition: pb::Definition| {
        let mut changed = HashMap::new();
        for (digest, _, mut source) in rewrite::sources(&definition).unwrap() {
            if mirror.apply(&mut source).unwrap() {
                changed.insert(digest, source);
            }
        }
        rewrite::with_sources(definition, &changed).unwrap()
    };
    let other = rewritten(build("docker.io/library/a:1"));
    assert_eq!(graph(other), graph(build("docker.io/library/b:1")));
    let same = build("docker.io/library/c:1");
    assert_eq!(graph(rewritten(same.clone())), graph(same));
}

#[test]
fn what_is_no_policy_is_told() {
    let read = |rule| {
        SourcePolicies::new(vec![Policy {
            version: 1,
            rules: vec![rule],
        }])
    };
    let exact = || rule(PolicyAction::Deny, MatchType::Exact, "x", None);
    let nothing = Rule {
        selector: None,
        ..exact()
    };
    assert_eq!(read(nothing).unwrap_err(), PolicyError::NoSelector);
    let action = read(Rule {
        action: 9000,
        ..exact()
    })
    .unwrap_err();
    assert!(action.to_string().contains("unknown type 9000"), "{action}");
    let convert = rule(PolicyAction::Convert, MatchType::Exact, "x", None);
    assert_eq!(read(convert).unwrap_err(), PolicyError::NoDestination);
    for (kind, pattern) in [(MatchType::Regex, "("), (MatchType::Wildcard, "a**")] {
        let error = read(rule(PolicyAction::Deny, kind, pattern, None)).unwrap_err();
        assert!(matches!(error, PolicyError::Pattern { .. }), "{error}");
    }
}
