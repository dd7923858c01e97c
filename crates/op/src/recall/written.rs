//! What of a Dockerfile makes a step, as it is written: without the values of its arguments, which are in its name.

use weld_digest::FieldHasher;
use weld_llb::Graph;
use weld_store::StepName;

use super::names;

/// Where frontends say what instruction a step is of, of those with arguments that nobody expanded.
const COMMAND: &str = "com.docker.dockerfile.v1.command";
/// Most lines of a source file that are read for one step, and most bytes of each: long documents follow behind the instruction.
const LINES: usize = 16;
const WIDTH: usize = 512;

/// What a vertex is called and comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Called {
    pub(crate) name: String,
    /// Of its instruction's text; `None` where nothing tells it.
    pub(crate) written: Option<StepName>,
}

/// A definition, and the lines of its source files.
pub(crate) struct Texts<'a> {
    graph: &'a Graph,
    files: Vec<Vec<&'a [u8]>>,
}

impl<'a> Texts<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Self {
        let files = graph.files().iter();
        let files = files.map(|file| file.data.split(|byte| *byte == b'\n').collect());
        Self {
            graph,
            files: files.collect(),
        }
    }

    /// What each vertex is called.
    pub(crate) fn all_called(&self) -> Vec<Called> {
        let vertices = 0..self.graph.vertices().len();
        vertices.map(|index| self.called(index)).collect()
    }

    fn called(&self, index: usize) -> Called {
        let Some(vertex) = self.graph.vertex(index) else {
            return Called::default();
        };
        let name = self.graph.name(vertex);
        // What is in no stage is known by its name.
        let text = names::is_numbered(&name)
            .then(|| vertex.description(COMMAND).map(str::to_owned))
            .map(|command| command.unwrap_or_else(|| self.lines(index)));
        let text = text.filter(|text| !text.is_empty());
        let written = text.map(|text| {
            let hasher = FieldHasher::new("weld.step.written.v1");
            let hasher = hasher.text(&names::said_to_any(&text));
            crate::digest::to_solver(&hasher.finish()).0
        });
        Called { name, written }
    }

    fn lines(&self, index: usize) -> String {
        let places = self.graph.locations(index).iter();
        let places = places.flat_map(|place| place.ranges.iter().map(|range| (place.file, range)));
        let lines = places.flat_map(|(file, range)| {
            let line = |position: Option<weld_llb::Position>| position.map_or(0, |at| at.line);
            let numbers = line(range.start)..=line(range.end);
            numbers.map(move |number| (file, number))
        });
        let mut text = String::new();
        for (file, number) in lines.take(LINES) {
            let line = usize::try_from(number)
                .ok()
                .and_then(|at| at.checked_sub(1));
            let line = line.and_then(|at| self.files.get(file)?.get(at));
            let Some(line) = line else { continue };
            text += &String::from_utf8_lossy(line.get(..WIDTH).unwrap_or(line));
            text.push('\n');
        }
        text
    }
}
