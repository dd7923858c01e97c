//! The graph solver: jobs, edges, cache keys and results; generic over operations, with no I/O of its own.
