//! What every step relies on: programs, arguments, environment, user, directory, exit code.

use crate::bed::Bed;

#[tokio::test]
async fn output_and_exit_code() {
    let bed = Bed::new();
    let ran = bed.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(ran.status.code, 3);
    assert_eq!(ran.status.signal, None);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}
