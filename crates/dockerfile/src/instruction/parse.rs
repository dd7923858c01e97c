//! From statements to typed instructions.

use std::collections::HashMap;
use std::time::Duration;

use super::flags::{Flags, Spec, Takes};
use super::kinds::{
    Add, Arg, ArgDefinition, CommandLine, Copy, Device, Env, Expose, HealthTest, Healthcheck,
    InlineFile, Label, MountFlag, NetworkMode, Run, SecurityMode, Transfer,
};
use super::quantity::{self, Signed};
use super::{Instruction, Kind, run};
use crate::arguments;
use crate::error::{Error, ErrorKind};
use crate::heredoc::{self, Heredoc};
use crate::lexer::Statement;
use crate::stage::{Stage, WrittenName};
use crate::suggest;

/// Every keyword, for suggestions.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A statement that was understood.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A `FROM`, without its index and instructions.
    Stage(Stage),
    /// Any other instruction.
    Instruction(Instruction),
}

/// Understands a statement.
pub(crate) fn parse(statement: &Statement, escape: char) -> Result<Parsed, Error> {
    let parsed = if statement.keyword().eq_ignore_ascii_case("FROM") {
        parse_from(statement).map(Parsed::Stage)
    } else {
        parse_kind(statement, escape).map(|kind| {
            Parsed::Instruction(Instruction {
                keyword: statement.keyword().to_owned(),
                source: statement.source().to_owned(),
                lines: statement.lines,
                comments: statement.comments.clone(),
                kind,
            })
        })
    };
    // What does not know better is about the arguments as a whole.
    parsed.map_err(|error| error.at(statement.lines).mark(statement.argument_mark("")))
}

fn parse_kind(statement: &Statement, escape: char) -> Result<Kind, Error> {
    let keyword = statement.keyword().to_uppercase();
    let text = statement.arguments();
    // As in BuildKit, ARG and STOPSIGNAL do not look at flags.
    match keyword.as_str() {
        "ARG" => return parse_arg(statement, escape).map(Kind::Arg),
        "STOPSIGNAL" => return whole(text, "STOPSIGNAL").map(Kind::StopSignal),
        "ADD" => return parse_add(statement).map(Kind::Add),
        "COPY" => return parse_copy(statement).map(Kind::Copy),
        "RUN" => return parse_run(statement).map(Kind::Run),
        "HEALTHCHECK" => return parse_healthcheck(statement).map(Kind::Healthcheck),
        _ if !KEYWORDS.contains(&keyword.as_str()) => return Err(unknown(statement)),
        _ => Flags::parse(statement, &[])?,
    };
    Ok(match keyword.as_str() {
        "CMD" => Kind::Cmd(command_line(text)?),
        "ENTRYPOINT" => Kind::Entrypoint(command_line(text)?),
        "ENV" => Kind::Env(Env {
            pairs: parse_pairs(statement, escape, "ENV")?,
        }),
        "LABEL" => Kind::Label(Label {
            pairs: parse_pairs(statement, escape, "LABEL")?,
        }),
        "EXPOSE" => {
            let mut ports = at_least_one(arguments::blank_separated(text), "EXPOSE")?;
            ports.sort();
            Kind::Expose(Expose { ports })
        }
        "MAINTAINER" => Kind::Maintainer(whole(text, "MAINTAINER")?),
        "ONBUILD" => Kind::Onbuild(parse_onbuild(statement, escape)?),
        "SHELL" => Kind::Shell(parse_shell(text)?),
        "USER" => Kind::User(whole(text, "USER")?),
        "VOLUME" => Kind::Volume(parse_volume(text)?),
        "WORKDIR" => Kind::Workdir(whole(text, "WORKDIR")?),
        _ => return Err(unknown(statement)),
    })
}

fn unknown(statement: &Statement) -> Error {
    let keyword = statement.keyword();
    Error::new(ErrorKind::UnknownInstruction {
        keyword: keyword.to_owned(),
    })
    .mark(statement.keyword_mark())
    .suggest(suggest::closest_keyword(keyword, KEYWORDS))
}

fn at_least_one(words: Vec<String>, instruction: &'static str) -> Result<Vec<String>, ErrorKind> {
    if words.is_empty() {
        return Err(ErrorKind::NoArgument { instruction });
    }
    Ok(words)
}

/// The arguments as one text.
fn whole(text: &str, instruction: &'static str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(ErrorKind::NotOneArgument { instruction }.into());
    }
    Ok(text.to_owned())
}

fn command_line(text: &str) -> Result<CommandLine, ErrorKind> {
    Ok(match arguments::json_array(text)? {
        Some(words) => CommandLine::Exec(words),
        None => CommandLine::Shell(text.to_owned()),
    })
}

fn parse_pairs(
    statement: &Statement,
    escape: char,
    instruction: &'static str,
) -> Result<Vec<super::KeyValue>, Error> {
    arguments::pairs(statement.arguments(), escape, instruction).map_err(|kind| {
        let mark = match &kind {
            ErrorKind::MissingEquals { word } => statement.argument_mark(word),
            _ => statement.argument_mark(""),
        };
        Error::new(kind).mark(mark)
    })
}

/// Texts of comments in the form `NAME text`, by name; the first of a name counts.
fn doc_comments(comments: &[String]) -> HashMap<&str, &str> {
    let pairs = comments
        .iter()
        .filter_map(|comment| comment.split_once(' '));
    pairs.rev().collect()
}

fn parse_arg(statement: &Statement, escape: char) -> Result<Arg, Error> {
    let words = arguments::quoted_words(statement.arguments(), escape);
    let words = at_least_one(words, "ARG")?;
    let docs = doc_comments(&statement.comments);
    let definition = |word: String| {
        let (name, default) = match word.split_once('=') {
            Some(("", _)) => {
                let kind = ErrorKind::BlankName { instruction: "ARG" };
                return Err(Error::new(kind).mark(statement.argument_mark(&word)));
            }
            Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
            None => (word, None),
        };
        let doc = docs.get(name.as_str()).map(|text| (*text).to_owned());
        Ok(ArgDefinition { name, default, doc })
    };
    let definitions = words
        .into_iter()
        .map(definition)
        .collect::<Result<_, _>>()?;
    Ok(Arg { definitions })
}

fn parse_from(statement: &Statement) -> Result<Stage, Error> {
    let words = arguments::blank_separated(statement.arguments());
    let (base, written_name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            let (keyword, name) = (keyword.clone(), name.clone());
            (base, Some(WrittenName { keyword, name }))
        }
        _ => return Err(ErrorKind::FromArguments.into()),
    };
    let name = written_name
        .as_ref()
        .map(|written| written.name.to_lowercase());
    if let (Some(name), Some(written)) = (&name, &written_name)
        && !is_stage_name(name)
    {
        let invalid = ErrorKind::InvalidStageName {
            name: written.name.clone(),
        };
        return Err(Error::new(invalid).mark(statement.argument_mark(&written.name)));
    }
    let flags = Flags::parse(statement, &[("platform", Takes::Text)])?;
    Ok(Stage {
        index: 0,
        doc: name.as_deref().and_then(|name| {
            let docs = doc_comments(&statement.comments);
            docs.get(name).map(|text| (*text).to_owned())
        }),
        name,
        written_name,
        base: base.clone(),
        platform: flags.text("platform"),
        keyword: statement.keyword().to_owned(),
        source: statement.source().to_owned(),
        lines: statement.lines,
        comments: statement.comments.clone(),
        instructions: Vec::new(),
    })
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}

const TRANSFER_FLAGS: [Spec; 4] = [
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("exclude", Takes::List),
];

fn parse_add(statement: &Statement) -> Result<Add, Error> {
    let own = [
        ("checksum", Takes::Text),
        ("keep-git-dir", Takes::Bool),
        ("unpack", Takes::Bool),
    ];
    let flags = Flags::parse(statement, &[&TRANSFER_FLAGS[..], &own].concat())?;
    Ok(Add {
        transfer: parse_transfer(statement, &flags, "ADD")?,
        checksum: flags.text("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
    })
}

fn parse_copy(statement: &Statement) -> Result<Copy, Error> {
    let own = [("from", Takes::Text), ("parents", Takes::Bool)];
    let flags = Flags::parse(statement, &[&TRANSFER_FLAGS[..], &own].concat())?;
    Ok(Copy {
        transfer: parse_transfer(statement, &flags, "COPY")?,
        from: flags.text("from"),
        parents: flags.bool("parents").unwrap_or(false),
    })
}

fn parse_transfer(
    statement: &Statement,
    flags: &Flags,
    instruction: &'static str,
) -> Result<Transfer, Error> {
    let mut words = arguments::json_or_words(statement.arguments())?;
    let count = words.len();
    let destination = match words.pop() {
        Some(destination) if count > 1 => destination,
        _ => return Err(ErrorKind::NoDestination { instruction, count }.into()),
    };
    if heredoc::parse(&destination).is_some() {
        let error = Error::new(ErrorKind::HeredocDestination { instruction });
        return Err(error.mark(statement.argument_mark(&destination)));
    }
    let mut sources = Vec::new();
    let mut inline_files = Vec::new();
    for word in words {
        match heredoc::parse(&word) {
            Some(opening) => inline_files.push(inline_file(statement, &opening)),
            None => sources.push(word),
        }
    }
    Ok(Transfer {
        sources,
        inline_files,
        destination,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        exclude: flags
            .list("exclude")
            .map(|(pattern, _)| pattern.to_owned())
            .collect(),
    })
}

/// The file of a heredoc. In JSON form there are no bodies: the file is empty then.
///
/// Two heredocs of one name are one file with the last one's body.
fn inline_file(statement: &Statement, opening: &Heredoc) -> InlineFile {
    let with_body = statement
        .heredocs
        .iter()
        .rfind(|heredoc| heredoc.name == opening.name);
    let content = with_body.map_or("", |heredoc| &heredoc.content);
    InlineFile {
        name: opening.name.clone(),
        data: match opening.chomp {
            true => heredoc::without_leading_tabs(content),
            false => content.to_owned(),
        },
        expand: opening.expand,
    }
}

fn parse_run(statement: &Statement) -> Result<Run, Error> {
    let specs = [
        ("mount", Takes::List),
        ("network", Takes::Text),
        ("security", Takes::Text),
        ("device", Takes::List),
    ];
    let flags = Flags::parse(statement, &specs)?;
    let mounts = flags
        .list("mount")
        .map(|(text, mark)| MountFlag::parse(text, mark).map_err(|error| error.mark(mark)))
        .collect::<Result<_, _>>()?;
    let devices = flags
        .list("device")
        .map(|(text, mark)| Device::parse(text).map_err(|error| error.mark(mark)))
        .collect::<Result<_, _>>()?;
    Ok(Run {
        command: command_line(statement.arguments())?,
        heredocs: statement.heredocs.clone(),
        mounts,
        network: parse_network(&flags)?,
        security: parse_security(&flags)?,
        devices,
    })
}

fn parse_network(flags: &Flags) -> Result<NetworkMode, Error> {
    let (Some(mode), Some(mark)) = (flags.value("network"), flags.mark("network")) else {
        return Ok(NetworkMode::default());
    };
    let found = NetworkMode::ALL
        .into_iter()
        .find(|known| known.name() == mode);
    found.ok_or_else(|| {
        let suggestion = suggest::closest(mode, NetworkMode::ALL.map(NetworkMode::name));
        let mode = mode.to_owned();
        Error::new(ErrorKind::InvalidNetwork { mode })
            .suggest(suggestion)
            .mark(mark)
    })
}

fn parse_security(flags: &Flags) -> Result<SecurityMode, Error> {
    let (Some(mode), Some(mark)) = (flags.value("security"), flags.mark("security")) else {
        return Ok(SecurityMode::default());
    };
    let found = SecurityMode::ALL
        .into_iter()
        .find(|known| known.name() == mode);
    found.ok_or_else(|| {
        let suggestion = suggest::closest(mode, SecurityMode::ALL.map(SecurityMode::name));
        let mode = mode.to_owned();
        Error::new(ErrorKind::InvalidSecurity { mode })
            .suggest(suggestion)
            .mark(mark)
    })
}

/// Checks a trigger and gives its text, heredoc bodies included. Blanks at its end stay: the
/// text goes into the image's config as BuildKit puts it there.
fn parse_onbuild(statement: &Statement, escape: char) -> Result<String, Error> {
    let text = statement.arguments();
    if text.is_empty() {
        let instruction = "ONBUILD";
        return Err(ErrorKind::NoArgument { instruction }.into());
    }
    let trigger = statement.trigger(escape);
    let keyword = trigger.keyword().to_uppercase();
    match keyword.as_str() {
        "ONBUILD" => {
            let error = Error::new(ErrorKind::OnbuildChained);
            return Err(error.mark(trigger.keyword_mark()));
        }
        "FROM" | "MAINTAINER" => {
            let instruction = keyword;
            let error = Error::new(ErrorKind::OnbuildForbidden { instruction });
            return Err(error.mark(trigger.keyword_mark()));
        }
        // The rest of the trigger is checked where it is used, with that frontend's rules.
        "ENV" => drop(parse_pairs(&trigger, escape, "ENV")?),
        "LABEL" => drop(parse_pairs(&trigger, escape, "LABEL")?),
        "ADD" | "CMD" | "COPY" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME" => {
            arguments::json_array(trigger.arguments())?;
        }
        known if KEYWORDS.contains(&known) => {}
        _ => return Err(unknown(&trigger)),
    }
    let text = statement.line.text();
    let text = text.get(statement.arguments.start..).unwrap_or_default();
    Ok(run::with_heredocs(text, &statement.heredocs))
}

fn parse_shell(text: &str) -> Result<Vec<String>, ErrorKind> {
    let instruction = "SHELL";
    match arguments::json_array(text)? {
        Some(words) => at_least_one(words, instruction),
        None if text.is_empty() => Err(ErrorKind::NoArgument { instruction }),
        None => Err(ErrorKind::JsonRequired { instruction }),
    }
}

fn parse_volume(text: &str) -> Result<Vec<String>, ErrorKind> {
    let paths = at_least_one(arguments::json_or_words(text)?, "VOLUME")?;
    let path = |path: String| match path.trim() {
        "" => Err(ErrorKind::EmptyVolume),
        path => Ok(path.to_owned()),
    };
    paths.into_iter().map(path).collect()
}

fn parse_healthcheck(statement: &Statement) -> Result<Healthcheck, Error> {
    let text = statement.arguments();
    let (kind, command) = match text.split_once(char::is_whitespace) {
        Some((kind, command)) => (kind, command.trim_start()),
        None => (text, ""),
    };
    match kind.to_uppercase().as_str() {
        "" => {
            let instruction = "HEALTHCHECK";
            Err(ErrorKind::NoArgument { instruction }.into())
        }
        "NONE" if arguments::json_or_words(command)?.is_empty() => Ok(Healthcheck {
            test: HealthTest::None,
            interval: None,
            timeout: None,
            start_period: None,
            start_interval: None,
            retries: None,
        }),
        "NONE" => Err(ErrorKind::HealthcheckNoneArguments.into()),
        "CMD" => parse_health_command(statement, command),
        kind => {
            let kind = kind.to_owned();
            let mark = statement.argument_mark(&kind);
            Err(Error::new(ErrorKind::HealthcheckType { kind }).mark(mark))
        }
    }
}

fn parse_health_command(statement: &Statement, command: &str) -> Result<Healthcheck, Error> {
    let specs = [
        ("interval", Takes::Text),
        ("timeout", Takes::Text),
        ("start-period", Takes::Text),
        ("start-interval", Takes::Text),
        ("retries", Takes::Text),
    ];
    let flags = Flags::parse(statement, &specs)?;
    let test = match command_line(command)? {
        CommandLine::Shell(text) if !text.is_empty() => HealthTest::Shell(text),
        CommandLine::Exec(words) if !words.is_empty() => HealthTest::Exec(words),
        _ => return Err(ErrorKind::HealthcheckNoCommand.into()),
    };
    Ok(Healthcheck {
        test,
        interval: parse_interval(&flags, "interval")?,
        timeout: parse_interval(&flags, "timeout")?,
        start_period: parse_interval(&flags, "start-period")?,
        start_interval: parse_interval(&flags, "start-interval")?,
        retries: parse_retries(&flags)?,
    })
}

fn parse_interval(flags: &Flags, flag: &'static str) -> Result<Option<Duration>, Error> {
    let (Some(value), Some(mark)) = (flags.text(flag), flags.mark(flag)) else {
        return Ok(None);
    };
    let kind = match quantity::duration(&value) {
        Ok(Signed::Positive(duration))
            if duration.is_zero() || duration >= Duration::from_millis(1) =>
        {
            return Ok(Some(duration));
        }
        Ok(_) => ErrorKind::DurationTooShort { flag },
        Err(reason) => ErrorKind::InvalidDuration {
            flag,
            value,
            reason,
        },
    };
    Err(Error::new(kind).mark(mark))
}

fn parse_retries(flags: &Flags) -> Result<Option<u32>, Error> {
    let (Some(value), Some(mark)) = (flags.text("retries"), flags.mark("retries")) else {
        return Ok(None);
    };
    let kind = match value.parse::<i32>() {
        Ok(retries) => match u32::try_from(retries) {
            Ok(retries) => return Ok(Some(retries)),
            Err(_) => ErrorKind::NegativeRetries { value },
        },
        Err(_) => ErrorKind::InvalidRetries { value },
    };
    Err(Error::new(kind).mark(mark))
}
