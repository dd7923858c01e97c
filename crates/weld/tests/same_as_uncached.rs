//! Builds of a project that is edited at random: whatever the cache knows, the image is the one that a build without it makes.
//!
//! After each edit the project is built three times: with the cache of all builds before, without any, and now and then in a new place
//! with what the first one exported. `WELD_TEST_SEEDS` says how many projects there are, `WELD_TEST_SEED` which is the first.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use support::Bed;

/// A small generator of numbers.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Where files of the context may be. Directories of one tree are named like files of the other.
const PATHS: [&str; 9] = [
    "a/1", "a/2", "a/sub/1", "a/sub/2", "b/1", "b/2", "b/x", "1", "2",
];
/// Few, so that files change places unseen.
const CONTENTS: [&str; 4] = ["one\n", "two\n", "three\n", ""];
const SOURCES: [&str; 10] = [
    "a", "b", "a/sub", "a/1", "b/1", "1", "2", "a/*", "?/1", "b/",
];
const STAGES: [&str; 3] = ["first", "second", "third"];

#[derive(Clone, Copy)]
enum File {
    Regular(&'static str, u32),
    Link(&'static str),
}

impl File {
    fn any(rng: &mut Rng) -> Self {
        match rng.one_in(8) {
            true => Self::Link(rng.of(&["1", "sub", "../b/1", "nowhere"])),
            false => Self::Regular(rng.of(&CONTENTS), rng.of(&[0o644, 0o644, 0o755, 0o600])),
        }
    }
}

struct Project {
    files: Vec<Option<File>>,
    ignored: Vec<&'static str>,
    stages: Vec<Vec<String>>,
    /// What each stage begins with.
    bases: Vec<&'static str>,
}

impl Project {
    fn any(rng: &mut Rng) -> Self {
        let files = PATHS
            .iter()
            .map(|_| (!rng.one_in(6)).then(|| File::any(rng)));
        let files = files.collect();
        let bases = vec![
            "base",
            rng.of(&["base", "first"]),
            rng.of(&["base", "first", "second"]),
        ];
        let stages = (0..STAGES.len()).map(|stage| {
            let count = 2 + rng.below(3);
            (0..count).map(|_| line(stage, rng)).collect()
        });
        Self {
            stages: stages.collect(),
            files,
            ignored: Vec::new(),
            bases,
        }
    }

    fn dockerfile(&self) -> String {
        let mut text = String::new();
        for ((name, base), lines) in STAGES.iter().zip(&self.bases).zip(&self.stages) {
            writeln!(text, "FROM {base} AS {name}\nRUN mkdir -p /w").unwrap();
            for line in lines {
                writeln!(text, "{line}").unwrap();
            }
        }
        text
    }

    fn write(&self, bed: &Bed) {
        let _ = std::fs::remove_dir_all(bed.context());
        std::fs::create_dir(bed.context()).unwrap();
        bed.dockerfile(&self.dockerfile());
        bed.file(".dockerignore", self.ignored.join("\n"));
        for (path, file) in PATHS.iter().zip(&self.files) {
            let place = bed.context().join(path);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            match file {
                Some(File::Regular(content, mode)) => {
                    std::fs::write(&place, content).unwrap();
                    let mode = std::fs::Permissions::from_mode(*mode);
                    std::fs::set_permissions(&place, mode).unwrap();
                }
                Some(File::Link(to)) => symlink(to, &place).unwrap(),
                None => {}
            }
        }
    }

    /// Changes something, and says what.
    fn edit(&mut self, rng: &mut Rng) -> String {
        let stage = rng.below(STAGES.len());
        let lines = &mut self.stages[stage];
        let at = rng.below(lines.len() + 1);
        let (one, other) = (rng.below(PATHS.len()), rng.below(PATHS.len()));
        match rng.below(12) {
            0..3 => {
                self.files[one] = Some(File::any(rng));
                format!("write {}", PATHS[one])
            }
            3 => {
                self.files[one] = None;
                format!("remove {}", PATHS[one])
            }
            4 => {
                self.files.swap(one, other);
                format!("swap {} and {}", PATHS[one], PATHS[other])
            }
            5 => {
                let patterns = ["a/1", "**/2", "b", "!b/x", "*", "!a"];
                self.ignored = (0..rng.below(3)).map(|_| rng.of(&patterns)).collect();
                format!("ignore {:?}", self.ignored)
            }
            6..8 => {
                lines.insert(at, line(stage, rng));
                format!("new line {stage}.{at}")
            }
            8 => {
                if let Some(line) = lines.get_mut(at) {
                    *line = self::line(stage, rng);
                }
                format!("other line {stage}.{at}")
            }
            9 => {
                if at < lines.len() && lines.len() > 1 {
                    lines.remove(at);
                }
                format!("no line {stage}.{at}")
            }
            10 => {
                if at + 1 < lines.len() {
                    lines.swap(at, at + 1);
                }
                format!("swap lines {stage}.{at}")
            }
            _ => {
                let before = &["base", "first", "second"][..=stage];
                self.bases[stage] = rng.of(before);
                format!("{} from {}", STAGES[stage], self.bases[stage])
            }
        }
    }
}

/// A line of a stage. What it leaves says what it saw.
fn line(stage: usize, rng: &mut Rng) -> String {
    let number = rng.below(4);
    let earlier = match stage {
        0 => "base",
        _ => rng.of(&STAGES[..stage]),
    };
    match rng.below(14) {
        0..4 => {
            let mut flags = String::new();
            for flag in [
                "--link ",
                "--chmod=640 ",
                "--chown=1:2 ",
                "--exclude=**/2 ",
                "--parents ",
            ] {
                if rng.one_in(5) {
                    flags += flag;
                }
            }
            let sources: Vec<_> = (0..1 + rng.below(3)).map(|_| rng.of(&SOURCES)).collect();
            format!("COPY {flags}{} /w/c{number}/", sources.join(" "))
        }
        4 => format!("ADD {} /w/d{number}/", rng.of(&SOURCES)),
        5 => {
            let link = if rng.one_in(2) { "--link " } else { "" };
            format!("COPY {link}--from={earlier} /w* /w/f{number}/")
        }
        6 => format!("COPY <<EOF /w/h\n{number}\nEOF"),
        7 => {
            let source = rng.of(&["a", "b", "."]);
            format!(
                "RUN --mount=type=bind,source={source},target=/m {}",
                told("/m", number)
            )
        }
        8 => format!(
            "RUN --mount=type=bind,from={earlier},source=/w,target=/m {}",
            told("/m", number)
        ),
        9 => format!("RUN {}", told("/w", number)),
        10 => format!("ENV V={number}\nRUN echo $V > /w/v"),
        11 => format!("ARG V=a{number}\nRUN echo $V > /w/v"),
        12 => rng
            .of(&[
                "RUN rm -rf /w/c0 /w/c1/1",
                "RUN mv /w/c2 /w/moved || true",
                "RUN rm -rf /w && mkdir /w && echo new > /w/new",
                "RUN chmod -R go-r /w",
                "RUN ln -sf c1 /w/l && mkdir -p /w/l/x",
            ])
            .to_owned(),
        _ => format!("WORKDIR /w/dir{number}"),
    }
}

/// Leaves the names, modes and content of all that is in a directory.
fn told(directory: &str, number: usize) -> String {
    format!(
        "find {directory} | sort | while read f; do echo $f; stat -c '%a %u %F' $f; if [ -f $f ]; then cat $f; fi; done > /told; \
         mv /told /w/t{number}"
    )
}

/// The ID of the image; nothing if there is none. Of several steps that fail any may be the one that is told.
fn build(bed: &Bed, root: &str, more: &[&str]) -> Option<String> {
    let id = bed.path("id");
    let (output, id_file) = (
        format!(
            "type=oci,dest={},rewrite-timestamp=true",
            bed.path("image.tar").display()
        ),
        id.display().to_string(),
    );
    let mut arguments = vec!["--output", &output, "--iidfile", &id_file];
    arguments.extend(more);
    let mut command = bed.build_command(&[("SOURCE_DATE_EPOCH", "1000000000")], &arguments);
    let ended = support::ended(command.env("WELD_ROOT", bed.path(root)).output().unwrap());
    match ended.code {
        Some(0) => Some(std::fs::read_to_string(&id).unwrap()),
        _ => {
            ended.fails(&["ERROR: "]);
            None
        }
    }
}

/// How many builds there were that did not fail.
fn run(seed: u64) -> u64 {
    let bed = Bed::new();
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut project = Project::any(&mut rng);
    let (mut edits, mut built) = (Vec::new(), 0);
    let cache = bed.path("cache").display().to_string();
    let (to, from) = (
        format!("type=local,dest={cache},mode=max"),
        format!("type=local,src={cache}"),
    );
    for round in 0..number("WELD_TEST_EDITS", 14) {
        if round > 0 {
            edits.push(project.edit(&mut rng));
        }
        project.write(&bed);
        let exports = rng.one_in(4);
        let export = ["--cache-to", to.as_str()];
        let more: &[&str] = if exports { &export } else { &[] };
        let cached = build(&bed, "state", more);
        let uncached = build(&bed, "other", &["--no-cache"]);
        let context = || format!("seed {seed}: {edits:?}\n{}", project.dockerfile());
        assert_eq!(cached, uncached, "{}", context());
        built += u64::from(cached.is_some());
        if exports && cached.is_some() {
            let elsewhere = format!("elsewhere{round}");
            let imported = build(&bed, &elsewhere, &["--cache-from", &from]);
            assert_eq!(imported, uncached, "imported: {}", context());
        }
    }
    built
}

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().unwrap())
}

#[test]
fn whatever_is_edited_the_image_is_that_of_a_build_without_cache() {
    let first = number("WELD_TEST_SEED", 1);
    let seeds = first..first + number("WELD_TEST_SEEDS", 3);
    let built: u64 = seeds.map(run).sum();
    println!("{built} builds were compared");
}
