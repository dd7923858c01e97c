//! What a definition says, as fields that can be compared.

use std::collections::HashSet;

use serde_json::Value;

use super::recipe::kept;

/// Names and values.
pub(crate) type Fields = Vec<(String, String)>;

/// Most fields of one step that are remembered.
pub(super) const FIELDS: usize = 512;

/// Names such as `env.PATH` and `args` with their values, in their order; no two of one name.
#[derive(Debug, Default)]
pub(crate) struct Said {
    fields: Fields,
    names: HashSet<String>,
}

impl Said {
    /// Adds a field. Of several of one name the later ones get a number.
    pub(crate) fn field(&mut self, name: &str, value: &str) {
        if self.is_full() {
            return;
        }
        let mut unique = name.to_owned();
        let mut number = 1;
        while self.names.contains(&unique) {
            number += 1;
            unique = format!("{name} ({number})");
        }
        self.names.insert(unique.clone());
        self.fields.push((unique, kept(value)));
    }

    /// Adds a text that most definitions do not have.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(name, value);
        }
    }

    /// Adds whether something is so.
    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        self.field(name, if value { "yes" } else { "no" });
    }

    /// Adds a list that most definitions do not have.
    pub(crate) fn list<T: AsRef<str>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let words = values.into_iter().map(|value| word(value.as_ref()));
        let words: Vec<String> = words.collect();
        if !words.is_empty() {
            self.field(name, &words.join(" "));
        }
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.fields.len() >= FIELDS
    }

    /// What was said.
    pub(crate) fn into_fields(self) -> Fields {
        self.fields
    }
}

/// An element of a list, which may have a space in it, so that different lists stay different.
fn word(value: &str) -> String {
    let is_plain =
        !value.is_empty() && !value.contains(|char: char| char.is_whitespace() || char == '"');
    if is_plain {
        value.to_owned()
    } else {
        Value::from(value).to_string()
    }
}

/// A command as a Dockerfile has it: what a shell reads, or the words where none does.
pub(crate) fn command(args: &[String]) -> String {
    if let [shell, flag, command] = args
        && shell == "/bin/sh"
        && flag == "-c"
    {
        return command.clone();
    }
    // What a shell would read can be the same words.
    let words = args
        .iter()
        .map(|word| Value::from(word.as_str()).to_string());
    format!("[{}]", words.collect::<Vec<_>>().join(", "))
}
