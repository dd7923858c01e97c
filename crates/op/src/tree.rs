use weld_store::snapshot::SnapshotRef;

/// What operations give: a file tree, held as long as this lives.
#[derive(Clone, Debug)]
pub struct Tree(Option<SnapshotRef>);

impl Tree {
    /// The tree without files.
    pub const fn scratch() -> Self {
        Self(None)
    }

    /// The tree of a snapshot.
    pub const fn of(snapshot: SnapshotRef) -> Self {
        Self(Some(snapshot))
    }

    /// The snapshot; `None` for the tree without files.
    pub const fn snapshot(&self) -> Option<&SnapshotRef> {
        self.0.as_ref()
    }
}
