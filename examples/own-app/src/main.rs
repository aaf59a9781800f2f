//! The gate as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    my_app_upgrade::gate().main()
}
