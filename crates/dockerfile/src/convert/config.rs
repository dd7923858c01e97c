//! Instructions that change the image's config, and `WORKDIR`.

use weld_llb::{FileChange, MkdirAction};

use super::args::{BUILDER_ARGS, nanoseconds};
use super::dispatch::Current;
use super::image::{Empty, nanoseconds as duration_nanoseconds};
use super::stages::Converter;
use super::{ConvertError, HealthConfig, go_format};
use crate::error::{Error, ErrorKind};
use crate::instruction::{
    Arg, CommandLine, Env, Expose, HealthTest, Healthcheck, Instruction, Label,
};
use crate::lint::{Finding, checks};
use crate::port;
use crate::shell::Expander;

/// The signals that `STOPSIGNAL` may name, without `SIG`.
const SIGNALS: [&str; 37] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
    "UNUSED",
];

impl Converter<'_> {
    pub(super) fn workdir(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        dir: &str,
    ) -> Result<(), Error> {
        if !current.node.seen.workdir && !weld_llb::path::is_absolute(dir) {
            let finding = Finding::WorkdirRelativePath {
                path: dir.to_owned(),
            };
            self.linter
                .report(finding, instruction.lines, &instruction.comments);
        }
        current.node.seen.workdir = true;
        current.change_dir(dir);
        let dir = current.state.dir.clone();
        let has_layer = dir != "/";
        if has_layer {
            let user = &current.node.image.config.user;
            let owner = (!user.is_empty()).then(|| current.state.owner(user));
            let mkdir = FileChange::Mkdir(MkdirAction {
                path: dir.clone(),
                mode: 0o755,
                make_parents: true,
                owner,
                timestamp: nanoseconds(self.epoch),
            });
            let name = self.step_name(current, instruction);
            let constraints = self.constraints(instruction).named(name);
            current.state = current
                .state
                .file(&mut self.builder, vec![mkdir], constraints)
                .map_err(ConvertError::from)?;
        }
        self.record(current, format!("WORKDIR {dir}"), has_layer);
        Ok(())
    }

    pub(super) fn arg(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        arg: &Arg,
    ) -> Result<(), Error> {
        let mut written = Vec::with_capacity(arg.definitions.len());
        for definition in &arg.definitions {
            let name = &definition.name;
            self.report_secret("ARG", name, instruction);
            let given = self.request.build_args.get(name);
            let mut is_global = false;
            let value = match (given, &definition.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let env = current.state.env.clone();
                    let mut expander = Expander::new(self.dockerfile.escape, &env);
                    let value = expander.word(default);
                    let unmatched = expander.unmatched().clone();
                    self.report_undefined(current, instruction, &unmatched);
                    Some(value?)
                }
                (None, None) => {
                    let global = self.globals.get(name).map(str::to_owned);
                    is_global = global.is_some();
                    global
                }
            };
            let (noted, lines) = (value.as_deref(), instruction.lines);
            let declared = &mut current.node.declared;
            declared.arg(definition, noted, is_global, lines);
            if let Some(value) = &value
                && !BUILDER_ARGS.contains(&name.as_str())
            {
                current.state.env.set(name, value);
            }
            written.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            current.node.args.push((name.clone(), value));
        }
        self.record(current, format!("ARG {}", written.join(" ")), false);
        Ok(())
    }

    fn report_secret(&mut self, keyword: &str, name: &str, instruction: &Instruction) {
        if let Some(finding) = checks::secret_name(keyword, name) {
            self.linter
                .report(finding, instruction.lines, &instruction.comments);
        }
    }

    fn report_legacy(&mut self, instruction: &Instruction) {
        let finding = Finding::LegacyKeyValueFormat {
            instruction: instruction.kind.name().to_owned(),
        };
        self.linter
            .report(finding, instruction.lines, &instruction.comments);
    }

    pub(super) fn env(&mut self, current: &mut Current, instruction: &Instruction, env: &Env) {
        let mut created_by = String::from("ENV");
        for pair in &env.pairs {
            if pair.legacy {
                self.report_legacy(instruction);
            }
            self.report_secret("ENV", &pair.key, instruction);
            created_by.push_str(&format!(" {}={}", pair.key, pair.value));
            current.state.env.set(&pair.key, &pair.value);
            current.node.image.set_env(&pair.key, &pair.value);
        }
        self.record(current, created_by, false);
    }

    pub(super) fn label(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        label: &Label,
    ) {
        let mut created_by = String::from("LABEL");
        for pair in &label.pairs {
            if pair.legacy {
                self.report_legacy(instruction);
            }
            created_by.push_str(&format!(" {}={}", pair.key, pair.value));
            let labels = &mut current.node.image.config.labels;
            labels.insert(pair.key.clone(), pair.value.clone());
        }
        self.record(current, created_by, false);
    }

    pub(super) fn cmd(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        command: &CommandLine,
    ) {
        let before = current.node.seen.cmd.replace(instruction.lines);
        self.report_repeated(before, instruction);
        let args = self.command_args(current, instruction, command);
        let created_by = format!("CMD {}", go_format::quote_list(&args));
        current.node.image.config.cmd = args;
        current.node.image.config.args_escaped = true;
        self.record(current, created_by, false);
    }

    pub(super) fn entrypoint(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        command: &CommandLine,
    ) {
        let before = current.node.seen.entrypoint.replace(instruction.lines);
        self.report_repeated(before, instruction);
        let args = self.command_args(current, instruction, command);
        let created_by = format!("ENTRYPOINT {}", go_format::quote_list(&args));
        current.node.image.config.entrypoint = args;
        // The base's arguments are for the base's program.
        if current.node.seen.cmd.is_none() {
            current.node.image.config.cmd.clear();
        }
        self.record(current, created_by, false);
    }

    fn command_args(
        &mut self,
        current: &Current,
        instruction: &Instruction,
        command: &CommandLine,
    ) -> Vec<String> {
        match command {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(text) => {
                if current.node.image.config.shell.is_empty() {
                    let finding = Finding::JSONArgsRecommended {
                        instruction: instruction.kind.name().to_owned(),
                    };
                    self.linter
                        .report(finding, instruction.lines, &instruction.comments);
                }
                current.node.image.in_shell(text)
            }
        }
    }

    /// An instruction that counts once: the one before, which does not count, is reported.
    fn report_repeated(
        &mut self,
        before: Option<crate::source::LineRange>,
        instruction: &Instruction,
    ) {
        if let Some(lines) = before {
            let finding = Finding::MultipleInstructionsDisallowed {
                instruction: instruction.kind.name().to_owned(),
            };
            self.linter.report(finding, lines, &instruction.comments);
        }
    }

    pub(super) fn healthcheck(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        check: &Healthcheck,
    ) {
        let before = current.node.seen.healthcheck.replace(instruction.lines);
        self.report_repeated(before, instruction);
        let test = match &check.test {
            HealthTest::None => vec!["NONE".to_owned()],
            HealthTest::Shell(command) => vec!["CMD-SHELL".to_owned(), command.clone()],
            HealthTest::Exec(args) => {
                let mut test = vec!["CMD".to_owned()];
                test.extend(args.iter().cloned());
                test
            }
        };
        let retries = check.retries.unwrap_or(0);
        let text = |duration: Option<std::time::Duration>| {
            go_format::duration(duration.unwrap_or_default())
        };
        let created_by = format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{retries}}}",
            go_format::list(&test),
            text(check.interval),
            text(check.timeout),
            text(check.start_period),
            text(check.start_interval),
        );
        current.node.image.config.healthcheck = Some(HealthConfig {
            test,
            interval: duration_nanoseconds(check.interval),
            timeout: duration_nanoseconds(check.timeout),
            start_period: duration_nanoseconds(check.start_period),
            start_interval: duration_nanoseconds(check.start_interval),
            retries: i64::from(retries),
        });
        self.record(current, created_by, false);
    }

    pub(super) fn expose(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        expose: &Expose,
    ) -> Result<(), Error> {
        let mut exposed = Vec::new();
        for spec in &expose.ports {
            let (ports, findings) = port::parse(spec).map_err(ErrorKind::from)?;
            exposed.extend(ports.iter().map(ToString::to_string));
            for finding in findings {
                self.linter
                    .report(finding, instruction.lines, &instruction.comments);
            }
        }
        let created_by = format!("EXPOSE {}", go_format::list(&exposed));
        let ports = exposed.into_iter().map(|port| (port, Empty {}));
        current.node.image.config.exposed_ports.extend(ports);
        self.record(current, created_by, false);
        Ok(())
    }

    pub(super) fn user(&self, current: &mut Current, user: &str) {
        user.clone_into(&mut current.state.user);
        user.clone_into(&mut current.node.image.config.user);
        self.record(current, format!("USER {user}"), false);
    }

    pub(super) fn volume(&self, current: &mut Current, volumes: &[String]) -> Result<(), Error> {
        if volumes.iter().any(String::is_empty) {
            return Err(ErrorKind::EmptyVolume.into());
        }
        let set = volumes.iter().map(|volume| (volume.clone(), Empty {}));
        current.node.image.config.volumes.extend(set);
        self.record(
            current,
            format!("VOLUME {}", go_format::list(volumes)),
            false,
        );
        Ok(())
    }

    pub(super) fn stop_signal(&self, current: &mut Current, signal: &str) -> Result<(), Error> {
        if !is_signal(signal) {
            return Err(ConvertError::Signal {
                signal: signal.to_owned(),
            }
            .into());
        }
        signal.clone_into(&mut current.node.image.config.stop_signal);
        self.record(current, format!("STOPSIGNAL {signal}"), false);
        Ok(())
    }

    pub(super) fn shell(&self, current: &mut Current, shell: &[String]) {
        current.node.image.config.shell = shell.to_vec();
        self.record(current, format!("SHELL {}", go_format::list(shell)), false);
    }

    pub(super) fn maintainer(&self, current: &mut Current, name: &str) {
        name.clone_into(&mut current.node.image.author);
        self.record(current, format!("MAINTAINER {name}"), false);
    }
}

/// A number other than 0, or a name with or without `SIG`, or one of the real-time signals.
fn is_signal(signal: &str) -> bool {
    if let Ok(number) = signal.parse::<i32>() {
        return number != 0;
    }
    let name = signal.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |prefix| {
        let offset = name.strip_prefix(prefix)?.parse::<u32>().ok()?;
        Some((1..=15).contains(&offset))
    };
    SIGNALS.contains(&name)
        || real_time("RTMIN+").unwrap_or(false)
        || real_time("RTMAX-").unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_told_from_other_words() {
        for signal in ["9", "SIGTERM", "term", "SIGRTMIN+3", "RTMAX-14"] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in ["0", "", "SIGNOPE", "RTMIN+99", "SIG"] {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
