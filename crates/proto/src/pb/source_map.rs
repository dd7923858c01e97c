use std::collections::BTreeMap;

use bytes::Bytes;

use super::Definition;

/// Where operations come from in source files.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Source {
    /// Locations by the digest of an operation's bytes.
    #[prost(btree_map = "string, message", tag = "1")]
    pub locations: BTreeMap<String, Locations>,
    /// The files.
    #[prost(message, repeated, tag = "2")]
    pub infos: Vec<SourceInfo>,
}

/// The locations of one operation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Locations {
    /// The locations.
    #[prost(message, repeated, tag = "1")]
    pub locations: Vec<Location>,
}

/// A source file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SourceInfo {
    /// Its name.
    #[prost(string, tag = "1")]
    pub filename: String,
    /// Its content.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// The definition that gave the file.
    #[prost(message, optional, tag = "3")]
    pub definition: Option<Definition>,
    /// Its language, by GitHub Linguist's names.
    #[prost(string, tag = "4")]
    pub language: String,
}

/// Areas of one file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Location {
    /// The index in [`Source::infos`].
    #[prost(int32, tag = "1")]
    pub source_index: i32,
    /// The areas.
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<Range>,
}

/// An area of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Range {
    /// Its first position.
    #[prost(message, optional, tag = "1")]
    pub start: Option<Position>,
    /// Its last position.
    #[prost(message, optional, tag = "2")]
    pub end: Option<Position>,
}

/// A position in a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Position {
    /// The line, from 1.
    #[prost(int32, tag = "1")]
    pub line: i32,
    /// The character in the line, from 0.
    #[prost(int32, tag = "2")]
    pub character: i32,
}
