use weld_llb::{
    BuildError, Builder, Constraints, DecodeError, FileAttributes, Graph, HttpSource, Platform,
    Source,
};

/// An LLB definition that was read from outside.
#[derive(Clone, Debug)]
pub struct Definition(Graph);

/// Why bytes are not a definition.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// They are not one, or one that cannot be built.
    #[error("invalid LLB definition: {0}")]
    Decode(#[from] DecodeError),
    /// One cannot be put together.
    #[error("cannot make an LLB definition: {0}")]
    Build(#[from] BuildError),
}

impl Definition {
    /// Reads a definition and checks that it can be built.
    ///
    /// # Errors
    /// [`DefinitionError`] says what is wrong, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, DefinitionError> {
        Ok(Self(Graph::decode(bytes.to_vec())?))
    }

    /// What an HTTP server has at an address, as a file of this name.
    ///
    /// # Errors
    /// [`DefinitionError`] if that is no address.
    pub fn of_url(url: &str, filename: &str) -> Result<Self, DefinitionError> {
        let source = HttpSource {
            url: url.to_owned(),
            file: FileAttributes {
                filename: Some(filename.to_owned()),
                ..FileAttributes::default()
            },
            ..HttpSource::default()
        };
        let mut builder = Builder::new();
        let name = format!("[internal] load {url}");
        let file = builder.add_source(Source::Http(source), Constraints::new().named(name));
        let definition = builder.definition(Some(file), &Platform::host())?;
        Ok(Self(Graph::from_pb(definition)?))
    }

    /// The definition as a message, for another engine.
    pub fn to_message(&self) -> weld_proto::pb::Definition {
        self.0.to_pb()
    }

    /// One JSON object a vertex and line, as `buildctl debug dump-llb`.
    pub fn to_json_lines(&self) -> String {
        self.0
            .to_json()
            .iter()
            .map(|vertex| format!("{vertex}\n"))
            .collect()
    }

    /// A graph for Graphviz.
    pub fn to_dot(&self) -> String {
        self.0.to_dot()
    }

    pub(crate) const fn graph(&self) -> &Graph {
        &self.0
    }
}
