//! Archives that are unpacked instead of copied.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tar::{Builder, EntryType, Header};
use weld_op::file::{Copy, Destination, FileError, Owner, Source};

use crate::scratch::*;

fn add(src: &str, dest: &str) -> Copy {
    Copy {
        attempt_unpack: true,
        ..dockerfile(src, dest)
    }
}

fn header(kind: EntryType, path: &str) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(1001);
    header.set_mtime(12345);
    header.set_size(0);
    // Written as it is: the library's own setter refuses what these tests are about.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    header
}

enum Item {
    File(&'static str, &'static str),
    Dir(&'static str),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Node(&'static str, u32, u32),
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        let (mut header, content) = match item {
            Item::File(path, content) => (header(EntryType::Regular, path), *content),
            Item::Dir(path) => (header(EntryType::Directory, path), ""),
            Item::Link(path, _) => (header(EntryType::Symlink, path), ""),
            Item::Hard(path, _) => (header(EntryType::Link, path), ""),
            Item::Node(path, ..) => (header(EntryType::Char, path), ""),
        };
        match item {
            Item::Link(_, target) | Item::Hard(_, target) => {
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            }
            Item::Node(_, major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
            }
            Item::Dir(_) => header.set_mode(0o751),
            Item::File(..) => {}
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn every_compression_by_its_content() {
    let scratch = Scratch::new();
    let tree = scratch.tree("tree", &["dir/file = content", "link -> dir/file"]);
    let from = scratch.tree("from", &[]);
    let plain = from.join("plain");
    let tar = Command::new("tar")
        .arg("-cf")
        .arg(&plain)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let output = Command::new(program).arg("-c").arg(&plain).output();
        match output {
            Ok(output) => {
                assert!(output.status.success());
                fs::write(from.join(program), output.stdout).unwrap();
            }
            Err(error) => eprintln!("{program} is left out: {error}"),
        }
    }
    let bytes = fs::read(&plain).unwrap();
    fs::write(from.join("zstd"), zstd::encode_all(&bytes[..], 3).unwrap()).unwrap();
    for name in listing(&from)
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
    {
        let to = scratch.tree(&format!("to-{name}"), &[]);
        copy(&from, &to, &add(&format!("/{name}"), "/x/y")).unwrap();
        let expected = [
            "x/",
            "x/y/",
            "x/y/dir/",
            "x/y/dir/file = content",
            "x/y/link -> dir/file",
        ];
        assert_eq!(listing(&to), expected, "{name}");
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["text = BZhello", "gz/", "dir/x", "empty = "]);
    let mut gzip = Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(fs::File::create(from.join("text.gz")).unwrap())
        .spawn()
        .unwrap();
    gzip.stdin
        .take()
        .unwrap()
        .write_all(b"no tar file")
        .unwrap();
    assert!(gzip.wait().unwrap().success());
    fs::write(from.join("zeros"), vec![0; 4096]).unwrap();
    let to = scratch.tree("to", &[]);
    for name in ["text", "text.gz", "dir", "empty", "zeros"] {
        copy(&from, &to, &add(&format!("/{name}"), &format!("/{name}"))).unwrap();
        if name != "dir" {
            assert_eq!(
                fs::read(from.join(name)).unwrap(),
                fs::read(to.join(name)).unwrap()
            );
        }
    }
    assert!(to.join("dir/x").exists());
    // And one that is an archive is copied where nobody asks for more.
    fs::write(from.join("a.tar"), archive(&[Item::File("f", "x")])).unwrap();
    copy(&from, &to, &dockerfile("/a.tar", "/")).unwrap();
    assert!(to.join("a.tar").exists());
}

#[test]
fn onto_what_is_there() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &[]);
    let items = [
        Item::Dir("./"),
        Item::Dir("dir"),
        Item::File("dir/new", "new"),
        Item::File("was-dir", "file"),
        Item::Dir("was-file"),
        Item::File("implied/a/b", "deep"),
        Item::Link("link", "dir"),
        Item::File("link/through", "t"),
        Item::Hard("again", "dir/new"),
        Item::Hard("again", "again"),
        Item::Node("null", 1, 3),
        Item::File("/rooted", "r"),
        Item::File("dir/../up", "u"),
    ];
    fs::write(from.join("a"), archive(&items)).unwrap();
    let lower = scratch.tree("lower", &["dir/old", "was-dir/x", "was-file", "link/y"]);
    let upper = scratch.tree("upper", &[]);
    let mut destination = Destination::new(stack(&[upper.clone(), lower]));
    let layers = single(&from);
    let source = Source {
        layers: &layers,
        immutable: true,
        sharing: None,
    };
    add("/a", "/")
        .run(source, &mut destination, None, &context())
        .unwrap();
    let expected = [
        "again = new",
        "dir/",
        "dir/new = new",
        "dir/through = t",
        "implied/",
        "implied/a/",
        "implied/a/b = deep",
        "link -> dir",
        "null CharacterDevice (1, 3)",
        "rooted = r",
        "up = u",
        "was-dir = file",
        "was-file/",
    ];
    assert_eq!(listing(&upper), expected);
    assert_eq!(
        (owner(&upper.join("dir")), mode(&upper.join("dir"))),
        ((1000, 1001), 0o751)
    );
    for path in ["dir", "dir/new", "link", "null", "again"] {
        let path = upper.join(path);
        assert_eq!(
            (owner(&path), mtime(&path)),
            ((1000, 1001), 12_345_000_000_000)
        );
    }
    assert_eq!(owner(&upper.join("implied/a")), (0, 0));
    let ino = |path: &str| upper.join(path).metadata().unwrap().ino();
    assert_eq!(ino("again"), ino("dir/new"));

    let to = scratch.tree("to", &[]);
    let chosen = Some(Owner { uid: 7, gid: 8 });
    copy_as(&from, &to, &add("/a", "/p"), chosen, true).unwrap();
    for path in ["p", "p/dir", "p/dir/new", "p/link", "p/null"] {
        assert_eq!(owner(&to.join(path)), (7, 8), "{path}");
    }
}

#[test]
fn nothing_leads_out_of_the_place() {
    let scratch = Scratch::new();
    let outside = scratch.tree("outside", &["victim", "sub/"]);
    let evil: [(&[Item], bool); 7] = [
        (&[Item::File("../victim", "evil")], true),
        (&[Item::File("a/../../outside/victim", "evil")], true),
        (&[Item::Hard("l", "../outside/victim")], true),
        (&[Item::Hard("l", "/outside/victim")], true),
        (
            &[
                Item::Link("l", "../../outside"),
                Item::File("l/victim", "evil"),
            ],
            false,
        ),
        (
            &[Item::Link("l", "/outside/sub"), Item::File("l/x/y", "evil")],
            false,
        ),
        (
            &[
                Item::Link("l", "../outside/victim"),
                Item::File("l", "evil"),
            ],
            false,
        ),
    ];
    for (index, (items, refused)) in evil.iter().enumerate() {
        let from = scratch.tree(&format!("from{index}"), &[]);
        fs::write(from.join("a"), archive(items)).unwrap();
        let to = scratch.tree(&format!("root{index}/place"), &[]);
        let root = to.parent().unwrap();
        let result = copy(&from, root, &add("/a", "/place"));
        assert_eq!(result.is_err(), *refused, "{index}: {result:?}");
        assert_eq!(listing(&outside), ["sub/", "victim"], "{index}");
        let above: Vec<_> = fs::read_dir(root).unwrap().collect();
        assert_eq!(above.len(), 1, "{index}: something is beside the place");
    }
}

#[test]
fn damaged_archives_are_named() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &[]);
    let content = "x".repeat(5000);
    let content: &'static str = content.leak();
    let whole = archive(&[Item::File("f", content), Item::File("g", content)]);
    fs::write(from.join("cut"), &whole[..7000]).unwrap();
    let to = scratch.tree("to", &[]);
    let error = copy(&from, &to, &add("/cut", "/")).unwrap_err();
    assert!(
        matches!(&error, FileError::Unpack { path, .. } if path == Path::new("/cut")),
        "{error}"
    );
    let items = [Item::Node("wh", 0, 0)];
    fs::write(from.join("whiteout"), archive(&items)).unwrap();
    let error = copy(&from, &to, &add("/whiteout", "/")).unwrap_err();
    assert!(error.to_string().contains("/wh"), "{error}");
}
