//! Comments above an instruction that ask something of Weldkit, and are nothing but comments to others: `# weld:merge=never`.

use crate::suggest;

/// What every such comment begins with.
const PREFIX: &str = "weld:";
/// The one thing that can be asked for.
const MERGE: &str = "merge";
/// Its values.
const VALUES: [&str; 2] = ["never", "auto"];

/// What one comment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeldComment {
    /// The step shares its work with the very same step only.
    MergeNever,
    /// It shares its work as any other.
    MergeAuto,
}

/// What a comment asks for, or what is wrong with it; nothing where it is a comment like any other.
pub(crate) fn read(comment: &str) -> Option<Result<WeldComment, String>> {
    let asked = comment.trim().strip_prefix(PREFIX)?;
    let (name, value) = asked.split_once('=').unwrap_or((asked, ""));
    let (name, value) = (name.trim(), value.trim());
    if name != MERGE {
        return Some(Err(unknown(name, suggest::closest(name, [MERGE]))));
    }
    Some(match value {
        "never" => Ok(WeldComment::MergeNever),
        "auto" => Ok(WeldComment::MergeAuto),
        _ => Err(unknown(value, suggest::closest(value, VALUES))),
    })
}

/// What the comments above an instruction ask for; the last one counts.
pub(crate) fn merge(comments: &[String]) -> Option<WeldComment> {
    let all = comments.iter().rev();
    all.filter_map(|comment| read(comment)?.ok()).next()
}

fn unknown(word: &str, meant: Option<String>) -> String {
    match meant {
        Some(meant) => format!("{word:?} is unknown (did you mean {meant}?)"),
        None => format!("{word:?} is unknown: it is merge=never or merge=auto"),
    }
}
