//! `--output`: where results go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use weld_engine::{ExportKind, ExportRequest, ExportTarget};

use super::fields::{Fields, FieldsError};

/// Why an `--output` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("--output {0}")]
    Fields(#[from] FieldsError),
    #[error("--output: is empty: needs type=…, or a directory")]
    Empty,
    #[error("--output {0:?}: needs type=… (local, tar, oci, docker, image, registry or cacheonly)")]
    NoType(String),
    #[error(
        "--output {text:?}: unknown type {kind:?} (known: local, tar, oci, docker, image, registry, cacheonly)"
    )]
    UnknownType { text: String, kind: String },
    #[error("--output {0:?}: needs dest=…, the place to write to")]
    NoDestination(String),
    #[error(
        "--output {0:?}: dest=- writes a stream to standard output, and a directory is not one"
    )]
    DirectoryToStdout(String),
    #[error("--output {0:?}: type={1} takes no dest=…")]
    NeedlessDestination(String, &'static str),
    #[error("--output: two outputs are to be written to {}", .0.display())]
    SameFile(PathBuf),
    #[error("--output: only one output can be written to standard output")]
    TwoStdouts,
    #[error(
        "--output {0:?}: standard output is a terminal: redirect it, or name a file with dest=…"
    )]
    Terminal(String),
}

/// Reads all `--output` options, `--push` and the tags.
pub(crate) fn parse(
    outputs: &[String],
    push: bool,
    tags: &[String],
) -> Result<Vec<ExportRequest>, OutputError> {
    let mut requests = outputs
        .iter()
        .map(|text| parse_one(text))
        .collect::<Result<Vec<_>, _>>()?;
    if requests
        .iter()
        .filter(|request| request.target == ExportTarget::Stdout)
        .count()
        > 1
    {
        return Err(OutputError::TwoStdouts);
    }
    let mut files = BTreeSet::new();
    for request in &requests {
        if let ExportTarget::File(file) = &request.target
            && !files.insert(real(file))
        {
            return Err(OutputError::SameFile(file.clone()));
        }
    }
    if push {
        let is_image = |request: &&mut ExportRequest| request.kind == ExportKind::Image;
        match requests.iter_mut().find(is_image) {
            Some(request) => drop(request.attrs.insert("push".into(), "true".into())),
            None => requests.push(ExportRequest {
                kind: ExportKind::Image,
                attrs: [("push".to_owned(), "true".to_owned())].into(),
                target: ExportTarget::Nowhere,
            }),
        }
    }
    if !tags.is_empty() {
        for request in &mut requests {
            if matches!(
                request.kind,
                ExportKind::Image | ExportKind::OciArchive | ExportKind::DockerArchive
            ) {
                // As with buildx, they count in place of the output's own.
                request.attrs.insert("name".into(), tags.join(","));
            }
        }
    }
    Ok(requests)
}

/// The place that a path leads to, whatever way: of a file that is not there yet, its name in the place of its directory.
pub(crate) fn real(path: &Path) -> PathBuf {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default();
    let in_parent = || parent.canonicalize().map(|parent| parent.join(name));
    let found = path.canonicalize().or_else(|_| in_parent());
    found.unwrap_or_else(|_| path.to_owned())
}

fn parse_one(text: &str) -> Result<ExportRequest, OutputError> {
    if text == "-" {
        return Ok(ExportRequest::new(ExportKind::Tar, ExportTarget::Stdout));
    }
    if text.is_empty() {
        return Err(OutputError::Empty);
    }
    if !text.contains('=') {
        return Ok(ExportRequest::new(
            ExportKind::Local,
            ExportTarget::Directory(PathBuf::from(text)),
        ));
    }
    let mut kind = None;
    let mut destination = None;
    let mut attrs = std::collections::BTreeMap::new();
    for (key, value) in Fields::parse(text)?.iter() {
        match (key, value) {
            ("type", Some(value)) => kind = Some(value.to_owned()),
            ("dest" | "output", Some(value)) => {
                // Two words for the same.
                if destination.replace(value.to_owned()).is_some() {
                    return Err(OutputError::Fields(FieldsError::Repeated {
                        text: text.to_owned(),
                        field: "dest".to_owned(),
                    }));
                }
            }
            (key, value) => {
                let value = value.unwrap_or("true").to_owned();
                attrs.insert(key.to_owned(), value);
            }
        }
    }
    let name = kind.ok_or_else(|| OutputError::NoType(text.to_owned()))?;
    let kind = match name.as_str() {
        "local" => ExportKind::Local,
        "tar" => ExportKind::Tar,
        "oci" => ExportKind::OciArchive,
        "docker" => ExportKind::DockerArchive,
        "image" => ExportKind::Image,
        "registry" => {
            attrs.insert("push".into(), "true".into());
            ExportKind::Image
        }
        "cacheonly" => ExportKind::CacheOnly,
        _ => {
            return Err(OutputError::UnknownType {
                text: text.to_owned(),
                kind: name,
            });
        }
    };
    let target = target(text, kind, destination, &attrs)?;
    Ok(ExportRequest {
        kind,
        attrs,
        target,
    })
}

fn target(
    text: &str,
    kind: ExportKind,
    destination: Option<String>,
    attrs: &std::collections::BTreeMap<String, String>,
) -> Result<ExportTarget, OutputError> {
    let unpacked = matches!(kind, ExportKind::OciArchive | ExportKind::DockerArchive)
        && attrs.get("tar").is_some_and(|value| value == "false");
    match (kind, destination.as_deref()) {
        (_, Some("")) => Err(OutputError::NoDestination(text.into())),
        (ExportKind::Image, None) | (ExportKind::CacheOnly, None) => Ok(ExportTarget::Nowhere),
        (ExportKind::Image, Some(_)) => Err(OutputError::NeedlessDestination(text.into(), "image")),
        (ExportKind::CacheOnly, Some(_)) => {
            Err(OutputError::NeedlessDestination(text.into(), "cacheonly"))
        }
        (ExportKind::Local, Some("-")) => Err(OutputError::DirectoryToStdout(text.into())),
        (_, Some("-")) if unpacked => Err(OutputError::DirectoryToStdout(text.into())),
        (_, Some("-")) => Ok(ExportTarget::Stdout),
        (ExportKind::Local, Some(path)) => Ok(ExportTarget::Directory(path.into())),
        (_, Some(path)) if unpacked => Ok(ExportTarget::Directory(path.into())),
        (_, Some(path)) => Ok(ExportTarget::File(path.into())),
        (ExportKind::Local, None) => Err(OutputError::NoDestination(text.into())),
        (_, None) if unpacked => Err(OutputError::NoDestination(text.into())),
        // As docker has it: an archive without a destination goes to standard output.
        (_, None) if std::io::IsTerminal::is_terminal(&std::io::stdout()) => {
            Err(OutputError::Terminal(text.into()))
        }
        (_, None) => Ok(ExportTarget::Stdout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<ExportRequest, String> {
        parse(&[text.to_owned()], false, &[])
            .map(|mut all| all.remove(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn short_forms_are_a_directory_and_a_stream() {
        assert_eq!(
            one("out"),
            Ok(ExportRequest::new(
                ExportKind::Local,
                ExportTarget::Directory("out".into())
            ))
        );
        assert_eq!(
            one("-"),
            Ok(ExportRequest::new(ExportKind::Tar, ExportTarget::Stdout))
        );
    }

    #[test]
    fn a_file_is_written_by_one_output() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("b.tar"), "").unwrap();
        std::os::unix::fs::symlink("b.tar", path("link.tar")).unwrap();
        for (one, other) in [
            ("a.tar", "a.tar"),
            ("a.tar", "./a.tar"),
            ("b.tar", "link.tar"),
        ] {
            let (one, other) = (path(one), path(other));
            let both = [
                format!("type=oci,dest={one}"),
                format!("type=docker,dest={other}"),
            ];
            let error = parse(&both, false, &[]).unwrap_err();
            assert!(error.to_string().contains(&other), "{error}");
        }
    }

    #[test]
    fn fields_become_attributes() {
        let request = one("type=oci,dest=a.tar,compression=zstd,force-compression").unwrap();
        assert_eq!(request.kind, ExportKind::OciArchive);
        assert_eq!(request.target, ExportTarget::File("a.tar".into()));
        assert_eq!(request.attrs["compression"], "zstd");
        assert_eq!(request.attrs["force-compression"], "true");
        assert_eq!(
            one("type=oci,tar=false,dest=d").unwrap().target,
            ExportTarget::Directory("d".into())
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, part) in [
            ("dest=x", "needs type="),
            ("type=zip,dest=x", "unknown type \"zip\""),
            ("type=local", "needs dest="),
            ("type=local,dest=-", "directory is not one"),
            ("type=image,dest=x", "takes no dest"),
            ("type=oci,dest=a,dest=b", "dest=… is given twice"),
            ("type=oci,dest=a,output=b", "dest=… is given twice"),
            ("type=oci,type=tar,dest=a", "type=… is given twice"),
            ("type=oci,dest=a,tar=true,tar=false", "tar=… is given twice"),
            ("type=oci,\"dest=x", "no closing quote"),
        ] {
            let error = one(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn push_and_tags_join_an_image_output() {
        let all = parse(&["type=image".into()], true, &["a:1".into(), "b".into()]).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].attrs["push"], "true");
        assert_eq!(all[0].attrs["name"], "a:1,b");
        assert_eq!(
            parse(&[], true, &["a".into()]).unwrap()[0].attrs["name"],
            "a"
        );
    }
}
