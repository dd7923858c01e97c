//! Selects paths of a file tree by BuildKit's include, exclude and follow patterns.
