use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use weld_digest::Digest;
use weld_fileset::{SelectionOptions, Timestamp};
use weld_source::local::{
    DecodeIndexError, DirTarget, HostDir, ProviderError, Stat, SyncError, Synced, TreeIndex,
    TreeProvider, TreeTarget, sync,
};
use weld_source::progress::Progress;

/// Counts what is done to a directory.
struct Counting {
    inner: DirTarget,
    touched: AtomicUsize,
}

impl Counting {
    fn count(&self) {
        self.touched.fetch_add(1, Ordering::Relaxed);
    }
}

impl TreeTarget for Counting {
    fn begin(&self) -> std::io::Result<()> {
        self.inner.begin()
    }
    fn remove(&self, stat: &Stat) -> std::io::Result<()> {
        self.count();
        self.inner.remove(stat)
    }
    fn make_dir(&self, stat: &Stat) -> std::io::Result<()> {
        self.count();
        self.inner.make_dir(stat)
    }
    fn make_file(&self, stat: &Stat, content: &mut dyn Read) -> std::io::Result<()> {
        self.count();
        self.inner.make_file(stat, content)
    }
    fn make_node(&self, stat: &Stat) -> std::io::Result<()> {
        self.count();
        self.inner.make_node(stat)
    }
    fn hard_link(&self, stat: &Stat, first: &Path) -> std::io::Result<()> {
        self.count();
        self.inner.hard_link(stat, first)
    }
    fn set_metadata(&self, stat: &Stat) -> std::io::Result<()> {
        self.count();
        self.inner.set_metadata(stat)
    }
}

struct World {
    _root: tempfile::TempDir,
    from: PathBuf,
    to: PathBuf,
    index: TreeIndex,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        Self {
            from,
            to,
            _root: root,
            index: TreeIndex::empty(),
        }
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.from.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn sync(&mut self) -> (Synced, usize) {
        self.sync_selected(SelectionOptions::default()).await
    }

    async fn sync_selected(&mut self, options: SelectionOptions) -> (Synced, usize) {
        let provider = HostDir::open(&self.from, options).unwrap();
        let target = Arc::new(Counting {
            inner: DirTarget::open(&self.to).unwrap(),
            touched: AtomicUsize::new(0),
        });
        let previous = Arc::new(self.index.clone());
        let synced = sync(
            Arc::new(provider),
            target.clone(),
            previous,
            &Progress::none(),
        )
        .await
        .unwrap();
        self.index = TreeIndex::decode(&synced.index.encode()).unwrap();
        assert_eq!(self.index, synced.index);
        (synced, target.touched.load(Ordering::Relaxed))
    }

    /// Waits until the clock of the file system is past the time that makes a file doubtful.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a user sees of a tree: owners reset, directories without times and links by inode.
pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, dir: &Path, inodes: &mut Vec<u64>, out: &mut BTreeMap<PathBuf, String>) {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        for path in names {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut text = format!("{:o} ", metadata.mode());
            if metadata.is_dir() {
                walk(root, &path, inodes, out);
            } else if metadata.is_symlink() {
                text += &format!("-> {:?}", fs::read_link(&path).unwrap());
            } else {
                if metadata.nlink() > 1 {
                    if !inodes.contains(&metadata.ino()) {
                        inodes.push(metadata.ino());
                    }
                    let number = inodes.iter().position(|inode| *inode == metadata.ino());
                    text += &format!("link {number:?} ");
                }
                let time = (metadata.mtime(), metadata.mtime_nsec());
                text += &format!("{time:?} ");
                if metadata.is_file() {
                    text += &format!("{:?}", fs::read(&path).unwrap());
                }
            }
            out.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut Vec::new(), &mut out);
    out
}

#[tokio::test]
async fn a_tree_is_copied_with_all_it_has_and_then_left_alone() {
    let mut world = World::new();
    world.write("a.txt", "a");
    world.write("dir/b", "bb");
    world.write("dir/sub/c", "");
    symlink("../a.txt", world.from.join("dir/link")).unwrap();
    fs::hard_link(world.from.join("dir/b"), world.from.join("dir/hard")).unwrap();
    fs::set_permissions(world.from.join("a.txt"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::set_permissions(
        world.from.join("dir/sub"),
        PermissionsExt::from_mode(0o1700),
    )
    .unwrap();
    rustix::fs::lsetxattr(
        world.from.join("dir/b"),
        "user.note",
        b"hello",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, world.from.join("pipe"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.from.join("socket")).unwrap();
    world.settle();

    let (first, _) = world.sync().await;
    assert!(first.tree_changed);
    assert_eq!(first.fetched, 3);
    let mut expected = listing(&world.from);
    expected.remove(Path::new("socket"));
    assert_eq!(listing(&world.to), expected);
    let mut value = [0; 16];
    let length =
        rustix::fs::lgetxattr(world.to.join("dir/hard"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"hello");
    let digests: BTreeMap<_, _> = first
        .index
        .entries()
        .iter()
        .map(|entry| (entry.stat.path.to_str().unwrap(), entry.digest.clone()))
        .collect();
    assert_eq!(digests["dir/hard"], Some(Digest::sha256_of("bb")));
    assert_eq!(digests["dir/sub/c"], Some(Digest::sha256_of("")));
    assert_eq!(digests["dir/link"], None);

    let (second, touched) = world.sync().await;
    assert_eq!(
        (second.tree_changed, second.fetched, touched),
        (false, 0, 0)
    );
}

#[tokio::test]
async fn changes_of_all_kinds_are_followed() {
    let mut world = World::new();
    world.write("same", "same");
    world.write("mode", "mode");
    world.write("content", "old");
    world.write("becomes-dir", "file");
    world.write("becomes-file/x/y", "deep");
    world.write("gone/a", "a");
    world.write("first", "linked");
    fs::hard_link(world.from.join("first"), world.from.join("second")).unwrap();
    symlink("a", world.from.join("link")).unwrap();
    world.settle();
    world.sync().await;
    let inode = |path: &str| fs::metadata(world.to.join(path)).unwrap().ino();
    let same = inode("same");
    let other_name = fs::File::open(world.to.join("mode")).unwrap();
    let mode = other_name.metadata().unwrap().mode();

    world.write("content", "new!");
    fs::remove_file(world.from.join("becomes-dir")).unwrap();
    world.write("becomes-dir/z", "z");
    fs::remove_dir_all(world.from.join("becomes-file")).unwrap();
    world.write("becomes-file", "now a file");
    fs::remove_dir_all(world.from.join("gone")).unwrap();
    world.write("first", "linked anew");
    fs::remove_file(world.from.join("link")).unwrap();
    symlink("b", world.from.join("link")).unwrap();
    fs::set_permissions(world.from.join("mode"), PermissionsExt::from_mode(0o600)).unwrap();
    world.settle();
    let (synced, _) = world.sync().await;
    assert!(synced.tree_changed);
    assert_eq!(listing(&world.to), listing(&world.from));
    let inode = |path: &str| fs::metadata(world.to.join(path)).unwrap().ino();
    assert_eq!(inode("same"), same);
    assert_eq!(
        other_name.metadata().unwrap().mode(),
        mode,
        "it may be elsewhere too"
    );
    assert_eq!(
        synced.removed,
        ["becomes-file/x", "becomes-file/x/y", "gone", "gone/a"].map(PathBuf::from)
    );
    let (again, touched) = world.sync().await;
    assert_eq!((again.tree_changed, touched), (false, 0));
}

#[tokio::test]
async fn a_change_that_size_and_time_hide_is_found() {
    let mut world = World::new();
    world.write("f", "one");
    let before = fs::metadata(world.from.join("f"))
        .unwrap()
        .modified()
        .unwrap();
    world.settle();
    world.sync().await;
    world.write("f", "two");
    let file = fs::File::options()
        .write(true)
        .open(world.from.join("f"))
        .unwrap();
    file.set_modified(before).unwrap();
    let (synced, _) = world.sync().await;
    assert!(synced.tree_changed);
    assert_eq!(fs::read(world.to.join("f")).unwrap(), b"two");
}

#[tokio::test]
async fn a_file_just_written_is_read_again_but_not_written_again() {
    let mut world = World::new();
    world.write("f", "one");
    world.sync().await;
    let (doubtful, touched) = world.sync().await;
    assert_eq!((doubtful.tree_changed, touched), (false, 0));
    world.settle();
    world.sync().await;
    let (settled, _) = world.sync().await;
    assert!(!settled.index_changed);
}

#[tokio::test]
async fn only_what_is_selected_is_transferred() {
    let mut world = World::new();
    for path in ["keep/a", "keep/b.tmp", "drop/c", "link-target/d"] {
        world.write(path, path);
    }
    symlink("../link-target/d", world.from.join("keep/link")).unwrap();
    let options = SelectionOptions {
        exclude_patterns: vec!["**/*.tmp".to_owned()],
        follow_paths: vec!["keep/link".to_owned(), "keep/a".to_owned()],
        ..SelectionOptions::default()
    };
    world.sync_selected(options).await;
    let paths: Vec<_> = listing(&world.to).into_keys().collect();
    let expected = [
        "keep",
        "keep/a",
        "keep/link",
        "link-target",
        "link-target/d",
    ];
    assert_eq!(paths, expected.map(PathBuf::from));
}

#[tokio::test]
async fn the_copy_is_never_left_through_a_symbolic_link() {
    let mut world = World::new();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), world.to.join("dir")).unwrap();
    world.write("dir/evil", "x");
    let provider = Arc::new(HostDir::open(&world.from, SelectionOptions::default()).unwrap());
    let target = Arc::new(DirTarget::open(&world.to).unwrap());
    let error = sync(provider, target, Arc::default(), &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error, SyncError::Write { .. }), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    world.index = TreeIndex::empty();
}

#[tokio::test]
async fn an_unreadable_file_is_named() {
    let world = World::new();
    let provider = Arc::new(Listed(vec![stat("a/b", 0o40755), stat("a/b/c", 0o100644)]));
    let target = Arc::new(DirTarget::open(&world.to).unwrap());
    let error = sync(provider, target, Arc::default(), &Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the client's file list is malformed: path \"a/b\" is not in a directory that was listed before"
    );
    let provider = Arc::new(Listed(vec![stat("a", 0o40755), stat("a/c", 0o100644)]));
    let target = Arc::new(DirTarget::open(&world.to).unwrap());
    let error = sync(provider, target, Arc::default(), &Progress::none())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "cannot read a/c: not today");
}

/// Tells what it was told to tell, and gives nothing.
struct Listed(Vec<Stat>);

impl TreeProvider for Listed {
    fn stats(&self, _known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        Ok(self.0.clone())
    }
    fn open(&self, _number: usize, _stat: &Stat) -> std::io::Result<Box<dyn Read + Send>> {
        Err(std::io::Error::other("not today"))
    }
}

pub(crate) fn stat(path: &str, mode: u32) -> Stat {
    Stat {
        path: PathBuf::from(path),
        mode,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp::default(),
        link_target: None,
        hard_link: None,
        rdev: (0, 0),
        xattrs: Vec::new(),
        change: None,
    }
}

#[tokio::test]
async fn a_malformed_file_list_is_refused() {
    let link = |path: &str, target: &str| Stat {
        hard_link: Some(PathBuf::from(target)),
        ..stat(path, 0o100644)
    };
    for (stats, part) in [
        (vec![stat("../x", 0o100644)], "\"../x\" is not a plain"),
        (vec![stat("/x", 0o100644)], "\"/x\" is not a plain"),
        (vec![stat("", 0o40755)], "\"\" is not a plain"),
        (vec![stat("a//b", 0o40755)], "not a plain"),
        (vec![stat("a/", 0o40755)], "not a plain"),
        (vec![stat("./a", 0o40755)], "not a plain"),
        (vec![stat("a\0", 0o40755)], "not a plain"),
        (
            vec![stat("b", 0o100644), stat("a", 0o100644)],
            "out of order",
        ),
        (
            vec![stat("a", 0o100644), stat("a", 0o100644)],
            "out of order",
        ),
        (
            vec![stat("a", 0o100644), stat("a/b", 0o100644)],
            "not in a directory",
        ),
        (vec![stat("a", 0o120777)], "without a target"),
        (vec![stat("a", 0o644)], "unknown file type"),
        (vec![stat("a", 0o140644)], "unknown file type"),
        (vec![link("a", "b")], "hard link to \"b\""),
        (
            vec![stat("a", 0o40755), link("b", "a")],
            "hard link to \"a\"",
        ),
        (
            vec![link("b", "/etc/passwd")],
            "hard link to \"/etc/passwd\"",
        ),
    ] {
        let world = World::new();
        let target = Arc::new(DirTarget::open(&world.to).unwrap());
        let error = sync(
            Arc::new(Listed(stats)),
            target,
            Arc::default(),
            &Progress::none(),
        )
        .await
        .unwrap_err()
        .to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(fs::read_dir(&world.to).unwrap().count(), 0);
    }
}

#[test]
fn a_damaged_index_is_not_believed() {
    let bytes = TreeIndex::empty().encode();
    assert_eq!(TreeIndex::decode(&bytes), Ok(TreeIndex::empty()));
    assert_eq!(TreeIndex::decode(b""), Err(DecodeIndexError::Version));
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1;
        assert!(TreeIndex::decode(&damaged).is_err(), "byte {position}");
        assert!(
            TreeIndex::decode(&bytes[..position]).is_err(),
            "length {position}"
        );
    }
}

/// An edit of a tree of few names, so that edits meet.
#[derive(Clone, Debug)]
enum Edit {
    Write(String, u8),
    Remove(String),
    MakeDir(String),
    Link(String),
    Hard(String, String),
    Mode(String, u32),
}

fn edit() -> impl Strategy<Value = Edit> {
    let path = || "[ab](/[ab](/[ab])?)?";
    prop_oneof![
        (path(), any::<u8>()).prop_map(|(path, byte)| Edit::Write(path, byte)),
        path().prop_map(Edit::Remove),
        path().prop_map(Edit::MakeDir),
        path().prop_map(Edit::Link),
        (path(), path()).prop_map(|(from, to)| Edit::Hard(from, to)),
        (path(), 0_u32..8).prop_map(|(path, bits)| Edit::Mode(path, 0o700 | bits)),
    ]
}

impl Edit {
    /// Does it if the tree allows it.
    fn apply(&self, root: &Path) {
        let _ = match self {
            Self::Write(path, byte) => fs::write(root.join(path), vec![*byte; usize::from(*byte)]),
            Self::Remove(path) => {
                fs::remove_file(root.join(path)).or_else(|_| fs::remove_dir_all(root.join(path)))
            }
            Self::MakeDir(path) => fs::create_dir_all(root.join(path)),
            Self::Link(path) => symlink("target", root.join(path)),
            Self::Hard(from, to) => fs::hard_link(root.join(from), root.join(to)),
            Self::Mode(path, mode) if !root.join(path).is_symlink() => {
                fs::set_permissions(root.join(path), PermissionsExt::from_mode(*mode))
            }
            Self::Mode(..) => Ok(()),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn after_any_edits_the_copy_is_like_the_tree(
        rounds in proptest::collection::vec(proptest::collection::vec(edit(), 0..12), 1..5)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut world = World::new();
        for edits in rounds {
            for edit in edits {
                edit.apply(&world.from);
            }
            runtime.block_on(world.sync());
            prop_assert_eq!(listing(&world.to), listing(&world.from));
            for entry in world.index.entries() {
                let path = world.from.join(&entry.stat.path);
                let expected = fs::symlink_metadata(&path).unwrap().is_file()
                    .then(|| Digest::sha256_of(fs::read(&path).unwrap()));
                prop_assert_eq!(&entry.digest, &expected);
            }
        }
    }
}

#[tokio::test]
async fn a_hole_is_not_filled() {
    let mut world = World::new();
    let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    for (name, tail) in [("ends", &b"end"[..]), ("does not", b"")] {
        let file = fs::File::create(world.from.join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"start", 0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, tail, 64 << 20).unwrap();
        file.set_len((64 << 20) + tail.len() as u64).unwrap();
    }
    world.sync().await;
    for name in ["ends", "does not"] {
        let (from, to) = (world.from.join(name), world.to.join(name));
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "{name}");
        assert!(blocks(to) < 1 << 20, "{name}");
    }
}
