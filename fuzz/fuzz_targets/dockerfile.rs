//! No bytes make the Dockerfile's syntax half panic, and what it finds lies in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weld_dockerfile::instruction::{Instruction, Kind};
use weld_dockerfile::lint::{LintConfig, Linter, check_syntax};
use weld_dockerfile::shell::Expander;
use weld_dockerfile::{
    Dockerfile, SourceFile, chmod, directive, ignore, parse, parse_trigger, port,
};

fuzz_target!(|bytes: &[u8]| {
    let _ = directive::detect_syntax(bytes);
    let _ = ignore::parse(bytes);
    let config = LintConfig::from_dockerfile(bytes).unwrap_or_default();
    match parse(&SourceFile::new("Dockerfile", bytes)) {
        Ok(file) => {
            check_lines(&file, bytes);
            check_syntax(&file, &mut Linter::new(config));
            expand_all(&file);
        }
        Err(error) => {
            let _ = error.to_string();
            let excerpt = error.excerpt();
            assert!(error.ranges().is_empty() || bytes.is_empty() || excerpt.is_some());
        }
    }
});

fn check_lines(file: &Dockerfile, bytes: &[u8]) {
    let count = bytes.split(|byte| *byte == b'\n').count();
    let mut last = 0;
    let args = file.global_args.iter().map(|arg| arg.lines);
    let stages = file.stages.iter().flat_map(|stage| {
        std::iter::once(stage.lines).chain(stage.instructions.iter().map(|i| i.lines))
    });
    for lines in args.chain(stages) {
        assert!(last < lines.start && lines.start <= lines.end);
        last = lines.end;
    }
    assert!(last as usize <= count);
}

fn expand_all(file: &Dockerfile) {
    let mut variables = vec![("A".to_owned(), "b  c/d".to_owned())];
    let instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
    for mut instruction in instructions.cloned() {
        let mut expander = Expander::new(file.escape, &variables);
        if let Err(error) = instruction.expand(&mut expander) {
            let error = error.in_file(&file.source);
            assert!(error.excerpt().is_some());
            continue;
        }
        read_further(&instruction, &mut expander);
        if let Kind::Env(env) = instruction.kind {
            variables.extend(env.pairs.into_iter().map(|pair| (pair.key, pair.value)));
        }
    }
}

fn read_further(instruction: &Instruction, expander: &mut Expander<'_>) {
    match &instruction.kind {
        Kind::Run(run) => {
            let _ = run.body();
            for mount in &run.mounts {
                let _ = mount.resolve(expander);
            }
        }
        Kind::Expose(expose) => {
            for spec in &expose.ports {
                let _ = port::parse(spec);
            }
        }
        Kind::Copy(copy) => {
            let _ = copy.transfer.chmod.as_deref().map(chmod::Chmod::parse);
        }
        Kind::Onbuild(trigger) => {
            let _ = parse_trigger(trigger, instruction.lines);
        }
        _ => {}
    }
}
