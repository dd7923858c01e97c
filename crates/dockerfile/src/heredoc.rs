//! Here-documents: `<<WORD`, `<<-WORD`, `<<"WORD"`.

/// A here-document with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word, unquoted: the terminator line, and the file's name for `COPY`.
    pub name: String,
    /// The number before `<<`; 0 if there was none.
    pub fd: u32,
    /// Whether variables in the body are expanded: no part of the word was quoted.
    pub expand: bool,
    /// Whether leading tabs are removed from each line (`<<-`).
    pub chomp: bool,
    /// The body as written, each line with its ending, tabs still there.
    pub content: String,
}
