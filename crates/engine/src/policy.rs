//! Source policies: which sources a build may use, and which it uses instead.
//!
//! They are applied to every definition before it is loaded, and to every source before anybody asks
//! what it stands for, whichever frontend asks.

mod rewrite;
mod verifier;

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use weld_digest::Digest;
use weld_llb::reference::Reference;
use weld_llb::{Source, pb};
use weld_proto::Message as _;
use weld_proto::sourcepolicy::{AttrMatch, MatchType, Policy, PolicyAction, Rule, Selector};

pub(crate) use rewrite::replace;
pub use verifier::{SourceQuestion, SourceVerdict, SourceVerifier, VerifierError};

/// The largest compiled pattern, in bytes: compiling takes some 50 ms for each MiB.
const MAX_PATTERN: usize = 32 << 10;
/// The most patterns that a build may have, in rules and their constraints.
const MAX_PATTERNS: usize = 2_000;
/// The most rules that a build may have.
const MAX_RULES: usize = 10_000;
/// How often one source may be converted, one conversion after the other.
const MAX_CONVERSIONS: usize = 20;

/// Why a policy is none, or what it forbids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A rule matches nothing.
    #[error("invalid nil selector in policy")]
    NoSelector,
    /// There is no such action.
    #[error("source policy: rule for {identifier}: unknown type {action}")]
    Action {
        /// What the rule is for.
        identifier: String,
        /// Its action's number.
        action: i32,
    },
    /// There is no such way to compare.
    #[error("source policy: rule for {identifier}: unknown match type {kind}")]
    MatchType {
        /// What the rule is for.
        identifier: String,
        /// Its number.
        kind: i32,
    },
    /// There is no such condition.
    #[error("source policy: rule for {identifier}: unknown attr condition {condition}")]
    Condition {
        /// What the rule is for.
        identifier: String,
        /// Its number.
        condition: i32,
    },
    /// A pattern cannot be read.
    #[error("source policy: invalid pattern {pattern:?}: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A rule says that a source becomes another one, and not which.
    #[error("missing destination for convert rule")]
    NoDestination,
    /// There are too many rules.
    #[error("source policies have more than {MAX_RULES} rules")]
    TooManyRules,
    /// There are too many patterns.
    #[error("source policies have more than {MAX_PATTERNS} patterns")]
    TooManyPatterns,
    /// The build must not use a source.
    #[error("source denied by policy: {0}")]
    Denied(String),
    /// An operation cannot be brought in line.
    #[error("source policy: cannot decode an operation: {0}")]
    Operation(String),
    /// Rules turn sources into each other.
    #[error("source {0:?}: too many operations: rules convert it again and again")]
    Endless(String),
}

/// Policies that are all to be kept to, in order.
#[derive(Clone, Debug, Default)]
pub struct SourcePolicies(Vec<CheckedPolicy>);

#[derive(Clone, Debug)]
struct CheckedPolicy {
    rules: Arc<[CheckedRule]>,
    /// Of what it was read from.
    digest: Digest,
}

#[derive(Debug)]
struct CheckedRule {
    identifier: String,
    pattern: Option<Regex>,
    constraints: Vec<Constraint>,
    action: Action,
}

#[derive(Debug)]
struct Constraint {
    key: String,
    condition: Condition,
}

#[derive(Debug)]
enum Condition {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Debug)]
enum Action {
    Allow,
    Deny,
    Convert {
        identifier: String,
        attrs: BTreeMap<String, String>,
    },
}

impl SourcePolicies {
    /// Reads policies, and checks all of them at once.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn new(policies: Vec<Policy>) -> Result<Self, PolicyError> {
        let rules: usize = policies.iter().map(|policy| policy.rules.len()).sum();
        if rules > MAX_RULES {
            return Err(PolicyError::TooManyRules);
        }
        let rules = policies.iter().flat_map(|policy| &policy.rules);
        let patterns: usize = rules
            .filter_map(|rule| Some(patterns(rule.selector.as_ref()?)))
            .sum();
        if patterns > MAX_PATTERNS {
            return Err(PolicyError::TooManyPatterns);
        }
        let policies = policies
            .into_iter()
            .filter(|policy| !policy.rules.is_empty());
        let read = policies.map(|policy| {
            Ok(CheckedPolicy {
                digest: Digest::sha256_of(policy.encode_to_vec()),
                rules: policy
                    .rules
                    .into_iter()
                    .map(CheckedRule::new)
                    .collect::<Result<_, PolicyError>>()?,
            })
        });
        Ok(Self(read.collect::<Result<_, PolicyError>>()?))
    }

    /// What tells them from others, in order.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter().map(|policy| &policy.digest)
    }

    /// Whether they leave every source as it is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and others after them.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).cloned().collect())
    }

    /// Turns a source into what it is to be; whether that is something else.
    ///
    /// # Errors
    /// [`PolicyError::Denied`], and [`PolicyError::Endless`].
    pub fn apply(&self, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
        if self.is_empty() {
            return Ok(false);
        }
        let original = source.identifier.clone();
        source.identifier = canonical(source);
        let mut changed = source.identifier != original;
        for _ in 0..=MAX_CONVERSIONS {
            if !self.convert(source)? {
                return Ok(changed);
            }
            changed = true;
        }
        Err(PolicyError::Endless(original))
    }

    /// Applies the first conversion that makes a difference.
    fn convert(&self, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
        for policy in &self.0 {
            // The last rule that matches counts.
            let mut denied = false;
            for rule in policy.rules.iter() {
                if !rule.matches(source) {
                    continue;
                }
                match &rule.action {
                    Action::Allow => denied = false,
                    Action::Deny => denied = true,
                    Action::Convert { identifier, attrs } => {
                        if rule.convert(source, identifier, attrs) {
                            return Ok(true);
                        }
                    }
                }
            }
            if denied {
                return Err(PolicyError::Denied(source.identifier.clone()));
            }
        }
        Ok(false)
    }
}

impl CheckedRule {
    fn new(rule: Rule) -> Result<Self, PolicyError> {
        let selector = rule.selector.ok_or(PolicyError::NoSelector)?;
        let identifier = selector.identifier.clone();
        let action = match PolicyAction::try_from(rule.action) {
            Ok(PolicyAction::Allow) => Action::Allow,
            Ok(PolicyAction::Deny) => Action::Deny,
            Ok(PolicyAction::Convert) => {
                let updates = rule.updates.ok_or(PolicyError::NoDestination)?;
                Action::Convert {
                    identifier: match updates.identifier {
                        kept if kept.is_empty() => identifier.clone(),
                        new => new,
                    },
                    attrs: updates.attrs,
                }
            }
            Err(_) => {
                return Err(PolicyError::Action {
                    identifier,
                    action: rule.action,
                });
            }
        };
        let pattern = pattern(&selector)?;
        let constraints = selector.constraints.into_iter().map(|constraint| {
            let condition = match AttrMatch::try_from(constraint.condition) {
                Ok(AttrMatch::Equal) => Condition::Equal(constraint.value),
                Ok(AttrMatch::NotEqual) => Condition::NotEqual(constraint.value),
                Ok(AttrMatch::Matches) => Condition::Matches(compile(&constraint.value)?),
                Err(_) => {
                    return Err(PolicyError::Condition {
                        identifier: identifier.clone(),
                        condition: constraint.condition,
                    });
                }
            };
            Ok(Constraint {
                key: constraint.key,
                condition,
            })
        });
        Ok(Self {
            constraints: constraints.collect::<Result<_, _>>()?,
            identifier,
            pattern,
            action,
        })
    }

    fn matches(&self, source: &pb::SourceOp) -> bool {
        let constrained = self.constraints.iter().all(|constraint| {
            let value = source.attrs.get(&constraint.key);
            let value = value.map(String::as_str).unwrap_or_default();
            match &constraint.condition {
                Condition::Equal(wanted) => value == wanted,
                Condition::NotEqual(other) => value != other,
                Condition::Matches(pattern) => pattern.is_match(value.as_bytes()),
            }
        });
        let identifier = source.identifier.as_bytes();
        let pattern = self.pattern.as_ref();
        constrained
            && (self.identifier == source.identifier
                || pattern.is_some_and(|pattern| pattern.is_match(identifier)))
    }

    /// Whether the source was another one before.
    fn convert(
        &self,
        source: &mut pb::SourceOp,
        identifier: &str,
        attrs: &BTreeMap<String, String>,
    ) -> bool {
        let new = match &self.pattern {
            // What the pattern's groups match may be part of what it becomes.
            Some(pattern) => {
                let new = pattern.replace_all(source.identifier.as_bytes(), identifier.as_bytes());
                String::from_utf8_lossy(&new).into_owned()
            }
            None => identifier.to_owned(),
        };
        let mut changed = !new.is_empty() && new != source.identifier;
        if changed {
            source.identifier = new;
        }
        for (key, value) in attrs {
            let before = source.attrs.insert(key.clone(), value.clone());
            changed |= before.as_deref() != Some(value.as_str());
        }
        changed
    }
}

/// A source under the one name by which rules know it, however it was written.
fn canonical(source: &pb::SourceOp) -> String {
    match Source::from_pb(source) {
        Ok(Source::Image(image)) => match image.reference.parse::<Reference>() {
            Ok(reference) => format!("docker-image://{}", reference.with_default_tag()),
            Err(_) => source.identifier.clone(),
        },
        Ok(Source::Git(mut git)) => {
            let rooted = weld_llb::path::join(&["/", &git.subdir]);
            git.subdir = rooted.trim_start_matches('/').to_owned();
            Source::Git(git).identifier()
        }
        Ok(other) => other.identifier(),
        // It is refused later, by whoever is to fetch it.
        Err(_) => source.identifier.clone(),
    }
}

/// How many patterns there are to compile for a selector.
fn patterns(selector: &Selector) -> usize {
    let is_pattern = selector.match_type != i32::from(MatchType::Exact);
    let matched = |condition| condition == i32::from(AttrMatch::Matches);
    let constraints = selector.constraints.iter();
    usize::from(is_pattern) + constraints.filter(|one| matched(one.condition)).count()
}

/// What identifiers are compared with, unless they have to be the same.
fn pattern(selector: &Selector) -> Result<Option<Regex>, PolicyError> {
    let identifier = &selector.identifier;
    match MatchType::try_from(selector.match_type) {
        Ok(MatchType::Exact) => Ok(None),
        Ok(MatchType::Regex) => compile(identifier).map(Some),
        Ok(MatchType::Wildcard) if identifier.contains("**") => Err(PolicyError::Pattern {
            pattern: identifier.clone(),
            reason: "invalid wildcard: \"**\"".to_owned(),
        }),
        Ok(MatchType::Wildcard) => {
            let parts: Vec<_> = identifier.split('*').map(regex::escape).collect();
            compile(&format!("^{}$", parts.join("(.*)"))).map(Some)
        }
        Err(_) => Err(PolicyError::MatchType {
            identifier: identifier.clone(),
            kind: selector.match_type,
        }),
    }
}

/// Classes such as `\w` are of ASCII, as in Go.
fn compile(pattern: &str) -> Result<Regex, PolicyError> {
    let compiled = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_PATTERN)
        .build();
    compiled.map_err(|error| PolicyError::Pattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
