//! The gate's story on a real database: closed, looked at, upgraded, open. `make demo` tells datalab's, whose upgrades
//! are compiled; `make demo-files` that of an application whose upgrades are files.

mod datalab;
mod kanban;
mod operator;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let began = Instant::now();
    let told = match std::env::args().nth(1).as_deref() {
        None => datalab::story().await,
        Some("files") => kanban::story().await,
        Some(other) => Err(format!("there is no story called {other}: give none, or files")),
    };
    match told {
        Ok(summary) => {
            println!("\ndemo: {summary}, in {:.1} s", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(unexpected) => {
            eprintln!("\ndemo: {unexpected}");
            ExitCode::FAILURE
        }
    }
}
