//! The user, the capabilities and the system calls that a program is left with.

use std::ffi::{c_int, c_ulong};

use super::{Plan, Stage, Step, check, errno, prctl};
use crate::capability::Set;

/// The highest number that a capability may have.
const LAST_CAPABILITY: u32 = 63;

pub(super) unsafe fn drop_bounding(plan: &Plan) -> Step {
    for number in 0..=LAST_CAPABILITY {
        if plan.capabilities.bounding & (1 << number) != 0 {
            continue;
        }
        // SAFETY: changes this process only.
        let result = unsafe { prctl(libc::PR_CAPBSET_DROP, number.into()) };
        // The kernel knows no capability of this number.
        if result < 0 && errno() == libc::EINVAL {
            return Ok(());
        }
        check(Stage::Bounding, result)?;
    }
    Ok(())
}

/// Installed while the process may still do so, since programs may gain rights by set-user-ID bits.
pub(super) unsafe fn install_filter(plan: &Plan) -> Step {
    if plan.filter.is_null() {
        return Ok(());
    }
    // SAFETY: a filter program that the parent keeps.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            plan.filter,
        )
    };
    check(Stage::Filter, result)
}

pub(super) unsafe fn change_user(plan: &Plan) -> Step {
    // System calls instead of the C library's functions, which change all threads of the parent.
    // SAFETY: change this process only.
    unsafe {
        if plan.set_groups {
            let result = libc::syscall(libc::SYS_setgroups, plan.group_count, plan.groups);
            check(Stage::Groups, result)?;
        }
        // Capabilities are set explicitly afterwards.
        check(Stage::User, prctl(libc::PR_SET_KEEPCAPS, 1))?;
        let gid = plan.gid;
        check(
            Stage::User,
            libc::syscall(libc::SYS_setresgid, gid, gid, gid),
        )?;
        let uid = plan.uid;
        check(
            Stage::User,
            libc::syscall(libc::SYS_setresuid, uid, uid, uid),
        )?;
        check(Stage::User, prctl(libc::PR_SET_KEEPCAPS, 0))
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

pub(super) unsafe fn set_capabilities(plan: &Plan) -> Step {
    const VERSION_3: u32 = 0x2008_0522;
    let capabilities = plan.capabilities;
    let half = |set: Set, shift: u32| (set >> shift) as u32;
    let data = [0, 32].map(|shift| CapabilityData {
        effective: half(capabilities.permitted, shift),
        permitted: half(capabilities.permitted, shift),
        inheritable: half(capabilities.ambient, shift),
    });
    let header = CapabilityHeader {
        version: VERSION_3,
        pid: 0,
    };
    // SAFETY: the structures live through the calls, which change this process only.
    unsafe {
        let (header, data) = (&raw const header, data.as_ptr());
        check(
            Stage::Capabilities,
            libc::syscall(libc::SYS_capset, header, data),
        )?;
        for number in 0..=LAST_CAPABILITY {
            if capabilities.ambient & (1 << number) != 0 {
                const RAISE: c_ulong = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
                let zero: c_ulong = 0;
                let number = c_ulong::from(number);
                let result = libc::prctl(libc::PR_CAP_AMBIENT, RAISE, number, zero, zero);
                check(Stage::Ambient, result.into())?;
            }
        }
    }
    Ok(())
}
