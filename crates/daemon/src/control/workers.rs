//! Who builds here, and what it can.

use weld_llb::Platform;
use weld_proto::control::{ListWorkersRequest, ListWorkersResponse};
use weld_proto::pb;
use weld_proto::types::{BuildkitVersion, CdiDevice, GcPolicy, WorkerRecord};

use crate::selector::Selector;
use crate::server::Shared;
use crate::server::housekeeping;
use tonic::Status;

/// The version of BuildKit's API that clients find here.
const API_VERSION: &str = "v0.32.2";

/// Emulators that the kernel may have been told of, and the platforms that they are for.
const EMULATED: [(&str, &str); 9] = [
    ("aarch64", "linux/arm64"),
    ("arm", "linux/arm/v7"),
    ("riscv64", "linux/riscv64"),
    ("ppc64le", "linux/ppc64le"),
    ("s390x", "linux/s390x"),
    ("x86_64", "linux/amd64"),
    ("i386", "linux/386"),
    ("mips64el", "linux/mips64le"),
    ("loongarch64", "linux/loong64"),
];

pub(super) fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "github.com/weldkit/weldkit".to_owned(),
        version: API_VERSION.to_owned(),
        revision: format!("weld-{}", env!("CARGO_PKG_VERSION")),
        dockerfile_version: weld_engine::DOCKERFILE_VERSION.to_owned(),
    }
}

pub(super) fn list(
    shared: &Shared,
    request: &ListWorkersRequest,
) -> Result<ListWorkersResponse, Status> {
    let worker = worker(shared);
    let mut selected = request.filter.is_empty();
    for filter in &request.filter {
        let selector = Selector::parse(filter)?;
        selected |= selector.matches(|path| match path {
            [field] if field == "id" => Some(worker.id.clone()),
            [field, label] if field == "labels" => worker.labels.get(label).cloned(),
            _ => None,
        });
    }
    Ok(ListWorkersResponse {
        record: selected.then_some(worker).into_iter().collect(),
    })
}

fn worker(shared: &Shared) -> WorkerRecord {
    let config = &shared.config;
    let store = shared.engine.store();
    let policies = config.gc.iter().flatten().map(|policy| {
        let options = housekeeping::options(policy, store.root());
        let bytes = |bytes: Option<u64>| bytes.unwrap_or(0).try_into().unwrap_or(i64::MAX);
        let keep = options.keep_duration.unwrap_or_default().as_nanos();
        GcPolicy {
            all: options.all,
            keep_duration: keep.try_into().unwrap_or(i64::MAX),
            reserved_space: bytes(options.reserved),
            filters: options.filters,
            max_used_space: bytes(options.max_used),
            min_free_space: bytes(options.min_free),
        }
    });
    WorkerRecord {
        id: shared.worker_id.clone(),
        labels: labels(shared),
        platforms: config.platforms.iter().map(to_pb).collect(),
        gc_policy: policies.collect(),
        buildkit_version: Some(version()),
        cdi_devices: shared.engine.devices().iter().map(device).collect(),
    }
}

fn device(device: &weld_engine::Device) -> CdiDevice {
    CdiDevice {
        name: device.name.clone(),
        auto_allow: device.auto_allowed,
        annotations: device.annotations.clone(),
        ..CdiDevice::default()
    }
}

fn labels(shared: &Shared) -> std::collections::BTreeMap<String, String> {
    let key = |name: &str| format!("org.mobyproject.buildkit.worker.{name}");
    let snapshotter = match shared.config.engine.snapshotter {
        weld_engine::SnapshotterKind::Copy => "native",
        _ => "overlayfs",
    };
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let mut labels: std::collections::BTreeMap<_, _> = [
        ("executor", "oci".to_owned()),
        ("hostname", hostname),
        ("network", "host".to_owned()),
        ("oci.process-mode", "sandbox".to_owned()),
        ("selinux.enabled", "false".to_owned()),
        ("snapshotter", snapshotter.to_owned()),
    ]
    .map(|(name, value)| (key(name), value))
    .into();
    labels.extend(shared.config.labels.clone());
    labels
}

fn to_pb(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// What this machine can run, the best first.
pub(crate) fn platforms(host: &Platform) -> Vec<Platform> {
    let mut all = vec![host.clone()];
    let mut add = |text: &str| {
        if let Ok(platform) = text.parse::<Platform>()
            && !all.contains(&platform.clone().normalize())
        {
            all.push(platform.normalize());
        }
    };
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt") {
            add("linux/amd64/v2");
        }
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma");
        if v3 {
            add("linux/amd64/v3");
        }
        if v3 && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            add("linux/amd64/v4");
        }
        add("linux/386");
    }
    for (emulator, platform) in EMULATED {
        let path = format!("/proc/sys/fs/binfmt_misc/qemu-{emulator}");
        if std::fs::read_to_string(path).is_ok_and(|state| state.starts_with("enabled")) {
            add(platform);
        }
    }
    all
}
