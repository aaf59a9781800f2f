//! Runs a program and prints its duration, peak memory, end and exit code, as one JSON object.
//!
//! It is small itself because Linux counts towards a program's peak what its parent held when it
//! started it.

use std::io::Error;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let seconds = began.elapsed().as_secs_f64();
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Error::other)?.as_secs_f64();
    let kib = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let code = status.code().unwrap_or(-1);
    println!(r#"{{"seconds": {seconds}, "kib": {kib}, "ended": {ended}, "code": {code}}}"#);
    Ok(())
}
