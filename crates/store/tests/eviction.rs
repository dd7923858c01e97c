//! A trace of builds, made from a seed, is replayed against caches of several sizes: how often steps hit,
//! and how much of the time of all steps that saves, when what is worth least is evicted, and when it
//! is what was not used for the longest time. `--nocapture` shows the figures that are in `docs/on-disk.md`.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use weld_store::Worth;

const SECOND: u64 = 1_000_000_000;
const MB: u64 = 1_000_000;

/// A generator of numbers that are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.fraction() * (high - low)
    }

    /// Small ones as often as large ones.
    fn scale(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }
}

/// A step of a build: what makes it another one, its bytes and its time.
#[derive(Clone)]
struct Step {
    key: Vec<u64>,
    size: u64,
    cost: u64,
}

/// A chain of steps, each on the one before, at a time in nanoseconds.
struct Build {
    at: u64,
    steps: Vec<Step>,
}

/// A service with its image: packages, dependencies, sources, a compilation, and what is made of that.
struct Project {
    base: usize,
    packages: (f64, f64),
    dependencies: (f64, f64),
    sources: f64,
    compiled: (f64, f64),
    tested: (f64, f64),
    linted: (f64, f64),
    image: f64,
    versions: [u64; 3],
}

const PACKAGES: usize = 0;
const DEPENDENCIES: usize = 1;
const SOURCES: usize = 2;
const PROJECTS: usize = 60;
const BASES: usize = 6;

impl Project {
    fn new(random: &mut Random) -> Self {
        // Some have models and the like in their sources: large, and made in no time.
        let large = random.fraction() < 0.15;
        let (heavy, data) = if large { (2.0, 8.0) } else { (1.0, 1.0) };
        Self {
            base: random.below(BASES as u64) as usize,
            packages: (random.between(50.0, 400.0), random.between(15.0, 90.0)),
            dependencies: (
                random.scale(30.0, 1500.0) * heavy,
                random.between(15.0, 300.0),
            ),
            sources: random.scale(1.0, 200.0) * data,
            compiled: (random.scale(5.0, 500.0), random.scale(5.0, 400.0)),
            tested: (random.between(1.0, 20.0), random.between(5.0, 120.0)),
            linted: (random.between(1.0, 5.0), random.between(5.0, 40.0)),
            image: random.between(10.0, 100.0),
            versions: [0; 3],
        }
    }
}

/// A company's builds: few services are built often and most seldom, in bursts by day, with a commit's
/// image, tests and lints built apart, older branches in between, and everything once a night.
struct World {
    random: Random,
    bases: Vec<(f64, u64)>,
    projects: Vec<Project>,
    seconds: f64,
    builds: Vec<Build>,
}

#[derive(Clone, Copy, PartialEq)]
enum Job {
    Image,
    Test,
    Lint,
}

impl World {
    fn trace(seed: u64, rounds: usize) -> Vec<Build> {
        let mut random = Random(seed);
        let bases = (0..BASES)
            .map(|_| (random.between(30.0, 800.0), 0))
            .collect();
        let projects = (0..PROJECTS).map(|_| Project::new(&mut random)).collect();
        let mut world = Self {
            random,
            bases,
            projects,
            seconds: 0.0,
            builds: Vec::new(),
        };
        world.run(rounds);
        world.builds
    }

    fn run(&mut self, rounds: usize) {
        let weights: f64 = (1..=PROJECTS).map(|rank| 1.0 / rank as f64).sum();
        let (mut project, mut night) = (0, 86_400.0);
        for _ in 0..rounds {
            let hour = (self.seconds / 3600.0) % 24.0;
            let pace = if (8.0..19.0).contains(&hour) {
                150.0
            } else {
                900.0
            };
            self.seconds -= pace * (1.0 - self.random.fraction()).ln();
            if self.seconds > night {
                night += 86_400.0;
                for number in 0..PROJECTS {
                    let sources = self.projects[number].versions[SOURCES];
                    self.build(number, sources, Job::Image);
                    self.seconds += 20.0;
                }
            }
            if self.random.fraction() < 0.5 {
                let mut left = self.random.fraction() * weights;
                project = (0..PROJECTS - 1)
                    .find(|rank| {
                        left -= 1.0 / (rank + 1) as f64;
                        left < 0.0
                    })
                    .unwrap_or(PROJECTS - 1);
            }
            if self.random.fraction() < 0.003 {
                let base = self.random.below(BASES as u64) as usize;
                self.bases[base].1 += 1;
            }
            let sources = self.commit(project);
            let jobs: &[Job] = if self.random.fraction() < 0.7 {
                &[Job::Image, Job::Test, Job::Lint]
            } else {
                &[Job::Image]
            };
            for job in jobs {
                self.build(project, sources, *job);
                self.seconds += self.random.between(5.0, 60.0);
            }
        }
    }

    /// What somebody changed; the version of the sources that is built.
    fn commit(&mut self, project: usize) -> u64 {
        let what = self.random.fraction();
        let older = self.random.below(5) + 1;
        let versions = &mut self.projects[project].versions;
        match what {
            what if what < 0.02 => {
                versions[DEPENDENCIES] += 1;
                versions[SOURCES] += 1;
            }
            what if what < 0.023 => versions[PACKAGES] += 1,
            what if what < 0.75 => versions[SOURCES] += 1,
            what if what < 0.9 => {}
            _ => return versions[SOURCES].saturating_sub(older),
        }
        versions[SOURCES]
    }

    fn build(&mut self, number: usize, sources: u64, job: Job) {
        let project = &self.projects[number];
        let (base, version) = self.bases[project.base];
        let mut steps: Vec<Step> = Vec::new();
        let mut step = |part: &[u64], (megabytes, seconds): (f64, f64)| {
            let mut key = steps.last().map_or(Vec::new(), |step| step.key.clone());
            key.extend_from_slice(part);
            steps.push(Step {
                key,
                size: (megabytes * MB as f64) as u64,
                cost: (seconds * SECOND as f64) as u64,
            });
        };
        step(&[project.base as u64, version], (base, base / 40.0));
        let versions = project.versions;
        step(&[number as u64, versions[PACKAGES]], project.packages);
        step(&[versions[DEPENDENCIES]], project.dependencies);
        let copied = 0.2 + project.sources / 300.0;
        step(&[sources], (project.sources, copied));
        if job == Job::Lint {
            step(&[2], project.linted);
        } else {
            step(&[1], project.compiled);
            match job {
                Job::Image => step(&[1], (project.image, 0.5)),
                _ => step(&[2], project.tested),
            }
        }
        let at = (self.seconds * SECOND as f64) as u64;
        self.builds.push(Build { at, steps });
    }
}

struct Kept {
    step: Step,
    made: Option<Vec<u64>>,
    children: usize,
    uses: u64,
    last: u64,
}

impl Kept {
    fn worth(&self, now: u64) -> f64 {
        Worth {
            cost: Some(self.step.cost),
            size: self.step.size,
            uses: self.uses,
            idle: now - self.last,
        }
        .value()
    }

    /// For comparison: what was used last is worth most.
    fn recency(&self, _now: u64) -> f64 {
        self.last as f64
    }
}

/// Which part of the steps hit, and of their time was saved.
struct Figures {
    hits: f64,
    saved: f64,
}

/// As the store has it: what is made of others goes before the others, the build's own steps stay, and a
/// build uses the last step that hits.
fn replay(builds: &[Build], capacity: u64, value: fn(&Kept, u64) -> f64) -> Figures {
    let mut cache: HashMap<Vec<u64>, Kept> = HashMap::new();
    let mut used = 0;
    let (mut hits, mut steps, mut saved, mut total) = (0, 0, 0, 0);
    for build in builds {
        let found = build
            .steps
            .iter()
            .rposition(|step| cache.contains_key(&step.key));
        let cached = found.map_or(0, |last| last + 1);
        hits += cached;
        steps += build.steps.len();
        let time = |steps: &[Step]| steps.iter().map(|step| step.cost).sum::<u64>();
        saved += time(&build.steps[..cached]);
        total += time(&build.steps);
        if let Some(last) = found {
            let kept = cache.get_mut(&build.steps[last].key).unwrap();
            kept.uses += 1;
            kept.last = build.at;
        }
        for (number, step) in build.steps.iter().enumerate().skip(cached) {
            while used + step.size > capacity {
                let leaves = cache.iter().filter(|(key, kept)| {
                    kept.children == 0 && !build.steps.iter().any(|step| step.key == **key)
                });
                let least = leaves
                    .map(|(key, kept)| (value(kept, build.at), kept.last, key))
                    .min_by(|a, b| a.partial_cmp(b).unwrap());
                let Some((.., key)) = least else {
                    break;
                };
                let gone = cache.remove(&key.clone()).unwrap();
                used -= gone.step.size;
                if let Some(parent) = gone.made.and_then(|made| cache.get_mut(&made)) {
                    parent.children -= 1;
                }
            }
            let parent = number
                .checked_sub(1)
                .map(|number| build.steps[number].key.clone());
            if let Some(parent) = parent.as_ref().and_then(|key| cache.get_mut(key)) {
                parent.children += 1;
            }
            used += step.size;
            let kept = Kept {
                step: step.clone(),
                made: parent,
                children: 0,
                uses: 0,
                last: build.at,
            };
            cache.insert(step.key.clone(), kept);
        }
    }
    Figures {
        hits: hits as f64 / steps as f64,
        saved: saved as f64 / total as f64,
    }
}

#[test]
fn evicting_by_value_saves_more_time_than_by_recency() {
    let mut gains = Vec::new();
    println!("| cache | hits, LRU | hits, value | time saved, LRU | time saved, value |");
    for percent in [3, 10, 25] {
        let mut sums = [0.0; 4];
        let seeds = [1, 2, 3];
        for seed in seeds {
            let builds = World::trace(seed, 700);
            let mut sizes = HashMap::new();
            for step in builds.iter().flat_map(|build| &build.steps) {
                sizes.insert(step.key.clone(), step.size);
            }
            let all: u64 = sizes.values().sum();
            let capacity = all / 100 * percent;
            let lru = replay(&builds, capacity, Kept::recency);
            let value = replay(&builds, capacity, Kept::worth);
            for (sum, figure) in sums
                .iter_mut()
                .zip([lru.hits, value.hits, lru.saved, value.saved])
            {
                *sum += figure * 100.0 / seeds.len() as f64;
            }
        }
        let [lru_hits, value_hits, lru_saved, value_saved] = sums;
        println!(
            "| {percent} % | {lru_hits:.1} % | {value_hits:.1} % | {lru_saved:.1} % | {value_saved:.1} % |"
        );
        gains.push(value_saved - lru_saved);
    }
    assert!(gains.iter().all(|gain| *gain > 0.0), "{gains:?}");
}
