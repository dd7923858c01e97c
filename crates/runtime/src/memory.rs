//! Memory that the process does not use.

/// Gives what was freed back to the system. glibc's allocator keeps it for each thread that ever
/// allocated, which after hundreds of builds at once is several times what is in use.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointer goes in or out, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
