//! The table of upgrades: one file each, in the order of their versions.

mod v2_1_0_events;
mod v2_2_0_members;
mod v2_3_0_titles;
mod v2_4_0_assets;
mod v2_5_0_numbers;

use upgrade_gate::Upgrade;

/// All upgrades; `currency` is what the workshop's fees are in.
pub fn all(currency: &str) -> [Upgrade; 5] {
    [
        v2_1_0_events::upgrade(),
        v2_2_0_members::upgrade(),
        v2_3_0_titles::upgrade(),
        v2_4_0_assets::upgrade(currency),
        v2_5_0_numbers::upgrade(),
    ]
}
