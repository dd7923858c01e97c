//! Build results out: images, archives and directories.
