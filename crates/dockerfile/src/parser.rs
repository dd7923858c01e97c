//! From a file to stages.

use crate::error::{Error, ErrorKind};
use crate::instruction::{Instruction, Kind, Parsed, parse_statement};
use crate::lexer::Lexer;
use crate::source::{LineRange, SourceFile};
use crate::stage::Dockerfile;

/// Reads a Dockerfile.
pub fn parse(source: &SourceFile) -> Result<Dockerfile, Error> {
    parse_stages(source).map_err(|error| error.in_file(source))
}

fn parse_stages(source: &SourceFile) -> Result<Dockerfile, Error> {
    let mut lexer = Lexer::new(source.data())?;
    let mut global_args = Vec::new();
    let mut stages = Vec::new();
    while let Some(statement) = lexer.next()? {
        match parse_statement(&statement, lexer.escape())? {
            Parsed::Stage(mut stage) => {
                stage.index = stages.len();
                stages.push(stage);
            }
            Parsed::Instruction(instruction) => match stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None if matches!(instruction.kind, Kind::Arg(_)) => global_args.push(instruction),
                None => {
                    let keyword = instruction.keyword;
                    let error = Error::new(ErrorKind::NoStage { keyword });
                    return Err(error.at(statement.lines).mark(statement.keyword_mark()));
                }
            },
        }
    }
    if stages.is_empty() {
        let error = match global_args.last() {
            Some(arg) => Error::new(ErrorKind::NoStages).at(arg.lines),
            None => Error::new(ErrorKind::NoInstructions).at(LineRange::line(lexer.line().max(1))),
        };
        return Err(error);
    }
    Ok(Dockerfile {
        source: source.clone(),
        escape: lexer.escape(),
        global_args,
        stages,
        empty_continuations: lexer.into_empty_continuations(),
    })
}

/// Reads the trigger that a base image's `ONBUILD` left in its config.
///
/// `from` are the lines of the `FROM` that brought it in: the instruction and errors in it are
/// placed there.
pub fn parse_trigger(trigger: &str, from: LineRange) -> Result<Instruction, Error> {
    trigger_instruction(trigger)
        .map(|instruction| Instruction {
            lines: from,
            ..instruction
        })
        .map_err(|error| error.moved_to(from))
}

fn trigger_instruction(trigger: &str) -> Result<Instruction, Error> {
    let mut lexer = Lexer::new(trigger.as_bytes())?;
    let statement = lexer.next()?.ok_or(ErrorKind::OnbuildNotSingle)?;
    let parsed = parse_statement(&statement, lexer.escape())?;
    if lexer.next()?.is_some() {
        return Err(ErrorKind::OnbuildNotSingle.into());
    }
    match parsed {
        Parsed::Instruction(instruction) => Ok(instruction),
        Parsed::Stage(_) => Err(ErrorKind::OnbuildForbidden {
            instruction: "FROM".to_owned(),
        }
        .into()),
    }
}
