//! Filters of workers and builds, as containerd writes them: `name==value`, `labels."a b"!=x`,
//! `name~=regex`, several with commas between them, which must all match.

use regex::Regex;

/// The longest filter, in bytes.
const MAX_FILTER: usize = 16 << 10;

/// Conditions that must all be met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector(Vec<Condition>);

#[derive(Clone, Debug)]
struct Condition {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    Unequal(String),
    Matches(Regex),
}

/// A filter that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid filter {filter:?}: {reason}")]
pub(crate) struct SelectorError {
    filter: String,
    reason: String,
}

impl From<SelectorError> for tonic::Status {
    fn from(error: SelectorError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl Selector {
    /// Reads one filter; an empty one selects everything.
    pub(crate) fn parse(filter: &str) -> Result<Self, SelectorError> {
        let error = |reason: String| SelectorError {
            filter: filter.chars().take(200).collect(),
            reason,
        };
        if filter.len() > MAX_FILTER {
            return Err(error(format!("longer than {MAX_FILTER} bytes")));
        }
        let mut conditions = Vec::new();
        let mut rest = filter.trim();
        while !rest.is_empty() {
            let (condition, after) = condition(rest).map_err(error)?;
            conditions.push(condition);
            rest = match after.strip_prefix(',') {
                Some(after) => after,
                None if after.is_empty() => after,
                None => return Err(error(format!("a comma is missing before {after:?}"))),
            };
        }
        Ok(Self(conditions))
    }

    /// Whether all conditions are met by what `field` says.
    pub(crate) fn matches(&self, field: impl Fn(&[String]) -> Option<String>) -> bool {
        self.0.iter().all(|condition| {
            let value = field(&condition.path);
            match &condition.test {
                Test::Present => value.is_some(),
                Test::Equal(wanted) => value.as_ref() == Some(wanted),
                Test::Unequal(unwanted) => value.as_ref() != Some(unwanted),
                Test::Matches(regex) => value.is_some_and(|value| regex.is_match(&value)),
            }
        })
    }
}

fn condition(text: &str) -> Result<(Condition, &str), String> {
    let (path, rest) = path(text)?;
    let build = |test, rest| Ok((Condition { path, test }, rest));
    if let Some(rest) = rest.strip_prefix("==") {
        let (wanted, rest) = value(rest)?;
        return build(Test::Equal(wanted), rest);
    }
    if let Some(rest) = rest.strip_prefix("!=") {
        let (unwanted, rest) = value(rest)?;
        return build(Test::Unequal(unwanted), rest);
    }
    if let Some(rest) = rest.strip_prefix("~=") {
        let (pattern, rest) = value(rest)?;
        let regex = Regex::new(&pattern).map_err(|error| error.to_string())?;
        return build(Test::Matches(regex), rest);
    }
    build(Test::Present, rest)
}

fn path(text: &str) -> Result<(Vec<String>, &str), String> {
    let mut path = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match quoted(rest)? {
            Some(quoted) => quoted,
            None => {
                let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
                let end = rest.find(|char| !is_name(char)).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                (name.to_owned(), after)
            }
        };
        if field.is_empty() {
            return Err(format!("a field's name is missing before {rest:?}"));
        }
        path.push(field);
        match after.strip_prefix('.') {
            Some(after) => rest = after,
            None => return Ok((path, after)),
        }
    }
}

fn value(text: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = quoted(text)? {
        return Ok(quoted);
    }
    let (value, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
    Ok((value.to_owned(), rest))
}

fn quoted(text: &str) -> Result<Option<(String, &str)>, String> {
    let Some(inner) = text.strip_prefix('"') else {
        return Ok(None);
    };
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '"' => return Ok(Some((value, inner.get(index + 1..).unwrap_or_default()))),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            char => value.push(char),
        }
    }
    Err("a closing quote is missing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_met_or_not() {
        let field = |path: &[String]| match path.iter().map(String::as_str).collect::<Vec<_>>()[..]
        {
            ["id"] => Some("abc".to_owned()),
            ["labels", "a.b/c"] => Some("x,y".to_owned()),
            _ => None,
        };
        for (filter, expected) in [
            ("", true),
            ("id==abc", true),
            ("id==ab", false),
            ("id!=ab", true),
            ("id~=^a.c$", true),
            ("id~=^b", false),
            ("id", true),
            ("nothing", false),
            (r#"labels."a.b/c"=="x,y",id==abc"#, true),
            (r#"labels."a.b/c"=="x,y",id==b"#, false),
        ] {
            assert_eq!(
                Selector::parse(filter).unwrap().matches(field),
                expected,
                "{filter}"
            );
        }
    }

    #[test]
    fn mistakes_are_told() {
        for filter in ["==a", "id==\"a", "id~=(", "id==\"a\"b", "labels.==a", ","] {
            let error = Selector::parse(filter).unwrap_err().to_string();
            assert!(error.contains("invalid filter"), "{error}");
        }
    }
}
