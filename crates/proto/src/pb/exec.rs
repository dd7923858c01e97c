/// Runs a process in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecOp {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    /// What is mounted; one of them at [`ROOT_MOUNT`](super::ROOT_MOUNT).
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// The network.
    #[prost(enumeration = "NetMode", tag = "3")]
    pub network: i32,
    /// The privileges.
    #[prost(enumeration = "SecurityMode", tag = "4")]
    pub security: i32,
    /// Secrets in environment variables.
    #[prost(message, repeated, tag = "5")]
    pub secretenv: Vec<SecretEnv>,
    /// Devices.
    #[prost(message, repeated, tag = "6")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// The process of an [`ExecOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Meta {
    /// The program and its arguments.
    #[prost(string, repeated, tag = "1")]
    pub args: Vec<String>,
    /// Environment variables as `NAME=value`.
    #[prost(string, repeated, tag = "2")]
    pub env: Vec<String>,
    /// The working directory.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`.
    #[prost(string, tag = "4")]
    pub user: String,
    /// Proxy settings, which the cache does not see.
    #[prost(message, optional, tag = "5")]
    pub proxy_env: Option<ProxyEnv>,
    /// Additional lines of `/etc/hosts`.
    #[prost(message, repeated, tag = "6")]
    pub extra_hosts: Vec<HostIp>,
    /// The host's name.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// Resource limits.
    #[prost(message, repeated, tag = "9")]
    pub ulimit: Vec<Ulimit>,
    /// The control group above the container's own.
    #[prost(string, tag = "10")]
    pub cgroup_parent: String,
    /// Remove mount points made for the step, with the directories made above them.
    #[prost(bool, tag = "11")]
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that mean success; empty for 0 only.
    #[prost(int32, repeated, tag = "12")]
    pub valid_exit_codes: Vec<i32>,
}

/// An additional line of `/etc/hosts`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HostIp {
    /// The name.
    #[prost(string, tag = "1")]
    pub host: String,
    /// The address.
    #[prost(string, tag = "2")]
    pub ip: String,
}

/// A resource limit.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Ulimit {
    /// The name without `RLIMIT_`, lower case.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The soft limit; -1 for none.
    #[prost(int64, tag = "2")]
    pub soft: i64,
    /// The hard limit; -1 for none.
    #[prost(int64, tag = "3")]
    pub hard: i64,
}

/// The network of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NetMode {
    /// The engine's default: a network of its own.
    Unset = 0,
    /// The host's.
    Host = 1,
    /// None but loopback.
    None = 2,
}

/// The privileges of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SecurityMode {
    /// Sandboxed.
    Sandbox = 0,
    /// Privileged.
    Insecure = 1,
}

/// An environment variable whose value is a secret.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SecretEnv {
    /// The secret.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The variable.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Whether the secret may lack.
    #[prost(bool, tag = "3")]
    pub optional: bool,
}

/// A device of the Container Device Interface.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CdiDevice {
    /// The qualified name, `vendor.com/class=device`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whether the device may lack.
    #[prost(bool, tag = "2")]
    pub optional: bool,
}

/// A mount of an [`ExecOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// The input's index; [`EMPTY_INPUT`](super::EMPTY_INPUT) for none.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// The path within the input.
    #[prost(string, tag = "2")]
    pub selector: String,
    /// The mount point.
    #[prost(string, tag = "3")]
    pub dest: String,
    /// The output that the mount becomes; [`SKIP_OUTPUT`](super::SKIP_OUTPUT) for none.
    #[prost(int64, tag = "4")]
    pub output: i64,
    /// Whether it is read-only.
    #[prost(bool, tag = "5")]
    pub readonly: bool,
    /// The kind.
    #[prost(enumeration = "MountType", tag = "6")]
    pub mount_type: i32,
    /// Options of [`MountType::Tmpfs`].
    #[prost(message, optional, tag = "19")]
    pub tmpfs_opt: Option<TmpfsOpt>,
    /// Options of [`MountType::Cache`].
    #[prost(message, optional, tag = "20")]
    pub cache_opt: Option<CacheOpt>,
    /// Options of [`MountType::Secret`].
    #[prost(message, optional, tag = "21")]
    pub secret_opt: Option<SecretOpt>,
    /// Options of [`MountType::Ssh`].
    #[prost(message, optional, tag = "22")]
    pub ssh_opt: Option<SshOpt>,
    /// A result of the frontend's to mount, outside of definitions.
    #[prost(string, tag = "23")]
    pub result_id: String,
    /// Whether the input is compared by content.
    #[prost(enumeration = "MountContentCache", tag = "24")]
    pub content_cache: i32,
}

/// The kind of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountType {
    /// An input or an empty file system.
    Bind = 0,
    /// A secret's value in a file.
    Secret = 1,
    /// The socket of an SSH agent.
    Ssh = 2,
    /// A directory that outlives the build.
    Cache = 3,
    /// A file system in memory.
    Tmpfs = 4,
}

/// Whether a mount's input is compared by content when the cache is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountContentCache {
    /// If the mount is read-only or has no output.
    Default = 0,
    /// Always.
    On = 1,
    /// Never.
    Off = 2,
}

/// Options of a mount in memory.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TmpfsOpt {
    /// The size limit in bytes; 0 for none.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// Options of a cache mount.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CacheOpt {
    /// Names the directory; the mount point if empty.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What happens to concurrent users.
    #[prost(enumeration = "CacheSharingOpt", tag = "2")]
    pub sharing: i32,
}

/// What happens to concurrent users of a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CacheSharingOpt {
    /// They share it.
    Shared = 0,
    /// Each gets its own.
    Private = 1,
    /// The second waits.
    Locked = 2,
}

/// Options of a secret in a file.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SecretOpt {
    /// The secret.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The file's owner.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// The file's group.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// The file's permission bits.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Whether the secret may lack.
    #[prost(bool, tag = "5")]
    pub optional: bool,
}

/// Options of an SSH agent's socket.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SshOpt {
    /// The agent.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The socket's owner.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// The socket's group.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// The socket's permission bits.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Whether the agent may lack.
    #[prost(bool, tag = "5")]
    pub optional: bool,
}

/// Proxy settings of a step.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ProxyEnv {
    /// `HTTP_PROXY`.
    #[prost(string, tag = "1")]
    pub http_proxy: String,
    /// `HTTPS_PROXY`.
    #[prost(string, tag = "2")]
    pub https_proxy: String,
    /// `FTP_PROXY`.
    #[prost(string, tag = "3")]
    pub ftp_proxy: String,
    /// `NO_PROXY`.
    #[prost(string, tag = "4")]
    pub no_proxy: String,
    /// `ALL_PROXY`.
    #[prost(string, tag = "5")]
    pub all_proxy: String,
}
