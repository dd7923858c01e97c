//! Where build inputs come from: registries, OCI layouts, git, HTTP and local directories.
