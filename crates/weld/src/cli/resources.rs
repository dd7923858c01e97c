//! What a step may use: `--shm-size`, `--ulimit`, `--resource`, and an option for each resource as docker had them before.

use std::collections::BTreeMap;

use clap::Args;
use weld_engine::{Engine, Limits, OptionError};

use super::args::BuildArgs;
use super::report::Failure;
use super::units;

#[derive(Args, Debug, Default)]
pub(crate) struct ResourceArgs {
    /// Limit what each RUN instruction may use: memory=SIZE, memory-swap=SIZE (memory and swap
    /// together; -1: as much as there is), cpu-shares=N, cpu-period=MICROSECONDS,
    /// cpu-quota=MICROSECONDS, cpuset-cpus=LIST or cpuset-mems=LIST, such as 0-3,7; may be repeated.
    #[arg(long = "resource", value_name = "KEY=VALUE")]
    resources: Vec<String>,
    #[arg(short, long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(short, long, hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
}

/// Names as users write them, with those of the frontend's attributes.
const NAMES: [(&str, &str); 7] = [
    ("memory", "memory"),
    ("memory-swap", "memswap"),
    ("cpu-shares", "cpushares"),
    ("cpu-period", "cpuperiod"),
    ("cpu-quota", "cpuquota"),
    ("cpuset-cpus", "cpusetcpus"),
    ("cpuset-mems", "cpusetmems"),
];

/// What steps may use, as the frontend's attributes.
pub(crate) struct StepLimits {
    attrs: BTreeMap<String, String>,
    /// What the command line says, by the attribute that it became: `--memory "64m"`.
    said: BTreeMap<&'static str, String>,
    limits: Limits,
}

impl StepLimits {
    /// Reads the options, and refuses what no machine could keep.
    pub(crate) fn of(args: &BuildArgs) -> Result<Self, Failure> {
        let mut limits = Self {
            attrs: BTreeMap::new(),
            said: BTreeMap::new(),
            limits: Limits::default(),
        };
        if let Some(size) = &args.shm_size {
            let option = format!("--shm-size {size:?}");
            let bytes = units::size(size);
            let bytes = bytes.map_err(|error| Failure::usage(format!("--shm-size: {error}")))?;
            limits.set("shm-size", option, bytes.to_string());
        }
        if !args.ulimits.is_empty() {
            limits.set("ulimit", "--ulimit".to_owned(), args.ulimits.join(","));
        }
        limits.add_resources(&args.resources)?;
        limits.limits =
            Limits::from_options(&limits.attrs).map_err(|error| limits.failure(&error))?;
        Ok(limits)
    }

    /// Refuses what this machine cannot keep.
    pub(crate) fn check_here(&self, engine: &Engine) -> Result<(), Failure> {
        let checked = engine.check_limits(&self.limits);
        checked.map_err(|error| self.failure(&error))
    }

    /// The frontend's attributes.
    pub(crate) fn attributes(self) -> BTreeMap<String, String> {
        self.attrs
    }

    fn set(&mut self, attribute: &'static str, option: String, value: String) {
        self.attrs.insert(attribute.to_owned(), value);
        self.said.insert(attribute, option);
    }

    /// Where a resource is named twice, what `--resource` says last holds.
    fn add_resources(&mut self, args: &ResourceArgs) -> Result<(), Failure> {
        let own = [
            &args.memory,
            &args.memory_swap,
            &args.cpu_shares,
            &args.cpu_period,
            &args.cpu_quota,
            &args.cpuset_cpus,
            &args.cpuset_mems,
        ];
        for ((name, _), value) in NAMES.iter().zip(own) {
            if let Some(value) = value {
                self.add(format!("--{name} {value:?}"), name, value)?;
            }
        }
        for text in &args.resources {
            let option = format!("--resource {text:?}");
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("{option}: needs KEY=VALUE")))?;
            self.add(option, name.trim(), value.trim())?;
        }
        Ok(())
    }

    fn add(&mut self, option: String, name: &str, value: &str) -> Result<(), Failure> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let Some((_, attribute)) = known else {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(Failure::usage(format!(
                "{option}: unknown resource {name:?} (known: {})",
                names.join(", ")
            )));
        };
        match read(name, value) {
            Ok(Some(value)) => self.set(attribute, option, value),
            // As without it.
            Ok(None) => drop(self.attrs.remove(*attribute)),
            Err(reason) => return Err(Failure::usage(format!("{option}: {reason}"))),
        }
        Ok(())
    }

    /// An error of an attribute as one of the option that it comes from.
    fn failure(&self, error: &OptionError) -> Failure {
        let OptionError {
            name,
            value,
            reason,
        } = error;
        let option = match (name.as_str(), self.said.get(name.as_str())) {
            // There may be several, of which one is wrong.
            ("ulimit", _) => format!("--ulimit {value:?}"),
            (_, Some(option)) => option.clone(),
            (_, None) => format!("{name}={value:?}"),
        };
        Failure::usage(format!("{option}: {reason}"))
    }
}

/// A value as the frontend reads it; `None` for no limit.
fn read(name: &str, value: &str) -> Result<Option<String>, String> {
    match name {
        "cpuset-cpus" | "cpuset-mems" => {
            Ok(Some(value.to_owned()).filter(|value| !value.is_empty()))
        }
        "memory-swap" if value == "-1" => Ok(Some(value.to_owned())),
        "memory" | "memory-swap" => match units::size(value) {
            Ok(0) => Ok(None),
            Ok(bytes) => Ok(Some(bytes.to_string())),
            Err(error) => Err(error.to_string()),
        },
        _ => match value.parse::<u64>() {
            Ok(0) => Ok(None),
            Ok(number) => Ok(Some(number.to_string())),
            Err(_) => Err(format!("{value:?} is not a number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn limits(options: &[&str]) -> Result<BTreeMap<String, String>, String> {
        let command = [&["weld", "build"], options, &["."]].concat();
        let Command::Build(args) = Cli::parse_from(command).command else {
            panic!("no build");
        };
        let limits = StepLimits::of(&args).map_err(|failure| failure.to_string())?;
        Ok(limits.attributes())
    }

    #[test]
    fn each_limit_is_an_attribute_of_the_frontends() {
        let options = [
            "--memory=1g",
            "--memory-swap=-1",
            "--cpu-shares=0",
            "--resource=memory = 20m",
            "--resource=cpu-quota=5000",
            "--resource=cpuset-cpus=0-1",
            "--shm-size=64m",
            "--ulimit=nofile=1:2",
            "--ulimit=core=-1",
        ];
        let attrs = limits(&options).unwrap();
        let expected = [
            ("cpuquota", "5000"),
            ("cpusetcpus", "0-1"),
            ("memory", "20971520"),
            ("memswap", "-1"),
            ("shm-size", "67108864"),
            ("ulimit", "nofile=1:2,core=-1"),
        ];
        assert!(
            attrs.iter().map(|(k, v)| (&**k, &**v)).eq(expected),
            "{attrs:?}"
        );
    }

    #[test]
    fn what_cannot_be_is_told_of_the_option_as_it_was_written() {
        for (options, told) in [
            (
                &["--resource=memory"][..],
                "--resource \"memory\": needs KEY=VALUE",
            ),
            (&["--resource=memory=x"], "\"x\" is not a size"),
            (&["--resource=cpu-quota=-1"], "\"-1\" is not a number"),
            (
                &["--resource=disk=1"],
                "unknown resource \"disk\" (known: memory,",
            ),
            (
                &["--memory=1"],
                "--memory \"1\": it must be at least 6m (6291456 bytes)",
            ),
            (
                &["--resource=memory=5m"],
                "--resource \"memory=5m\": it must be at least 6m",
            ),
            (
                &["--memory=64m", "--memory-swap=32m"],
                "--memory-swap \"32m\": it is of memory and swap together, and must not be below the memory's 67108864 bytes",
            ),
            (
                &["--cpu-quota=1"],
                "--cpu-quota \"1\": it must be at least 1000 microseconds (1ms)",
            ),
            (
                &["--cpu-period=1"],
                "--cpu-period \"1\": it must be from 1000 to 1000000 microseconds",
            ),
            (
                &["--cpu-shares=1"],
                "--cpu-shares \"1\": it must be from 2 to 262144",
            ),
            (
                &["--cpuset-cpus=x"],
                "--cpuset-cpus \"x\": expected a list such as 0-3,7",
            ),
            (&["--shm-size=x"], "--shm-size: \"x\" is not a size"),
            (&["--shm-size=9999p"], "--shm-size \"9999p\": at most"),
            (
                &["--ulimit=core=0", "--ulimit=nofile=2:1"],
                "--ulimit \"nofile=2:1\": the soft limit (2) must not be above the hard one (1)",
            ),
            (
                &["--ulimit=files=1"],
                "--ulimit \"files=1\": there is no limit \"files\" (known: core,",
            ),
            (
                &["--ulimit=nofile=x"],
                "--ulimit \"nofile=x\": expected NAME=SOFT[:HARD], numbers or -1",
            ),
        ] {
            let error = limits(options).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
    }
}
