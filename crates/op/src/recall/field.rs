//! What a user calls a field of a definition.

/// A field of a definition, in words.
pub(super) struct Field {
    /// What it is called.
    pub(super) subject: String,
    /// Whether it is of how a frontend writes down what was asked for, and worth telling only where nothing else is.
    pub(super) is_detail: bool,
}

impl Field {
    /// The field of this name, such as `env.PATH` or `actions[0].copy.dest`.
    pub(super) fn of(name: &str, build_args: &[String]) -> Self {
        let known = variable(name, build_args)
            .or_else(|| mount(name))
            .or_else(|| simple(name));
        match known {
            Some(subject) => Self {
                subject,
                is_detail: false,
            },
            None => Self {
                subject: format!(
                    "the definition's {}",
                    name.rsplit('.').next().unwrap_or(name)
                ),
                is_detail: true,
            },
        }
    }
}

/// What a mount is called that came or went.
pub(super) const MOUNT: &str = "a mount";

/// Whether the field says which mount, or which change to files, it is one of.
pub(super) fn names_its_part(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "].dest",
        ".copy.src",
        ".mkdir.path",
        ".mkfile.path",
        ".rm.path",
        ".symlink.newpath",
    ];
    NAMES.iter().any(|end| name.ends_with(end))
}

fn variable(name: &str, build_args: &[String]) -> Option<String> {
    let variable = name.strip_prefix("env.")?;
    Some(if build_args.iter().any(|name| name == variable) {
        format!("build argument {variable}")
    } else {
        format!("variable {variable}")
    })
}

/// A field of a mount, which is named by its place.
fn mount(name: &str) -> Option<String> {
    let (place, field) = name.strip_prefix("mounts[")?.rsplit_once("].")?;
    Some(match field {
        "dest" => MOUNT.to_owned(),
        "id" => format!("the id of the mount at {place}"),
        "sharing" => format!("the sharing of the mount at {place}"),
        "size" => format!("the size of the mount at {place}"),
        "selector" => format!("the source of the mount at {place}"),
        "type" => format!("the type of the mount at {place}"),
        "mode" => format!("the mode of the mount at {place}"),
        "uid" => format!("the owner of the mount at {place}"),
        "gid" => format!("the group of the mount at {place}"),
        "optional" => format!("whether the mount at {place} may lack"),
        "readonly" => format!("whether the mount at {place} is read-only"),
        _ => return None,
    })
}

fn simple(name: &str) -> Option<String> {
    let subject = match name {
        "args" => "the command",
        "cwd" => "the working directory",
        "identifier" => "the source",
        "platform" => "the platform",
        "platform.version" => "the version of the platform",
        "platform.features" => "the features of the platform",
        "remove_mount_stubs_recursive" => "whether mount points are removed afterwards",
        "user" => "the user",
        "network" => "the network mode",
        "security" => "the security mode",
        "hostname" => "the host name",
        "extra_hosts" => "the list of added hosts",
        "ulimits" => "the list of limits",
        "secret_env" => "the list of secrets in variables",
        "devices" => "the list of devices",
        "valid_exit_codes" => "the list of exit codes that are no failure",
        "cgroup_parent" => "the parent of the control group",
        "attrs.local.followpaths" => "what is used of the context",
        "attrs.local.includepattern" => "the list of included paths",
        "attrs.local.excludepatterns" => "the list of excluded paths",
        "attrs.http.checksum" => "the checksum",
        "attrs.http.filename" => "the file name",
        "attrs.git.checksum" => "the commit",
        "attrs.git.keepgitdir" => "the wish to keep the repository's .git",
        _ => return action(name),
    };
    Some(subject.to_owned())
}

/// A field of a change to files.
fn action(name: &str) -> Option<String> {
    let (_, change) = name.split_once("].")?;
    let (kind, field) = change.split_once('.')?;
    let subject = match (kind, field) {
        ("copy", "src") => "the copied path",
        ("copy", "dest") => "the destination",
        ("copy", "include_patterns") => "the list of included paths",
        ("copy", "exclude_patterns") => "the list of excluded paths",
        ("copy", "required_paths") => "the list of paths that there have to be",
        ("copy", "attempt_unpack") => "whether archives are unpacked",
        ("copy", "follow_symlink") => "whether symlinks are followed",
        ("copy", "dir_copy_contents") => "whether what is in a directory is copied without it",
        ("copy", "allow_wildcard") => "whether the copied path is a pattern",
        ("copy", "allow_empty_wildcard") => "whether the pattern may match nothing",
        ("copy", "create_dest_path") => "whether directories of the destination are made",
        ("copy", "replace") => "whether what is at the destination is replaced",
        ("mkdir", "path") => "the directory",
        ("mkdir", "make_parents") => "whether directories above it are made",
        ("mkfile", "path") => "the file",
        ("mkfile", "data") => "the content of the file",
        ("rm", "path") => "the removed path",
        ("rm", "allow_not_found") => "whether the removed path may lack",
        ("rm", "allow_wildcard") => "whether the removed path is a pattern",
        ("symlink", "oldpath") => "the target of the symlink",
        ("symlink", "newpath") => "the symlink",
        (_, "mode") => "the mode",
        (_, "owner.user") => "the owner",
        (_, "owner.group") => "the group",
        (_, "timestamp") => "the time of files",
        _ => return None,
    };
    Some(subject.to_owned())
}
