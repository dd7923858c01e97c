//! Memory that the process does not use.

/// Has threads share the allocator's arenas: one for each processor, where glibc has eight. What a
/// burst of builds leaves is scattered over all of them, and can hardly be given back. To be called
/// before the threads are there.
pub fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let arenas = libc::c_int::try_from(processors).unwrap_or(libc::c_int::MAX);
        // SAFETY: takes two numbers, and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas.max(2));
        }
    }
}

/// Gives what was freed back to the system. glibc's allocator keeps it for each thread that ever
/// allocated, which after hundreds of builds at once is several times what is in use.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointer goes in or out, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
