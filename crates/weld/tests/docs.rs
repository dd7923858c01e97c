//! Documents that say what other files say are held to them.
//!
//! `UPDATE_DOCS=1 cargo test -p weld --test docs` writes `docs/command-line.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HEAD: &str = "\
# Command line

What `weld --help` and the help of each subcommand print. This page is generated: after a change run
`UPDATE_DOCS=1 cargo test -p weld --test docs`.

`weld completion SHELL` prints a completion script, `weld man` the manual page.
";

#[test]
fn the_command_line_page_is_up_to_date() {
    let page = workspace().join("docs/command-line.md");
    let generated = generate();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, generated).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&page).unwrap_or_default();
    let differs = committed
        .lines()
        .zip(generated.lines())
        .position(|(committed, generated)| committed != generated);
    assert!(
        committed == generated,
        "docs/command-line.md is not what the help says (first in line {}); \
         run `UPDATE_DOCS=1 cargo test -p weld --test docs`",
        differs.map_or(committed.lines().count(), |line| line + 1)
    );
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let declared: BTreeSet<&str> = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with("weld-"))
        .collect();
    let page = read("docs/dependencies.md");
    assert_eq!(first_column(&page), declared);
}

#[test]
fn the_architecture_names_every_crate() {
    let directories: Vec<String> = std::fs::read_dir(workspace().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let directories: BTreeSet<&str> = directories.iter().map(String::as_str).collect();
    let page = read("ARCHITECTURE.md");
    assert_eq!(first_column(&page), directories);
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    let path = workspace().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in the first column of a page's tables: rows that begin with code.
fn first_column(page: &str) -> BTreeSet<&str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect()
}

/// The page: a section for the command and each subcommand, in the order of the help.
fn generate() -> String {
    let mut page = HEAD.to_owned();
    let mut waiting = vec![vec!["weld".to_owned()]];
    while let Some(command) = waiting.pop() {
        let help = help(&command[1..]);
        let below = subcommands(&help);
        waiting.extend(below.into_iter().rev().map(|name| {
            let mut subcommand = command.clone();
            subcommand.push(name);
            subcommand
        }));
        page += &format!("\n## `{}`\n\n```text\n{help}```\n", command.join(" "));
    }
    page
}

/// What `--help` prints at a width of 100 columns in an empty environment.
fn help(subcommand: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weld"))
        .args(subcommand)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{subcommand:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// The names in the help's list of commands, without `help`.
fn subcommands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A line that is indented deeper goes on with a description.
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|rest| !rest.starts_with(' '))
        })
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}
