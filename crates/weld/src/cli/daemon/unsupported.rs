//! Options of buildkitd that have no effect here, so that its command lines start a daemon all the same.

use clap::{Args, builder::BoolishValueParser};

/// What was given of them.
#[derive(Args, Clone, Debug)]
pub(super) struct Unsupported {
    #[command(flatten)]
    switches: Switches,
    #[command(flatten)]
    values: Values,
}

/// Declares switches, which may have a value as Go's flags do, and what tells of those that are on.
macro_rules! switches {
    ($($field:ident $name:literal)*) => {
        #[derive(Args, Clone, Debug)]
        struct Switches {
            $(
                #[arg(
                    long = $name,
                    hide = true,
                    num_args = 0..=1,
                    require_equals = true,
                    default_missing_value = "true",
                    value_parser = BoolishValueParser::new()
                )]
                $field: Option<bool>,
            )*
        }

        impl Switches {
            fn given(&self) -> impl Iterator<Item = &'static str> {
                [$(($name, self.$field == Some(true))),*]
                    .into_iter()
                    .filter(|(_, on)| *on)
                    .map(|(name, _)| name)
            }
        }
    };
}

/// Declares options with values, and what tells of those that ask for something that is not so anyway.
macro_rules! values {
    ($($field:ident $name:literal [$($usual:literal)*])*) => {
        #[derive(Args, Clone, Debug)]
        struct Values {
            $(
                #[arg(long = $name, hide = true, action = clap::ArgAction::Append)]
                $field: Vec<String>,
            )*
        }

        impl Values {
            fn given(&self) -> impl Iterator<Item = &'static str> {
                [$(($name, &self.$field, [$($usual),*].as_slice() as &[&str])),*]
                    .into_iter()
                    .filter(|(_, values, usual)| {
                        values.iter().any(|value| !usual.contains(&value.as_str()))
                    })
                    .map(|(name, ..)| name)
            }
        }
    };
}

switches! {
    rootless "rootless"
    proxy_network "proxy-network"
    save_cache_debug "save-cache-debug"
    oci_selinux "oci-worker-selinux"
    oci_rootless "oci-worker-rootless"
    oci_no_process_sandbox "oci-worker-no-process-sandbox"
    containerd_selinux "containerd-worker-selinux"
    containerd_rootless "containerd-worker-rootless"
    containerd_gc "containerd-worker-gc"
}

values! {
    otel_socket_path "otel-socket-path" []
    oci_worker "oci-worker" ["auto" "true"]
    oci_proxy_snapshotter "oci-worker-proxy-snapshotter-path" []
    oci_net "oci-worker-net" ["auto" "host"]
    oci_cni_config "oci-cni-config-path" []
    oci_cni_binary "oci-cni-binary-dir" []
    oci_cni_pool "oci-cni-pool-size" []
    oci_apparmor "oci-worker-apparmor-profile" []
    containerd_worker "containerd-worker" ["auto" "false"]
    containerd_addr "containerd-worker-addr" []
    containerd_labels "containerd-worker-labels" []
    containerd_platform "containerd-worker-platform" []
    containerd_namespace "containerd-worker-namespace" []
    containerd_runtime "containerd-worker-runtime" []
    containerd_net "containerd-worker-net" []
    containerd_cni_config "containerd-cni-config-path" []
    containerd_cni_binary "containerd-cni-binary-dir" []
    containerd_cni_pool "containerd-cni-pool-size" []
    containerd_snapshotter "containerd-worker-snapshotter" []
    containerd_apparmor "containerd-worker-apparmor-profile" []
    containerd_parallelism "containerd-max-parallelism" []
    containerd_gc_keepstorage "containerd-worker-gc-keepstorage" []
}

impl Unsupported {
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let given = self.switches.given().chain(self.values.given());
        given.map(|name| format!("option --{name} has no effect in weld"))
    }
}
