//! The gate of the application: its name, its version and its upgrades.

mod upgrades;

use upgrade_gate::Gate;

/// The name says where the record is: the document `my_app_schema_version` of `database_metadata`.
pub fn gate() -> Gate {
    Gate::new("my_app", env!("CARGO_PKG_VERSION")).upgrades(upgrades::all())
}

#[test]
fn the_table_of_upgrades_is_right() {
    gate().check().unwrap();
}
