//! What the names of steps say: `[build 2/4] RUN make` is the second step of a stage.

use weld_digest::FieldHasher;

/// The parts of a name.
struct Parts<'a> {
    /// The stage, and what else is said of where the step is, but for numbers: `build`.
    stage: &'a str,
    /// The number in the stage; empty where it has none.
    number: &'a str,
    /// What the step says: `RUN make`.
    said: &'a str,
}

fn parts(name: &str) -> Parts<'_> {
    let split = name
        .strip_prefix('[')
        .and_then(|name| name.split_once("] "));
    let (place, said) = split.unwrap_or(("", name));
    // The count of a stage's lines changes with each line that is added.
    let index = place.rsplit_once('/').map_or(place, |(index, _)| index);
    let stage = index.trim_end_matches(|char: char| char.is_ascii_digit());
    Parts {
        stage: stage.trim_end(),
        number: &index[stage.len()..],
        said,
    }
}

impl Parts<'_> {
    /// The stage without the number of one that has no name: a stage that is added above changes it.
    fn named_stage(&self) -> &str {
        let number = self.stage.strip_prefix("stage-");
        let is_number = |number: &str| number.bytes().all(|byte| byte.is_ascii_digit());
        if number.is_some_and(is_number) {
            ""
        } else {
            self.stage
        }
    }

    /// The instruction; one that became the other of `COPY` and `ADD` is still what it was.
    fn verb(&self) -> &str {
        match self.said.split_whitespace().next().unwrap_or_default() {
            "ADD" => "COPY",
            verb => verb,
        }
    }
}

/// The place of a step and its verb, `[build 2] RUN` of `[build 2/4] RUN make`.
pub(super) fn place(name: &str) -> String {
    let parts = parts(name);
    format!("[{} {}] {}", parts.stage, parts.number, parts.verb())
}

/// The same in a Dockerfile of one stage.
pub(super) fn place_alone(name: &str) -> String {
    let parts = parts(name);
    format!("[ {}] {}", parts.number, parts.verb())
}

/// The same without the number of a stage that has no name.
pub(super) fn bare_place(name: &str) -> String {
    let parts = parts(name);
    format!(
        "[{} {}] {}",
        parts.named_stage(),
        parts.number,
        parts.verb()
    )
}

/// What a step says and the name of its stage, `[build] RUN make`, without the numbers that other steps and stages change.
pub(super) fn unnumbered(name: &str) -> String {
    let parts = parts(name);
    format!("[{}] {}", parts.named_stage(), parts.said)
}

/// Whether two steps are for different platforms, of those that their names tell: `[linux/arm64 build 2/4] RUN make`.
pub(super) fn are_of_other_platforms(name: &str, other: &str) -> bool {
    let platform = |name| {
        let first = parts(name).stage.split(' ').next();
        first.filter(|first| first.contains('/'))
    };
    match (platform(name), platform(other)) {
        (Some(name), Some(other)) => name != other,
        _ => false,
    }
}

/// What a step of a stage says, `RUN make`: what stays when the stage is called otherwise.
pub(super) fn in_any_stage(name: &str) -> Option<&str> {
    let parts = parts(name);
    (!parts.number.is_empty()).then_some(parts.said)
}

/// The number and verb of a step of a stage, `2 RUN`, and all of another name.
pub(super) fn rank(name: &str) -> String {
    let parts = parts(name);
    match parts.number {
        "" => name.to_owned(),
        number => format!("{number} {}", parts.verb()),
    }
}

/// What a step of a stage says, whatever the stage is called; all of another name.
pub(super) fn said(name: &str) -> &str {
    let parts = parts(name);
    if parts.number.is_empty() {
        name
    } else {
        parts.said
    }
}

/// What a step says, whatever its stage and those are called that it takes files from: `COPY --from= /out /`.
pub(super) fn said_to_any(name: &str) -> String {
    let mut said = String::new();
    let mut rest = self::said(name);
    while let Some(at) = rest.find(FROM) {
        let (head, tail) = rest.split_at(at + FROM.len());
        said.push_str(head);
        rest = tail.trim_start_matches(is_of_stage);
    }
    said + rest
}

/// The stages, or images, that a step says it takes files from.
pub(super) fn stages_said(name: &str) -> impl Iterator<Item = &str> {
    let mut parts = self::said(name).split(FROM);
    parts.next();
    parts.map(|part| {
        part.split(|char| !is_of_stage(char))
            .next()
            .unwrap_or_default()
    })
}

/// The name of a step that others are called like, told apart by what uses it, as which input: a document within a Dockerfile.
pub(crate) fn used_by(name: &str, user: &str, input: usize) -> String {
    // What a command says may have the document in it.
    let user = match parts(user).verb() {
        "RUN" => place(user),
        _ => unnumbered(user),
    };
    let digest = FieldHasher::new("weld.step.user.v1").text(&user);
    let digest = digest.number(input as u64).finish().hex();
    // In letters: digits at the end are a step's number.
    let letters = digest.bytes().take(USER).map(|byte| match byte {
        digit @ b'0'..=b'9' => char::from(b'g' + (digit - b'0')),
        letter => char::from(letter),
    });
    let Parts { stage, said, .. } = parts(name);
    format!("[{stage} of {}] {said}", letters.collect::<String>())
}

/// Letters that tell users apart.
const USER: usize = 12;

/// Whether a step is told apart from others by its place in a stage.
pub(crate) fn is_numbered(name: &str) -> bool {
    !parts(name).number.is_empty()
}

/// The stage that a step is of; empty where there is one alone.
pub(super) fn stage(name: &str) -> &str {
    parts(name).stage
}

/// Before the name of a stage, in `COPY --from=build` and in `--mount=type=bind,from=build`.
const FROM: &str = "from=";

fn is_of_stage(char: char) -> bool {
    !char.is_whitespace() && char != ','
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_texts_are_read_from_names() {
        for (name, at, text, anywhere) in [
            (
                "[build 2/4] RUN make -j",
                "[build 2] RUN",
                "[build] RUN make -j",
                Some("RUN make -j"),
            ),
            (
                "[ 3/12] COPY . /app",
                "[ 3] COPY",
                "[] COPY . /app",
                Some("COPY . /app"),
            ),
            ("RUN make", "[ ] RUN", "[] RUN make", None),
            (
                "[internal] load build context",
                "[internal ] load",
                "[internal] load build context",
                None,
            ),
        ] {
            assert_eq!(place(name), at);
            assert_eq!(unnumbered(name), text);
            assert_eq!(in_any_stage(name), anywhere);
        }
        assert_eq!(
            place_alone("[build 2/4] RUN make"),
            place("[2/3] RUN make all")
        );
        for (one, other) in [
            ("[build 2/4] RUN make", "[build 3/5] RUN make"),
            ("[stage-1 1/2] RUN make", "[2/2] RUN make"),
        ] {
            assert_eq!(unnumbered(one), unnumbered(other));
        }
        assert_eq!(
            bare_place("[stage-1 1/2] RUN make"),
            bare_place("[1/2] RUN x")
        );
        assert_ne!(
            unnumbered("[a 1/2] RUN make"),
            unnumbered("[b 1/2] RUN make")
        );
        assert_eq!(said("[a 1/2] RUN make"), said("[b 2/2] RUN make"));
        assert_ne!(said("[context a] load"), said("[context b] load"));
    }
}
