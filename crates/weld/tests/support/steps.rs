//! Steps whose results tell whether they ran again.

use super::{Bed, Ended};

/// Each step makes something that no other run of it makes.
pub(crate) const STEPS: &str = "FROM base\n\
    RUN cat /proc/sys/kernel/random/uuid > /a\n\
    COPY file /file\n\
    RUN cat /proc/sys/kernel/random/uuid > /b\n\
    RUN cat /a /b > /c\n";

pub(crate) fn bed() -> Bed {
    let bed = Bed::new();
    bed.dockerfile(STEPS).file("file", "file");
    bed
}

/// What a build of the bed makes, as its files `a`, `b` and `c` have it.
pub(crate) fn made(bed: &Bed, arguments: &[&str]) -> (String, Ended) {
    let out = bed.path("out");
    let _ = std::fs::remove_dir_all(&out);
    let output = format!("type=local,dest={}", out.display());
    let mut all = vec!["--output", &output];
    all.extend(arguments);
    let ended = bed.build(&all).ok();
    let files = ["a", "b", "c"].map(|name| std::fs::read_to_string(out.join(name)).unwrap());
    (files.concat(), ended)
}

/// Forgets all that was built.
pub(crate) fn forget(bed: &Bed) {
    std::fs::remove_dir_all(bed.path("state")).unwrap();
}

/// The config of a cache in an object store says of its layers what BuildKit needs.
pub(crate) fn describes_layers(config: &[u8]) {
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    for layer in config["layers"].as_array().unwrap() {
        let notes = &layer["annotations"];
        for key in ["mediaType", "diffID", "size", "createdAt"] {
            assert!(!notes[key].is_null(), "BuildKit needs {key}: {notes}");
        }
    }
}
