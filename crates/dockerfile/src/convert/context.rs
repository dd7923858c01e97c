//! Where the Dockerfile and the files of the main context come from.

use bytes::Bytes;
use weld_llb::{
    Builder, Constraints, CopyAction, FileAttributes, FileChange, GitSource, Graph, HttpSource,
    LocalSource, Output, Source, State, attr, path, pb,
};

use super::git_ref::GitRef;
use super::host::{Host, ReadRequest};
use super::{ConvertError, HostFailure, Request};
use crate::error::Error;
use crate::ignore;
use crate::source::SourceFile;

/// The ignore file of a directory that has none of its own for the Dockerfile.
const IGNORE_FILE: &str = ".dockerignore";
/// The file that a context behind a URL is downloaded as.
const DOWNLOAD: &str = "context";
/// Enough to tell an archive from a Dockerfile.
const SNIFFED: usize = 1024;
/// The longest Dockerfile that is read; the parser refuses it before that.
const MAX_DOCKERFILE: usize = 64 << 20;

/// The main context.
pub(super) struct MainContext {
    /// The files, if they are not the client's directory.
    remote: Option<Graph>,
    /// What holds the Dockerfile, if it is not the client's.
    dockerfile: Option<(pb::Definition, Option<Source>)>,
    /// The Dockerfile's path, if the context says it.
    filename: Option<String>,
}

/// The Dockerfile and the ignore file beside it.
pub(super) struct DockerfileFiles {
    /// The Dockerfile.
    pub(super) source: SourceFile,
    /// The ignore file for this Dockerfile alone: its name and content.
    ignore: Option<(String, Bytes)>,
}

/// The session that offers a directory of the client's.
pub(super) fn session(request: &Request, name: &str) -> Option<String> {
    let session = request.local_sessions.get(name).unwrap_or(&request.session);
    (!session.is_empty()).then(|| session.clone())
}

pub(super) fn internal(name: impl AsRef<str>) -> Constraints {
    let name = weld_llb::mask_credentials(name.as_ref());
    Constraints::new().named(format!("[internal] {name}"))
}

/// A definition whose result is one source.
pub(super) fn definition_of(
    request: &Request,
    source: Source,
    constraints: Constraints,
) -> Result<pb::Definition, Error> {
    let mut builder = Builder::new();
    let output = builder.add_source(source, constraints);
    Ok(builder
        .definition(Some(output), &request.build_platform)
        .map_err(ConvertError::from)?)
}

/// Reads the ignore file of a directory of the client's, which need not be there.
pub(super) async fn read_ignore_file(
    host: &dyn Host,
    request: &Request,
    name: &str,
    shared_key: String,
    constraints: Constraints,
) -> Result<Vec<String>, Error> {
    let source = Source::Local(LocalSource {
        name: name.to_owned(),
        session: session(request, name),
        follow_paths: vec![IGNORE_FILE.to_owned()],
        shared_key_hint: Some(shared_key),
        differ: Some(attr::LOCAL_DIFFER_NONE.to_owned()),
        ..LocalSource::default()
    });
    let definition = definition_of(request, source.clone(), constraints)?;
    let read = host
        .read_files(ReadRequest {
            definition: &definition,
            source: Some(&source),
            paths: &[IGNORE_FILE.to_owned()],
            limit: ignore::MAX_SIZE.saturating_add(1),
        })
        .await;
    // A directory that cannot be had says so where something of it is used, if anything is.
    let read = read.unwrap_or_default();
    match read.into_iter().next().flatten() {
        Some(data) => parse_ignore_file(IGNORE_FILE, &data),
        None => Ok(Vec::new()),
    }
}

fn parse_ignore_file(name: &str, data: &[u8]) -> Result<Vec<String>, Error> {
    Ok(
        ignore::parse(data).map_err(|source| ConvertError::IgnoreFile {
            name: name.to_owned(),
            source,
        })?,
    )
}

impl MainContext {
    /// Finds out where the context is; one behind a URL is looked at.
    pub(super) async fn open(host: &dyn Host, request: &Request) -> Result<Self, Error> {
        let mut context = Self::open_whole(host, request).await?;
        if let (Some(remote), Some(subdir)) = (&context.remote, &request.context_subdir) {
            context.remote = Some(scoped(request, remote, subdir)?);
        }
        Ok(context)
    }

    async fn open_whole(host: &dyn Host, request: &Request) -> Result<Self, Error> {
        if let Some(url) = &request.context {
            if let Some(git) = GitRef::parse(url).map_err(ConvertError::from)? {
                return Self::open_git(request, url, &git);
            }
            if url.starts_with("http://") || url.starts_with("https://") {
                return Self::open_http(host, request, url).await;
            }
        }
        let input = |name: &str| request.inputs.get(name).cloned();
        let dockerfile = match input(&request.dockerfile_name) {
            Some(definition) if !request.local_dockerfile => {
                let graph = input_graph(&request.dockerfile_name, definition.clone())?;
                let source = only_source(&graph);
                Some((definition, source))
            }
            _ => None,
        };
        let remote = input(&request.context_name)
            .map(|definition| input_graph(&request.context_name, definition))
            .transpose()?;
        Ok(Self {
            remote,
            dockerfile,
            filename: None,
        })
    }

    fn open_git(request: &Request, url: &str, git: &GitRef) -> Result<Self, Error> {
        let mut source: GitSource = git.to_source();
        if git.like_a_path {
            source.url = Some(format!("https://{}", git.remote));
        }
        source.keep_git_dir |= request.keep_git_dir;
        let dated = request.build_args.get("SOURCE_DATE_EPOCH");
        if source.mtime.is_none() && dated.is_some_and(|epoch| !epoch.is_empty()) {
            source.mtime = Some("commit".to_owned());
        }
        let source = Source::Git(source);
        let constraints = internal(format!("load git source {url}"));
        let definition = definition_of(request, source.clone(), constraints)?;
        Ok(Self {
            remote: Some(own_graph(definition.clone())?),
            dockerfile: Some((definition, Some(source))),
            filename: None,
        })
    }

    /// An archive is unpacked, anything else is the Dockerfile itself.
    async fn open_http(host: &dyn Host, request: &Request, url: &str) -> Result<Self, Error> {
        let source = Source::Http(HttpSource {
            url: url.to_owned(),
            file: FileAttributes {
                filename: Some(DOWNLOAD.to_owned()),
                ..FileAttributes::default()
            },
            ..HttpSource::default()
        });
        let mut builder = Builder::new();
        let download = builder.add_source(source.clone(), internal("load remote build context"));
        let platform = &request.build_platform;
        let definition = builder
            .definition(Some(download), platform)
            .map_err(ConvertError::from)?;
        let read = host
            .read_files(ReadRequest {
                definition: &definition,
                source: Some(&source),
                paths: &[DOWNLOAD.to_owned()],
                limit: SNIFFED,
            })
            .await
            .map_err(|error| ConvertError::Read {
                what: format!("context {}", weld_llb::mask_credentials(url)),
                source: HostFailure::from(error),
            })?;
        let head = read.into_iter().next().flatten().unwrap_or_default();
        if !is_archive(&head) {
            return Ok(Self {
                remote: Some(own_graph(definition.clone())?),
                dockerfile: Some((definition, Some(source))),
                filename: Some(DOWNLOAD.to_owned()),
            });
        }
        let from = State::new(Some(download)).file_input();
        let unpack = FileChange::Copy(CopyAction {
            attempt_unpack: true,
            ..CopyAction::new(from, format!("/{DOWNLOAD}"), "/")
        });
        let unpacked = State::scratch()
            .file(&mut builder, vec![unpack], Constraints::new())
            .map_err(ConvertError::from)?;
        let definition = builder
            .definition(unpacked.output, platform)
            .map_err(ConvertError::from)?;
        Ok(Self {
            remote: Some(own_graph(definition.clone())?),
            dockerfile: Some((definition, Some(source))),
            filename: None,
        })
    }

    /// What the files are, if they are not the client's directory.
    pub(super) const fn remote(&self) -> Option<&Graph> {
        self.remote.as_ref()
    }

    /// Reads the Dockerfile and the ignore file beside it.
    pub(super) async fn read_dockerfile(
        &self,
        host: &dyn Host,
        request: &Request,
    ) -> Result<DockerfileFiles, Error> {
        let filename = self.filename.as_ref().unwrap_or(&request.filename);
        let filename = path::join(&["/", filename]);
        let filename = filename.trim_start_matches('/').to_owned();
        let ignore_name = format!("{filename}.dockerignore");
        let mut paths = vec![filename.clone(), ignore_name.clone()];
        paths.extend(lower_case(&filename));
        let (definition, source) = match &self.dockerfile {
            Some((definition, source)) if !request.local_dockerfile => {
                (definition.clone(), source.clone())
            }
            _ => {
                let (definition, source) = local_dockerfile(request, &filename, &paths)?;
                (definition, Some(source))
            }
        };
        let read = host
            .read_files(ReadRequest {
                definition: &definition,
                source: source.as_ref(),
                paths: &paths,
                limit: MAX_DOCKERFILE,
            })
            .await
            .map_err(|error| ConvertError::Read {
                what: format!("dockerfile {filename}"),
                source: HostFailure::from(error),
            })?;
        let mut read = read.into_iter();
        let (exact, ignore) = (read.next().flatten(), read.next().flatten());
        let data =
            exact
                .or_else(|| read.next().flatten())
                .ok_or_else(|| ConvertError::NoDockerfile {
                    filename: filename.clone(),
                    context: match &source {
                        // The name of a client's directory says nothing to a user.
                        None | Some(Source::Local(_)) => "the context".to_owned(),
                        // As the user wrote it.
                        Some(other) => match &request.context {
                            Some(context) => weld_llb::mask_credentials(context).into_owned(),
                            None => weld_llb::mask_credentials(&other.identifier()).into_owned(),
                        },
                    },
                })?;
        Ok(DockerfileFiles {
            source: SourceFile::new(filename.as_str(), data.to_vec()).built_by(definition),
            ignore: ignore.map(|data| (ignore_name, data)),
        })
    }

    /// The patterns of what the context leaves out. A context from elsewhere leaves out nothing.
    pub(super) async fn ignore_patterns(
        &self,
        host: &dyn Host,
        request: &Request,
        files: &DockerfileFiles,
    ) -> Result<Vec<String>, Error> {
        if self.remote.is_some() {
            return Ok(Vec::new());
        }
        if let Some((name, data)) = &files.ignore {
            return parse_ignore_file(name, data);
        }
        let name = &request.context_name;
        let shared_key = format!("{name}-{IGNORE_FILE}");
        let constraints = internal(format!("load {IGNORE_FILE}"));
        read_ignore_file(host, request, name, shared_key, constraints).await
    }

    /// Adds the context to a definition; [`Self::narrow`] is to be called when all is known.
    pub(super) fn add_to(&self, builder: &mut Builder, request: &Request) -> Option<Output> {
        match &self.remote {
            Some(graph) => builder.add_graph(graph),
            None => {
                let source = local_context(request, &[], Vec::new());
                Some(builder.add_source(source, internal("load build context")))
            }
        }
    }

    /// Limits the context to the paths that are used, and what it leaves out.
    pub(super) fn narrow(
        &self,
        builder: &mut Builder,
        output: Option<Output>,
        request: &Request,
        ignore: &[String],
        paths: Vec<String>,
    ) -> Result<(), ConvertError> {
        if let (None, Some(output)) = (&self.remote, output) {
            builder.replace_source(output, local_context(request, ignore, paths))?;
        }
        Ok(())
    }
}

fn local_context(request: &Request, ignore: &[String], paths: Vec<String>) -> Source {
    let name = &request.context_name;
    Source::Local(LocalSource {
        name: name.clone(),
        session: session(request, name),
        exclude_patterns: ignore.to_vec(),
        follow_paths: paths,
        shared_key_hint: Some(name.clone()),
        ..LocalSource::default()
    })
}

fn local_dockerfile(
    request: &Request,
    filename: &str,
    paths: &[String],
) -> Result<(pb::Definition, Source), Error> {
    let name = &request.dockerfile_name;
    let source = Source::Local(LocalSource {
        name: name.clone(),
        session: session(request, name),
        follow_paths: paths.to_vec(),
        shared_key_hint: Some(name.clone()),
        differ: Some(attr::LOCAL_DIFFER_NONE.to_owned()),
        ..LocalSource::default()
    });
    let constraints = internal(format!("load build definition from {filename}"));
    let definition = definition_of(request, source.clone(), constraints)?;
    Ok((definition, source))
}

/// `Dockerfile` may be called `dockerfile` too.
fn lower_case(filename: &str) -> Option<String> {
    if path::base(filename) != "Dockerfile" {
        return None;
    }
    let dir = filename.strip_suffix("Dockerfile")?;
    Some(format!("{dir}dockerfile"))
}

/// The directory `subdir` of a context as a context.
fn scoped(request: &Request, graph: &Graph, subdir: &str) -> Result<Graph, Error> {
    let mut builder = Builder::new();
    let whole = builder.add_graph(graph);
    let copy = FileChange::Copy(CopyAction {
        dir_contents: true,
        ..CopyAction::new(State::new(whole).file_input(), subdir, "/")
    });
    let state = State::scratch()
        .file(&mut builder, vec![copy], Constraints::new())
        .map_err(ConvertError::from)?;
    let definition = builder
        .definition(state.output, &request.build_platform)
        .map_err(ConvertError::from)?;
    own_graph(definition)
}

/// The graph of a definition that was built here.
fn own_graph(definition: pb::Definition) -> Result<Graph, Error> {
    input_graph("context", definition)
}

pub(super) fn input_graph(name: &str, definition: pb::Definition) -> Result<Graph, Error> {
    Ok(
        Graph::from_pb(definition).map_err(|error| ConvertError::Input {
            name: name.to_owned(),
            reason: error.to_string(),
        })?,
    )
}

/// The source that a definition is, if it is nothing else.
fn only_source(graph: &Graph) -> Option<Source> {
    match graph.vertices() {
        [only] => match only.op() {
            weld_llb::Op::Source(source) => Some((**source).clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a file that starts so is an archive: compressed, or a tar header whose checksum is right.
fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

fn is_tar(head: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let (Some(header), Some(field)) = (head.get(..512), head.get(CHECKSUM)) else {
        return false;
    };
    let text = String::from_utf8_lossy(field);
    let text = text.trim_matches(|c: char| c == '\0' || c == ' ');
    let Ok(expected) = u32::from_str_radix(text, 8) else {
        return false;
    };
    // The field itself counts as blanks.
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if CHECKSUM.contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    sum == expected
}
