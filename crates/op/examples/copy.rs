//! Copies a directory several times and prints how long it takes: `copy FROM WORKDIR`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use weld_fileset::{Layers, OverlayMarks};
use weld_op::file::{Context, Copy, Destination, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(work)) = (arguments.next(), arguments.next()) else {
        return Err("usage: copy FROM WORKDIR".into());
    };
    let open =
        |path: &PathBuf| Layers::open([path], OverlayMarks::Trusted).map_err(|(_, error)| error);
    let layers = open(&PathBuf::from(&from))?;
    let cancelled = AtomicBool::new(false);
    let action = Copy {
        src: "/".to_owned(),
        dest: "/".to_owned(),
        dir_copy_contents: true,
        create_dest_path: true,
        ..Copy::default()
    };
    for immutable in [true, false] {
        for round in 0..3 {
            let to = PathBuf::from(&work).join(format!("copy-{immutable}-{round}"));
            std::fs::create_dir(&to)?;
            let mut destination = Destination::new(open(&to)?);
            let start = Instant::now();
            let source = Source {
                layers: &layers,
                immutable,
                sharing: None,
            };
            action.run(
                source,
                &mut destination,
                None,
                &Context {
                    cancelled: &cancelled,
                },
            )?;
            let how = if immutable { "linked" } else { "copied" };
            println!("{how} in {:?}", start.elapsed());
        }
    }
    Ok(())
}
