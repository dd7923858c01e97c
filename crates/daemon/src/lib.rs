//! BuildKit's API, served over an [`Engine`](weld_engine::Engine) to unmodified clients.

pub mod session;
