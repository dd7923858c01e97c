//! `RUN`.

use weld_llb::{
    CdiDevice, EnvList, FileChange, MkfileAction, MountContentCache, MountSpec, NetMode,
    Run as LlbRun, SecurityMode, State,
};

use super::context::internal;
use super::dispatch::Current;
use super::stages::Converter;
use super::{ConvertError, naming};
use crate::error::Error;
use crate::instruction::{
    self, CommandLine, Instruction, Mount, MountType, NetworkMode, Run, RunBody,
};
use crate::shell::Lexer;

/// Where the script of a heredoc with a `#!` line is mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl Converter<'_> {
    pub(super) fn run(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        run: &Run,
        sources: &[Option<usize>],
    ) -> Result<(), Error> {
        // A process may read anything.
        self.use_path_of(current, "/");
        let mut state = current.state.clone();
        self.apply_sandbox(&mut state, run);
        let mut step = LlbRun::default();
        step.args = match run.body() {
            RunBody::Exec(args) => args,
            RunBody::Shell(text) => current.node.image.in_shell(&text),
            RunBody::Script { name, data } => {
                let script = self.script(current, &name, data)?;
                step.mounts.push(script);
                current.node.image.in_shell(&format!("{SCRIPTS}{name}"))
            }
        };
        let mounts = self.resolve_mounts(current, instruction, run)?;
        let secret_vars = secret_variables(&mounts);
        self.add_mounts(current, instruction, &mut step, mounts, sources)?;
        if self.request.shm_size > 0 {
            step.mounts.push(MountSpec::Tmpfs {
                target: "/dev/shm".to_owned(),
                size: self.request.shm_size,
            });
        }
        step.devices = run
            .devices
            .iter()
            .map(|device| CdiDevice {
                name: device.name.clone(),
                optional: !device.required,
            })
            .collect();
        step.proxy.clone_from(&self.proxy);
        let name = self.run_name(current, instruction, run, &secret_vars);
        step.constraints = self
            .constraints(instruction)
            .named(name)
            .described("com.docker.dockerfile.v1.command", &instruction.source)
            .ignoring_cache(current.node.no_cache);
        step.constraints
            .metadata
            .linux_resources
            .clone_from(&self.request.resources);
        let created_by = format!("RUN {} # buildkit", command_text(current, &step.args));
        let outputs = state
            .run(&mut self.builder, step)
            .map_err(ConvertError::from)?;
        current.state.output = outputs.root.output;
        self.record(current, created_by, true);
        Ok(())
    }

    /// What holds for this process and not for the stage.
    fn apply_sandbox(&self, state: &mut State, run: &Run) {
        match run.network {
            NetworkMode::Default => {}
            NetworkMode::None => state.network = NetMode::None,
            NetworkMode::Host => state.network = NetMode::Host,
        }
        state.security = match run.security {
            instruction::SecurityMode::Sandbox => SecurityMode::Sandbox,
            instruction::SecurityMode::Insecure => SecurityMode::Insecure,
        };
        state.extra_hosts.clone_from(&self.request.extra_hosts);
        state.ulimits.clone_from(&self.request.ulimits);
        state.cgroup_parent.clone_from(&self.request.cgroup_parent);
    }

    /// A mount that holds the script of a heredoc.
    fn script(&mut self, current: &Current, name: &str, data: String) -> Result<MountSpec, Error> {
        let mkfile = FileChange::Mkfile(MkfileAction {
            path: name.to_owned(),
            mode: 0o755,
            data: data.into(),
            owner: None,
            timestamp: None,
        });
        let constraints =
            internal("preparing inline document").for_platform(current.node.platform.clone());
        let script = State::scratch()
            .file(&mut self.builder, vec![mkfile], constraints)
            .map_err(ConvertError::from)?;
        Ok(MountSpec::Bind {
            target: SCRIPTS.to_owned(),
            source: script.output,
            selector: "/".to_owned(),
            readonly: true,
            no_output: false,
            content_cache: MountContentCache::Default,
        })
    }

    /// `RUN` with its command as the shell will see it, secrets masked.
    fn run_name(
        &self,
        current: &mut Current,
        instruction: &Instruction,
        run: &Run,
        secrets: &[String],
    ) -> String {
        let mut text = instruction.source.clone();
        let is_heredoc = match (&run.command, run.heredocs.first()) {
            (CommandLine::Shell(command), Some(_)) => crate::heredoc::parse(command).is_some(),
            _ => false,
        };
        if let Some(heredoc) = run.heredocs.first().filter(|_| is_heredoc) {
            text.push_str(&format!(" ({})", naming::summary(&heredoc.content)));
        }
        let mut env: EnvList = current.state.env.clone();
        for name in secrets {
            env.set(name, "****");
        }
        let lexer = Lexer {
            raw_quotes: true,
            keep_unset: true,
            ..Lexer::new(self.dockerfile.escape)
        };
        let text = naming::expanded(lexer, &text, &env);
        self.count_step(current, &naming::with_keyword_in_capitals(&text))
    }
}

fn secret_variables(mounts: &[Mount]) -> Vec<String> {
    mounts
        .iter()
        .filter(|mount| mount.kind == MountType::Secret)
        .filter_map(|mount| mount.env.clone())
        .collect()
}

/// The arguments of the process, behind the `ARG`s that it sees: `|1 A=b /bin/sh -c make`.
fn command_text(current: &Current, args: &[String]) -> String {
    let mut variables: Vec<(&str, String)> = Vec::new();
    for (name, value) in &current.node.args {
        let value = match current.state.env.get(name) {
            Some(value) => value.to_owned(),
            None => value.clone().unwrap_or_default(),
        };
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name, value)),
        }
    }
    let command = args.join(" ");
    if variables.is_empty() {
        return command;
    }
    let pairs: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("|{} {} {command}", pairs.len(), pairs.join(" "))
}
