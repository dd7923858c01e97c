//! One build engine: solves a request for a job, with frontends, sessions, progress and policies.
