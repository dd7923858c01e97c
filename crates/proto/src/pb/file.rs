/// Changes files, one action after the other.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileOp {
    /// The actions.
    #[prost(message, repeated, tag = "2")]
    pub actions: Vec<FileAction>,
}

/// One change.
///
/// Inputs are indexes of the operation's inputs or, from their number on, of earlier actions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileAction {
    /// What is changed; [`EMPTY_INPUT`](super::EMPTY_INPUT) for an empty file system.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// What is copied from.
    #[prost(int64, tag = "2")]
    pub secondary_input: i64,
    /// The output that it becomes; [`SKIP_OUTPUT`](super::SKIP_OUTPUT) for none.
    #[prost(int64, tag = "3")]
    pub output: i64,
    /// The change.
    #[prost(oneof = "file_action::Action", tags = "4, 5, 6, 7, 8")]
    pub action: Option<file_action::Action>,
}

/// Nested types of [`FileAction`].
pub mod file_action {
    /// The kinds of changes.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Action {
        /// Copies from the secondary input.
        #[prost(message, tag = "4")]
        Copy(super::FileActionCopy),
        /// Writes a file.
        #[prost(message, tag = "5")]
        Mkfile(super::FileActionMkFile),
        /// Makes a directory.
        #[prost(message, tag = "6")]
        Mkdir(super::FileActionMkDir),
        /// Removes a path.
        #[prost(message, tag = "7")]
        Rm(super::FileActionRm),
        /// Makes a symbolic link.
        #[prost(message, tag = "8")]
        Symlink(super::FileActionSymlink),
    }
}

/// Copies files.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionCopy {
    /// The path to copy.
    #[prost(string, tag = "1")]
    pub src: String,
    /// Where to.
    #[prost(string, tag = "2")]
    pub dest: String,
    /// The owner to set.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// The permission bits to set; -1 for those of the source.
    #[prost(int32, tag = "4")]
    pub mode: i32,
    /// Resolve symbolic links in `src`.
    #[prost(bool, tag = "5")]
    pub follow_symlink: bool,
    /// Of a directory, copy what is in it.
    #[prost(bool, tag = "6")]
    pub dir_copy_contents: bool,
    /// Unpack the source if it is an archive.
    #[prost(bool, tag = "7")]
    pub attempt_unpack_docker_compatibility: bool,
    /// Make the directories of `dest`.
    #[prost(bool, tag = "8")]
    pub create_dest_path: bool,
    /// `src` is a pattern.
    #[prost(bool, tag = "9")]
    pub allow_wildcard: bool,
    /// The pattern may match nothing.
    #[prost(bool, tag = "10")]
    pub allow_empty_wildcard: bool,
    /// The modification time to set, nanoseconds since 1970; -1 for that of the source.
    #[prost(int64, tag = "11")]
    pub timestamp: i64,
    /// Copy only what matches.
    #[prost(string, repeated, tag = "12")]
    pub include_patterns: Vec<String>,
    /// Leave out what matches.
    #[prost(string, repeated, tag = "13")]
    pub exclude_patterns: Vec<String>,
    /// Replace an existing path of another type.
    #[prost(bool, tag = "14")]
    pub always_replace_existing_dest_paths: bool,
    /// The permission change in symbolic form, instead of `mode`.
    #[prost(string, tag = "15")]
    pub mode_str: String,
    /// Paths that the copy must include, where `include_patterns` are given.
    #[prost(string, repeated, tag = "16")]
    pub required_paths: Vec<String>,
}

/// Writes a file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionMkFile {
    /// The file.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Its content.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: bytes::Bytes,
    /// Its owner.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// Its modification time, nanoseconds since 1970; -1 for now.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

/// Makes a symbolic link.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionSymlink {
    /// What the link says.
    #[prost(string, tag = "1")]
    pub oldpath: String,
    /// The link.
    #[prost(string, tag = "2")]
    pub newpath: String,
    /// Its owner.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// Its modification time, nanoseconds since 1970; -1 for now.
    #[prost(int64, tag = "4")]
    pub timestamp: i64,
}

/// Makes a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionMkDir {
    /// The directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Make those above it too.
    #[prost(bool, tag = "3")]
    pub make_parents: bool,
    /// Its owner.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// Its modification time, nanoseconds since 1970; -1 for now.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

/// Removes a path.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionRm {
    /// What to remove.
    #[prost(string, tag = "1")]
    pub path: String,
    /// It may lack.
    #[prost(bool, tag = "2")]
    pub allow_not_found: bool,
    /// `path` is a pattern.
    #[prost(bool, tag = "3")]
    pub allow_wildcard: bool,
}

/// An owner and group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChownOpt {
    /// The owner.
    #[prost(message, optional, tag = "1")]
    pub user: Option<UserOpt>,
    /// The group.
    #[prost(message, optional, tag = "2")]
    pub group: Option<UserOpt>,
}

/// A user or a group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UserOpt {
    /// By name or by number.
    #[prost(oneof = "user_opt::User", tags = "1, 2")]
    pub user: Option<user_opt::User>,
}

/// Nested types of [`UserOpt`].
pub mod user_opt {
    /// How a user or a group is named.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum User {
        /// By a name of the input's `passwd` or `group` file.
        #[prost(message, tag = "1")]
        ByName(super::NamedUserOpt),
        /// By number.
        #[prost(uint32, tag = "2")]
        ById(u32),
    }
}

/// A name of a `passwd` or `group` file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamedUserOpt {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The input that holds the file.
    #[prost(int64, tag = "2")]
    pub input: i64,
}
