//! Memory that is given back to the system as soon as it is free.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::process::settings::Mode;

/// What glibc reads when a program starts, and only then.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Its older name for the one that matters here.
const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";

/// Blocks from this size on come from the system and go back to it by themselves. Where glibc is left alone, it
/// raises this up to 32 MiB once large blocks are freed, and then keeps what documents of that size took: up to
/// twice as much as is needed.
const GIVEN_BACK: &str = "glibc.malloc.mmap_threshold=262144";

/// Re-executes the program, as the same process, if its environment does not say yet how glibc should handle large
/// blocks: modes that work on documents should stay within a pod's memory. Does nothing without glibc, or if that is
/// not possible. It takes 2 to 3 ms, which an image saves by setting the variable.
pub(crate) fn settle(mode: Option<Mode>) {
    if !cfg!(all(target_os = "linux", target_env = "gnu"))
        || !reads_documents(mode)
        || [TUNABLES, THRESHOLD].iter().any(|name| env::var_os(name).is_some())
    {
        return;
    }
    let mut arguments = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), arguments.next()) {
        // comes back only where it fails
        let _ = Command::new(program).arg0(name).args(arguments).env(TUNABLES, GIVEN_BACK).exec();
    }
}

fn reads_documents(mode: Option<Mode>) -> bool {
    let set = env::var("GATE_MODE").ok();
    let name = mode.map(|mode| mode.to_string()).or(set);
    !matches!(name.as_deref().map(str::trim), Some("check" | "wait" | "status" | "resume"))
}
