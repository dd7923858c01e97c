//! Which records a client wants to hear of.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weld_proto::control::BuildHistoryRecord;

use super::completed;
use crate::config::duration;
use crate::selector::{Selector, SelectorError};

/// One filter: all of its conditions must be met.
pub(super) struct Filter {
    times: Vec<TimeCondition>,
    selector: Selector,
}

struct TimeCondition {
    field: TimeField,
    operator: Operator,
    /// Seconds since 1970, or nanoseconds of a duration.
    bound: i128,
}

#[derive(Clone, Copy)]
enum TimeField {
    Started,
    Completed,
    Duration,
}

#[derive(Clone, Copy)]
enum Operator {
    AtLeast,
    AtMost,
    More,
    Less,
}

/// Why a filter is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// It compares with what is no time.
    #[error("invalid time {0:?}: neither a duration such as 10m nor as in RFC 3339")]
    Time(String),
    /// It compares with what is no duration.
    #[error("invalid duration {0:?}")]
    Duration(String),
    /// Something else.
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

impl Filter {
    pub(super) fn parse(text: &str, now: SystemTime) -> Result<Self, FilterError> {
        let mut times = Vec::new();
        let mut rest = Vec::new();
        for field in text.split(',') {
            match time_condition(field, now)? {
                Some(condition) => times.push(condition),
                None => rest.push(field),
            }
        }
        Ok(Self {
            times,
            selector: Selector::parse(&rest.join(","))?,
        })
    }

    pub(super) fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.times.iter().all(|condition| condition.matches(record))
            && self.selector.matches(|path| match path {
                [field] => field_of(record, field),
                _ => None,
            })
    }
}

fn field_of(record: &BuildHistoryRecord, field: &str) -> Option<String> {
    match field {
        "ref" => Some(record.reference.clone()).filter(|reference| !reference.is_empty()),
        "status" => Some(status(record).to_owned()),
        "repository" => repository(record),
        _ => None,
    }
}

fn status(record: &BuildHistoryRecord) -> &'static str {
    match (&record.completed_at, &record.error) {
        (None, _) => "running",
        (Some(_), None) => "completed",
        (Some(_), Some(error)) if error.message.contains("context canceled") => "canceled",
        (Some(_), Some(_)) => "error",
    }
}

/// Where the source is kept: as the client says, or the context if it is a repository.
fn repository(record: &BuildHistoryRecord) -> Option<String> {
    if let Some(source) = record.frontend_attrs.get("vcs:source") {
        return Some(source.clone());
    }
    let context = record.frontend_attrs.get("context")?;
    let remote = context
        .split_once('#')
        .map_or(context.as_str(), |(remote, _)| remote);
    let schemes = ["git://", "ssh://", "git@"];
    let is_git = schemes.iter().any(|scheme| remote.starts_with(scheme))
        || remote.starts_with("http") && remote.ends_with(".git");
    is_git.then(|| remote.to_owned())
}

fn time_condition(text: &str, now: SystemTime) -> Result<Option<TimeCondition>, FilterError> {
    let operators = [
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        (">", Operator::More),
        ("<", Operator::Less),
    ];
    let split = operators.iter().find_map(|(sign, operator)| {
        let (field, value) = text.split_once(sign)?;
        Some((field, *operator, value))
    });
    let Some((field, operator, value)) = split else {
        return Ok(None);
    };
    let field = match field {
        "startedAt" => TimeField::Started,
        "completedAt" => TimeField::Completed,
        "duration" => TimeField::Duration,
        _ => return Ok(None),
    };
    let length = duration::parse(value);
    let bound = match (field, length) {
        (TimeField::Duration, Some(length)) => length.as_nanos().try_into().unwrap_or(i128::MAX),
        (TimeField::Duration, None) => return Err(FilterError::Duration(value.to_owned())),
        (_, Some(length)) => seconds(now.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH)),
        (_, None) => OffsetDateTime::parse(value, &Rfc3339)
            .map_err(|_| FilterError::Time(value.to_owned()))?
            .unix_timestamp()
            .into(),
    };
    Ok(Some(TimeCondition {
        field,
        operator,
        bound,
    }))
}

fn seconds(time: SystemTime) -> i128 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
        .into()
}

impl TimeCondition {
    fn matches(&self, record: &BuildHistoryRecord) -> bool {
        let started = record
            .created_at
            .and_then(|time| SystemTime::try_from(time).ok());
        let started = started.unwrap_or(SystemTime::UNIX_EPOCH);
        let ended = record.completed_at.is_some();
        let value = match self.field {
            TimeField::Started => seconds(started),
            TimeField::Completed => seconds(completed(record)),
            TimeField::Duration if !ended => 0,
            TimeField::Duration => completed(record)
                .duration_since(started)
                .unwrap_or_default()
                .as_nanos()
                .try_into()
                .unwrap_or(i128::MAX),
        };
        match self.operator {
            Operator::AtLeast => value >= self.bound,
            Operator::AtMost => value <= self.bound,
            Operator::More => value > self.bound,
            Operator::Less => value < self.bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weld_proto::google;

    #[test]
    fn records_are_found_by_time_and_state() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let at = |ago| Some(prost_types::Timestamp::from(now - Duration::from_secs(ago)));
        let good = BuildHistoryRecord {
            reference: "a".to_owned(),
            created_at: at(3600),
            completed_at: at(3000),
            ..BuildHistoryRecord::default()
        };
        let bad = BuildHistoryRecord {
            error: Some(google::Status {
                message: "no".to_owned(),
                ..google::Status::default()
            }),
            ..good.clone()
        };
        for (filter, in_good, in_bad) in [
            ("ref==a", true, true),
            ("status==completed", true, false),
            ("status==error", false, true),
            ("status!=error,startedAt>=2h", true, false),
            ("startedAt>=30m", false, false),
            ("startedAt<30m", true, true),
            ("duration>5m", true, true),
            ("duration>5m,duration<6m", false, false),
            ("completedAt>1970-01-01T00:00:00Z", true, true),
            ("repository==x", false, false),
        ] {
            let filter_ = Filter::parse(filter, now).unwrap();
            assert_eq!(filter_.matches(&good), in_good, "{filter}");
            assert_eq!(filter_.matches(&bad), in_bad, "{filter}");
        }
        assert!(Filter::parse("startedAt>soon", now).is_err());
        assert!(Filter::parse("duration<soon", now).is_err());
    }
}
