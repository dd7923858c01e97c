//! Stages one after the other, and in each stage its instructions.

use weld_llb::State;

use super::stages::{Command, Converter, Node};
use super::{History, naming};
use crate::error::Error;
use crate::instruction::{Instruction, Kind};
use crate::lint::checks;
use crate::shell::{Expander, Lexer};

/// The remark that BuildKit leaves in the history of an image.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// A stage while its instructions are converted.
pub(super) struct Current {
    pub(super) node: Node,
    pub(super) state: State,
}

impl Converter<'_> {
    /// Converts the stages that `target` needs.
    pub(super) fn dispatch(&mut self, target: usize) -> Result<(), Error> {
        let reachable = self.reachable(target);
        for index in reachable {
            let Some(slot) = self.nodes.get_mut(index) else {
                continue;
            };
            if slot.progress.dispatched {
                continue;
            }
            let node = std::mem::take(slot);
            let node = self.dispatch_stage(node)?;
            if let Some(slot) = self.nodes.get_mut(index) {
                *slot = node;
            }
        }
        // All of the target is wanted. Said last, so that it does not widen what others use of it.
        self.use_path(target, "/");
        Ok(())
    }

    fn dispatch_stage(&mut self, mut node: Node) -> Result<Node, Error> {
        self.inherit(&mut node);
        let lines = node.lines;
        let mut current = self.begin(node).map_err(|error| error.at(lines))?;
        for command in std::mem::take(&mut current.node.commands) {
            let lines = command.instruction.lines;
            self.dispatch_command(&mut current, command)
                .map_err(|error| error.at(lines).in_file(&self.dockerfile.source))?;
        }
        let Current { mut node, state } = current;
        node.state = Some(state);
        node.progress.dispatched = true;
        Ok(node)
    }

    /// Takes over what the stage is based on.
    fn inherit(&self, node: &mut Node) {
        let Some(base) = node.base.and_then(|base| self.nodes.get(base)) else {
            return;
        };
        node.state.clone_from(&base.state);
        node.platform.clone_from(&base.platform);
        node.image.clone_from(&base.image);
        // Triggers are due in the stage that is based on them, and not in those after it.
        node.image.config.on_build.clear();
        node.base_image.clone_from(&base.base_image);
        node.paths = base.paths;
        node.seen.workdir = base.seen.workdir;
        node.args.extend(base.args.iter().cloned());
    }

    /// What the base's config says of processes.
    fn begin(&mut self, mut node: Node) -> Result<Current, Error> {
        node.platform
            .get_or_insert_with(|| self.target_platform.clone());
        node.image.ensure_path();
        let mut state = node.state.take().unwrap_or_else(State::scratch);
        for (name, value) in node.image.env() {
            state.env.set(name, value);
        }
        state.hostname.clone_from(&self.request.hostname);
        state.user.clone_from(&node.image.config.user);
        state.network = self.request.network;
        let mut current = Current { node, state };
        if !current.node.image.config.working_dir.is_empty() {
            let dir = current.node.image.config.working_dir.clone();
            current.change_dir(&dir);
        }
        Ok(current)
    }

    fn dispatch_command(&mut self, current: &mut Current, command: Command) -> Result<(), Error> {
        let Command {
            mut instruction,
            sources,
            on_build,
        } = command;
        current.node.step.on_build = on_build;
        self.expand(current, &mut instruction)?;
        match &instruction.kind {
            Kind::Add(add) => self.add(current, &instruction, add),
            Kind::Copy(copy) => self.copy(current, &instruction, copy, &sources),
            Kind::Run(run) => self.run(current, &instruction, run, &sources),
            Kind::Workdir(dir) => self.workdir(current, &instruction, dir),
            Kind::Arg(arg) => self.arg(current, &instruction, arg),
            Kind::Env(env) => {
                self.env(current, &instruction, env);
                Ok(())
            }
            Kind::Label(label) => {
                self.label(current, &instruction, label);
                Ok(())
            }
            Kind::Cmd(command) => {
                self.cmd(current, &instruction, command);
                Ok(())
            }
            Kind::Entrypoint(command) => {
                self.entrypoint(current, &instruction, command);
                Ok(())
            }
            Kind::Healthcheck(check) => {
                self.healthcheck(current, &instruction, check);
                Ok(())
            }
            Kind::Expose(expose) => self.expose(current, &instruction, expose),
            Kind::User(user) => {
                self.user(current, user);
                Ok(())
            }
            Kind::Volume(volumes) => self.volume(current, volumes),
            Kind::StopSignal(signal) => self.stop_signal(current, signal),
            Kind::Shell(shell) => {
                self.shell(current, shell);
                Ok(())
            }
            Kind::Maintainer(name) => {
                self.maintainer(current, name);
                Ok(())
            }
            Kind::Onbuild(trigger) => {
                current.node.image.config.on_build.push(trigger.clone());
                Ok(())
            }
        }
    }

    fn expand(&mut self, current: &Current, instruction: &mut Instruction) -> Result<(), Error> {
        let mut expander = Expander::new(self.dockerfile.escape, &current.state.env);
        let expanded = instruction.expand(&mut expander);
        let unmatched = expander.unmatched().clone();
        self.report_undefined(current, instruction, &unmatched);
        expanded
    }

    /// `UndefinedVar`: variables that nobody has set or declared.
    pub(super) fn report_undefined(
        &mut self,
        current: &Current,
        instruction: &Instruction,
        unmatched: &std::collections::BTreeSet<String>,
    ) {
        let declared: Vec<&str> = current
            .node
            .args
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        for finding in checks::undefined_variables(unmatched, &declared, &current.state.env) {
            self.linter
                .report(finding, instruction.lines, &instruction.comments);
        }
    }

    /// The name of a step that does what an instruction says.
    pub(super) fn step_name(&self, current: &mut Current, instruction: &Instruction) -> String {
        let lexer = Lexer::new(self.dockerfile.escape);
        let text = naming::expanded(lexer, &instruction.source, &current.state.env);
        let text = naming::with_keyword_in_capitals(&text);
        self.count_step(current, &text)
    }

    pub(super) fn count_step(&self, current: &mut Current, text: &str) -> String {
        let platform = current.node.platform.clone();
        self.next_name(
            &mut current.node,
            text,
            platform.as_ref(),
            &current.state.env,
        )
    }

    /// Notes that a path of a node's file system is used.
    pub(super) fn use_path(&mut self, node: usize, path: &str) {
        let set = self.nodes.get(node).map(|node| node.paths);
        if let Some(paths) = set.and_then(|set| self.path_sets.get_mut(set)) {
            paths.insert(path.to_owned());
        }
    }

    pub(super) fn use_path_of(&mut self, current: &Current, path: &str) {
        if let Some(paths) = self.path_sets.get_mut(current.node.paths) {
            paths.insert(path.to_owned());
        }
    }

    /// Adds a step to the image's history, without the credentials of URLs.
    pub(super) fn record(&self, current: &mut Current, created_by: String, has_layer: bool) {
        current.node.image.history.push(History {
            created: self.epoch.and_then(super::args::rfc3339),
            created_by: weld_llb::mask_credentials(&created_by).into_owned(),
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: !has_layer,
            ..History::default()
        });
    }
}

impl Current {
    /// Changes the working directory of the image and of processes. An absolute path stays as it was written.
    pub(super) fn change_dir(&mut self, dir: &str) {
        let working_dir = &mut self.node.image.config.working_dir;
        if weld_llb::path::is_absolute(dir) {
            dir.clone_into(working_dir);
        } else if !dir.is_empty() || working_dir.is_empty() {
            *working_dir = weld_llb::path::join(&["/", working_dir, dir]);
        }
        self.state.dir.clone_from(working_dir);
    }
}
