//! Owners, modes, times and extended attributes of what is copied.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use weld_fileset::Timestamp;
use weld_op::file::{Copy, ModeChange, Owner};

use crate::scratch::*;

#[test]
fn metadata_is_kept() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/file", "d/sub/x", "d/link -> file"]);
    let d = from.join("d");
    std::os::unix::fs::lchown(d.join("file"), Some(10), Some(20)).unwrap();
    std::os::unix::fs::lchown(d.join("link"), Some(11), Some(21)).unwrap();
    std::os::unix::fs::lchown(d.join("sub"), Some(12), Some(22)).unwrap();
    set_mode(&d.join("file"), 0o6755);
    set_mode(&d.join("sub"), 0o1777);
    rustix::fs::setxattr(d.join("file"), "user.a", b"1", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(d.join("sub"), "user.b", b"2", XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(d.join("link"), "trusted.c", b"3", XattrFlags::empty()).unwrap();
    // cap_net_bind_service=ep
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(
        d.join("file"),
        "security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    fs::hard_link(d.join("file"), d.join("sub/again")).unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, d.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("pipe", FileType::Fifo, 0);
    let _socket = std::os::unix::net::UnixListener::bind(d.join("socket")).unwrap();
    for (at, path) in ["file", "link", "null", "pipe", "sub/x", "sub", ""]
        .iter()
        .enumerate()
    {
        set_mtime(&d.join(path), 1000 + at as i64, 123_456_789);
    }
    let to = scratch.tree("to", &[]);
    copy(&from, &to, &action("/d", "/n")).unwrap();
    let mut expected = details(&from.join("d"), i64::MAX);
    // A socket becomes an empty file.
    let socket = expected.get_mut(Path::new("socket")).unwrap();
    *socket = socket.replace("140755", "100755");
    assert_eq!(details(&to.join("n"), i64::MAX), expected);
    assert_eq!(mtime(&to.join("n")), 1006 * 1_000_000_000 + 123_456_789);
    assert_eq!(
        fs::metadata(to.join("n/file")).unwrap().ino(),
        fs::metadata(to.join("n/sub/again")).unwrap().ino()
    );
    assert_ne!(
        fs::metadata(to.join("n/file")).unwrap().ino(),
        fs::metadata(d.join("file")).unwrap().ino()
    );
}

#[test]
fn metadata_is_changed() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/file", "d/sub/x", "d/link -> file"]);
    set_mode(&from.join("d/file"), 0o644);
    set_mode(&from.join("d/sub"), 0o700);
    let to = scratch.tree("to", &["old/"]);
    set_mode(&to.join("old"), 0o711);
    let owner_option = Some(Owner { uid: 7, gid: 8 });
    let action = Copy {
        mode: ModeChange::parse("go=u,+X,u+s").unwrap(),
        timestamp: Some(Timestamp::from_unix_nanos(5_000_000_006)),
        ..action("/d", "/old/p/q")
    };
    copy_as(&from, &to, &action, owner_option, true).unwrap();
    for path in [
        "old/p",
        "old/p/q",
        "old/p/q/file",
        "old/p/q/sub",
        "old/p/q/link",
    ] {
        assert_eq!(owner(&to.join(path)), (7, 8), "{path}");
        assert_eq!(mtime(&to.join(path)), 5_000_000_006, "{path}");
    }
    assert_eq!(mode(&to.join("old/p")), 0o755);
    assert_eq!(mode(&to.join("old/p/q/file")), 0o4666);
    assert_eq!(mode(&to.join("old/p/q/sub")), 0o4777);
    assert_eq!(
        (owner(&to.join("old")), mode(&to.join("old"))),
        ((0, 0), 0o711)
    );

    let to = scratch.tree("to2", &[]);
    let octal = Copy {
        mode: ModeChange::Set(0o2750),
        ..action
    };
    copy_as(&from, &to, &octal, None, true).unwrap();
    assert_eq!(mode(&to.join("old/p/q/file")), 0o2750);
    assert_eq!(mode(&to.join("old/p/q")), 0o2750);
    assert_eq!(mode(&to.join("old/p")), 0o750);
    assert_eq!(mode(&from.join("d/file")), 0o644);
}
