//! What a step may use: `--resource`, and an option for each as docker had them before.

use std::collections::BTreeMap;

use clap::Args;

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

impl ResourceArgs {
    /// The frontend's attributes. Where a resource is named twice, what `--resource` says last holds.
    pub(crate) fn attributes(&self) -> Result<BTreeMap<String, String>, Failure> {
        let own = [
            &self.memory,
            &self.memory_swap,
            &self.cpu_shares,
            &self.cpu_period,
            &self.cpu_quota,
            &self.cpuset_cpus,
            &self.cpuset_mems,
        ];
        let mut attrs = BTreeMap::new();
        let mut set = |option: &str, name: &str, value: &str| {
            let known = NAMES.iter().find(|(known, _)| *known == name);
            let Some((_, attribute)) = known else {
                let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                return Err(Failure::usage(format!(
                    "{option}: unknown resource {name:?} (known: {})",
                    names.join(", ")
                )));
            };
            match read(name, value) {
                Ok(Some(value)) => drop(attrs.insert((*attribute).to_owned(), value)),
                // As without it.
                Ok(None) => drop(attrs.remove(*attribute)),
                Err(reason) => return Err(Failure::usage(format!("{option}: {reason}"))),
            }
            Ok(())
        };
        for ((name, _), value) in NAMES.iter().zip(own) {
            if let Some(value) = value {
                set(&format!("--{name}"), name, value)?;
            }
        }
        for text in &self.resources {
            let option = format!("--resource {text:?}");
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("{option}: needs KEY=VALUE")))?;
            set(&option, name.trim(), value.trim())?;
        }
        Ok(attrs)
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
    use super::*;

    #[test]
    fn each_resource_is_an_attribute_of_the_frontends() {
        let args = ResourceArgs {
            memory: Some("1g".into()),
            memory_swap: Some("-1".into()),
            cpu_shares: Some("0".into()),
            resources: ["memory = 2m", "cpu-quota=5000", "cpuset-cpus=0-1"]
                .map(str::to_owned)
                .into(),
            ..ResourceArgs::default()
        };
        let attrs = args.attributes().unwrap();
        let expected = [
            ("cpuquota", "5000"),
            ("cpusetcpus", "0-1"),
            ("memory", "2097152"),
            ("memswap", "-1"),
        ];
        assert!(
            attrs.iter().map(|(k, v)| (&**k, &**v)).eq(expected),
            "{attrs:?}"
        );
        for (text, part) in [
            ("memory", "needs KEY=VALUE"),
            ("memory=x", "is not a size"),
            ("cpu-quota=-1", "is not a number"),
            ("disk=1", "unknown resource \"disk\" (known: memory,"),
        ] {
            let resources = vec![text.to_owned()];
            let args = ResourceArgs {
                resources,
                ..ResourceArgs::default()
            };
            let error = args.attributes().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
