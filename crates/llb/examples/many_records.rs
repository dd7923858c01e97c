//! Writes a definition to standard output whose build leaves about as many cache records as is said: `many_records [RECORDS]`, 20,000
//! unless told. It is for `weld solve`, to measure caches.
//!
//! Each operation that counts writes a file, and what it leaves is one of a few hundred layers, as many steps of many builds leave the
//! same. Others copy from these, a hundred at a time, and the last one copies from those.

use std::io::Write as _;

use bytes::Bytes;
use weld_llb::{
    Builder, Constraints, CopyAction, FileChange, FileInput, MkfileAction, Output, Platform, State,
};
use weld_proto::Message as _;

/// How many different layers there are.
const LAYERS: usize = 400;
/// From how many an operation copies.
const COPIES: usize = 100;
/// Made when, in nanoseconds since 1970: files that are the same have to be the same layer.
const MADE: i64 = 1_700_000_000_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let records = match std::env::args().nth(1) {
        Some(records) => records.parse()?,
        None => 20_000,
    };
    let mut builder = Builder::new();
    // Results of operations without inputs are in no cache: all that count are made upon something.
    let base = State::scratch().file(
        &mut builder,
        vec![write("/base", "base".to_owned())],
        Constraints::new(),
    )?;
    let mut outputs = Vec::with_capacity(records);
    for number in 0..records {
        // What is overwritten tells the operations apart, and not what they leave.
        let changes = vec![
            write("/file", format!("operation {number}")),
            write("/file", format!("layer {}", number % LAYERS)),
        ];
        let state = base.file(&mut builder, changes, Constraints::new())?;
        outputs.extend(state.output);
    }
    while outputs.len() > 1 {
        let mut above = Vec::new();
        for inputs in outputs.chunks(COPIES) {
            above.extend(copied(&mut builder, inputs)?);
        }
        outputs = above;
    }
    let root = outputs.first().copied();
    let definition = builder.definition(root, &Platform::host())?;
    std::io::stdout()
        .lock()
        .write_all(&definition.encode_to_vec())?;
    Ok(())
}

/// One operation that copies from all of these.
fn copied(
    builder: &mut Builder,
    inputs: &[Output],
) -> Result<Option<Output>, weld_llb::BuildError> {
    let copies = inputs.iter().enumerate().map(|(number, input)| {
        let from = FileInput::Input(*input);
        let mut copy = CopyAction::new(from, "/file", format!("/{number}"));
        copy.timestamp = Some(MADE);
        FileChange::Copy(copy)
    });
    let state = State::scratch().file(builder, copies.collect(), Constraints::new())?;
    // The next operation finds a file under the same name.
    let file = write("/file", "copied".to_owned());
    let state = state.file(builder, vec![file], Constraints::new())?;
    Ok(state.output)
}

fn write(path: &str, text: String) -> FileChange<Output> {
    FileChange::Mkfile(MkfileAction {
        path: path.to_owned(),
        mode: 0o644,
        data: Bytes::from(text),
        owner: None,
        timestamp: Some(MADE),
    })
}
