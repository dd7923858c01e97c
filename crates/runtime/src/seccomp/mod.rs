//! The system call filter of sandboxed steps: docker's default profile as a BPF program.
//!
//! The program looks a call up in a balanced tree of number ranges, so that it is short (the kernel
//! translates it anew for each step) and quick. It covers the 32-bit calls of x86 too.

mod compile;
mod numbers;
mod profile;

use std::io;

pub(crate) use profile::{Condition, Verdict, default_profile};

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    code: Vec<libc::sock_filter>,
}

// SAFETY: plain numbers that are only read.
unsafe impl Send for Filter {}
// SAFETY: as above.
unsafe impl Sync for Filter {}

impl Filter {
    /// The default profile for a process with this bounding set.
    pub(crate) fn new(capabilities: u64) -> io::Result<Self> {
        let code = compile::compile(&default_profile(capabilities))
            .ok_or_else(|| io::Error::other("the system call filter is too large"))?;
        Ok(Self { code })
    }

    /// The program as the kernel takes it; valid as long as the filter.
    pub(crate) fn program(&self) -> libc::sock_fprog {
        libc::sock_fprog {
            len: u16::try_from(self.code.len()).unwrap_or(u16::MAX),
            filter: self.code.as_ptr().cast_mut(),
        }
    }
}
