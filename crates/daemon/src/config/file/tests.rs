use super::*;

fn load(text: &str) -> Result<DaemonConfig, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut config = DaemonConfig::new("/nowhere");
    config
        .read(file.path(), true)
        .map_err(|error| error.to_string())?;
    Ok(config)
}

#[test]
fn a_file_of_buildkitd_is_understood() {
    let config = load(
        r#"
        root = "/state"
        insecure-entitlements = ["network.host"]
        [log]
          format = "json"
          level = "warning"
        [grpc]
          address = ["tcp://127.0.0.1:1234", "unix:///run/x.sock"]
          debugAddress = "127.0.0.1:6060"
          gid = 5
          [grpc.tls]
            cert = "/c"
            key = "/k"
            ca = "/a"
            isolateClients = true
        [worker.oci]
          enabled = true
          platforms = ["linux/arm64"]
          snapshotter = "native"
          max-parallelism = 4
          gc = true
          apparmor-profile = "x"
          diskLimit = "30%"
          [worker.oci.labels]
            "foo" = "bar"
          [[worker.oci.gcpolicy]]
            reservedSpace = "512MB"
            keepDuration = "48h"
            filters = ["type==source.local"]
          [[worker.oci.gcpolicy]]
            all = true
            keepBytes = 1024
        [worker.containerd]
          enabled = false
          namespace = "buildkit"
        [registry."docker.io"]
          mirrors = ["m.example"]
        [history]
          maxAge = 172800
          maxEntries = 7
          maxUsedSpace = "2GB"
        [frontend."dockerfile.v0"]
          enabled = false
        [limits]
          drainTimeout = "5s"
          log = "1mb"
        "#,
    )
    .unwrap();
    assert_eq!(config.engine.root, Path::new("/state"));
    assert_eq!(config.entitlements, [Entitlement::NetworkHost]);
    assert_eq!(config.log.level, crate::config::LogLevel::Warn);
    assert_eq!(config.listen.addresses.len(), 2);
    assert!(config.listen.isolate_clients);
    assert_eq!(config.listen.tls.unwrap().ca.unwrap(), Path::new("/a"));
    assert_eq!(config.platforms[0].to_string(), "linux/arm64");
    assert_eq!(config.engine.max_parallelism, Some(4));
    assert_eq!(config.engine.disk_limit, Some(Space::Percent(30)));
    let gc = config.gc.unwrap();
    assert_eq!(gc[0].reserved, Some(Space::Bytes(512 << 20)));
    assert_eq!(gc[0].keep_duration, Some(Duration::from_secs(172_800)));
    assert_eq!(gc[1].reserved, Some(Space::Bytes(1024)));
    assert_eq!(config.history.max_entries, 7);
    assert_eq!(config.history.max_used, Space::Bytes(2 << 30));
    assert!(!config.frontends.dockerfile && config.frontends.gateway);
    assert_eq!(config.limits.log, 1 << 20);
    assert_eq!(config.drain_timeout, Duration::from_secs(5));
    assert_eq!(
        config.warnings,
        ["configuration: worker.oci.apparmor-profile has no effect in weld"]
    );
}

#[test]
fn keys_without_effect_are_named() {
    let config = load(
        "proxyNetwork = true\n[cdi]\nother = true\n[worker.oci]\nselinux = true\n\
         networkMode = \"cni\"\n[worker.containerd]\nnamespace = \"x\"\n[nonsense]\na = 1",
    )
    .unwrap();
    let warnings = config.warnings.join("\n");
    for key in [
        "proxyNetwork",
        "cdi.other",
        "worker.oci.selinux",
        "worker.oci.networkMode",
        "worker.containerd.namespace",
        "nonsense",
    ] {
        assert!(
            warnings.contains(&format!(" {key} has no effect")),
            "{key}: {warnings}"
        );
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, part) in [
        ("root = 1", "line 1"),
        (
            "insecure-entitlements = [\"root\"]",
            "invalid entitlement : root",
        ),
        ("[grpc.tls]\ncert = \"/c\"", "key and cert"),
        ("[log]\nlevel = \"loud\"", "log.level"),
        (
            "[history]\nmaxAge = \"soon\"",
            "history.maxAge: invalid duration soon",
        ),
        (
            "[worker.oci]\nplatforms = [\"a/b/c/d\"]",
            "worker.oci.platforms",
        ),
        (
            "[[worker.oci.gcpolicy]]\nreservedSpace = \"x\"",
            "invalid disk space x",
        ),
        ("[system]\nmaxRegistryConcurrency = 0", "at least 1"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
    let mut config = DaemonConfig::new("/nowhere");
    assert!(config.read(Path::new("/nowhere/x.toml"), true).is_err());
    config.read(Path::new("/nowhere/x.toml"), false).unwrap();
}
