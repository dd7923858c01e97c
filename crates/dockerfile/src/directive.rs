//! Parser directives: `# syntax=`, `# escape=`, `# check=`.

/// A directive as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The whole value.
    pub value: String,
    /// The line, from 1.
    pub line: u32,
}

impl Directive {
    /// The value up to the first blank: the image of a `syntax`, the options of a `check`.
    pub fn first_word(&self) -> &str {
        self.value.split(' ').next().unwrap_or_default()
    }
}

/// The names that directives have; any other name is an ordinary comment.
const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// The frontend that a file asks for: by a `# syntax=` directive, the same with `//`, or a JSON
/// object with a `syntax` string; a `#!` line may come before.
pub fn detect_syntax(data: &[u8]) -> Option<Directive> {
    let (data, line) = without_shebang(data);
    find_with("#", "syntax", data, line)
        .or_else(|| find_with("//", "syntax", data, line))
        .or_else(|| {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(data).ok()?;
            let value = object.get("syntax")?.as_str()?.to_owned();
            Some(Directive {
                value,
                line: line + 1,
            })
        })
}

/// The directive `name` of a Dockerfile; a `#!` line may come before.
pub fn find(name: &str, data: &[u8]) -> Option<Directive> {
    let (data, line) = without_shebang(data);
    find_with("#", name, data, line)
}

/// The value if `comment`, without its `#`, is the directive `name`.
pub(crate) fn value_of<'c>(name: &str, comment: &'c str) -> Option<&'c str> {
    let (found, value) = split(comment)?;
    (found == name).then_some(value)
}

/// Reads directives line by line, as long as there are only directives.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    done: bool,
    seen: Vec<&'static str>,
}

impl Reader {
    /// No directive can follow.
    pub(crate) fn finish(&mut self) {
        self.done = true;
    }

    /// The directive of a line that begins with `prefix`; an error is the name of a directive
    /// that was there before.
    pub(crate) fn line<'l>(
        &mut self,
        prefix: &str,
        line: &'l str,
    ) -> Result<Option<(&'static str, &'l str)>, &'static str> {
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = line.strip_prefix(prefix).and_then(split) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(name);
        }
        self.seen.push(name);
        Ok(Some((name, value)))
    }
}

fn find_with(prefix: &str, name: &str, data: &[u8], lines_before: u32) -> Option<Directive> {
    let mut reader = Reader::default();
    for (line, text) in (lines_before + 1..).zip(data.split(|byte| *byte == b'\n')) {
        let text = String::from_utf8_lossy(text);
        match reader.line(prefix, &text) {
            Ok(Some((found, value))) if found == name => {
                return Some(Directive {
                    value: value.to_owned(),
                    line,
                });
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
    None
}

/// `NAME = VALUE` with one of the known names, in any case, and a value that is not empty.
fn split(comment: &str) -> Option<(&'static str, &str)> {
    let (name, value) = comment.trim().split_once('=')?;
    let name = name.trim_end().to_ascii_lowercase();
    let known = NAMES.into_iter().find(|known| *known == name)?;
    let value = value.trim();
    (!value.is_empty()).then_some((known, value))
}

fn without_shebang(data: &[u8]) -> (&[u8], u32) {
    let data = data.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(data);
    if !data.starts_with(b"#!") {
        return (data, 0);
    }
    match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (data.get(end + 1..).unwrap_or_default(), 1),
        None => (&[], 1),
    }
}
