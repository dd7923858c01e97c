//! Exports of real snapshots, read back by the programs that users read them with.

mod archives;
mod bed;
mod files;
mod images;
mod local;
mod pushes;
