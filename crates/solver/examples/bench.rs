//! Prints the benchmark workloads as JSON lines: `cargo run --release -p weld-solver --features bench --example bench [NAME [SIZE]]`.

use weld_solver::bench::{Workload, run};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.next();
    let size = arguments.next().and_then(|size| size.parse().ok());
    let workload = Workload::ALL
        .into_iter()
        .find(|workload| Some(workload.name()) == filter.as_deref());
    if let (Some(workload), Some(size)) = (workload, size) {
        println!("{}", workload.measure(size).to_json());
        return Ok(());
    }
    run(&mut std::io::stdout().lock(), filter.as_deref())
}
