//! Writes the client and server stubs of the services whose messages this crate has by hand.
//! Nothing is read but this script: no `protoc`, no `.proto` files.

mod bridge;
mod control;
mod rpc;
mod session;

fn main() {
    println!("cargo::rerun-if-changed=build");
    let mut services = control::services();
    services.extend(bridge::services());
    services.extend(session::services());
    tonic_build::manual::Builder::new().compile(&services);
}
