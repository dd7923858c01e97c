//! Messages by which a file tree travels (package `fsutil.types`).
//!
//! The sender lists its tree with [`PacketType::Stat`] packets, in path order, the last of which
//! has no stat. The receiver asks for a file's content by its number among the stats; it comes as
//! [`PacketType::Data`] packets, the last of which is empty. The receiver ends with
//! [`PacketType::Fin`], which the sender repeats.

use std::collections::BTreeMap;

use bytes::Bytes;

/// One step of a transfer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Packet {
    /// What it is.
    #[prost(enumeration = "PacketType", tag = "1")]
    pub r#type: i32,
    /// What a stat packet tells; absent in the last.
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    /// The number of the file that is asked for or whose data come.
    #[prost(uint32, tag = "3")]
    pub id: u32,
    /// Content, or the text of an error.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
}

/// What a [`Packet`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PacketType {
    /// One path of the tree.
    Stat = 0,
    /// A file is asked for.
    Req = 1,
    /// A piece of a file.
    Data = 2,
    /// All is done.
    Fin = 3,
    /// The transfer failed.
    Err = 4,
}

/// One path of a tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// Relative to the root, with slashes.
    #[prost(string, tag = "1")]
    pub path: String,
    /// File type and permissions, in the bits of Go's `os.FileMode`.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Length, in bytes.
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Last change of the content, nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    /// A symbolic link's target, or the path whose further name this is.
    #[prost(string, tag = "7")]
    pub linkname: String,
    /// A device's major number.
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    /// A device's minor number.
    #[prost(int64, tag = "9")]
    pub devminor: i64,
    /// Extended attributes.
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}
