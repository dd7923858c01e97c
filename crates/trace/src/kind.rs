//! Which events there are, by the names that they have in a trace.

/// Which event a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `trace-start`.
    TraceStart,
    /// `trace-end`.
    TraceEnd,
    /// `lost`.
    Lost,
    /// `resumed`.
    Resumed,
    /// `job-opened`.
    JobOpened,
    /// `session`.
    Session,
    /// `job-discarded`.
    JobDiscarded,
    /// `vertex`.
    Vertex,
    /// `vertex-freed`.
    VertexFreed,
    /// `edge-freed`.
    EdgeFreed,
    /// `loaded`.
    Loaded,
    /// `request`.
    Request,
    /// `answer`.
    Answer,
    /// `state`.
    State,
    /// `key`.
    Key,
    /// `query`.
    Query,
    /// `merge`.
    Merge,
    /// `merge-refused`.
    MergeRefused,
    /// `call-start`.
    CallStart,
    /// `call-end`.
    CallEnd,
    /// `load-start`.
    LoadStart,
    /// `load-end`.
    LoadEnd,
    /// `load-failed`.
    LoadFailed,
    /// `cancel`.
    Cancel,
    /// `dropped`.
    Dropped,
    /// `under-way`.
    UnderWay,
    /// `slot-wait`.
    SlotWait,
    /// `slot-taken`.
    SlotTaken,
    /// `save-failed`.
    SaveFailed,
    /// `source-failed`.
    SourceFailed,
    /// `result-lost`.
    ResultLost,
    /// `session-lent`.
    SessionLent,
    /// `fallback`.
    Fallback,
    /// `explained`.
    Explained,
    /// `broken`.
    Broken,
    /// Something that this version does not know.
    #[default]
    Other,
}

impl Kind {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Other as usize + 1;

    /// Its name in a line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TraceStart => "trace-start",
            Self::TraceEnd => "trace-end",
            Self::Lost => "lost",
            Self::Resumed => "resumed",
            Self::JobOpened => "job-opened",
            Self::Session => "session",
            Self::JobDiscarded => "job-discarded",
            Self::Vertex => "vertex",
            Self::VertexFreed => "vertex-freed",
            Self::EdgeFreed => "edge-freed",
            Self::Loaded => "loaded",
            Self::Request => "request",
            Self::Answer => "answer",
            Self::State => "state",
            Self::Key => "key",
            Self::Query => "query",
            Self::Merge => "merge",
            Self::MergeRefused => "merge-refused",
            Self::CallStart => "call-start",
            Self::CallEnd => "call-end",
            Self::LoadStart => "load-start",
            Self::LoadEnd => "load-end",
            Self::LoadFailed => "load-failed",
            Self::Cancel => "cancel",
            Self::Dropped => "dropped",
            Self::UnderWay => "under-way",
            Self::SlotWait => "slot-wait",
            Self::SlotTaken => "slot-taken",
            Self::SaveFailed => "save-failed",
            Self::SourceFailed => "source-failed",
            Self::ResultLost => "result-lost",
            Self::SessionLent => "session-lent",
            Self::Fallback => "fallback",
            Self::Explained => "explained",
            Self::Broken => "broken",
            Self::Other => "other",
        }
    }

    pub(crate) fn of(name: &str) -> Self {
        match name {
            "trace-start" => Self::TraceStart,
            "trace-end" => Self::TraceEnd,
            "lost" => Self::Lost,
            "resumed" => Self::Resumed,
            "job-opened" => Self::JobOpened,
            "session" => Self::Session,
            "job-discarded" => Self::JobDiscarded,
            "vertex" => Self::Vertex,
            "vertex-freed" => Self::VertexFreed,
            "edge-freed" => Self::EdgeFreed,
            "loaded" => Self::Loaded,
            "request" => Self::Request,
            "answer" => Self::Answer,
            "state" => Self::State,
            "key" => Self::Key,
            "query" => Self::Query,
            "merge" => Self::Merge,
            "merge-refused" => Self::MergeRefused,
            "call-start" => Self::CallStart,
            "call-end" => Self::CallEnd,
            "load-start" => Self::LoadStart,
            "load-end" => Self::LoadEnd,
            "load-failed" => Self::LoadFailed,
            "cancel" => Self::Cancel,
            "dropped" => Self::Dropped,
            "under-way" => Self::UnderWay,
            "slot-wait" => Self::SlotWait,
            "slot-taken" => Self::SlotTaken,
            "save-failed" => Self::SaveFailed,
            "source-failed" => Self::SourceFailed,
            "result-lost" => Self::ResultLost,
            "session-lent" => Self::SessionLent,
            "fallback" => Self::Fallback,
            "explained" => Self::Explained,
            "broken" => Self::Broken,
            _ => Self::Other,
        }
    }
}

/// All kinds, in their order.
pub(crate) const ALL: [Kind; Kind::COUNT] = [
    Kind::TraceStart,
    Kind::TraceEnd,
    Kind::Lost,
    Kind::Resumed,
    Kind::JobOpened,
    Kind::Session,
    Kind::JobDiscarded,
    Kind::Vertex,
    Kind::VertexFreed,
    Kind::EdgeFreed,
    Kind::Loaded,
    Kind::Request,
    Kind::Answer,
    Kind::State,
    Kind::Key,
    Kind::Query,
    Kind::Merge,
    Kind::MergeRefused,
    Kind::CallStart,
    Kind::CallEnd,
    Kind::LoadStart,
    Kind::LoadEnd,
    Kind::LoadFailed,
    Kind::Cancel,
    Kind::Dropped,
    Kind::UnderWay,
    Kind::SlotWait,
    Kind::SlotTaken,
    Kind::SaveFailed,
    Kind::SourceFailed,
    Kind::ResultLost,
    Kind::SessionLent,
    Kind::Fallback,
    Kind::Explained,
    Kind::Broken,
    Kind::Other,
];
