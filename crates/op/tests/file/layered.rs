//! Writing into the upper one of stacked directories.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::XattrFlags;
use weld_op::file::{Copy, Destination, Remove, Source};

use crate::scratch::*;

#[test]
fn parents_are_copied_up_with_their_metadata() {
    let scratch = Scratch::new();
    let lower = scratch.tree("lower", &["a/b/old", "a/c"]);
    std::os::unix::fs::chown(lower.join("a/b"), Some(3), Some(4)).unwrap();
    set_mode(&lower.join("a/b"), 0o2711);
    rustix::fs::setxattr(lower.join("a/b"), "user.x", b"1", XattrFlags::empty()).unwrap();
    set_mtime(&lower.join("a"), 50, 5);
    let upper = scratch.tree("upper", &[]);
    let from = scratch.tree("from", &["file"]);
    let source = single(&from);
    let mut destination = Destination::new(stack(&[upper.clone(), lower]));
    action("/file", "/a/b/new")
        .run(
            Source {
                layers: &source,
                immutable: true,
                sharing: None,
            },
            &mut destination,
            None,
            &context(),
        )
        .unwrap();
    assert_eq!(listing(&upper), ["a/", "a/b/", "a/b/new = file"]);
    assert_eq!(
        (owner(&upper.join("a/b")), mode(&upper.join("a/b"))),
        ((3, 4), 0o2711)
    );
    assert_eq!(mtime(&upper.join("a")), 50_000_000_005);
    let mut value = [0; 4];
    assert_eq!(
        rustix::fs::getxattr(upper.join("a/b"), "user.x", &mut value[..]),
        Ok(1)
    );
    // Linked, although the destination has lower layers.
    assert_eq!(
        upper.join("a/b/new").metadata().unwrap().ino(),
        from.join("file").metadata().unwrap().ino()
    );
}

#[test]
fn what_is_removed_is_whited_out() {
    let scratch = Scratch::new();
    let lower = scratch.tree("lower", &["dir/x", "file", "other/y"]);
    let upper = scratch.tree("upper", &["own"]);
    let from = scratch.tree("from", &["d/z"]);
    let source = single(&from);
    let mut destination = Destination::new(stack(&[upper.clone(), lower.clone()]));
    for path in ["dir", "file", "own", "other/y"] {
        let remove = Remove {
            path: path.to_owned(),
            allow_not_found: false,
            allow_wildcard: false,
        };
        remove.run(&mut destination).unwrap();
    }
    let gone = "CharacterDevice (0, 0)";
    let expected = [
        format!("dir {gone}"),
        format!("file {gone}"),
        "other/".into(),
        format!("other/y {gone}"),
    ];
    assert_eq!(listing(&upper), expected);

    // A directory that takes the place of a removed one shows nothing of it.
    let source = Source {
        layers: &source,
        immutable: true,
        sharing: None,
    };
    dockerfile("/d", "/dir")
        .run(source, &mut destination, None, &context())
        .unwrap();
    let mut value = [0; 4];
    let len = rustix::fs::getxattr(upper.join("dir"), "trusted.overlay.opaque", &mut value[..]);
    assert_eq!((len, value[0]), (Ok(1), b'y'));
    dockerfile("/d/z", "/file")
        .run(source, &mut destination, None, &context())
        .unwrap();
    assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "d/z");
}

/// Only what a copy touches gets into the layer.
#[test]
fn nothing_else_gets_into_the_layer() {
    let scratch = Scratch::new();
    let lower = scratch.tree(
        "lower",
        &["usr/bin/sh", "etc/passwd", "lib -> usr/lib", "usr/lib/"],
    );
    let upper = scratch.tree("upper", &[]);
    let from = scratch.tree("from", &["m.so"]);
    let source = single(&from);
    let mut destination = Destination::new(stack(&[upper.clone(), lower]));
    let source = Source {
        layers: &source,
        immutable: true,
        sharing: None,
    };
    dockerfile("/m.so", "/lib/")
        .run(source, &mut destination, None, &context())
        .unwrap();
    assert_eq!(listing(&upper), ["usr/", "usr/lib/", "usr/lib/m.so = m.so"]);
    let missing = Copy {
        create_dest_path: false,
        ..action("/m.so", "/none/x")
    };
    missing
        .run(source, &mut destination, None, &context())
        .unwrap_err();
    assert_eq!(listing(&upper).len(), 3);
}

#[test]
fn a_source_of_several_layers_is_linked_from_all_of_them() {
    let scratch = Scratch::new();
    let lower = scratch.tree("l1", &["d/a", "d/b", "d/gone", "d/s/x"]);
    let upper = scratch.tree("l2", &["d/b = newer", "d/s/y"]);
    let layers = stack(&[upper.clone(), lower.clone()]);
    let mut above = Destination::new(layers);
    Remove {
        path: "/d/gone".to_owned(),
        allow_not_found: false,
        allow_wildcard: false,
    }
    .run(&mut above)
    .unwrap();
    let to = scratch.tree("to", &[]);
    let mut destination = Destination::new(single(&to));
    let source = Source {
        layers: above.layers(),
        immutable: true,
        sharing: None,
    };
    dockerfile("/d", "/")
        .run(source, &mut destination, None, &context())
        .unwrap();
    let expected = ["a = d/a", "b = newer", "s/", "s/x = d/s/x", "s/y = d/s/y"];
    assert_eq!(listing(&to), expected);
    for (layer, path) in [
        (&lower, "a"),
        (&upper, "b"),
        (&lower, "s/x"),
        (&upper, "s/y"),
    ] {
        let from = layer.join("d").join(path).metadata().unwrap().ino();
        assert_eq!(to.join(path).metadata().unwrap().ino(), from, "{path}");
    }
}
