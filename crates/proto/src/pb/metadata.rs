use std::collections::BTreeMap;

/// What is said of an operation without changing its digest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpMetadata {
    /// Run it even if the cache has its result.
    #[prost(bool, tag = "1")]
    pub ignore_cache: bool,
    /// Texts for people: `llb.customname` and others.
    #[prost(btree_map = "string, string", tag = "2")]
    pub description: BTreeMap<String, String>,
    /// Whether its result goes into an exported cache; absent for the exporter's default.
    #[prost(message, optional, tag = "4")]
    pub export_cache: Option<ExportCache>,
    /// The capabilities that it relies on, see [`crate::cap`].
    #[prost(btree_map = "string, bool", tag = "5")]
    pub caps: BTreeMap<String, bool>,
    /// The group that its progress is shown in.
    #[prost(message, optional, tag = "6")]
    pub progress_group: Option<ProgressGroup>,
    /// Limits that the cache does not see.
    #[prost(message, optional, tag = "7")]
    pub linux_resources: Option<LinuxResources>,
}

/// Whether a result goes into an exported cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ExportCache {
    /// Whether it does.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// Operations whose progress is shown as one.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ProgressGroup {
    /// Equal in every member.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What is shown.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Show the group only if one of its members ran.
    #[prost(bool, tag = "3")]
    pub weak: bool,
}

/// Limits of a step's control group.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct LinuxResources {
    /// Memory, bytes.
    #[prost(int64, tag = "1")]
    pub memory: i64,
    /// Memory and swap, bytes.
    #[prost(int64, tag = "2")]
    pub memory_swap: i64,
    /// Relative weight.
    #[prost(uint64, tag = "3")]
    pub cpu_shares: u64,
    /// Period, microseconds.
    #[prost(uint64, tag = "4")]
    pub cpu_period: u64,
    /// Quota in each period, microseconds.
    #[prost(int64, tag = "5")]
    pub cpu_quota: i64,
    /// Processors, such as `0-3`.
    #[prost(string, tag = "6")]
    pub cpuset_cpus: String,
    /// Memory nodes, such as `0,1`.
    #[prost(string, tag = "7")]
    pub cpuset_mems: String,
}
