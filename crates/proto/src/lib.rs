//! Wire types of BuildKit's API.
