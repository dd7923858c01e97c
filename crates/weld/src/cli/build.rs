//! `weld build`.

use std::collections::BTreeMap;
use std::path::Path;

use tokio_util::sync::CancellationToken;
use weld_engine::{
    BuildInput, BuildRequest, Entitlement, ExportKind, ExportTarget, HostSession, ImageReference,
    Platform,
};
use weld_progress::Mode;

use super::args::BuildArgs;
use super::caches::Caches;
use super::call::Call;
use super::context::{Inputs, add_named};
use super::destination::Destination;
use super::dockerfile_url::Fetched;
use super::input::Input;
use super::metadata::{self, Detail};
use super::place::Worker;
use super::report::Failure;
use super::resources::StepLimits;
use super::{annotations, attest, dockerfile_url, fields, offers, outputs, run, streams};

/// Builds and writes what the options ask for.
pub(crate) async fn build(
    worker: &Worker,
    args: &BuildArgs,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    args.docker.check()?;
    if let Worker::Engine(engine) = worker {
        StepLimits::of(args)?.check_here(engine)?;
    }
    let call = Call::of(args)?;
    let iidfile = Destination::new("--iidfile", args.iidfile.as_deref())?;
    let metadata_file = Destination::new("--metadata-file", args.metadata_file.as_deref())?;
    metadata_file.apart_from(args.iidfile.as_deref().map(|file| ("--iidfile", file)))?;
    let iidfile = iidfile.cleared()?;
    let input = Input::new(cancel.clone());
    let is_remote = matches!(worker, Worker::Daemon(_));
    let prepared = match prepare(args, is_remote, input) {
        Err(_) if cancel.is_cancelled() => return Err(Failure::Interrupted),
        prepared => prepared?,
    };
    if let Some(call) = call {
        Box::pin(prepared.fetch(worker, args, cancel.clone())).await?;
        return Box::pin(call.run(worker, prepared.request, args, cancel)).await;
    }
    let exports = &prepared.request.exports;
    let files = || {
        let targets = exports.iter().map(|export| &export.target);
        targets.filter_map(|target| match target {
            ExportTarget::File(file) => Some(("--output", file.as_path())),
            _ => None,
        })
    };
    metadata_file.apart_from(files())?;
    iidfile.apart_from(files())?;
    let mut kinds = exports.iter().map(|export| export.kind);
    let are_files = |kind| matches!(kind, ExportKind::Local | ExportKind::Tar);
    if args.iidfile.is_some() && !exports.is_empty() && kinds.all(are_files) {
        return Err(Failure::usage(
            "--iidfile: files of type=local and type=tar are no image, and have no ID",
        ));
    }
    let quiet = args.progress.mode() == Mode::Quiet;
    let mut kinds = exports.iter().map(|export| export.kind);
    let no_image = kinds.all(|kind| kind == ExportKind::CacheOnly);
    if no_image && (args.iidfile.is_some() || (quiet && exports.is_empty())) {
        streams::tell(
            "WARNING: no output was asked for, so there is no image that could have an ID: use --output or --push",
        );
    } else if exports.is_empty() {
        streams::tell(
            "WARNING: no output was asked for: the result stays in the cache only. \
             Use --output (for example --output type=oci,dest=image.tar) or --push to get it out.",
        );
    }
    Box::pin(prepared.fetch(worker, args, cancel.clone())).await?;
    let response = run::build(worker, prepared.request, &args.progress, cancel.clone()).await?;
    prepared.caches.list(&response, &cancel)?;
    iidfile.write(response.image_id().unwrap_or_default().as_bytes())?;
    metadata_file.write(&metadata::encode(&response, detail(args))?)?;
    if quiet && let Some(id) = response.image_id() {
        streams::write(format!("{id}\n").as_bytes())?;
    }
    Ok(())
}

/// How much is to be written of how the result is made.
fn detail(args: &BuildArgs) -> Detail {
    match args.metadata_file {
        Some(_) => Detail::of_environment(),
        None => Detail::Nothing,
    }
}

/// A request, and the temporary files that it reads from.
pub(crate) struct Prepared {
    pub(crate) request: BuildRequest,
    caches: Caches,
    inputs: Inputs,
}

impl Prepared {
    /// Has the Dockerfile be fetched that the request reads, if it is to be.
    pub(crate) async fn fetch(
        &self,
        worker: &Worker,
        args: &BuildArgs,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        match self.inputs.to_fetch() {
            Some(dockerfile) => dockerfile_url::fetch(worker, args, dockerfile, cancel).await,
            None => Ok(()),
        }
    }
}

/// Turns options into a request; `remote` if it is for a daemon.
pub(crate) fn prepare(args: &BuildArgs, remote: bool, input: Input) -> Result<Prepared, Failure> {
    let mut attrs = attributes(args, remote)?;
    for tag in &args.tags {
        tag.parse::<ImageReference>()
            .map_err(|error| Failure::usage(format!("--tag {tag:?}: {error}")))?;
    }
    let mut session = HostSession::new();
    let dockerfile = Fetched::of(args.file.as_deref())?;
    let mut inputs = Inputs::new(remote, input, dockerfile);
    inputs.add_main(
        &mut session,
        &mut attrs,
        &args.context,
        args.file.as_deref(),
    )?;
    add_named(&mut session, &mut attrs, &args.build_contexts)?;
    offers::add_secrets(&mut session, &args.secrets)?;
    offers::add_ssh(&mut session, &args.ssh)?;
    let mut exports = outputs::parse(&args.outputs, args.push, &args.tags)?;
    for (key, value) in annotations::parse(&args.annotations)? {
        // Only images have a place for them.
        for export in exports.iter_mut().filter(|export| export.kind.is_image()) {
            export.attrs.insert(key.clone(), value.clone());
        }
    }
    let mut caches = Caches::parse(&mut session, &args.caches)?;
    let inline = attrs.get("build-arg:BUILDKIT_INLINE_CACHE");
    if inline.is_some_and(|value| fields::truth(value) == Some(true)) {
        caches.add_inline();
    }
    let request = BuildRequest {
        cache_imports: caches.imports.clone(),
        cache_exports: caches.exports.clone(),
        input: BuildInput::Dockerfile { attrs },
        exports,
        entitlements: granted(args)?,
        explain: args.explain,
        provenance: detail(args) != Detail::Nothing,
        internal: false,
        session: session.into_session(),
    };
    Ok(Prepared {
        request,
        caches,
        inputs,
    })
}

/// What the steps may do: `--allow`, and what another option asks of all of them.
fn granted(args: &BuildArgs) -> Result<Vec<Entitlement>, Failure> {
    let mut granted = entitlements(&args.allow)?;
    if args.network == "host" && !granted.contains(&Entitlement::NetworkHost) {
        granted.push(Entitlement::NetworkHost);
    }
    Ok(granted)
}

/// Reads `--allow`. Each is a list; what else is said of a device has a comma before it, too.
pub(crate) fn entitlements(options: &[String]) -> Result<Vec<Entitlement>, Failure> {
    let mut texts: Vec<String> = Vec::new();
    for (is_first, part) in options
        .iter()
        .flat_map(|text| text.split(',').enumerate())
        .map(|(at, part)| (at == 0, part))
    {
        match texts.last_mut() {
            Some(device) if !is_first && part.starts_with("alias=") => {
                device.push(',');
                device.push_str(part);
            }
            _ => texts.push(part.to_owned()),
        }
    }
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error| Failure::usage(format!("--allow {error}")))
        })
        .collect()
}

/// The frontend's attributes, by the names that BuildKit's clients use.
fn attributes(args: &BuildArgs, remote: bool) -> Result<BTreeMap<String, String>, Failure> {
    let mut attrs = BTreeMap::new();
    let mut set = |key: &str, value: &str| drop(attrs.insert(key.to_owned(), value.to_owned()));
    if let Some(target) = &args.target {
        set("target", target);
    }
    for text in &args.build_args {
        match text.split_once('=') {
            Some(("", _)) => {
                return Err(Failure::usage(format!(
                    "--build-arg {text:?}: needs KEY=VALUE"
                )));
            }
            Some((key, value)) => set(&format!("build-arg:{key}"), value),
            // As docker has it: a name alone passes the variable on if there is one.
            None => {
                if let Ok(value) = std::env::var(text) {
                    set(&format!("build-arg:{text}"), &value);
                }
            }
        }
    }
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH")
        && !args
            .build_args
            .iter()
            .any(|text| text.split('=').next() == Some("SOURCE_DATE_EPOCH"))
    {
        set("build-arg:SOURCE_DATE_EPOCH", &epoch);
    }
    for text in &args.labels {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(Failure::usage(format!("--label {text:?}: needs KEY=VALUE")));
        }
        set(&format!("label:{key}"), value);
    }
    if !args.platforms.is_empty() {
        let own = Platform::host().to_string();
        let named = args.platforms.iter().flat_map(|list| list.split(','));
        let named = named.map(|name| match name.trim() {
            local if local.eq_ignore_ascii_case("local") => own.as_str(),
            name => name,
        });
        set("platform", &named.collect::<Vec<_>>().join(","));
    }
    if args.no_cache {
        set("no-cache", "");
    } else if !args.no_cache_filter.is_empty() {
        set("no-cache", &args.no_cache_filter.join(","));
    }
    if args.pull {
        set("image-resolve-mode", "pull");
    }
    match args.network.as_str() {
        "default" | "" => {}
        mode @ ("none" | "host") => set("force-network-mode", mode),
        other => {
            return Err(Failure::usage(format!(
                "--network {other:?}: known are default, none and host"
            )));
        }
    }
    if !args.add_hosts.is_empty() {
        set("add-hosts", &hosts(&args.add_hosts, remote)?);
    }
    if let Some(parent) = &args.cgroup_parent {
        set("cgroup-parent", parent);
    }
    attrs.extend(StepLimits::of(args)?.attributes());
    attrs.extend(attest::attributes(args)?);
    Ok(attrs)
}

fn hosts(options: &[String], remote: bool) -> Result<String, Failure> {
    let mut all = Vec::new();
    for text in options {
        let (name, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or_else(|| Failure::usage(format!("--add-host {text:?}: needs HOST:IP")))?;
        let address = match address.trim_start_matches('[').trim_end_matches(']') {
            "host-gateway" if remote => {
                return Err(Failure::usage(format!(
                    "--add-host {text:?}: the daemon does not tell the address of its host: give that"
                )));
            }
            // Steps have the network of this host.
            "host-gateway" => "127.0.0.1",
            address => address,
        };
        if address.parse::<std::net::IpAddr>().is_err() {
            return Err(Failure::usage(format!(
                "--add-host {text:?}: {address:?} is not an IP address"
            )));
        }
        all.push(format!("{name}={address}"));
    }
    Ok(all.join(","))
}

/// Writes a small file.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, content).map_err(|error| Failure::file(path, &error))
}
