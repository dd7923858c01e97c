//! What a target can be given: the arguments, secrets and SSH agents that it and what it needs declare.

use std::collections::{BTreeMap, BTreeSet};

use weld_llb::EnvList;

use super::stages::Converter;
use super::{Conversion, Request};
use crate::error::Error;
use crate::instruction::{ArgDefinition, Instruction, Kind};
use crate::lint::Linter;
use crate::shell::Expander;
use crate::source::{LineRange, SourceFile};
use crate::stage::Dockerfile;

/// What a target can be given, each in the order of the file.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// What a comment above says of it.
    pub doc: Option<String>,
    /// The build arguments.
    pub args: Vec<Argument>,
    /// The secrets.
    pub secrets: Vec<Grant>,
    /// The SSH agents.
    pub agents: Vec<Grant>,
    /// The Dockerfile.
    pub source: SourceFile,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// The value that it has in this build; empty if it has none.
    pub value: String,
    /// What a comment above says of it.
    pub doc: Option<String>,
    /// Where it is declared.
    pub lines: LineRange,
}

/// A secret or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: String,
    /// Whether a build without it fails.
    pub required: bool,
    /// Where it is asked for first.
    pub lines: LineRange,
}

/// What one stage declares.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    /// The arguments; `None` for what is declared before the first `FROM`.
    args: BTreeMap<String, Option<Argument>>,
    secrets: Vec<Grant>,
    agents: Vec<Grant>,
}

impl Declared {
    /// Notes an argument; one that takes over the value from before the first `FROM` is that one.
    pub(super) fn arg(
        &mut self,
        definition: &ArgDefinition,
        value: Option<&str>,
        is_global: bool,
        lines: LineRange,
    ) {
        let argument = (!is_global).then(|| Argument::of(definition, value, lines));
        self.args.insert(definition.name.clone(), argument);
    }

    pub(super) fn secret(&mut self, id: &str, required: bool, lines: LineRange) {
        note(&mut self.secrets, id, required, lines);
    }

    pub(super) fn agent(&mut self, id: &str, required: bool, lines: LineRange) {
        let id = if id.is_empty() { "default" } else { id };
        note(&mut self.agents, id, required, lines);
    }
}

impl Argument {
    fn of(definition: &ArgDefinition, value: Option<&str>, lines: LineRange) -> Self {
        Self {
            name: definition.name.clone(),
            value: value.unwrap_or_default().to_owned(),
            doc: definition.doc.clone(),
            lines,
        }
    }
}

fn note(grants: &mut Vec<Grant>, id: &str, required: bool, lines: LineRange) {
    if grants.iter().all(|grant| grant.id != id) {
        grants.push(Grant {
            id: id.to_owned(),
            required,
            lines,
        });
    }
}

/// An argument before the first `FROM`, and those that its value is made of.
struct Global {
    argument: Argument,
    needs: BTreeSet<String>,
}

fn globals(
    instructions: &[Instruction],
    request: &Request,
    mut env: EnvList,
    escape: char,
) -> Result<BTreeMap<String, Global>, Error> {
    let mut globals: BTreeMap<String, Global> = BTreeMap::new();
    for instruction in instructions {
        let Kind::Arg(arg) = &instruction.kind else {
            continue;
        };
        for definition in &arg.definitions {
            let name = &definition.name;
            let mut needs = BTreeSet::new();
            let value = match (request.build_args.get(name), &definition.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let mut expander = Expander::new(escape, &env);
                    let value = expander.word(default);
                    needs.clone_from(expander.matched());
                    Some(value.map_err(|error| Error::new(error).at(instruction.lines))?)
                }
                (None, None) => None,
            };
            // What is made of its own value before is made of what that was made of.
            if needs.remove(name)
                && let Some(before) = globals.get(name)
            {
                needs.extend(before.needs.iter().cloned());
            }
            if let Some(value) = &value {
                env.set(name, value);
            }
            let argument = Argument::of(definition, value.as_deref(), instruction.lines);
            globals.insert(name.clone(), Global { argument, needs });
        }
    }
    Ok(globals)
}

impl Conversion<'_> {
    pub(super) async fn outline(self) -> Result<Outline, Error> {
        // The linter is another request.
        let mut converter = Converter::new(&self, Linter::new(self.lint.clone()))?;
        converter.collect_stages()?;
        let target = converter.target()?;
        converter.link_stages()?;
        converter.resolve(target).await?;
        // Before the instructions are taken to be converted.
        let order = converter.in_order_of_need(target);
        converter.dispatch(target)?;
        let dockerfile = self.dockerfile;
        let (declared, escape) = (&dockerfile.global_args, dockerfile.escape);
        let predefined = converter.predefined();
        let globals = globals(declared, self.request, predefined, escape)?;
        let mut collected = Collected::new(&globals);
        for index in order {
            let Some(node) = converter.nodes.get(index) else {
                continue;
            };
            let mut used = used_by_from(dockerfile, index, &converter.globals)?;
            used.extend(node.declared.args.keys().cloned());
            collected.stage(used, &node.declared);
        }
        let stage = dockerfile.stages.get(target);
        let mut outline = Outline {
            name: stage.and_then(|stage| stage.name.clone()),
            doc: stage.and_then(|stage| stage.doc.clone()),
            args: collected.args.into_values().collect(),
            secrets: collected.secrets,
            agents: collected.agents,
            source: dockerfile.source.clone(),
        };
        outline.args.sort_by_key(|argument| argument.lines.start);
        outline.secrets.sort_by_key(|grant| grant.lines.start);
        outline.agents.sort_by_key(|grant| grant.lines.start);
        Ok(outline)
    }
}

/// The variables in the `FROM` of a stage; none of an image that no `FROM` names.
fn used_by_from(
    dockerfile: &Dockerfile,
    index: usize,
    globals: &EnvList,
) -> Result<BTreeSet<String>, Error> {
    let Some(stage) = dockerfile.stages.get(index) else {
        return Ok(BTreeSet::new());
    };
    let mut expander = Expander::new(dockerfile.escape, globals);
    for word in [Some(&stage.base), stage.platform.as_ref()]
        .into_iter()
        .flatten()
    {
        let expanded = expander.word(word);
        expanded.map_err(|error| Error::new(error).at(stage.lines))?;
    }
    Ok(expander.matched().clone())
}

/// What the stages declare together: each name once, as the stage has it that is nearest to the target.
struct Collected<'a> {
    globals: &'a BTreeMap<String, Global>,
    args: BTreeMap<String, Argument>,
    secrets: Vec<Grant>,
    agents: Vec<Grant>,
}

impl<'a> Collected<'a> {
    const fn new(globals: &'a BTreeMap<String, Global>) -> Self {
        Self {
            globals,
            args: BTreeMap::new(),
            secrets: Vec::new(),
            agents: Vec::new(),
        }
    }

    /// Adds what a stage uses, and what that is made of.
    fn stage(&mut self, used: BTreeSet<String>, declared: &Declared) {
        let mut open: Vec<String> = used.into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let global = self.globals.get(&name);
            let argument = match declared.args.get(&name) {
                Some(Some(own)) => Some(own),
                _ => {
                    open.extend(global.into_iter().flat_map(|global| &global.needs).cloned());
                    global.map(|global| &global.argument)
                }
            };
            if let Some(argument) = argument {
                let entry = self.args.entry(name);
                entry.or_insert_with(|| argument.clone());
            }
        }
        for grant in &declared.secrets {
            note(&mut self.secrets, &grant.id, grant.required, grant.lines);
        }
        for grant in &declared.agents {
            note(&mut self.agents, &grant.id, grant.required, grant.lines);
        }
    }
}
