//! The capabilities that operations rely on.

use weld_proto::{cap, pb};

use super::Output;
use crate::{ExecOp, FileChange, FileOp, MountKind, Op};

/// The capabilities that an operation relies on.
pub(super) fn of_op(op: &Op<Output>) -> Vec<&'static str> {
    match op {
        Op::Source(source) => source.caps(),
        Op::Exec(exec) => exec_caps(exec),
        Op::File(file) => file_caps(file),
        Op::Merge(_) => vec![cap::MERGE_OP],
        Op::Diff(_) => vec![cap::DIFF_OP],
        Op::Build(_) => Vec::new(),
        Op::Passthrough(_) => vec![cap::PASSTHROUGH_OP],
    }
}

fn exec_caps(exec: &ExecOp<Output>) -> Vec<&'static str> {
    let process = &exec.process;
    let mut caps = vec![cap::EXEC_META_BASE, cap::EXEC_META_SETS_DEFAULT_PATH];
    let mut need = |needed: bool, cap| {
        if needed && !caps.contains(&cap) {
            caps.push(cap);
        }
    };
    need(
        !process.valid_exit_codes.is_empty(),
        cap::EXEC_VALID_EXIT_CODE,
    );
    need(!process.ulimits.is_empty(), cap::EXEC_META_ULIMIT);
    need(exec.network != pb::NetMode::Unset, cap::EXEC_META_NETWORK);
    need(
        exec.security != pb::SecurityMode::Sandbox,
        cap::EXEC_META_SECURITY,
    );
    need(process.proxy.is_some(), cap::EXEC_META_PROXY);
    need(!exec.secret_env.is_empty(), cap::EXEC_MOUNT_SECRET);
    need(!exec.secret_env.is_empty(), cap::EXEC_SECRET_ENV);
    need(!exec.devices.is_empty(), cap::EXEC_META_CDI);
    for mount in &exec.mounts {
        match &mount.kind {
            MountKind::Bind(bind) => {
                let content_cache = bind.content_cache != pb::MountContentCache::Default;
                need(!bind.selector.is_empty(), cap::EXEC_MOUNT_SELECTOR);
                need(bind.input.is_some(), cap::EXEC_MOUNT_BIND);
                need(content_cache, cap::EXEC_MOUNT_CONTENT_CACHE);
            }
            MountKind::Cache(cache) => {
                need(!cache.selector.is_empty(), cap::EXEC_MOUNT_SELECTOR);
                need(true, cap::EXEC_MOUNT_CACHE);
                need(true, cap::EXEC_MOUNT_CACHE_SHARING);
            }
            MountKind::Tmpfs { size } => {
                need(true, cap::EXEC_MOUNT_TMPFS);
                need(*size > 0, cap::EXEC_MOUNT_TMPFS_SIZE);
            }
            MountKind::Secret(_) => need(true, cap::EXEC_MOUNT_SECRET),
            MountKind::Ssh(_) => need(true, cap::EXEC_MOUNT_SSH),
        }
    }
    caps
}

fn file_caps(file: &FileOp<Output>) -> Vec<&'static str> {
    let mut caps = vec![cap::FILE_BASE];
    for action in &file.actions {
        match &action.change {
            FileChange::Copy(copy) => {
                if !copy.include_patterns.is_empty() || !copy.exclude_patterns.is_empty() {
                    caps.push(cap::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS);
                }
                if !copy.required_paths.is_empty() {
                    caps.push(cap::FILE_COPY_REQUIRED_PATHS);
                }
                if copy.always_replace_existing_dest_paths {
                    caps.push(cap::FILE_COPY_ALWAYS_REPLACE_EXISTING_DEST_PATHS);
                }
                if matches!(copy.mode, Some(crate::CopyMode::Symbolic(_))) {
                    caps.push(cap::FILE_COPY_MODE_STRING_FORMAT);
                }
            }
            FileChange::Symlink(_) => caps.push(cap::FILE_SYMLINK_CREATE),
            FileChange::Mkfile(_) | FileChange::Mkdir(_) | FileChange::Rm(_) => {}
        }
    }
    caps
}
