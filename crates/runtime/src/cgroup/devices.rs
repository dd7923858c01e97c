//! Which devices a step may use: a BPF program on its v2 cgroup, or the `devices` controller of v1.
//!
//! Docker's default capabilities let a step make device nodes; without this it could read and write
//! the host's disks.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::embedded::STANDARD_DEVICES;
use crate::spec::{Device, DeviceAccess, DeviceKind};

/// A kind of devices that a step may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    kind: DeviceKind,
    major: u32,
    /// `None` for all.
    minor: Option<u32>,
    access: DeviceAccess,
}

/// Pseudo terminals.
const PTMX: Rule = Rule {
    kind: DeviceKind::Char,
    major: 5,
    minor: Some(2),
    access: DeviceAccess::FULL,
};
const PTS: Rule = Rule {
    kind: DeviceKind::Char,
    major: 136,
    minor: None,
    access: DeviceAccess::FULL,
};

/// The standard devices and `extra`. Making nodes is allowed for all devices.
pub(crate) fn rules(extra: &[Device]) -> Vec<Rule> {
    let standard = STANDARD_DEVICES.iter().map(|(_, major, minor)| Rule {
        kind: DeviceKind::Char,
        major: *major,
        minor: Some(*minor),
        access: DeviceAccess::FULL,
    });
    let extra = extra.iter().map(|device| Rule {
        kind: device.kind,
        major: device.major,
        minor: Some(device.minor),
        access: device.access,
    });
    standard.chain([PTMX, PTS]).chain(extra).collect()
}

/// What is to be written to `devices.allow` of a v1 cgroup after `a` was written to `devices.deny`.
pub(crate) fn legacy_lines(rules: &[Rule]) -> Vec<String> {
    let mut lines = vec!["c *:* m".to_owned(), "b *:* m".to_owned()];
    for rule in rules {
        let kind = match rule.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let minor = rule.minor.map_or("*".to_owned(), |minor| minor.to_string());
        let access = rule.access.letters();
        lines.push(format!("{kind} {}:{minor} {access}", rule.major));
    }
    lines
}

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

/// The kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// The destination register in the low half, the source register in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_U32: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const SHIFT_RIGHT: u8 = 0x77;
const AND: u8 = 0x57;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

/// Registers: 1 is the context, 2 the access, 3 the kind, 4 the major, 5 the minor number.
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const READ: i32 = 2;
const WRITE: i32 = 4;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    }
}

/// Answers 1 for allowed accesses. The context is `{access << 16 | kind, major, minor}`.
fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_U32, ACCESS, 1, 0, 0),
        op(MOVE_REGISTER, KIND, ACCESS, 0, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(AND, KIND, 0, 0, 0xffff),
        op(LOAD_U32, MAJOR, 1, 4, 0),
        op(LOAD_U32, MINOR, 1, 8, 0),
        // Neither read nor written: a node is made.
        op(AND, ACCESS, 0, 0, READ | WRITE),
        op(JUMP_NOT_EQUAL, ACCESS, 0, 2, 0),
        op(MOVE_IMMEDIATE, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
    ];
    for rule in rules {
        let kind = match rule.kind {
            DeviceKind::Char => CHAR,
            DeviceKind::Block => BLOCK,
        };
        // Each jumps where the rule does not hold.
        let mut checks = vec![
            (JUMP_NOT_EQUAL, KIND, kind),
            (JUMP_NOT_EQUAL, MAJOR, rule.major.cast_signed()),
        ];
        let minor = rule.minor.map(u32::cast_signed);
        checks.extend(minor.map(|minor| (JUMP_NOT_EQUAL, MINOR, minor)));
        let DeviceAccess { read, write } = rule.access;
        for (is_allowed, bit) in [(read, READ), (write, WRITE)] {
            checks.extend((!is_allowed).then_some((JUMP_ANY_BIT, ACCESS, bit)));
        }
        for (index, (jump, register, value)) in checks.iter().enumerate() {
            // Over the checks left and the two instructions of the answer.
            let over = i16::try_from(checks.len() - index - 1 + 2).unwrap_or(i16::MAX);
            code.push(op(*jump, *register, 0, over, *value));
        }
        code.push(op(MOVE_IMMEDIATE, 0, 0, 0, 1));
        code.push(op(EXIT, 0, 0, 0, 0));
    }
    code.push(op(MOVE_IMMEDIATE, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of the kernel's `union bpf_attr` that loading uses.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of the kernel's `union bpf_attr` that attaching uses.
#[repr(C)]
struct AttachAttr {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

impl Program {
    /// Loads the program that allows `rules`.
    pub(crate) fn load(rules: &[Rule]) -> io::Result<Self> {
        let code = assemble(rules);
        let attr = LoadAttr {
            program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            instruction_count: u32::try_from(code.len()).unwrap_or(u32::MAX),
            instructions: code.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            ..LoadAttr::default()
        };
        // SAFETY: the attribute, the code and the license live through the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const attr,
                size_of::<LoadAttr>(),
            )
        };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Puts the program on the v2 cgroup whose directory is `cgroup`; it goes with the cgroup.
    pub(crate) fn attach(&self, cgroup: &OwnedFd) -> io::Result<()> {
        let attr = AttachAttr {
            target: cgroup.as_raw_fd().cast_unsigned(),
            program: self.0.as_raw_fd().cast_unsigned(),
            attach_type: BPF_CGROUP_DEVICE,
            flags: BPF_F_ALLOW_MULTI,
        };
        // SAFETY: the attribute lives through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_ATTACH,
                &raw const attr,
                size_of::<AttachAttr>(),
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
