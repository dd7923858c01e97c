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

/// Unmaps the code of the program until it is called again. What only the start or a build calls would stay mapped, and count as
/// memory of the process, although it is the page cache's; what is called next is mapped from there.
pub fn let_code_go() {
    let Some(code) = code() else {
        return;
    };
    let length = code.end - code.start;
    // SAFETY: it is a mapping of a file that nobody has written to: what is dropped is as it was when it is read again.
    let dropped = unsafe {
        rustix::mm::madvise(
            std::ptr::with_exposed_provenance_mut(code.start),
            length,
            rustix::mm::Advice::LinuxDontNeed,
        )
    };
    // It stays mapped where this cannot be.
    let _ = dropped;
}

/// Where the code of the program is mapped.
fn code() -> Option<std::ops::Range<usize>> {
    let here = (code as *const ()).addr();
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let is_unwritten = words.next()? == "r-xp";
        (is_unwritten && (start..end).contains(&here)).then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_let_go_runs() {
        let code = code().expect("the code is mapped");
        assert!(code.contains(&(let_code_go as *const ()).addr()));
        let_code_go();
        assert_eq!(super::code(), Some(code));
    }
}
