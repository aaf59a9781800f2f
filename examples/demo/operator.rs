//! Who types the commands.

use std::path::PathBuf;

use mongodb::bson::oid::ObjectId;
use serde_json::Value;

use crate::support::Gate;

/// Ends the demo: what was expected, and what happened.
pub type Unexpected = String;

/// Who types the commands of one program.
pub struct Operator {
    program: &'static str,
    gate: Gate,
}

impl Operator {
    /// One whose runs all have the settings that `set` makes.
    pub fn of(program: &'static str, set: impl FnOnce(Gate) -> Gate) -> Result<Self, Unexpected> {
        Ok(Operator { program, gate: set(Gate::new(binary(program)?)) })
    }

    /// Runs the gate, shows the command and what the program says of it, and returns the report of the expected
    /// exit code.
    pub async fn runs(
        &self,
        settings: &[(&str, &str)],
        mode: &str,
        code: i32,
    ) -> Result<Value, Unexpected> {
        let typed: Vec<_> =
            settings.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        println!("\n$ {}{} {mode}", typed.concat(), self.program);
        let file = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
        let mut gate = self.gate.clone().arg(mode).set("GATE_REPORT_FORMAT", "text");
        gate = gate.set("GATE_REPORT_FILE", file.to_string_lossy());
        for (name, value) in settings {
            gate = gate.set(name, *value);
        }
        let run = gate.run().await;
        print!("{}", run.stdout);
        let report = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        std::fs::remove_file(&file).map_err(|error| error.to_string())?;
        if run.code == Some(code) {
            serde_json::from_str(&report).map_err(|error| error.to_string())
        } else {
            Err(format!("expected exit {code}, but the gate ended so:\n{run}"))
        }
    }
}

/// A binary of this project, which cargo puts into the folder above that of the examples.
pub fn binary(program: &str) -> Result<PathBuf, Unexpected> {
    let demo = std::env::current_exe().map_err(|error| error.to_string())?;
    let binary = demo.ancestors().nth(2).unwrap_or(&demo).join(program);
    if binary.exists() {
        Ok(binary)
    } else {
        Err(format!("{program} is not built: run this with make, which builds it"))
    }
}

/// Ends the demo where two things are not the same.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, was: T) -> Result<(), Unexpected> {
    if is == was { Ok(()) } else { Err(format!("{what}: {is:?} instead of {was:?}")) }
}

/// A line of the story.
pub fn tell(text: &str) {
    println!("\n# {text}");
}
