//! What definitions may rely on.

use weld_llb::cap;

/// The capabilities of definitions that this engine lacks.
pub const LLB_UNSUPPORTED: &[&str] = &[
    cap::SOURCE_GIT_SIGNATURE_VERIFY,
    cap::SOURCE_HTTP_SIGNATURE_VERIFY,
    cap::EXEC_META_NETWORK_PROXY,
];

/// The capabilities of definitions, each with whether this engine has it.
pub fn llb_caps() -> impl Iterator<Item = (&'static str, bool)> {
    let caps = cap::ALL.iter();
    caps.map(|cap| (*cap, !LLB_UNSUPPORTED.contains(cap)))
}
